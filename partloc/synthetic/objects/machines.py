"""Machines, vessels and piles of blocks.

Lengths are in arbitrary units; proportions are random.
"""

import numpy as np

from partloc.synthetic.builder import (
    ObjectBuilder,
    Part,
    adjacent_positions,
    centered_position,
    evenly_spaced,
)
from partloc.synthetic.mesh import (
    Mesh,
    box,
    circle,
    cylinder,
    gear,
    join,
    lathe,
    pipe,
    rod,
    rounded_box,
    sphere,
    taper,
    torus,
    tube,
)

OVERLAP = 0.02  # of touching blocks


def gearbox(builder: ObjectBuilder) -> None:
    """Parallel shafts with meshing gears between two plates, or on one plate."""
    gap, thickness = builder.uniform(0.3, 0.6), 0.05
    builder.rotations_deg = (0, 90, 0, 90, 180, 270)
    count = builder.integer(2, 4)
    radii = [builder.uniform(0.15, 0.42) for _ in range(count)]
    if builder.bernoulli(0.3):
        radii = radii[:1] * count
    spacings = [0.93 * (a + b) for a, b in zip(radii, radii[1:], strict=False)]
    ys = np.concatenate([[0], np.cumsum(spacings)])
    ys -= (ys[0] - radii[0] + ys[-1] + radii[-1]) / 2
    width, z = sum(2 * radius for radius in radii) + 0.1, max(radii) + 0.1
    plate = box(thickness, width, builder.uniform(0.4, 1.9) * z).with_color(builder.body)
    xs = (-gap / 2, gap / 2)[: builder.integer(1, 2)]
    builder.add("plate", plate, *[(x, 0, 0) for x in xs])
    bed = box(gap + 3 * thickness, 1.05 * width, 0.07).with_color(builder.trim)
    builder.add("bed", bed, (0, 0, -0.07))
    shaft = rod((-0.75 * gap, 0, 0), (0.75 * gap, 0, 0), builder.uniform(0.03, 0.06))
    builder.add("shaft", shaft.with_color(builder.dark), *[(0, y, z) for y in ys])
    _add_gears(builder, radii, ys, z, gap)
    if builder.bernoulli(0.5):
        crank = join(box(0.04, 0.06, 0.3), rod((0, 0, 0.27), (0.2, 0, 0.27), 0.03))
        crank = crank.rotated("x", builder.uniform(0, 360)).with_color(builder.accent)
        builder.add("crank", crank, (0.75 * gap, ys[0], z))


def _add_gears(
    builder: ObjectBuilder, radii: list[float], ys: np.ndarray, z: float, gap: float
) -> None:
    """Add one gear per shaft; gears of equal radius share a mesh."""
    thickness, hole = builder.uniform(0.06, 0.15), builder.uniform(0.1, 0.4)
    meshes: dict[float, Mesh] = {}
    for radius, y in zip(radii, ys, strict=True):
        mesh = gear(radius, max(8, round(40 * radius)), thickness, hole).rotated("y", 90)
        mesh = mesh.with_color(builder.choice(builder.accent, builder.trim))
        mesh = meshes.setdefault(radius, mesh)
        builder.add("gear", mesh, (builder.uniform(0.1, 0.3) * gap, y, z))


def engine(builder: ObjectBuilder) -> None:
    """Cylinders in a row, open at the top, with pistons at different heights."""
    count, r, h = builder.integer(1, 4), builder.uniform(0.14, 0.25), builder.uniform(0.4, 0.8)
    pitch = 2.4 * r
    ys = evenly_spaced(pitch * (count - 1), count)
    block = box(3 * r, pitch * count + 0.1, builder.uniform(0.3, 0.7)).with_color(builder.body)
    block_top = block.bounds()[1][2]
    builder.add("block", block)
    sump = taper((1.6 * r, 0.7 * pitch * count), (2.8 * r, pitch * count), 0.25)
    builder.add("sump", sump.with_color(builder.dark), (0, 0, -0.25))
    sleeve = tube(1.1 * r, 0.9 * r, h).with_color(builder.trim)
    builder.add("sleeve", sleeve, *[(0, y, block_top) for y in ys])
    piston_rod = cylinder(0.15 * r, 0.6 * h).translated(0, 0, -0.5 * h)
    piston = join(cylinder(0.88 * r, 0.3 * h), piston_rod).with_color(builder.accent)
    lifts = [builder.uniform(0.5, 0.95) * h for _ in ys]
    positions = [(0, y, block_top + lift) for y, lift in zip(ys, lifts, strict=True)]
    builder.add("piston", piston, *positions)
    end = pitch * count / 2 + 0.05
    flywheel = join(cylinder(builder.uniform(0.25, 0.4), 0.1), cylinder(0.1, 0.16))
    builder.add("flywheel", flywheel.rotated("x", -90).with_color(builder.dark), (0, end, 0.15))
    if builder.bernoulli(0.6):
        path = [(0, 0, 0), (0.15, 0, 0), (0.25, 0, -0.08), (0.28, 0, -0.2), (0.28, 0, -0.4)]
        exhaust = pipe(path, 0.06).with_color(builder.trim)
        builder.add("exhaust", exhaust, (1.5 * r, ys[0], 0.25))
    if builder.bernoulli(0.4):
        oil_filter = cylinder(0.12, 0.3).rotated("y", 90).with_color(builder.accent)
        builder.add("filter", oil_filter, (1.4 * r, ys[-1], 0.12))


def flange(builder: ObjectBuilder) -> None:
    """Turned parts on one axis with equal bolts, as in pumps, bearings and couplings."""
    r, h = builder.uniform(0.35, 0.8), builder.uniform(0.06, 0.2)
    plate = builder.choice(
        cylinder(r, h), box(2 * r, 2 * r, h), rounded_box(2 * r, 2 * r, h, 0.3 * r)
    )
    builder.add("plate", plate.with_color(builder.body))
    neck, housing_h = builder.uniform(0.35, 0.6) * r, builder.uniform(0.3, 1.2)
    housing = builder.choice(
        tube(neck, 0.7 * neck, housing_h),
        lathe([(neck, 0), (1.2 * neck, 0.5 * housing_h), (0.8 * neck, housing_h)]),
        cylinder(neck, housing_h, sides=6),
    )
    builder.add("housing", housing.with_color(builder.trim), (0, 0, h))
    bolts = circle(0.8 * r, builder.integer(3, 6), 45)
    head = cylinder(0.09 * r, 0.08, sides=6).translated(0, 0, h)
    bolt = join(head, cylinder(0.05 * r, h + 0.12)).with_color(builder.dark)
    builder.add("bolt", bolt, *[(x, y, 0) for x, y in bolts])
    if builder.bernoulli(0.6):
        cover = join(cylinder(1.2 * neck, 0.08), cylinder(0.4 * neck, 0.2))
        builder.add("cover", cover.with_color(builder.accent), (0, 0, h + housing_h))
    else:
        shaft = cylinder(0.3 * neck, housing_h + h + 0.4, sides=16)
        builder.add("shaft", shaft.with_color(builder.accent))
    if builder.bernoulli(0.6):
        collar = tube(0.5 * neck, 0.3 * neck, 0.08).translated(0, 0, r)
        outlet = join(cylinder(0.3 * neck, r), collar).rotated("y", 90)
        builder.add("outlet", outlet.with_color(builder.trim), (0, 0, h + 0.5 * housing_h))
    if builder.bernoulli(0.4):
        seal = torus(1.15 * neck, 0.05).with_color(builder.dark)
        builder.add("seal", seal, (0, 0, h + 0.03))
    if builder.bernoulli(0.4):
        spokes = [rod((0, 0, 0), (*point, 0), 0.03) for point in circle(0.6 * r, 4)]
        handwheel = join(torus(0.6 * r, 0.05), *spokes).with_color(builder.accent)
        builder.add("handwheel", handwheel, (0, 0, h + housing_h + 0.45))


def vessel(builder: ObjectBuilder) -> None:
    """A pot, press or bottle: a body with or without a lid, handles, spout, band and feet."""
    r, h = builder.uniform(0.25, 0.55), builder.uniform(0.4, 1.4)
    profile = [(builder.uniform(0.6, 1.15) * r, z * h) for z in (0, 0.35, 0.7, 1)]
    _add_vessel_body(builder, profile, h)
    if builder.bernoulli(0.7):
        angles = np.linspace(0.1, np.pi - 0.1, 12)
        handle = pipe([(0, 0.3 * h * np.sin(a), 0.3 * h * np.cos(a)) for a in angles], 0.04)
        for side in builder.choice((1,), (1, -1)):
            mirrored = handle.scaled(1, side, 1).with_color(builder.dark)
            builder.add("handle", mirrored, (0, side * 0.9 * r, 0.5 * h))
    if builder.bernoulli(0.5):
        spout = rod((0, 0, 0), (0.5, 0, builder.uniform(0.1, 0.5)), 0.1, 0.05)
        builder.add("spout", spout.with_color(builder.trim), (0.7 * r, 0, 0.45 * h))
    if builder.bernoulli(0.4):
        band = torus(1.08 * r, 0.04).with_color(builder.accent)
        builder.add("band", band, (0, 0, builder.uniform(0.2, 0.7) * h))
    if builder.bernoulli(0.5):
        foot = cylinder(0.05, 0.15, sides=12).with_color(builder.dark)
        builder.add("foot", foot, *[(x, y, -0.14) for x, y in circle(0.55 * r, 3)])
    elif builder.bernoulli(0.6):
        saucer = cylinder(r, 0.06, top=1.5 * r).with_color(builder.trim)
        builder.add("saucer", saucer, (0, 0, -0.06))


def _add_vessel_body(builder: ObjectBuilder, profile: list[tuple[float, float]], h: float) -> None:
    """Add an open body with content, or a closed one with a lid; profile: (radius, z) pairs."""
    if builder.bernoulli(0.3):
        inside = [(0.92 * radius, z) for radius, z in profile[:0:-1]]
        wall = [*profile, *inside, (0.9 * profile[0][0], 0.05 * h)]
        builder.add("body", lathe(wall, 28, closed=True).with_color(builder.body))
        content = cylinder(0.8 * min(radius for radius, _ in profile), 0.75 * h)
        builder.add("content", content.with_color(builder.accent), (0, 0, 0.06 * h))
        return
    builder.add("body", lathe(profile, 28).with_color(builder.body))
    knob = sphere(builder.uniform(0.04, 0.1)).translated(0, 0, 0.1)
    lid = join(cylinder(1.04 * profile[-1][0], 0.06), knob).with_color(builder.trim)
    builder.add("lid", lid, (0, 0, h))


def blocks(builder: ObjectBuilder) -> None:
    """An abstract pile: solids attached to each other at random, some of them equal."""
    meshes = []
    for _ in range(builder.integer(3, 9)):
        size = builder.uniform(0.15, 0.7), builder.uniform(0.15, 0.7), builder.uniform(0.1, 0.8)
        color = builder.choice(
            builder.body, builder.body, builder.trim, builder.accent, builder.dark
        )
        meshes.append(_random_solid(builder, *size).with_color(color))
    builder.add("block", meshes[0])
    for _ in range(builder.integer(3, 10)):
        mesh = builder.choice(*meshes)
        position = _random_adjacent_position(builder, mesh, builder.choice(*builder.parts))
        builder.add("block", mesh, position)


def _random_adjacent_position(builder: ObjectBuilder, mesh: Mesh, host: Part) -> np.ndarray:
    """A position where `mesh` is on top of the host or touches one of its sides."""
    axis = builder.choice(0, 1, 2, 2)
    (low, high), (mesh_low, mesh_high) = host.mesh.bounds(), mesh.bounds()
    slack = 0.25 * (high - low + mesh_high - mesh_low)
    position = centered_position(mesh, host) + builder.rng.uniform(-1, 1, 3) * slack
    below, above = adjacent_positions(mesh, host)
    if axis < 2 and builder.bernoulli(0.4):
        position[axis] = below[axis] + OVERLAP
    else:
        position[axis] = above[axis] - OVERLAP
    return position


def _random_solid(builder: ObjectBuilder, width: float, depth: float, height: float) -> Mesh:
    style = builder.integer(0, 8)
    r = min(width, depth) / 2
    constructors = [
        lambda: box(width, depth, height),
        lambda: rounded_box(width, depth, height, 0.4 * r),
        lambda: taper((width, depth), (0.4 * width, 0.7 * depth), height),
        lambda: cylinder(r, height),
        lambda: cylinder(r, height, top=0.1 * r),
        lambda: sphere(r).scaled(1, 1, height / (2 * r)),
        lambda: torus(r, 0.3 * r),
        lambda: tube(r, 0.6 * r, height),
        lambda: gear(r, 12, 0.4 * height),
    ]
    solid = constructors[style]()
    axis = builder.choice("x", "y", "z", "z")
    return solid if axis == "z" else solid.rotated(axis, 90)
