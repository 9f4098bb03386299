"""The construction of one procedural object: its random generator, colours and list of parts.

Equal parts share one Mesh and differ only in their positions, so their images are byte-identical.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from partloc.synthetic.mesh import Mesh, rotation_matrix

Color = tuple[float, ...]  # RGB, 0..1
Position = tuple[float, float, float] | np.ndarray

WOOD_COLORS = [(0.86, 0.72, 0.52), (0.74, 0.52, 0.33), (0.50, 0.32, 0.20), (0.93, 0.85, 0.70)]
GREY_COLORS = [
    (0.92, 0.92, 0.92),
    (0.75, 0.77, 0.80),
    (0.86, 0.86, 0.84),
    (0.55, 0.57, 0.60),
    (0.25, 0.26, 0.28),
]
PAINT_COLORS = [
    (0.80, 0.16, 0.14),
    (0.95, 0.50, 0.12),
    (0.95, 0.80, 0.18),
    (0.25, 0.58, 0.28),
    (0.10, 0.52, 0.55),
    (0.18, 0.36, 0.72),
    (0.46, 0.28, 0.60),
    (0.90, 0.62, 0.66),
    (0.55, 0.72, 0.86),
]
DARK_COLOR = (0.16, 0.16, 0.18)

FRONT_VIEWS_DEG = (0.0, 90.0)  # rotations about z that show the front of an object to the camera

# Part names as in user data: umlauts, dots and hyphens are legal in file names.
IRREGULAR_PART_NAMES = {
    "wheel": "räder",
    "leg": "füße",
    "top": "platte.ø",
    "roof": "dach-süd",
    "drawer": "schubfächer",
    "door": "tür",
    "gear": "zahnräder",
    "arm": "glied-über",
    "shade": "abat-jour.été",
    "wing": "flügel",
    "block": "klötze",
    "tower": "türme",
    "spokes": "rayons.d-été",
    "pedal": "pédale",
    "section": "mast-stück.ø",
    "track": "kette.für-bagger",
    "pier": "brückenpfeiler",
    "octave": "touches.été-7",
    "peg": "clé.d-accord",
    "pendulum": "péndulo",
    "dial": "zifferblatt.größe-1",
    "plank": "lattenstück.ü",
    "knob": "drehknöpfe",
    "rope": "seil-länge.2",
}


@dataclass(frozen=True, eq=False)
class Part:
    """A mesh in its own frame, and the position (3,) of its origin in the frame of the object."""

    name: str
    mesh: Mesh
    position: np.ndarray


@dataclass
class ObjectBuilder:
    """Collects the parts of one object and draws its random numbers and colours.

    Attributes:
        irregular_names: replace part names by those of IRREGULAR_PART_NAMES.
        rotations_deg: rotations about z that show the object well; one of them is drawn.
        body, trim, accent, dark: the colours of the object.
    """

    rng: np.random.Generator
    irregular_names: bool = False
    parts: list[Part] = field(default_factory=list)
    rotations_deg: tuple[float, ...] = (0, 90, 180, 270)

    def __post_init__(self) -> None:
        self.separator = self.choice("-", "-", ".", "_")  # before the number of a part
        self.body, self.trim, self.accent, self.dark = sample_palette(self)

    def uniform(self, low: float, high: float) -> float:
        """Draw a number between `low` and `high`."""
        return float(self.rng.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """Draw an integer; both bounds are included."""
        return int(self.rng.integers(low, high + 1))

    def bernoulli(self, probability: float) -> bool:
        """Draw a truth value that is true with this probability."""
        return bool(self.rng.random() < probability)

    def choice(self, *options: Any) -> Any:
        """Draw one of the options, all with the same probability."""
        return options[int(self.rng.integers(len(options)))]

    def add(self, name: str, mesh: Mesh, *positions: Position) -> None:
        """Add one part per position, by default at the origin; equal names are numbered."""
        if self.irregular_names:
            name = IRREGULAR_PART_NAMES.get(name, name)
        used_names = {part.name for part in self.parts}
        for position in positions or [(0.0, 0.0, 0.0)]:
            unique = name
            number = 1
            while unique in used_names or (len(positions) > 1 and unique == name):
                unique = f"{name}{self.separator}{number}"
                number += 1
            used_names.add(unique)
            self.parts.append(Part(unique, mesh, np.array(position, float)))

    def rotated_parts(self) -> list[Part]:
        """Return the parts after a random rotation about z; shared meshes stay shared."""
        angle = float(self.choice(*self.rotations_deg))
        if self.bernoulli(0.25):
            angle += self.uniform(-30, 30)
        meshes = {id(part.mesh): part.mesh.rotated("z", angle) for part in self.parts}
        matrix = rotation_matrix("z", angle)
        return [
            Part(part.name, meshes[id(part.mesh)], matrix @ part.position) for part in self.parts
        ]


def sample_palette(builder: ObjectBuilder) -> tuple[Color, Color, Color, Color]:
    """Draw body, trim, accent and dark colours; often one or two materials, as in real objects."""
    materials = [WOOD_COLORS, GREY_COLORS, PAINT_COLORS]
    pools = [materials[i] for i in builder.rng.choice(3, size=3, p=[0.3, 0.35, 0.35])]
    body, trim, accent = (_perturbed_color(builder, builder.choice(*pool)) for pool in pools)
    style = builder.rng.random()
    if style < 0.25:
        return body, body, body, body
    if style < 0.55:
        return body, builder.choice(body, trim), trim, trim
    return body, trim, accent, _perturbed_color(builder, DARK_COLOR)


def _perturbed_color(builder: ObjectBuilder, color: Color) -> Color:
    """Vary brightness and hue slightly, so that no two objects have exactly the same colours."""
    perturbed = np.array(color) * builder.uniform(0.9, 1.15) + builder.rng.normal(0, 0.03, 3)
    return tuple(float(channel) for channel in np.clip(perturbed, 0.02, 1.0))


def randomize_appearance(builder: ObjectBuilder) -> None:
    """Change the proportions of the object, and often its colours, beyond those of the family."""
    stretch = np.exp(builder.rng.uniform(-0.35, 0.35, 3)) if builder.bernoulli(0.7) else np.ones(3)
    style = builder.rng.random()
    common_color = _random_color(builder)
    meshes = {}
    for part in builder.parts:
        if id(part.mesh) not in meshes:
            mesh = part.mesh.scaled(*stretch)
            if style < 0.25:  # one material
                mesh = mesh.with_color(common_color)
            elif style < 0.5:  # a colour per mesh
                mesh = mesh.with_color(_random_color(builder))
            meshes[id(part.mesh)] = mesh
    builder.parts = [
        Part(part.name, meshes[id(part.mesh)], part.position * stretch) for part in builder.parts
    ]


def _random_color(builder: ObjectBuilder) -> Color:
    if builder.bernoulli(0.5):
        return (builder.uniform(0.08, 0.92),) * 3
    return tuple(float(channel) for channel in builder.rng.uniform(0.08, 0.95, 3))


def corner_positions(width: float, depth: float, z: float = 0.0) -> list[Position]:
    """The four corners of a rectangle centred at the origin; `width` along x, `depth` along y."""
    return [(x * width / 2, y * depth / 2, z) for x in (-1, 1) for y in (-1, 1)]


def evenly_spaced(length: float, count: int) -> list[float]:
    """`count` coordinates from -length/2 to length/2, ends included; [0] for a single one."""
    return [float(v) for v in np.linspace(-length / 2, length / 2, count)] if count > 1 else [0.0]


def centered_position(mesh: Mesh, host: Part) -> np.ndarray:
    """Position (3,) of a mesh whose bounding box has the same centre as that of the host."""
    (low, high), (mesh_low, mesh_high) = host.mesh.bounds(), mesh.bounds()
    return host.position + (low + high - mesh_low - mesh_high) / 2


def adjacent_positions(mesh: Mesh, host: Part) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (3,) at which a mesh touches the low and the high side of the host, per axis."""
    (low, high), (mesh_low, mesh_high) = host.mesh.bounds(), mesh.bounds()
    return host.position + low - mesh_high, host.position + high - mesh_low
