"""Devices with a mechanism inside: clocks, cameras and 3-D printers. The front faces +x.

Lengths are roughly in metres; proportions are random.

w, d, h: width (y), depth (x) and height (z).
"""

import numpy as np

from partloc.synthetic.builder import Color, ObjectBuilder, corner_positions, evenly_spaced
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    circle,
    cylinder,
    gear,
    join,
    lathe,
    prism,
    rod,
    rounded_box,
    sphere,
    taper,
    torus,
    tube,
)

GLASS: Color = (0.12, 0.14, 0.18)


def clock(builder: ObjectBuilder) -> None:
    """A pendulum clock: a tall case with an open waist, in which weights hang."""
    w, d = builder.uniform(0.3, 0.5), builder.uniform(0.2, 0.32)
    plinth_h, waist_h = builder.uniform(0.2, 0.45), builder.uniform(0.55, 1.1)
    builder.rotations_deg = (0, 0, 90, 30)
    foot_h = builder.uniform(0.03, 0.08)
    plinth = join(
        box(1.08 * d, 1.08 * w, plinth_h), box(1.15 * d, 1.15 * w, 0.04).translated(0, 0, plinth_h)
    )
    builder.add("plinth", plinth.with_color(builder.body), (0, 0, foot_h))
    foot = builder.choice(sphere(foot_h).translated(0, 0, foot_h), box(0.07, 0.07, foot_h + 0.01))
    feet = [(x, y, 0) for x, y, _ in corner_positions(0.85 * d, 0.9 * w)]
    builder.add("foot", foot.with_color(builder.trim), *feet)
    z = foot_h + plinth_h + 0.04
    _add_clock_waist(builder, w, d, waist_h, z)
    _add_clock_hood(builder, w, d, z + waist_h)


def _add_clock_waist(builder: ObjectBuilder, w: float, d: float, h: float, z: float) -> None:
    """Add the waist: a back with two sides, equal weights and a pendulum behind a barred door."""
    sides = [box(0.8 * d, 0.03, h).translated(0, y * (0.43 * w - 0.015)) for y in (-1, 1)]
    waist = join(box(0.03, 0.86 * w, h).translated(-0.4 * d), *sides)
    builder.add("waist", waist.with_color(builder.body), (0, 0, z))
    bob_r = builder.uniform(0.12, 0.2) * w
    drop = builder.uniform(0.55, 0.8) * h
    swing = builder.uniform(-4, 4)
    bob = cylinder(bob_r, 0.03).translated(0, 0, -0.015).rotated("y", 90).translated(0, 0, -drop)
    pendulum = join(rod((0, 0, -drop), (0, 0, 0), 0.008), bob).rotated("x", swing)
    builder.add("pendulum", pendulum.with_color(builder.accent), (0.0, 0, z + h))
    weight_h = builder.uniform(0.18, 0.3) * h
    weight = join(
        cylinder(builder.uniform(0.06, 0.09) * w, weight_h),
        cylinder(0.006, 0.45 * h, sides=8).translated(0, 0, weight_h),
    )
    ys = evenly_spaced(0.45 * w, builder.integer(2, 3))
    weight_z = z + 0.55 * h - weight_h
    builder.add("weight", weight.with_color(builder.trim), *[(-0.18 * d, y, weight_z) for y in ys])
    if builder.bernoulli(0.6):
        bar = builder.uniform(0.025, 0.05)
        frame = [box(0.02, bar, h).translated(0, y * (0.43 * w - bar / 2)) for y in (-1, 1)]
        frame += [box(0.02, 0.84 * w, bar).translated(0, 0, s * (h - bar)) for s in (0, 1)]
        for y in evenly_spaced(0.4 * w, builder.integer(1, 4)):
            frame.append(box(0.012, 0.4 * bar, h).translated(0, y))
        builder.add("door", join(*frame).with_color(builder.body), (0.4 * d, 0, z))


def _add_clock_hood(builder: ObjectBuilder, w: float, d: float, z: float) -> None:
    """Add the hood with the dial, its hands, two equal columns, a crown and finials."""
    h = builder.uniform(1.0, 1.3) * w
    hood = join(box(1.1 * d, 1.1 * w, h), box(1.2 * d, 1.2 * w, 0.03))
    builder.add("hood", hood.with_color(builder.body), (0, 0, z))
    r, front = 0.42 * w, 0.55 * d
    plate = builder.choice(cylinder(r, 0.015), rounded_box(1.9 * r, 1.9 * r, 0.015, 0.02))
    marks = [
        box(0.02 * w, 0.12 * r, 0.018).translated(0, 0.85 * r).rotated("z", 30 * i)
        for i in range(12)
    ]
    dial = join(plate.with_color(builder.trim), join(*marks).with_color(builder.dark))
    center_z = z + 0.53 * h
    builder.add("dial", dial.rotated("y", 90), (front, 0, center_z))
    for name, length, x in (("hour-hand", 0.5, 0.018), ("minute-hand", 0.8, 0.024)):
        hand = taper((0.006, 0.14 * r), (0.006, 0.05 * r), length * r)
        hand = hand.rotated("x", builder.uniform(0, 360))
        builder.add(name, hand.with_color(builder.dark), (front + x, 0, center_z))
    if builder.bernoulli(0.4):
        column = cylinder(0.03, h - 0.03, top=0.025, sides=14).with_color(builder.trim)
        builder.add("column", column, *[(front + 0.02, y * 0.5 * w, z + 0.03) for y in (-1, 1)])
    crown_h = builder.uniform(0.08, 0.2)
    half = circle(0.6 * w, 40, 0)[:21] * [1, crown_h / (0.6 * w)]
    triangle = np.array([(-0.6 * w, 0), (0.6 * w, 0), (0, crown_h)])
    crown = builder.choice(
        prism(half, 1.15 * d).rotated("x", 90).rotated("z", 90).translated(-0.575 * d),
        prism(triangle, 1.15 * d).rotated("x", 90).rotated("z", 90).translated(-0.575 * d),
        taper((1.2 * d, 1.2 * w), (0.8 * d, 0.9 * w), crown_h),
    )
    builder.add("crown", crown.with_color(builder.body), (0, 0, z + h))


def camera(builder: ObjectBuilder) -> None:
    """A camera on a tripod, whose three legs are turned copies of each other."""
    leg_h, reach = builder.uniform(0.5, 1.2), builder.uniform(0.22, 0.45)
    gauge = builder.uniform(0.016, 0.03)
    start_deg = builder.uniform(0, 120)
    upper = beam((0.04, 0, leg_h), (0.55 * reach, 0, 0.45 * leg_h), 2 * gauge)
    lower = rod((0.5 * reach, 0, 0.5 * leg_h), (reach, 0, 0.02), 0.7 * gauge)
    leg = join(upper.with_color(builder.trim), lower.with_color(builder.dark))
    foot = sphere(1.5 * gauge, sides=12).translated(0, 0, 1.4 * gauge).with_color(builder.dark)
    feet = []
    for i in range(3):
        builder.add("leg", leg.rotated("z", start_deg + 120 * i))
        feet.append((*(reach * circle(1, 3, start_deg)[i]), 0.0))
    builder.add("foot", foot, *feet)
    crotch = cylinder(0.07, 0.06, sides=12).with_color(builder.dark)
    builder.add("crotch", crotch, (0, 0, leg_h - 0.03))
    column_h = builder.uniform(0.08, 0.3)
    column = cylinder(0.8 * gauge, column_h + 0.25).translated(0, 0, -0.25)
    builder.add("column", column.with_color(builder.accent), (0, 0, leg_h))
    head = join(
        sphere(0.045).translated(0, 0, 0.03),
        box(0.1, 0.1, 0.02).translated(0, 0, 0.06),
        rod((0, 0, 0.05), (-0.28, 0.08, -0.02), 0.012),
    )
    builder.add("head", head.with_color(builder.trim), (0, 0, leg_h + column_h))
    _add_camera_body(builder, leg_h + column_h + 0.08)


def _add_camera_body(builder: ObjectBuilder, z: float) -> None:
    """Add the body, the lens, which hides part of it, and two equal dials."""
    w, d, h = builder.uniform(0.22, 0.4), builder.uniform(0.08, 0.24), builder.uniform(0.15, 0.26)
    builder.rotations_deg = (0, 30, 60, 90)
    body = builder.choice(box(d, w, h), rounded_box(d, w, h, 0.05))
    builder.add("body", body.with_color(builder.body), (0, 0, z))
    lens_r, lens_l = builder.uniform(0.3, 0.46) * h, builder.uniform(0.08, 0.35)
    rings = [(1.0, 0), (1.0, 0.3), (0.88, 0.32), (0.88, 0.6), (1.0, 0.62), (0.94, 1.0)]
    barrel = lathe([(r * lens_r, s * lens_l) for r, s in rings]).rotated("y", 90)
    center = np.array([d / 2, 0, z + h / 2])
    builder.add("lens", barrel.with_color(builder.trim), center)
    pupil = cylinder(0.7 * lens_r, 0.01).rotated("y", 90).with_color(GLASS)
    builder.add("pupil", pupil, center + [lens_l, 0, 0])
    if builder.bernoulli(0.6):
        hood_l = builder.uniform(0.05, 0.12)
        hood = tube(1.25 * lens_r, 1.05 * lens_r, hood_l).rotated("y", 90)
        builder.add("lens-hood", hood.with_color(builder.dark), center + [lens_l - 0.03, 0, 0])
    if builder.bernoulli(0.7):
        finder = taper((0.9 * d, 0.35 * w), (0.7 * d, 0.22 * w), 0.35 * h)
        builder.add("finder", finder.with_color(builder.body), (0, 0, z + h))
    dial = cylinder(0.12 * w, 0.035, sides=18).with_color(builder.accent)
    builder.add("dial", dial, *[(0, y * 0.33 * w, z + h) for y in (-1, 1)])


def printer(builder: ObjectBuilder) -> None:
    """A 3-D printer: a bed below a print head on a beam, in a portal or a housing."""
    w, d, h = builder.uniform(0.35, 0.55), builder.uniform(0.35, 0.5), builder.uniform(0.35, 0.65)
    base_h, bar = builder.uniform(0.06, 0.16), builder.uniform(0.025, 0.045)
    builder.rotations_deg = (0, 0, 90, 30)
    base = builder.choice(box(d, w, base_h), rounded_box(d, w, base_h, 0.04))
    builder.add("base", base.with_color(builder.body), (0, 0, 0.02))
    z = base_h + 0.02
    housed = builder.bernoulli(0.5)
    (_add_housing if housed else _add_portal)(builder, w, d, h, bar, z)
    bed_z, bed_w = z + builder.uniform(0.02, 0.06), builder.uniform(0.6, 0.75) * w
    bed = join(box(0.7 * d, bed_w, 0.015), box(0.3 * d, 0.1, bed_z - z).translated(0, 0, z - bed_z))
    builder.add("bed", bed.with_color(builder.accent), (0, 0, bed_z))
    beam_z = z + builder.uniform(0.4, 0.75) * h
    span = 0.9 * w
    rail = cylinder(0.011, span).translated(0, 0, -span / 2).rotated("x", 90)
    rails = [(x, 0, beam_z) for x in (-0.025, 0.025)]
    builder.add("rail", rail.with_color(builder.trim), *rails)
    y = builder.uniform(-0.2, 0.2) * w
    head = join(
        box(0.08, 0.07, 0.09).translated(0, 0, -0.03),
        cylinder(0.005, 0.05, top=0.02).translated(0, 0, -0.08),
    )
    builder.add("print-head", head.with_color(builder.dark), (0.03, y, beam_z))
    _add_printed_object(builder, bed_z + 0.015, beam_z - 0.08, y)
    if builder.bernoulli(0.6):
        knob = join(
            box(0.012, 0.12, 0.7 * base_h),
            cylinder(0.02, 0.03).rotated("y", 90).translated(0, 0.09, 0.35 * base_h),
        )
        builder.add("panel", knob.with_color(builder.dark), (d / 2, -0.22 * w, 0.02 + 0.1 * base_h))


def _add_portal(builder: ObjectBuilder, w: float, d: float, h: float, bar: float, z: float) -> None:
    """Add two equal posts with motors below and threaded rods beside them, and a crossbar."""
    ys = [sign * (w / 2 - bar) for sign in (-1, 1)]
    post = box(bar, bar, h).with_color(builder.trim)
    builder.add("post", post, *[(-0.03, y, z) for y in ys])
    builder.add("crossbar", box(1.4 * bar, w, bar).with_color(builder.trim), (-0.03, 0, z + h))
    motor = join(box(0.06, 0.06, 0.06), cylinder(0.009, 0.9 * h)).with_color(builder.dark)
    builder.add("motor", motor, *[(0.045, y, z) for y in ys])
    if builder.bernoulli(0.7):
        r = builder.uniform(0.07, 0.11)
        spool = join(
            *[tube(r, 0.025, 0.01).translated(0, 0, s * 0.06) for s in (0, 1)],
            cylinder(0.75 * r, 0.06).with_color(builder.accent),
        )
        holder = box(0.02, 0.1, r + 0.02).translated(0, 0.03, -r - 0.02)
        spool = join(spool.rotated("x", -90), holder.with_color(builder.dark))
        builder.add("spool", spool, (-0.03, builder.uniform(-0.2, 0.2) * w, z + h + bar + r + 0.02))


def _add_housing(
    builder: ObjectBuilder, w: float, d: float, h: float, bar: float, z: float
) -> None:
    """Add walls with windows at the sides, an open front, a roof, and a motor behind the back."""
    thickness = 0.02
    wall = join(
        *[box(d, thickness, bar).translated(0, 0, s * (h - bar)) for s in (0, 1)],
        *[box(bar, thickness, h).translated(s * (d - bar) / 2) for s in (-1, 1)],
    )
    ys = [sign * (w - thickness) / 2 for sign in (-1, 1)]
    builder.add("wall", wall.with_color(builder.body), *[(0, y, z) for y in ys])
    back = box(thickness, w, h).with_color(builder.trim)
    builder.add("back", back, (-(d - thickness) / 2, 0, z))
    roof = builder.choice(
        box(d, w, 0.025),
        join(
            *[box(0.12 * d, w, 0.025).translated(s * 0.44 * d) for s in (-1, 1)],
            *[box(d, 0.12 * w, 0.025).translated(0, s * 0.44 * w) for s in (-1, 1)],
        ),
    )
    builder.add("roof", roof.with_color(builder.body), (0, 0, z + h))
    fan = join(torus(0.05, 0.012), gear(0.045, 5, 0.015, hole=0.2, tooth=0.6))
    ys = evenly_spaced(0.35 * w, 2)
    fan = fan.rotated("y", 90).with_color(builder.dark)
    builder.add("fan", fan, *[(-d / 2 + 0.035, y, z + 0.8 * h) for y in ys])


def _add_printed_object(builder: ObjectBuilder, z: float, top: float, y: float) -> None:
    """Add a half-finished object below the print head."""
    h = max(0.04, min(top - z - 0.005, builder.uniform(0.06, 0.2)))
    r = builder.uniform(0.04, 0.08)
    printed: Mesh = builder.choice(
        cylinder(r, h, top=0.7 * r),
        gear(1.2 * r, 9, h, hole=0.3),
        lathe([(r, 0), (1.3 * r, 0.3 * h), (0.6 * r, 0.7 * h), (0.9 * r, h)]),
        taper((2 * r, 2 * r), (r, r), h),
    )
    builder.add("print", printed.with_color(builder.accent), (0.03, y, z))
