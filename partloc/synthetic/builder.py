"""What the demo's families build with: a source of chance, a palette, and a list of parts.

Equal parts share one mesh and differ in place alone, so their own pictures are the same bytes.
"""

from dataclasses import dataclass, field

import numpy as np

from partloc.synthetic.mesh import Mesh, rotation

Colour = tuple[float, float, float]
Place = tuple[float, float, float]

WOODS = [(0.86, 0.72, 0.52), (0.74, 0.52, 0.33), (0.50, 0.32, 0.20), (0.93, 0.85, 0.70)]
GREYS = [
    (0.92, 0.92, 0.92),
    (0.75, 0.77, 0.80),
    (0.86, 0.86, 0.84),
    (0.55, 0.57, 0.60),
    (0.25, 0.26, 0.28),
]
PAINTS = [
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
DARK = (0.16, 0.16, 0.18)

# Words that other people's files would hold: umlauts, dots and hyphens are legal in names.
FOREIGN = {
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
}


@dataclass(frozen=True, eq=False)
class Part:
    """A mesh in its own frame, and where its origin stands in the model's."""

    name: str
    mesh: Mesh
    at: np.ndarray  # (3,)


@dataclass
class Kit:
    rng: np.random.Generator
    foreign: bool = False  # give the parts untidy names
    parts: list[Part] = field(default_factory=list)
    turns_deg: tuple[float, ...] = (0, 90, 180, 270)  # about z, that show the model well

    def __post_init__(self) -> None:
        self.joint = self.choose("-", "-", ".", "_")
        self.body, self.trim, self.accent, self.dark = palette(self)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """A whole number, both ends possible."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def choose(self, *options):
        return options[int(self.rng.integers(len(options)))]

    def add(self, name: str, mesh: Mesh, *places: Place) -> None:
        """One part for each place, all with the same mesh; numbered when the name is shared."""
        if self.foreign:
            name = FOREIGN.get(name, name)
        taken = {part.name for part in self.parts}
        for place in places or [(0.0, 0.0, 0.0)]:
            unique = name
            number = 1
            while unique in taken or (len(places) > 1 and unique == name):
                unique = f"{name}{self.joint}{number}"
                number += 1
            taken.add(unique)
            self.parts.append(Part(unique, mesh, np.array(place, float)))

    def turned(self) -> list[Part]:
        """The parts of the model, turned about z; shared meshes stay shared."""
        angle = float(self.choose(*self.turns_deg))
        if self.chance(0.25):
            angle += self.between(-30, 30)
        meshes = {id(part.mesh): part.mesh.turned("z", angle) for part in self.parts}
        turn = rotation("z", angle)
        return [Part(part.name, meshes[id(part.mesh)], turn @ part.at) for part in self.parts]


def palette(kit: Kit) -> tuple[Colour, Colour, Colour, Colour]:
    """Body, trim, accent and dark. Often they are one material, or two, as in real objects."""
    families = [WOODS, GREYS, PAINTS]
    pools = [families[i] for i in kit.rng.choice(3, size=3, p=[0.3, 0.35, 0.35])]
    body, trim, accent = (_tinted(kit, kit.choose(*pool)) for pool in pools)
    style = kit.rng.random()
    if style < 0.25:
        return body, body, body, body
    if style < 0.55:
        return body, kit.choose(body, trim), trim, trim
    return body, trim, accent, _tinted(kit, DARK)


def _tinted(kit: Kit, colour: Colour) -> Colour:
    """A little lighter or darker and off hue, so that no two models wear the same paint."""
    tinted = np.array(colour) * kit.between(0.9, 1.15) + kit.rng.normal(0, 0.03, 3)
    return tuple(float(c) for c in np.clip(tinted, 0.02, 1.0))


def disguise(kit: Kit) -> None:
    """Other proportions, and often other colours, than the family would have."""
    stretch = np.exp(kit.rng.uniform(-0.35, 0.35, 3)) if kit.chance(0.7) else np.ones(3)
    style = kit.rng.random()
    one = _any_colour(kit)
    meshes = {}
    for part in kit.parts:
        if id(part.mesh) not in meshes:
            mesh = part.mesh.scaled(*stretch)
            if style < 0.25:  # one material throughout
                mesh = mesh.painted(one)
            elif style < 0.5:  # every part its own
                mesh = mesh.painted(_any_colour(kit))
            meshes[id(part.mesh)] = mesh
    kit.parts = [Part(part.name, meshes[id(part.mesh)], part.at * stretch) for part in kit.parts]


def _any_colour(kit: Kit) -> Colour:
    if kit.chance(0.5):
        return (kit.between(0.08, 0.92),) * 3
    return tuple(float(c) for c in kit.rng.uniform(0.08, 0.95, 3))


def corners(width: float, depth: float, z: float = 0.0) -> list[Place]:
    """The four corners of a rectangle about the origin."""
    return [(x * width / 2, y * depth / 2, z) for x in (-1, 1) for y in (-1, 1)]


def spread(length: float, count: int) -> list[float]:
    """`count` positions from -length/2 to length/2, ends included."""
    return [float(v) for v in np.linspace(-length / 2, length / 2, count)] if count > 1 else [0.0]
