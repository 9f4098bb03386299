"""Objects that stand in parks and gardens. The front faces +x.

Lengths are roughly in metres; proportions are random.

w, d, h: width (y), depth (x) and height (z).
"""

import numpy as np

from partloc.synthetic.builder import (
    FRONT_VIEWS_DEG,
    ObjectBuilder,
    corner_positions,
    evenly_spaced,
)
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    circle,
    cylinder,
    join,
    prism,
    rod,
    rounded_box,
    sphere,
    taper,
    torus,
    tube,
)


def bench(builder: ObjectBuilder) -> None:
    """A garden bench with several equal planks and rails."""
    w, d = builder.uniform(0.8, 2.0), builder.uniform(0.35, 0.5)
    h = builder.uniform(0.35, 0.5)
    builder.rotations_deg = FRONT_VIEWS_DEG
    back_h = builder.uniform(0.3, 0.6)
    side = join(
        *[beam((x, 0, 0), (0.8 * x, 0, h), 0.06) for x in (-d / 2, d / 2)],
        box(d, 0.06, 0.06).translated(0, 0, h - 0.06),
        beam((-0.4 * d, 0, h), (-0.65 * d, 0, h + back_h), 0.06),
    )
    builder.add("side", side.with_color(builder.trim), *[(0, y * 0.42 * w, 0) for y in (-1, 1)])
    planks = builder.integer(2, 4)
    plank = box(0.85 * d / planks, w, 0.03).with_color(builder.body)
    builder.add("plank", plank, *[(x, 0, h) for x in evenly_spaced(d - d / planks, planks)])
    rails = builder.integer(1, 3)
    rail = box(0.03, w, 0.6 * back_h / rails)
    rail = rail.with_color(builder.choice(builder.body, builder.accent))
    steps = [(i + 0.6) / (rails + 0.4) for i in range(rails)]
    positions = [(-(0.36 + 0.25 * step) * d, 0, h + 0.8 * step * back_h) for step in steps]
    builder.add("rail", rail, *positions)


def windmill(builder: ObjectBuilder) -> None:
    """A tower with a cap, and a hub with three to five blades, sometimes with equal windows."""
    h, blades = builder.uniform(1.2, 2.6), builder.choice(3, 4, 4, 5)
    radius, shrink = builder.uniform(0.12, 0.45), builder.uniform(0.4, 0.8)
    sides = builder.choice(8, 20)
    body = cylinder(radius, h, top=shrink * radius, sides=sides).rotated("z", 180 / sides)
    builder.rotations_deg = (0, 90, 45)
    builder.add("tower", body.with_color(builder.body))
    cap = builder.choice(
        sphere(0.28, 0, 90), box(0.6, 0.3, 0.25), rounded_box(0.7, 0.25, 0.25, 0.1)
    )
    builder.add("cap", cap.with_color(builder.trim), (0, 0, h))
    hub_position = (0.45, 0, h + 0.13)
    hub = join(sphere(0.1), rod((-0.3, 0, 0), (0, 0, 0), 0.05))
    builder.add("hub", hub.with_color(builder.dark), hub_position)
    length, width = builder.uniform(0.5, 0.95) * h, builder.uniform(0.08, 0.25)
    start_deg = builder.uniform(0, 90)
    blade = taper((0.04, 0.4 * width), (0.02, width), length).translated(0, 0, 0.08)
    for i in range(blades):
        rotated = blade.rotated("x", start_deg + i * 360 / blades)
        builder.add("blade", rotated.with_color(builder.accent), hub_position)
    if builder.bernoulli(0.6):
        builder.add("base", cylinder(0.6, 0.1, top=0.55).with_color(builder.dark), (0, 0, -0.1))
    if builder.bernoulli(0.7):
        slope = radius * (1 - shrink) / h
        window = box(0.1, 0.5 * shrink * radius, 0.14).with_color(builder.trim)
        levels = (0.2 * h, 0.5 * h, 0.75 * h)[: builder.integer(2, 3)]
        builder.add("window", window, *[(radius - slope * z - 0.04, 0, z) for z in levels])


def swing(builder: ObjectBuilder) -> None:
    """A frame with equal A-shaped or curved sides, from which seats and other things hang."""
    seats, bay = builder.integer(1, 3), builder.uniform(0.55, 0.9)
    w, h = seats * bay + builder.uniform(0.1, 0.5), builder.uniform(1.3, 2.3)
    spread, gauge = builder.uniform(0.35, 0.8), builder.uniform(0.03, 0.06)
    builder.rotations_deg = (0, 20, 70, 90)
    side = _swing_side(builder, h, spread, gauge).with_color(builder.body)
    builder.add("side", side, *[(0, y * w / 2, 0) for y in (-1, 1)])
    bar = cylinder(gauge, w + 0.2).translated(0, 0, -w / 2 - 0.1).rotated("x", 90)
    builder.add("bar", bar.with_color(builder.choice(builder.body, builder.trim)), (0, 0, h))
    seat_z = builder.uniform(0.3, 0.55)
    seat, half = _swing_seat(builder, 0.5 * bay)
    bays = evenly_spaced((seats - 1) * bay, seats)
    builder.add("seat", seat.with_color(builder.accent), *[(0, y, seat_z) for y in bays])
    rope = cylinder(0.016, h - seat_z, sides=8)
    if builder.bernoulli(0.5):
        pair = join(*[rope.translated(0, y * half) for y in (-1, 1)]).with_color(builder.dark)
        builder.add("ropes", pair, *[(0, y, seat_z) for y in bays])
    else:
        positions = [(0, y + sign * half, seat_z) for y in bays for sign in (-1, 1)]
        builder.add("rope", rope.with_color(builder.dark), *positions)
    _add_play_things(builder, w, h, gauge)


def _swing_side(builder: ObjectBuilder, h: float, spread: float, gauge: float) -> Mesh:
    """Two legs that meet at the height h, with one or two rungs."""
    legs = [rod((x, 0, 0), (0, 0, h), gauge) for x in (-spread, spread)]
    rungs = [
        rod((-spread * (1 - s), 0, s * h), (spread * (1 - s), 0, s * h), 0.7 * gauge)
        for s in ((0.3,), (0.6,), (0.25, 0.6))[builder.integer(0, 2)]
    ]
    return join(*legs, *rungs, sphere(1.3 * gauge).translated(0, 0, h))


def _swing_seat(builder: ObjectBuilder, w: float) -> tuple[Mesh, float]:
    """A board, a tyre or a bucket, and half the distance of the ropes that carry it."""
    style = builder.integer(0, 2)
    if style == 0:
        return box(builder.uniform(0.15, 0.25), w, 0.035), 0.44 * w
    if style == 1:
        return torus(0.38 * w, 0.1 * w), 0.38 * w
    back = [box(0.02, w, 0.2).translated(-0.12), box(0.24, 0.02, 0.14).translated(0, w / 2)]
    side = back[1].translated(0, -w)
    return join(box(0.24, w, 0.03), *back, side), 0.49 * w


def _add_play_things(builder: ObjectBuilder, w: float, h: float, gauge: float) -> None:
    """Add a slide on a ladder, two rings or a rope ladder beside the swing, and a mat."""
    style = builder.integer(0, 2)
    if style == 0:
        _add_slide(builder, w / 2 + 0.12, builder.uniform(0.5, 0.75) * h, gauge)
    elif style == 1 and len(builder.parts) < 10:
        beam_end = w / 2 + 0.5
        arm = cylinder(gauge, 0.55).translated(0, 0, -0.55).rotated("x", 90)
        post = rod((0, 0.5, 0), (0, 0.5, h + gauge), gauge).translated(0, -0.5)
        builder.add("arm", arm.with_color(builder.trim), (0, w / 2, h))
        builder.add("post", post.with_color(builder.trim), (0, beam_end, 0))
        drop = builder.uniform(0.35, 0.55) * h
        ring = torus(0.09, 0.02).rotated("x", 90).translated(0, 0, -drop - 0.09)
        cord = cylinder(0.012, drop, sides=8).translated(0, 0, -drop).with_color(builder.dark)
        hanging = join(ring.with_color(builder.accent), cord)
        builder.add("ring", hanging, *[(0, w / 2 + y, h) for y in (0.14, 0.36)])
    if len(builder.parts) < 12 and builder.bernoulli(0.5):
        mat = rounded_box(builder.uniform(0.6, 1.2), 0.9 * w, 0.03, 0.1)
        builder.add("mat", mat.with_color(builder.trim))


def _add_slide(builder: ObjectBuilder, y: float, top: float, gauge: float) -> None:
    """Add a chute with a ladder behind it; its near edge is at y."""
    width, run = builder.uniform(0.3, 0.45), builder.uniform(0.9, 1.3) * top
    cheeks = [(-width / 2, 0.1), (width / 2, 0.1)]
    slope, length = np.degrees(np.arctan2(top - 0.12, run)), np.hypot(top - 0.12, run)
    board = join(
        box(length, width, 0.03),
        *[box(length, 0.025, height).translated(0, side) for side, height in cheeks],
    )
    board = board.translated(length / 2).rotated("y", slope).translated(0, 0, top)
    center = y + width / 2
    builder.add("slide", board.with_color(builder.accent), (0.1, center, 0))
    rails = [
        rod((-0.3, s * width / 2, 0), (0.1, s * width / 2, top + 0.15), 0.6 * gauge)
        for s in (-1, 1)
    ]
    levels = np.linspace(0.2, 0.95, builder.integer(3, 6))
    rungs = [
        rod(
            (-0.3 + 0.4 * s * top / (top + 0.15), -width / 2, s * top),
            (-0.3 + 0.4 * s * top / (top + 0.15), width / 2, s * top),
            0.4 * gauge,
        )
        for s in levels
    ]
    builder.add("ladder", join(*rails, *rungs).with_color(builder.body), (0, center, 0))


def grill(builder: ObjectBuilder) -> None:
    """A kettle grill on legs, or a gas grill with a bottle inside its cabinet."""
    builder.rotations_deg = (0, 0, 90, 30)
    (_add_kettle if builder.bernoulli(0.5) else _add_gas_grill)(builder)


def _add_kettle(builder: ObjectBuilder) -> None:
    """Add a bowl on three or four legs with a lid, which is open or closed."""
    r, leg_h = builder.uniform(0.22, 0.36), builder.uniform(0.4, 0.7)
    depth = builder.uniform(0.5, 0.9) * r
    bowl = sphere(r, -80, 0).scaled(1, 1, depth / r)
    builder.add("bowl", bowl.with_color(builder.body), (0, 0, leg_h))
    legs, gauge = builder.integer(3, 4), builder.uniform(0.012, 0.022)
    start_deg = builder.uniform(0, 90)
    for x, y in circle(1, legs, start_deg):
        upper, lower = 0.75 * r * np.array([x, y]), 1.05 * r * np.array([x, y])
        leg = rod((*upper, leg_h - 0.65 * depth), (*lower, 0), gauge)
        builder.add("leg", leg.with_color(builder.trim))
    shelf = cylinder(0.85 * r, 0.02).with_color(builder.accent)
    builder.add("shelf", shelf, (0, 0, 0.35 * leg_h))
    lid = sphere(1.02 * r, 0, 80).scaled(1, 1, builder.uniform(0.4, 0.8))
    handle = join(
        box(0.04, 0.16, 0.02).translated(0, 0, 0.06),
        *[box(0.02, 0.02, 0.06).translated(0, y) for y in (-0.06, 0.06)],
    ).translated(0, 0, lid.bounds()[1][2] - 0.01)
    lid = join(lid.with_color(builder.body), handle.with_color(builder.dark))
    if builder.bernoulli(0.3):
        builder.add("lid", lid, (0, 0, leg_h))
    else:
        lid = lid.translated(r).rotated("y", -builder.uniform(60, 95)).translated(-r)
        builder.add("lid", lid, (0, 0, leg_h + 0.01))
        _add_food(builder, 0.95 * r, 0.95 * r, leg_h - 0.03, round_grate=True)
        coal = cylinder(0.8 * r, 0.03, top=0.7 * r, sides=9).with_color(builder.dark)
        builder.add("coal", coal, (0, 0, leg_h - 0.09))
    handle = join(
        box(0.025, 0.25, 0.025).translated(0.1),
        *[box(0.1, 0.02, 0.02).translated(0.05, y) for y in (-0.09, 0.09)],
    )
    builder.add("handle", handle.with_color(builder.trim), (0.97 * r, 0, leg_h - 0.05))


def _add_food(
    builder: ObjectBuilder, half_d: float, half_w: float, z: float, round_grate: bool
) -> None:
    """Add a grate of parallel bars with two to four equal sausages or steaks on it."""
    bars = builder.integer(7, 13)
    edge = torus(half_w, 0.012) if round_grate else _rectangle_frame(2 * half_d, 2 * half_w, 0.02)
    grate = [edge]
    for y in evenly_spaced(1.8 * half_w, bars):
        half = half_d * np.sqrt(1 - (y / half_w) ** 2) if round_grate else half_d
        grate.append(box(2 * half, 0.012, 0.012).translated(0, y))
    builder.add("grate", join(*grate).with_color(builder.trim), (0, 0, z))
    length = builder.uniform(0.5, 0.9) * half_d
    food = builder.choice(
        cylinder(0.03, length, sides=12).translated(0, 0, -length / 2).rotated("y", 90),
        cylinder(0.3 * half_w, 0.03, sides=18).scaled(1.3, 1, 1).translated(0, 0, -0.03),
    )
    count = builder.integer(2, 3)
    ys = evenly_spaced(0.3 * half_w * (count + 1), count)
    positions = [(builder.uniform(-0.2, 0.2) * half_d, y, z + 0.04) for y in ys]
    builder.add("food", food.with_color(builder.accent), *positions)


def _rectangle_frame(d: float, w: float, bar: float) -> Mesh:
    return join(
        *[box(d, bar, bar).translated(0, sign * (w - bar) / 2) for sign in (-1, 1)],
        *[box(bar, w, bar).translated(sign * (d - bar) / 2) for sign in (-1, 1)],
    )


def _add_gas_grill(builder: ObjectBuilder) -> None:
    """Add a cabinet with a gas bottle behind a panel, a fire box, equal knobs and side shelves."""
    w, d = builder.uniform(0.5, 0.95), builder.uniform(0.35, 0.5)
    cabinet_h, box_h = builder.uniform(0.45, 0.65), builder.uniform(0.14, 0.22)
    posts = [box(0.035, 0.035, cabinet_h).translated(x, y) for x, y, _ in corner_positions(d, w)]
    floor = box(d, w, 0.03).translated(0, 0, 0.06)
    builder.add("cabinet", join(*posts, floor).with_color(builder.body))
    bottle_h = builder.uniform(0.55, 0.8) * cabinet_h
    r = min(0.12, 0.35 * d)
    bottle = join(
        cylinder(r, 0.8 * bottle_h),
        sphere(r, 0, 70).scaled(1, 1, 0.5).translated(0, 0, 0.8 * bottle_h),
        cylinder(0.3 * r, 0.2 * bottle_h).translated(0, 0, 0.8 * bottle_h),
    )
    builder.add("bottle", bottle.with_color(builder.accent), (0, -0.15 * w, 0.09))
    panel_w = builder.uniform(0.45, 0.9) * w
    panel = box(0.02, panel_w, 0.8 * cabinet_h).with_color(
        builder.choice(builder.body, builder.trim)
    )
    builder.add("panel", panel, (d / 2 + 0.02, (panel_w - w) / 2, 0.12 * cabinet_h))
    walls = [box(d, 0.02, box_h).translated(0, y * (w / 2 - 0.01)) for y in (-1, 1)]
    walls += [box(0.02, w, box_h).translated(x * (d / 2 - 0.01)) for x in (-1, 1)]
    tray = join(box(d, w, 0.02), *walls).with_color(builder.body)
    builder.add("fire-box", tray, (0, 0, cabinet_h))
    knob = cylinder(0.035, 0.04, top=0.028, sides=16).rotated("y", 90).with_color(builder.dark)
    ys = evenly_spaced(0.6 * w, builder.integer(2, 3))
    builder.add("knob", knob, *[(d / 2, y, cabinet_h + 0.45 * box_h) for y in ys])
    z = cabinet_h + box_h
    angles = np.radians(np.linspace(0, 180, 13))
    arch = np.stack([d / 2 * np.cos(angles), 0.4 * d * np.sin(angles)], -1)
    hood = prism(arch, w).rotated("x", 90).translated(0, w / 2)
    if builder.bernoulli(0.7):
        hood = hood.translated(d / 2).rotated("y", -builder.uniform(70, 95)).translated(-d / 2)
        _add_food(builder, 0.47 * d, 0.47 * w, z - 0.02, round_grate=False)
    builder.add("hood", hood.with_color(builder.trim), (0, 0, z))
    if builder.bernoulli(0.6):
        shelf_w = builder.uniform(0.2, 0.35)
        bracket = tube(0.02, 0.012, 0.3 * d).translated(0, 0, -0.15 * d).rotated("y", 90)
        shelf = join(box(0.8 * d, shelf_w, 0.025), bracket)
        ys = [sign * (w + shelf_w) / 2 for sign in (-1, 1)]
        builder.add("side-shelf", shelf.with_color(builder.trim), *[(0, y, z - 0.05) for y in ys])
