"""Assemblies of studded toy bricks, for pretraining: a few kinds of bricks, many of each.

The distance between two studs is one unit.
"""

import numpy as np

from partloc.synthetic.builder import ObjectBuilder, Part, adjacent_positions
from partloc.synthetic.mesh import Mesh, box, cylinder, join, sphere, taper

BRICK_HEIGHT, PLATE_HEIGHT, STUD_HEIGHT = 1.2, 0.4, 0.2
MAX_ATTEMPTS = 12  # at a position without a collision


def brick_set(builder: ObjectBuilder) -> None:
    """Bricks on a base plate and on each other, sometimes below or beside each other."""
    bricks = [_random_brick(builder) for _ in range(builder.integer(4, 9))]
    size = builder.integer(3, 10), builder.integer(3, 8)
    base = _studded_box(*size, builder.choice(PLATE_HEIGHT, PLATE_HEIGHT, BRICK_HEIGHT))
    _add_brick(builder, base.with_color(builder.body), np.zeros(3))
    colors = [builder.body, builder.trim, builder.accent, builder.dark]
    bricks = [brick.with_color(builder.choice(*colors)) for brick in bricks]
    for _ in range(builder.integer(5, 23)):
        brick = builder.choice(*bricks)
        for _ in range(MAX_ATTEMPTS):
            position = _random_position(builder, brick, builder.choice(*builder.parts))
            if not any(_collides(brick, position, part) for part in builder.parts):
                _add_brick(builder, brick, position)
                break


def _add_brick(builder: ObjectBuilder, mesh: Mesh, position: np.ndarray) -> None:
    """Add a part named by a letter per mesh."""
    mesh_ids = list(dict.fromkeys(id(part.mesh) for part in builder.parts))
    number = mesh_ids.index(id(mesh)) if id(mesh) in mesh_ids else len(mesh_ids)
    builder.add(f"brick{builder.separator}{chr(ord('a') + number)}", mesh, position)


def _random_position(builder: ObjectBuilder, mesh: Mesh, host: Part) -> np.ndarray:
    """On top of the host, held by at least one stud; sometimes below it or at its side."""
    (low, high), (mesh_low, mesh_high) = host.mesh.bounds(), mesh.bounds()
    reach = np.maximum((high - low + mesh_high - mesh_low)[:2] / 2 - 1, 0)
    offset = np.round(builder.rng.uniform(-1, 1, 2) * reach)
    position = host.position + np.array([*offset, 0.0])
    position[2] = (host.position + _max_corner(host.mesh) - mesh_low)[2]
    relation = builder.rng.random()
    if relation < 0.12:
        position[2] = (host.position + low - _max_corner(mesh))[2]
    elif relation < 0.3:
        axis = builder.integer(0, 1)
        below, above = adjacent_positions(mesh, host)
        position[axis] = above[axis] if builder.bernoulli(0.5) else below[axis]
        position[2] = host.position[2]
    return position


def _max_corner(mesh: Mesh) -> np.ndarray:
    """Maximum corner (3,) of the bounding box without studs."""
    return mesh.bounds()[1] - [0, 0, STUD_HEIGHT]


def _collides(mesh: Mesh, position: np.ndarray, part: Part) -> bool:
    low, high = mesh.bounds()[0] + position, _max_corner(mesh) + position
    part_low = part.mesh.bounds()[0] + part.position
    part_high = _max_corner(part.mesh) + part.position
    return bool(((low + 0.05 < part_high) & (part_low + 0.05 < high)).all())


def _studded_box(length: int, width: int, height: float) -> Mesh:
    """A box of length x width studs, centred in x and y."""
    studs = [
        cylinder(0.3, STUD_HEIGHT, sides=8).translated(
            x - (length - 1) / 2, y - (width - 1) / 2, height
        )
        for x in range(length)
        for y in range(width)
    ]
    return join(box(length, width, height), *studs)


def _random_brick(builder: ObjectBuilder) -> Mesh:
    """A brick, plate, slope, round piece or figure, sometimes with a second piece attached."""
    length, width = builder.integer(1, 6), builder.integer(1, 3)
    if builder.bernoulli(0.5):
        length, width = width, length
    stud = cylinder(0.3, STUD_HEIGHT, sides=8).translated(0, 0, BRICK_HEIGHT)
    mesh = builder.choice(
        lambda: _studded_box(length, width, BRICK_HEIGHT),
        lambda: _studded_box(length, width, BRICK_HEIGHT),
        lambda: _studded_box(length, width, PLATE_HEIGHT),
        lambda: _studded_box(length, width, BRICK_HEIGHT * builder.integer(2, 4)),
        lambda: taper((length, width), (1, width), BRICK_HEIGHT, (1 - length) / 2 * 0.9),
        lambda: join(cylinder(0.5, BRICK_HEIGHT), stud),
        lambda: join(cylinder(0.2, builder.uniform(1, 5)), cylinder(0.5, PLATE_HEIGHT)),
        lambda: cylinder(builder.uniform(0.5, 1.5), 0.8).rotated(builder.choice("x", "y"), 90),
        lambda: join(
            box(length, width, PLATE_HEIGHT), box(0.4, width, 2).translated(0.2 - length / 2)
        ),
        lambda: _figure(builder),
    )()
    if builder.bernoulli(0.35):
        size = builder.integer(1, 4), builder.integer(1, 3)
        second = _studded_box(*size, builder.choice(PLATE_HEIGHT, BRICK_HEIGHT))
        x, y = builder.integer(-2, 2), builder.integer(-1, 1)
        mesh = join(mesh, second.translated(x, y, mesh.bounds()[1][2] - STUD_HEIGHT))
    low, high = mesh.bounds()
    center = (low + high) / 2
    return mesh.translated(-center[0], -center[1], -low[2])


def _figure(builder: ObjectBuilder) -> Mesh:
    """A toy figure: legs, a tapered torso, arms and a head with a hat."""
    arm_angle_deg = 60 * builder.uniform(-0.3, 0.6)
    arm = box(0.35, 0.35, 1.1).rotated("y", arm_angle_deg)
    return join(
        box(0.8, 1.6, 1.4),
        taper((0.8, 1.6), (0.8, 1.1), 1.3).translated(0, 0, 1.4),
        *(arm.translated(0.1, y, 1.5) for y in (-0.9, 0.9)),
        cylinder(0.45, 0.8).translated(0, 0, 2.8),
        builder.choice(sphere(0.5, 0), box(0.9, 0.9, 0.3)).translated(0, 0, 3.4),
    )
