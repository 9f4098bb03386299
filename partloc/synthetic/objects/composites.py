"""Objects of no known kind, for pretraining: solids joined, mirrored, stacked and set in rings.

What real assemblies have in common is less their kind than how they are put together. Their rules
are here: a body that carries others, pairs left and right, rows, rings, stacks, and parts that
are cut short or reach into each other.
"""

import math
from collections.abc import Callable

import numpy as np

from partloc.synthetic.builder import Kit, Place
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    circle,
    cylinder,
    dome,
    gear,
    join,
    lathe,
    pipe,
    prism,
    rounded_box,
    taper,
    torus,
    tube,
)


def composite(kit: Kit) -> None:
    """A body, and up to five rounds of what grows on it or on what grew before."""
    _grow(kit, rounds=kit.count(2, 5), most=14)


def crowded(kit: Kit) -> None:
    """The same with more parts, so smaller ones, that stand in each other's way."""
    _grow(kit, rounds=kit.count(5, 14), most=24)


def _grow(kit: Kit, rounds: int, most: int) -> None:
    """most: parts; then nothing grows any more."""
    hosts: list[tuple[Mesh, Place]] = []
    body = _solid(kit, kit.between(0.5, 1.2), kit.between(0.3, 1.2), kit.between(0.15, 1.2))
    _place(kit, hosts, body, [(0.0, 0.0, 0.0)])
    for _ in range(rounds):
        host, at = kit.choose(*hosts)
        grow = kit.choose(_pair, _pair, _ring, _row, _stack, _corners, _single, _single)
        size = kit.rng.uniform(0.15, 0.9, 3) * np.ptp(host.points, axis=0)
        if kit.chance(0.3):
            size = size * kit.between(0.5, 2.0)
        size = np.maximum(size, kit.between(0.03, 0.12))
        mesh = _solid(kit, *size)
        places = grow(kit, mesh, host, np.array(at))
        if len(kit.parts) + len(places) <= most:
            _place(kit, hosts, mesh, places)


def _place(kit: Kit, hosts: list[tuple[Mesh, Place]], mesh: Mesh, places: list[Place]) -> None:
    name = f"solid{kit.joint}{chr(ord('a') + len({id(part.mesh) for part in kit.parts}))}"
    colour = kit.choose(kit.body, kit.body, kit.trim, kit.accent, kit.dark)
    mesh = mesh.painted(colour)
    kit.add(name, mesh, *places)
    hosts += [(mesh, place) for place in places]


def _beside(kit: Kit, mesh: Mesh, host: Mesh, at: np.ndarray, axis: int) -> np.ndarray:
    """A place where `mesh` touches, or reaches into, the side of the host in direction `axis`."""
    (low, high), (own_low, own_high) = host.box(), mesh.box()
    slack = np.maximum(high - low - 0.5 * (own_high - own_low), 0.1) / 2
    place = at + (low + high - own_low - own_high) / 2 + kit.rng.uniform(-1, 1, 3) * slack
    if kit.chance(0.6):  # most things sit in the middle
        other = kit.choose(*[a for a in (0, 1, 2) if a != axis])
        place[other] = (at + (low + high - own_low - own_high) / 2)[other]
    into = kit.choose(0.0, 0.0, 0.1, 0.3) * (own_high - own_low)[axis]
    if kit.chance(0.65):
        place[axis] = (at + high - own_low)[axis] - into
    else:
        place[axis] = (at + low - own_high)[axis] + into
    return place


def _single(kit: Kit, mesh: Mesh, host: Mesh, at: np.ndarray) -> list[Place]:
    return [tuple(_beside(kit, mesh, host, at, kit.choose(0, 1, 2, 2)))]


def _pair(kit: Kit, mesh: Mesh, host: Mesh, at: np.ndarray) -> list[Place]:
    """The same part on both sides of the host's middle plane."""
    axis = kit.choose(0, 1)
    place = _beside(kit, mesh, host, at, kit.choose(axis, axis, 2))
    middle = (at + (sum(host.box()) - sum(mesh.box())) / 2)[axis]
    other = place.copy()
    other[axis] = 2 * middle - place[axis]
    return [tuple(place), tuple(other)]


def _row(kit: Kit, mesh: Mesh, host: Mesh, at: np.ndarray) -> list[Place]:
    axis, count = kit.choose(0, 1, 2), kit.count(2, 5)
    start = _beside(kit, mesh, host, at, kit.choose(*[a for a in (0, 1, 2) if a != axis]))
    step = np.zeros(3)
    step[axis] = kit.between(0.9, 1.6) * np.ptp(mesh.points[:, axis])
    return [tuple(start + step * (i - (count - 1) / 2)) for i in range(count)]


def _stack(kit: Kit, mesh: Mesh, host: Mesh, at: np.ndarray) -> list[Place]:
    """The same part two or three times upon itself."""
    base = _beside(kit, mesh, host, at, 2)
    pitch = np.ptp(mesh.points[:, 2]) * kit.choose(1.0, 1.0, 1.3)
    return [tuple(base + np.array([0, 0, i * pitch])) for i in range(kit.count(2, 3))]


def _corners(kit: Kit, mesh: Mesh, host: Mesh, at: np.ndarray) -> list[Place]:
    """Four of them, as legs or posts."""
    (low, high), (own_low, own_high) = host.box(), mesh.box()
    inset = kit.between(0.5, 1.0)
    z = (at + low - own_high)[2] if kit.chance(0.7) else (at + high - own_low)[2]
    spans = inset * (high - low)[:2] / 2
    middle = (at + (low + high - own_low - own_high) / 2)[:2]
    signs = [(x, y) for x in (-1, 1) for y in (-1, 1)]
    return [(middle[0] + x * spans[0], middle[1] + y * spans[1], z) for x, y in signs]


def _ring(kit: Kit, mesh: Mesh, host: Mesh, at: np.ndarray) -> list[Place]:
    """Around the host's upright axis."""
    count = kit.count(3, 6)
    (low, high), (own_low, own_high) = host.box(), mesh.box()
    radius = kit.between(0.35, 0.65) * (high - low)[:2].max()
    z = kit.choose((at + high - own_low)[2], at[2] + kit.between(low[2], high[2]) - own_low[2])
    middle = (at + (low + high - own_low - own_high) / 2)[:2]
    start = kit.between(0, 360)
    return [(middle[0] + x, middle[1] + y, z) for x, y in circle(radius, count, start)]


def _solid(kit: Kit, width: float, depth: float, height: float) -> Mesh:
    """One solid, or two joined, of about this size, lying on any of its sides."""
    mesh = _simple(kit)
    if kit.chance(0.35):
        other = _simple(kit)
        share = kit.rng.uniform(0.3, 0.9, 3)
        shift = kit.rng.uniform(-0.6, 0.6, 3)
        mesh = join(mesh, other.scaled(*share).moved(*shift))
    if kit.chance(0.35):
        mesh = mesh.turned(kit.choose("x", "y"), 90)
    if kit.chance(0.2):
        mesh = mesh.turned(kit.choose("x", "y", "z"), kit.between(-60, 60))
    low, high = mesh.box()
    mesh = mesh.moved(*(-(low + high) / 2))
    return mesh.scaled(*(np.array([width, depth, height]) / (high - low)))


def _simple(kit: Kit) -> Mesh:
    """A solid about one unit long each way."""
    solids: list[Callable[[], Mesh]] = [
        lambda: box(1, 1, 1),
        lambda: box(1, 1, 1),
        lambda: rounded_box(1, 1, 1, kit.between(0.1, 0.5)),
        lambda: taper(
            (1, 1), (kit.between(0.2, 1), kit.between(0.2, 1)), 1, kit.between(-0.3, 0.3)
        ),
        lambda: cylinder(0.5, 1),
        lambda: cylinder(0.5, 1, top=kit.between(0.02, 0.4)),
        lambda: dome(0.5),
        lambda: dome(0.5, kit.between(-30, 10)),
        lambda: torus(0.4, kit.between(0.05, 0.15)),
        lambda: tube(0.5, kit.between(0.2, 0.45), 1),
        lambda: gear(0.5, kit.count(6, 20), 1, kit.choose(0.0, 0.4)),
        lambda: lathe([(kit.between(0.1, 0.5), z) for z in np.linspace(0, 1, kit.count(3, 6))]),
        lambda: prism(circle(0.5, kit.count(3, 8)), 1),
        lambda: prism(_profile(kit), 1),
        lambda: pipe(_curve(kit), kit.between(0.04, 0.12)),
        lambda: beam((-0.5, 0, 0), (0.5, kit.between(-0.4, 0.4), 1), kit.between(0.1, 0.3)),
    ]
    return kit.choose(*solids)()


def _profile(kit: Kit) -> np.ndarray:
    """(K, 2) the outline of an L, a T-like cross or a star, all seen from its middle."""
    radii = kit.rng.uniform(0.2, 0.5, kit.count(5, 9))
    return circle(1.0, len(radii)) * radii[:, None]


def _curve(kit: Kit) -> np.ndarray:
    """(L, 3) an arc or a wave without sharp turns."""
    t = np.linspace(0, 1, 9)
    bend = kit.between(0.3, 1.6) * math.pi
    return np.stack([t - 0.5, 0.3 * np.sin(bend * t), 0.4 * np.cos(bend * t)], -1)
