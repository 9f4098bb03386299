"""Bodies with limbs, for pretraining: links that hang on each other and point anywhere.

Robots, hands, animals and cranes are built so: knuckles and shafts in a chain that gets thinner,
limbs alone or mirrored left and right, mostly in one material.
"""

import math

import numpy as np

from partloc.synthetic.builder import Kit
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    cylinder,
    dome,
    join,
    lathe,
    pipe,
    rod,
    rounded_box,
    taper,
    torus,
)

MOST = 24  # parts; then no limb grows any more
RIGHT_ANGLES = 0.5  # how often all joints of a limb turn by right angles


def linkage(kit: Kit) -> None:
    """A body on the ground or in the air, and one to three limbs or pairs of limbs."""
    size = np.array([kit.between(0.25, 1.0), kit.between(0.25, 0.8), kit.between(0.15, 1.0)])
    if kit.chance(0.3):  # what a single arm stands on
        size[:2] *= 0.5
    kit.turns_deg = (0, 45, 90, 135, 180, 225, 270, 315)
    kit.add("body", _body(kit, size).painted(kit.body))
    for limb in range(kit.count(1, 3)):
        axis = kit.choose(0, 1, 1, 2, 2)
        start = kit.rng.uniform(-0.45, 0.45, 3) * size
        start[axis] = 0.45 * size[axis] * kit.choose(-1, 1, 1)
        ahead = np.eye(3)[axis] * np.sign(start[axis]) + kit.rng.normal(0, 0.4, 3)
        mirrored = kit.chance(0.65) and axis != 0
        if mirrored and axis == 2:
            start[1] = kit.between(0.25, 0.45) * size[1]
        _limb(kit, "abc"[limb], start, ahead, size.max() * kit.between(0.6, 1.6), mirrored)


def _limb(
    kit: Kit, name: str, start: np.ndarray, ahead: np.ndarray, reach: float, mirrored: bool
) -> None:
    """Links from the body outward; mirrored: and another limb on the other side of it, in y."""
    count = kit.count(1, 5)
    length = reach / count**0.7
    width = length * kit.between(0.2, 0.8)
    right_angles = kit.chance(RIGHT_ANGLES)
    at = start
    for link in range(count):
        if right_angles:
            axis = np.abs(ahead).argmax()
            ahead = np.eye(3)[axis] * np.sign(ahead[axis])
        ahead = ahead / np.linalg.norm(ahead)
        end = length * kit.between(0.5, 1.3) * ahead
        side = _across(kit, ahead)
        _place(kit, f"{name}{kit.joint}link{link}", _link(kit, end, side, width), at, mirrored)
        at = at + end
        if right_angles:
            ahead = kit.choose(ahead, ahead, side, -side)
        else:
            ahead = ahead + kit.rng.normal(0, kit.between(0.1, 0.8), 3)
        length, width = length * kit.between(0.7, 1.05), width * kit.between(0.65, 1.05)
    ahead = ahead / np.linalg.norm(ahead)
    if kit.chance(0.5):
        _end(kit, name, at, ahead, width, mirrored)


def _end(
    kit: Kit, name: str, at: np.ndarray, ahead: np.ndarray, width: float, mirrored: bool
) -> None:
    """A hand with two or three fingers, or a foot or tool of one piece."""
    side = _across(kit, ahead)
    if kit.chance(0.4):
        tool = kit.choose(
            dome(width),
            box(1.6 * width, width, 0.5 * width),
            rod((0, 0, 0), 2 * width * ahead, width, 0.3 * width),
        )
        _place(kit, f"{name}{kit.joint}tip", tool, at, mirrored)
        return
    palm = rod((0, 0, 0), 0.8 * width * ahead, 0.9 * width)
    _place(kit, f"{name}{kit.joint}palm", palm, at, mirrored)
    reach, thick = kit.between(1.0, 2.5) * width, kit.between(0.2, 0.4) * width
    for finger in np.linspace(-0.8, 0.8, kit.count(2, 3)):
        root = 0.6 * width * ahead + finger * width * side
        knee = 0.5 * reach * ahead + 0.4 * finger * reach * side
        tip = knee + 0.5 * reach * ahead - 0.3 * finger * reach * side
        mesh = join(beam((0, 0, 0), knee, thick), beam(knee, tip, thick, 0.5 * thick))
        _place(kit, f"{name}{kit.joint}finger", mesh, at + root, mirrored)


def _place(kit: Kit, name: str, mesh: Mesh, at: np.ndarray, mirrored: bool) -> None:
    colour = kit.choose(kit.body, kit.body, kit.body, kit.trim, kit.accent, kit.dark)
    mesh = mesh.painted(colour)
    if len(kit.parts) < MOST:
        kit.add(name, mesh, tuple(at))
    if mirrored and len(kit.parts) < MOST:
        kit.add(name, mesh.scaled(1, -1, 1), tuple(at * [1, -1, 1]))


def _across(kit: Kit, ahead: np.ndarray) -> np.ndarray:
    """A unit vector at right angles to `ahead`, along an axis if that is possible."""
    axis = np.eye(3)[kit.choose(*np.argsort(np.abs(ahead))[:2])]
    side = axis - (axis @ ahead) * ahead
    return side / np.linalg.norm(side)


def _body(kit: Kit, size: np.ndarray) -> Mesh:
    """A block, a hull or a rump of this size about the origin, often with something on it."""
    x, y, z = size
    mesh = kit.choose(
        lambda: box(x, y, z),
        lambda: rounded_box(x, y, z, kit.between(0.1, 0.5) * size.min()),
        lambda: taper((x, y), (kit.between(0.4, 1) * x, kit.between(0.4, 1) * y), z),
        lambda: lathe([(kit.between(0.2, 0.5), h) for h in np.linspace(0, 1, 5)]).scaled(x, y, z),
        lambda: dome(0.5).scaled(x, y, z).moved(0, 0, 0.5 * z),
        lambda: cylinder(0.5, 1).scaled(x, y, z),
    )()
    if kit.chance(0.5):
        top = _body(kit, size * kit.rng.uniform(0.2, 0.7, 3))
        shift = kit.rng.uniform(-0.4, 0.4, 3) * size
        mesh = join(mesh, top.moved(*shift).moved(0, 0, 0.9 * z))
    low, high = mesh.box()
    return mesh.moved(*(-(low + high) / 2))


def _link(kit: Kit, end: np.ndarray, side: np.ndarray, width: float) -> Mesh:
    """A shaft from the origin to `end`, with a knuckle at its root, sometimes at its end too."""
    thick = width * kit.between(0.4, 1.0)
    bulge = kit.between(-0.3, 0.3) * np.linalg.norm(end)
    curve = [t * end + 4 * t * (1 - t) * bulge * side for t in np.linspace(0, 1, 7)]
    shaft = kit.choose(
        lambda: rod((0, 0, 0), end, 0.5 * thick, kit.between(0.25, 0.5) * thick),
        lambda: beam((0, 0, 0), end, thick, kit.between(0.5, 1.0) * thick),
        lambda: pipe(np.array(curve), 0.45 * thick),
        lambda: join(
            *(beam((0, 0, 0), end, 0.3 * thick).moved(*(s * thick * side)) for s in (-0.5, 0.5))
        ),
        lambda: join(rod((0, 0, 0), 0.5 * end, 0.5 * thick), rod(0.5 * end, end, 0.3 * thick)),
    )()
    solids = [shaft, _knuckle(kit, side, width)]
    if kit.chance(0.5):
        solids.append(_knuckle(kit, side, kit.between(0.6, 1.0) * width).moved(*end))
    if kit.chance(0.3):  # a cover, a motor, a plate
        extra = np.linalg.norm(end) * kit.rng.uniform(0.15, 0.5, 3)
        solids.append(box(*extra).moved(*(end * kit.between(0.3, 0.7) - [0, 0, extra[2] / 2])))
    return join(*solids)


def _knuckle(kit: Kit, side: np.ndarray, width: float) -> Mesh:
    reach = kit.between(0.4, 0.9) * width
    return kit.choose(
        rod(-reach * side, reach * side, kit.between(0.4, 0.7) * width),
        rod(-reach * side, reach * side, kit.between(0.4, 0.7) * width),
        dome(0.6 * width),
        rounded_box(width, width, width, 0.2 * width).moved(0, 0, -width / 2),
        torus(0.5 * width, 0.2 * width),
        box(width, width, width).turned("z", math.degrees(math.atan2(side[1], side[0]))),
    )
