"""Things built of bricks with studs, for pretraining: a few kinds of brick, many of each.

The distance between two studs is one unit.
"""

import numpy as np

from partloc.synthetic.builder import Kit
from partloc.synthetic.mesh import Mesh, box, cylinder, dome, join, taper

HIGH, PLATE, STUD = 1.2, 0.4, 0.2  # heights of a brick, a plate and a stud
ATTEMPTS = 12  # at a place where a brick is in no other's way


def brick_set(kit: Kit) -> None:
    """Bricks set on each other from a plate up, and now and then beside each other."""
    stock = [_brick(kit) for _ in range(kit.count(4, 9))]
    base = _studded(kit.count(3, 10), kit.count(3, 8), kit.choose(PLATE, PLATE, HIGH))
    placed: list[tuple[Mesh, np.ndarray]] = []
    _put(kit, placed, base.painted(kit.body), np.zeros(3))
    colours = [kit.body, kit.trim, kit.accent, kit.dark]
    stock = [mesh.painted(kit.choose(*colours)) for mesh in stock]
    for _ in range(kit.count(5, 23)):
        mesh = kit.choose(*stock)
        for _ in range(ATTEMPTS):
            at = _upon(kit, mesh, *kit.choose(*placed))
            if not any(_collide(mesh, at, *other) for other in placed):
                _put(kit, placed, mesh, at)
                break


def _put(kit: Kit, placed: list[tuple[Mesh, np.ndarray]], mesh: Mesh, at: np.ndarray) -> None:
    kinds = list(dict.fromkeys(id(other) for other, _ in placed))
    number = kinds.index(id(mesh)) if id(mesh) in kinds else len(kinds)
    kit.add(f"brick{kit.joint}{chr(ord('a') + number)}", mesh, tuple(at))
    placed.append((mesh, at))


def _upon(kit: Kit, mesh: Mesh, host: Mesh, at: np.ndarray) -> np.ndarray:
    """On top of the host, held by at least a stud; sometimes under it or at its side."""
    (low, high), (own_low, own_high) = host.box(), mesh.box()
    reach = (high - low + own_high - own_low)[:2] / 2 - 1
    place = at + np.array([*np.round(kit.rng.uniform(-1, 1, 2) * np.maximum(reach, 0)), 0.0])
    place[2] = (at + _top(host) - own_low)[2]
    where = kit.rng.random()
    if where < 0.12:
        place[2] = (at + low - _top(mesh))[2]
    elif where < 0.3:
        axis = kit.count(0, 1)
        place[axis] = (
            (at + high - own_low)[axis] if kit.chance(0.5) else (at + low - own_high)[axis]
        )
        place[2] = at[2]
    return place


def _top(mesh: Mesh) -> np.ndarray:
    """Its highest corner, studs left out."""
    return mesh.box()[1] - [0, 0, STUD]


def _collide(mesh: Mesh, at: np.ndarray, other: Mesh, there: np.ndarray) -> bool:
    low, high = mesh.box()[0] + at, _top(mesh) + at
    other_low, other_high = other.box()[0] + there, _top(other) + there
    return bool(((low + 0.05 < other_high) & (other_low + 0.05 < high)).all())


def _studded(long: int, wide: int, high: float) -> Mesh:
    """A brick with its studs, its middle over the origin."""
    studs = [
        cylinder(0.3, STUD, sides=8).moved(x - (long - 1) / 2, y - (wide - 1) / 2, high)
        for x in range(long)
        for y in range(wide)
    ]
    return join(box(long, wide, high), *studs)


def _brick(kit: Kit) -> Mesh:
    """A brick, a plate, a slope, something round, or some of them joined for good."""
    long, wide = kit.count(1, 6), kit.count(1, 3)
    if kit.chance(0.5):
        long, wide = wide, long
    mesh = kit.choose(
        lambda: _studded(long, wide, HIGH),
        lambda: _studded(long, wide, HIGH),
        lambda: _studded(long, wide, PLATE),
        lambda: _studded(long, wide, HIGH * kit.count(2, 4)),
        lambda: taper((long, wide), (1, wide), HIGH, (1 - long) / 2 * 0.9),
        lambda: join(cylinder(0.5, HIGH), cylinder(0.3, STUD, sides=8).moved(0, 0, HIGH)),
        lambda: join(cylinder(0.2, kit.between(1, 5)), cylinder(0.5, PLATE)),
        lambda: cylinder(kit.between(0.5, 1.5), 0.8).turned(kit.choose("x", "y"), 90),
        lambda: join(box(long, wide, PLATE), box(0.4, wide, 2).moved(0.2 - long / 2)),
        lambda: _figure(kit),
    )()
    if kit.chance(0.35):  # a sub-model
        more = _studded(kit.count(1, 4), kit.count(1, 3), kit.choose(PLATE, HIGH))
        mesh = join(mesh, more.moved(kit.count(-2, 2), kit.count(-1, 1), mesh.box()[1][2] - STUD))
    low, high = mesh.box()
    middle = (low + high) / 2
    return mesh.moved(-middle[0], -middle[1], -low[2])


def _figure(kit: Kit) -> Mesh:
    """A little person: legs, a tapering chest, arms and a head."""
    reach = kit.between(-0.3, 0.6)
    arm = box(0.35, 0.35, 1.1).turned("y", 60 * reach)
    return join(
        box(0.8, 1.6, 1.4),
        taper((0.8, 1.6), (0.8, 1.1), 1.3).moved(0, 0, 1.4),
        *(arm.moved(0.1, y, 1.5) for y in (-0.9, 0.9)),
        cylinder(0.45, 0.8).moved(0, 0, 2.8),
        kit.choose(dome(0.5, 0), box(0.9, 0.9, 0.3)).moved(0, 0, 3.4),
    )
