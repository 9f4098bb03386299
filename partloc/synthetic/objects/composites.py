"""Objects of no particular kind, for pretraining: solids that grow on each other.

Real assemblies have arrangement rules in common rather than kinds of parts. These rules are
implemented here: a body that carries other parts, mirrored pairs, rows, rings, stacks, and parts
that are cut off or intersect each other.
"""

import math
from collections.abc import Callable

import numpy as np

from partloc.synthetic.builder import (
    ObjectBuilder,
    Part,
    Position,
    adjacent_positions,
    centered_position,
)
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    circle,
    cylinder,
    gear,
    join,
    lathe,
    pipe,
    prism,
    rounded_box,
    sphere,
    taper,
    torus,
    tube,
)


def composite(builder: ObjectBuilder) -> None:
    """A body and two to five rounds of growth, at most 14 parts."""
    _grow(builder, rounds=builder.integer(2, 5), max_parts=14)


def crowded(builder: ObjectBuilder) -> None:
    """A body and 5 to 14 rounds of growth, at most 24 parts: smaller and more occluded ones."""
    _grow(builder, rounds=builder.integer(5, 14), max_parts=24)


def _grow(builder: ObjectBuilder, rounds: int, max_parts: int) -> None:
    """Add a body, then in each round equal parts on one of the existing parts."""
    size = builder.uniform(0.5, 1.2), builder.uniform(0.3, 1.2), builder.uniform(0.15, 1.2)
    _add_solids(builder, _random_solid(builder, *size), [(0.0, 0.0, 0.0)])
    for _ in range(rounds):
        host = builder.choice(*builder.parts)
        arrange = builder.choice(_pair, _pair, _ring, _row, _stack, _four_corners, _single, _single)
        size = builder.rng.uniform(0.15, 0.9, 3) * np.ptp(host.mesh.points, axis=0)
        if builder.bernoulli(0.3):
            size = size * builder.uniform(0.5, 2.0)
        size = np.maximum(size, builder.uniform(0.03, 0.12))
        mesh = _random_solid(builder, *size)
        positions = arrange(builder, mesh, host)
        if len(builder.parts) + len(positions) <= max_parts:
            _add_solids(builder, mesh, positions)


def _add_solids(builder: ObjectBuilder, mesh: Mesh, positions: list[Position]) -> None:
    """Add equal parts named by a letter per mesh."""
    letter = chr(ord("a") + len({id(part.mesh) for part in builder.parts}))
    color = builder.choice(builder.body, builder.body, builder.trim, builder.accent, builder.dark)
    builder.add(f"solid{builder.separator}{letter}", mesh.with_color(color), *positions)


def _position_beside(builder: ObjectBuilder, mesh: Mesh, host: Part, axis: int) -> np.ndarray:
    """A position where `mesh` touches or intersects a side of the host along `axis`."""
    (low, high), (mesh_low, mesh_high) = host.mesh.bounds(), mesh.bounds()
    slack = np.maximum(high - low - 0.5 * (mesh_high - mesh_low), 0.1) / 2
    position = centered_position(mesh, host) + builder.rng.uniform(-1, 1, 3) * slack
    if builder.bernoulli(0.6):  # most parts are centred along another axis
        other = builder.choice(*_other_axes(axis))
        position[other] = centered_position(mesh, host)[other]
    overlap = builder.choice(0.0, 0.0, 0.1, 0.3) * (mesh_high - mesh_low)[axis]
    below, above = adjacent_positions(mesh, host)
    if builder.bernoulli(0.65):
        position[axis] = above[axis] - overlap
    else:
        position[axis] = below[axis] + overlap
    return position


def _other_axes(axis: int) -> list[int]:
    return [other for other in (0, 1, 2) if other != axis]


def _single(builder: ObjectBuilder, mesh: Mesh, host: Part) -> list[Position]:
    return [_position_beside(builder, mesh, host, builder.choice(0, 1, 2, 2))]


def _pair(builder: ObjectBuilder, mesh: Mesh, host: Part) -> list[Position]:
    """Two positions, symmetric about a vertical plane through the host's centre."""
    axis = builder.choice(0, 1)
    position = _position_beside(builder, mesh, host, builder.choice(axis, axis, 2))
    center = (host.position + (sum(host.mesh.bounds()) - sum(mesh.bounds())) / 2)[axis]
    mirrored = position.copy()
    mirrored[axis] = 2 * center - position[axis]
    return [position, mirrored]


def _row(builder: ObjectBuilder, mesh: Mesh, host: Part) -> list[Position]:
    """Two to five positions in a row."""
    axis, count = builder.choice(0, 1, 2), builder.integer(2, 5)
    center = _position_beside(builder, mesh, host, builder.choice(*_other_axes(axis)))
    step = np.zeros(3)
    step[axis] = builder.uniform(0.9, 1.6) * np.ptp(mesh.points[:, axis])
    return [center + step * (i - (count - 1) / 2) for i in range(count)]


def _stack(builder: ObjectBuilder, mesh: Mesh, host: Part) -> list[Position]:
    """Two or three positions on top of each other."""
    base = _position_beside(builder, mesh, host, 2)
    pitch = np.ptp(mesh.points[:, 2]) * builder.choice(1.0, 1.0, 1.3)
    return [base + np.array([0, 0, i * pitch]) for i in range(builder.integer(2, 3))]


def _four_corners(builder: ObjectBuilder, mesh: Mesh, host: Part) -> list[Position]:
    """Four corners below or on top of the host, as of legs or posts."""
    low, high = host.mesh.bounds()
    inset = builder.uniform(0.5, 1.0)
    below, above = adjacent_positions(mesh, host)
    z = below[2] if builder.bernoulli(0.7) else above[2]
    x_offset, y_offset = inset * (high - low)[:2] / 2
    x, y, _ = centered_position(mesh, host)
    return [(x + i * x_offset, y + j * y_offset, z) for i in (-1, 1) for j in (-1, 1)]


def _ring(builder: ObjectBuilder, mesh: Mesh, host: Part) -> list[Position]:
    """Three to six positions on a circle around the host's vertical axis."""
    count = builder.integer(3, 6)
    (low, high), (mesh_low, _) = host.mesh.bounds(), mesh.bounds()
    radius = builder.uniform(0.35, 0.65) * (high - low)[:2].max()
    _, above = adjacent_positions(mesh, host)
    inside_z = host.position[2] + builder.uniform(low[2], high[2]) - mesh_low[2]
    z = builder.choice(above[2], inside_z)
    x, y, _ = centered_position(mesh, host)
    start_deg = builder.uniform(0, 360)
    return [(x + dx, y + dy, z) for dx, dy in circle(radius, count, start_deg)]


def _random_solid(builder: ObjectBuilder, width: float, depth: float, height: float) -> Mesh:
    """One solid or two joined ones, rotated, scaled to this size and centred at the origin."""
    mesh = _random_unit_solid(builder)
    if builder.bernoulli(0.35):
        other = _random_unit_solid(builder)
        scale = builder.rng.uniform(0.3, 0.9, 3)
        shift = builder.rng.uniform(-0.6, 0.6, 3)
        mesh = join(mesh, other.scaled(*scale).translated(*shift))
    if builder.bernoulli(0.35):
        mesh = mesh.rotated(builder.choice("x", "y"), 90)
    if builder.bernoulli(0.2):
        mesh = mesh.rotated(builder.choice("x", "y", "z"), builder.uniform(-60, 60))
    low, high = mesh.bounds()
    mesh = mesh.translated(*(-(low + high) / 2))
    return mesh.scaled(*(np.array([width, depth, height]) / (high - low)))


def _random_unit_solid(builder: ObjectBuilder) -> Mesh:
    """A solid about one unit long in each direction."""
    uniform, integer = builder.uniform, builder.integer
    constructors: list[Callable[[], Mesh]] = [
        lambda: box(1, 1, 1),
        lambda: box(1, 1, 1),
        lambda: rounded_box(1, 1, 1, uniform(0.1, 0.5)),
        lambda: taper((1, 1), (uniform(0.2, 1), uniform(0.2, 1)), 1, uniform(-0.3, 0.3)),
        lambda: cylinder(0.5, 1),
        lambda: cylinder(0.5, 1, top=uniform(0.02, 0.4)),
        lambda: sphere(0.5),
        lambda: sphere(0.5, uniform(-30, 10)),
        lambda: torus(0.4, uniform(0.05, 0.15)),
        lambda: tube(0.5, uniform(0.2, 0.45), 1),
        lambda: gear(0.5, integer(6, 20), 1, builder.choice(0.0, 0.4)),
        lambda: lathe([(uniform(0.1, 0.5), z) for z in np.linspace(0, 1, integer(3, 6))]),
        lambda: prism(circle(0.5, integer(3, 8)), 1),
        lambda: prism(_random_star(builder), 1),
        lambda: pipe(_random_curve(builder), uniform(0.04, 0.12)),
        lambda: beam((-0.5, 0, 0), (0.5, uniform(-0.4, 0.4), 1), uniform(0.1, 0.3)),
    ]
    return builder.choice(*constructors)()


def _random_star(builder: ObjectBuilder) -> np.ndarray:
    """Star-shaped outline with 5 to 9 points (K, 2)."""
    radii = builder.rng.uniform(0.2, 0.5, builder.integer(5, 9))
    return circle(1.0, len(radii)) * radii[:, None]


def _random_curve(builder: ObjectBuilder) -> np.ndarray:
    """Path (9, 3) of an arc or a wave without sharp bends."""
    t = np.linspace(0, 1, 9)
    bend = builder.uniform(0.3, 1.6) * math.pi
    return np.stack([t - 0.5, 0.3 * np.sin(bend * t), 0.4 * np.cos(bend * t)], -1)
