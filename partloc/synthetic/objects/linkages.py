"""Bodies with articulated limbs, for pretraining, as of robots, hands, animals and cranes.

A limb is a chain of links, each with a knuckle and a shaft, which becomes thinner toward its end
and points in any direction. Limbs are single or mirrored, mostly in one material.
"""

import math

import numpy as np

from partloc.synthetic.builder import ObjectBuilder
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    cylinder,
    join,
    lathe,
    pipe,
    rod,
    rounded_box,
    sphere,
    taper,
    torus,
)

MAX_PARTS = 24
RIGHT_ANGLE_PROBABILITY = 0.5  # that all joints of a limb turn by right angles


def linkage(builder: ObjectBuilder) -> None:
    """A body and one to three limbs or pairs of limbs."""
    size = np.array(
        [builder.uniform(0.25, 1.0), builder.uniform(0.25, 0.8), builder.uniform(0.15, 1.0)]
    )
    if builder.bernoulli(0.3):  # a narrow base, as of a single arm
        size[:2] *= 0.5
    builder.rotations_deg = (0, 45, 90, 135, 180, 225, 270, 315)
    builder.add("body", _random_body(builder, size).with_color(builder.body))
    for limb in range(builder.integer(1, 3)):
        axis = builder.choice(0, 1, 1, 2, 2)
        start = builder.rng.uniform(-0.45, 0.45, 3) * size
        start[axis] = 0.45 * size[axis] * builder.choice(-1, 1, 1)
        direction = np.eye(3)[axis] * np.sign(start[axis]) + builder.rng.normal(0, 0.4, 3)
        mirrored = builder.bernoulli(0.65) and axis != 0
        if mirrored and axis == 2:
            start[1] = builder.uniform(0.25, 0.45) * size[1]
        reach = size.max() * builder.uniform(0.6, 1.6)
        _add_limb(builder, "abc"[limb], start, direction, reach, mirrored)


def _add_limb(
    builder: ObjectBuilder,
    name: str,
    start: np.ndarray,
    direction: np.ndarray,
    reach: float,
    mirrored: bool,
) -> None:
    """Add a chain of links from the body outward; mirrored: also on the other side in y."""
    count = builder.integer(1, 5)
    length = reach / count**0.7
    width = length * builder.uniform(0.2, 0.8)
    right_angles = builder.bernoulli(RIGHT_ANGLE_PROBABILITY)
    position = start
    for number in range(count):
        if right_angles:
            axis = np.abs(direction).argmax()
            direction = np.eye(3)[axis] * np.sign(direction[axis])
        direction = direction / np.linalg.norm(direction)
        end = length * builder.uniform(0.5, 1.3) * direction
        side = _random_perpendicular(builder, direction)
        link = _random_link(builder, end, side, width)
        _add_part(builder, f"{name}{builder.separator}link{number}", link, position, mirrored)
        position = position + end
        if right_angles:
            direction = builder.choice(direction, direction, side, -side)
        else:
            direction = direction + builder.rng.normal(0, builder.uniform(0.1, 0.8), 3)
        length, width = length * builder.uniform(0.7, 1.05), width * builder.uniform(0.65, 1.05)
    direction = direction / np.linalg.norm(direction)
    if builder.bernoulli(0.5):
        _add_hand_or_tool(builder, name, position, direction, width, mirrored)


def _add_hand_or_tool(
    builder: ObjectBuilder,
    name: str,
    position: np.ndarray,
    direction: np.ndarray,
    width: float,
    mirrored: bool,
) -> None:
    """Add a palm with two or three fingers, or a foot or tool of one piece."""
    side = _random_perpendicular(builder, direction)
    if builder.bernoulli(0.4):
        tool = builder.choice(
            sphere(width),
            box(1.6 * width, width, 0.5 * width),
            rod((0, 0, 0), 2 * width * direction, width, 0.3 * width),
        )
        _add_part(builder, f"{name}{builder.separator}tip", tool, position, mirrored)
        return
    palm = rod((0, 0, 0), 0.8 * width * direction, 0.9 * width)
    _add_part(builder, f"{name}{builder.separator}palm", palm, position, mirrored)
    reach, thickness = builder.uniform(1.0, 2.5) * width, builder.uniform(0.2, 0.4) * width
    for offset in np.linspace(-0.8, 0.8, builder.integer(2, 3)):
        root = 0.6 * width * direction + offset * width * side
        knuckle = 0.5 * reach * direction + 0.4 * offset * reach * side
        tip = knuckle + 0.5 * reach * direction - 0.3 * offset * reach * side
        finger = join(
            beam((0, 0, 0), knuckle, thickness), beam(knuckle, tip, thickness, 0.5 * thickness)
        )
        finger_position = position + root
        _add_part(builder, f"{name}{builder.separator}finger", finger, finger_position, mirrored)


def _add_part(
    builder: ObjectBuilder, name: str, mesh: Mesh, position: np.ndarray, mirrored: bool
) -> None:
    """Add a part, and its mirror image in y if `mirrored`, up to MAX_PARTS."""
    color = builder.choice(
        builder.body, builder.body, builder.body, builder.trim, builder.accent, builder.dark
    )
    mesh = mesh.with_color(color)
    if len(builder.parts) < MAX_PARTS:
        builder.add(name, mesh, position)
    if mirrored and len(builder.parts) < MAX_PARTS:
        builder.add(name, mesh.scaled(1, -1, 1), position * [1, -1, 1])


def _random_perpendicular(builder: ObjectBuilder, direction: np.ndarray) -> np.ndarray:
    """A unit vector (3,) perpendicular to `direction`, along a coordinate axis if possible."""
    axis = np.eye(3)[builder.choice(*np.argsort(np.abs(direction))[:2])]
    side = axis - (axis @ direction) * direction
    return side / np.linalg.norm(side)


def _random_body(builder: ObjectBuilder, size: np.ndarray) -> Mesh:
    """A solid of this size (3,) centred at the origin, often with a smaller one on top."""
    x, y, z = size
    uniform = builder.uniform
    mesh = builder.choice(
        lambda: box(x, y, z),
        lambda: rounded_box(x, y, z, uniform(0.1, 0.5) * size.min()),
        lambda: taper((x, y), (uniform(0.4, 1) * x, uniform(0.4, 1) * y), z),
        lambda: lathe([(uniform(0.2, 0.5), h) for h in np.linspace(0, 1, 5)]).scaled(x, y, z),
        lambda: sphere(0.5).scaled(x, y, z).translated(0, 0, 0.5 * z),
        lambda: cylinder(0.5, 1).scaled(x, y, z),
    )()
    if builder.bernoulli(0.5):
        top = _random_body(builder, size * builder.rng.uniform(0.2, 0.7, 3))
        shift = builder.rng.uniform(-0.4, 0.4, 3) * size
        mesh = join(mesh, top.translated(*shift).translated(0, 0, 0.9 * z))
    low, high = mesh.bounds()
    return mesh.translated(*(-(low + high) / 2))


def _random_link(builder: ObjectBuilder, end: np.ndarray, side: np.ndarray, width: float) -> Mesh:
    """A shaft from the origin to `end` with a knuckle at its start and sometimes at its end."""
    solids = [_random_shaft(builder, end, side, width), _random_knuckle(builder, side, width)]
    if builder.bernoulli(0.5):
        knuckle = _random_knuckle(builder, side, builder.uniform(0.6, 1.0) * width)
        solids.append(knuckle.translated(*end))
    if builder.bernoulli(0.3):  # a cover, a motor or a plate
        extra = np.linalg.norm(end) * builder.rng.uniform(0.15, 0.5, 3)
        position = end * builder.uniform(0.3, 0.7) - [0, 0, extra[2] / 2]
        solids.append(box(*extra).translated(*position))
    return join(*solids)


def _random_shaft(builder: ObjectBuilder, end: np.ndarray, side: np.ndarray, width: float) -> Mesh:
    uniform = builder.uniform
    thickness = width * uniform(0.4, 1.0)
    bulge = uniform(-0.3, 0.3) * np.linalg.norm(end)
    curve = [t * end + 4 * t * (1 - t) * bulge * side for t in np.linspace(0, 1, 7)]
    rail = beam((0, 0, 0), end, 0.3 * thickness)
    return builder.choice(
        lambda: rod((0, 0, 0), end, 0.5 * thickness, uniform(0.25, 0.5) * thickness),
        lambda: beam((0, 0, 0), end, thickness, uniform(0.5, 1.0) * thickness),
        lambda: pipe(np.array(curve), 0.45 * thickness),
        lambda: join(*(rail.translated(*(s * thickness * side)) for s in (-0.5, 0.5))),
        lambda: join(
            rod((0, 0, 0), 0.5 * end, 0.5 * thickness), rod(0.5 * end, end, 0.3 * thickness)
        ),
    )()


def _random_knuckle(builder: ObjectBuilder, side: np.ndarray, width: float) -> Mesh:
    reach = builder.uniform(0.4, 0.9) * width
    return builder.choice(
        rod(-reach * side, reach * side, builder.uniform(0.4, 0.7) * width),
        rod(-reach * side, reach * side, builder.uniform(0.4, 0.7) * width),
        sphere(0.6 * width),
        rounded_box(width, width, width, 0.2 * width).translated(0, 0, -width / 2),
        torus(0.5 * width, 0.2 * width),
        box(width, width, width).rotated("z", math.degrees(math.atan2(side[1], side[0]))),
    )
