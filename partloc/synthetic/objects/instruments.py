"""Musical instruments. The front faces +x.

Lengths are roughly in metres; proportions are random.

w, d, h: width (y), depth (x) and height (z).
"""

import numpy as np

from partloc.synthetic.builder import Color, ObjectBuilder, evenly_spaced
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    circle,
    cylinder,
    join,
    lathe,
    prism,
    rod,
    rounded_box,
    taper,
)

IVORY: Color = (0.93, 0.91, 0.85)
EBONY: Color = (0.10, 0.10, 0.11)
OCTAVE_WIDTH = 0.165


def piano(builder: ObjectBuilder) -> None:
    """An upright or a grand piano with two to five equal octaves of keys, and often a stool."""
    octaves = builder.integer(2, 5)
    w = octaves * OCTAVE_WIDTH + builder.uniform(0.06, 0.2)
    key_z = builder.uniform(0.55, 0.75)
    builder.rotations_deg = (0, 0, 30, 90)
    add_case = builder.choice(_add_upright, _add_grand)
    x = add_case(builder, w, key_z)
    octave = _octave(builder)
    ys = evenly_spaced((octaves - 1) * OCTAVE_WIDTH, octaves)
    builder.add("octave", octave, *[(x, y, key_z) for y in ys])
    if builder.bernoulli(0.6):
        stool_h, r = builder.uniform(0.35, 0.5), builder.uniform(0.15, 0.2)
        seat = builder.choice(cylinder(r, 0.07), rounded_box(1.6 * r, 3 * r, 0.07, 0.03))
        foot = builder.choice(
            cylinder(0.6 * r, stool_h, top=0.04),
            join(
                *[
                    rod((0.7 * px, 0.9 * py, 0), (0, 0, stool_h), 0.02)
                    for px, py in circle(r, 4, 45)
                ]
            ),
        )
        stool = join(
            foot.with_color(builder.dark), seat.translated(0, 0, stool_h).with_color(builder.accent)
        )
        builder.add("stool", stool, (x + builder.uniform(0.35, 0.5), 0, 0))


def _octave(builder: ObjectBuilder) -> Mesh:
    """Seven white and five black keys."""
    pitch, length = OCTAVE_WIDTH / 7, builder.uniform(0.13, 0.17)
    white, black = (IVORY, EBONY) if builder.bernoulli(0.8) else (builder.trim, builder.accent)
    keys = [
        box(length, 0.88 * pitch, 0.022).translated(0, (i - 3) * pitch).with_color(white)
        for i in range(7)
    ]
    sharps = [
        box(0.62 * length, 0.55 * pitch, 0.02).translated(-0.19 * length, (i - 2.5) * pitch, 0.02)
        for i in (0, 1, 3, 4, 5)
    ]
    return join(*keys, join(*sharps).with_color(black))


def _add_upright(builder: ObjectBuilder, w: float, key_z: float) -> float:
    """Add the case of an upright piano; return the x of its keys."""
    d, h = builder.uniform(0.22, 0.36), key_z + builder.uniform(0.2, 0.65)
    shelf_d = 0.24
    x = d / 2 + shelf_d / 2
    bottom_h = key_z - 0.06
    builder.add("body", box(d, w, bottom_h).with_color(builder.body))
    shelf = box(shelf_d, w, 0.06).translated(x, 0, bottom_h)
    cheeks = [box(shelf_d, 0.03, 0.06).translated(x, y * (w / 2 - 0.015), key_z) for y in (-1, 1)]
    builder.add("keybed", join(shelf, *cheeks).with_color(builder.body))
    top_h = h - bottom_h
    if builder.bernoulli(0.5):  # an open front: the frame shows behind the music desk
        sides = [box(d, 0.04, top_h).translated(0, y * (w / 2 - 0.02)) for y in (-1, 1)]
        upper = join(*sides, box(0.04, w, top_h).translated(-d / 2 + 0.02))
        frame = join(
            box(0.03, w - 0.1, top_h - 0.05),
            *[box(0.06, 0.012, top_h - 0.08).translated(0, y) for y in evenly_spaced(w - 0.2, 9)],
        )
        builder.add("frame", frame.with_color(builder.accent), (-0.15 * d, 0, bottom_h))
    else:
        upper = box(d, w, top_h)
    builder.add("upper-case", upper.with_color(builder.body), (0, 0, bottom_h))
    builder.add("lid", box(1.1 * d, 1.04 * w, 0.03).with_color(builder.trim), (0, 0, h))
    desk = box(0.025, builder.uniform(0.4, 0.8) * w, builder.uniform(0.4, 0.8) * (h - key_z))
    builder.add("desk", desk.with_color(builder.trim), (d / 2 + 0.015, 0, key_z + 0.05))
    leg = builder.choice(
        cylinder(0.03, bottom_h, top=0.045), box(0.06, 0.06, bottom_h), _turned_leg(bottom_h)
    )
    ys = [y * (w / 2 - 0.06) for y in (-1, 1)]
    x_leg = x + shelf_d / 2 - 0.06
    builder.add("leg", leg.with_color(builder.trim), *[(x_leg, y, 0) for y in ys])
    pedal = box(0.12, 0.04, 0.025).with_color(builder.accent)
    ys = evenly_spaced(0.18, builder.integer(2, 3))
    if w > 0.6:
        builder.add("pedal", pedal, *[(d / 2 + 0.05, y, 0.05) for y in ys])
    return x + 0.01


def _turned_leg(height: float) -> Mesh:
    profile = [(0.03, 0), (0.045, 0.08), (0.025, 0.16), (0.04, 0.6), (0.055, 0.85), (0.03, 0.92)]
    return lathe([(r, z * height) for r, z in [*profile, (0.05, 1.0)]], 16)


def _add_grand(builder: ObjectBuilder, w: float, key_z: float) -> float:
    """Add the case of a grand piano with its iron plate and a lid; return the x of its keys."""
    length, rim_h = builder.uniform(0.75, 1.4) * max(w, 0.7), builder.uniform(0.18, 0.3)
    z = key_z - 0.05
    outline = _grand_outline(w, length)
    case = prism(outline, 0.6 * rim_h).translated(0, 0, z)
    key_shelf = box(0.2, w, 0.05).translated(0.1, 0, z)
    cheeks = [box(0.2, 0.03, rim_h).translated(0.1, y * (w / 2 - 0.015), z) for y in (-1, 1)]
    builder.add("body", join(case, key_shelf, *cheeks).with_color(builder.body))
    inner = outline.mean(0) + 0.9 * (outline - outline.mean(0))
    plate = prism(inner, 0.03).with_color(builder.accent)
    strings = [
        beam((-0.05, y, 0.04), (-0.05 - reach * length, y + 0.1 * w, 0.04), 0.012)
        for y, reach in zip(evenly_spaced(0.7 * w, 7), np.linspace(0.75, 0.35, 7), strict=True)
    ]
    builder.add("plate", join(plate, *strings).with_color(builder.accent), (0, 0, z + 0.6 * rim_h))
    hinge_z = z + 0.6 * rim_h + 0.08
    lid = prism(outline * 1.02 + [0, w / 2], 0.025)
    if builder.bernoulli(0.7):  # propped up, hinged along the straight side
        opening = builder.uniform(18, 40)
        lid = lid.rotated("x", opening)
        tip = 0.8 * w * np.array([np.cos(np.radians(opening)), np.sin(np.radians(opening))])
        prop = rod((0, 0.82 * w - w / 2, 0), (0, tip[0] - w / 2, tip[1]), 0.012)
        builder.add("prop", prop.with_color(builder.dark), (-0.12, 0, hinge_z - 0.02))
    builder.add("lid", lid.with_color(builder.body), (0, -w / 2, hinge_z))
    leg = builder.choice(_turned_leg(z), taper((0.05, 0.05), (0.1, 0.1), z), cylinder(0.05, z))
    feet = [(-0.08, y * 0.4 * w, 0) for y in (-1, 1)] + [(-0.8 * length, -0.3 * w, 0)]
    builder.add("leg", leg.with_color(builder.trim), *feet)
    rods = [rod((0, 0.5 * y, z), (0, y, 0.1), 0.014) for y in (-0.08, 0.08)]
    pedals = [box(0.14, 0.03, 0.02).translated(0.05, y, 0.05) for y in (-0.06, 0, 0.06)]
    lyre = join(*rods, box(0.06, 0.22, 0.09).translated(0, 0, 0.03))
    lyre = join(lyre.with_color(builder.trim), join(*pedals).with_color(builder.accent))
    builder.add("lyre", lyre, (-0.1, 0, 0))
    return 0.12


def _grand_outline(w: float, length: float) -> np.ndarray:
    """The case seen from above, (K, 2): straight at -y, curved at +y, the keys at x = 0."""
    points = [(0, -0.5), (0, 0.5), (-0.2, 0.5), (-0.35, 0.45), (-0.5, 0.3), (-0.65, 0.12)]
    points += [
        (-0.8, 0.04),
        (-0.9, -0.02),
        (-0.97, -0.12),
        (-1, -0.25),
        (-0.97, -0.4),
        (-0.9, -0.5),
    ]
    return np.array(points) * [length, w]


def guitar(builder: ObjectBuilder) -> None:
    """A guitar that leans upright in a stand: a body with a waist, a neck, pegs and strings."""
    body_h, body_d = builder.uniform(0.38, 0.52), builder.uniform(0.04, 0.12)
    ratio = builder.uniform(0.7, 0.9)
    neck_l, neck_w = builder.uniform(0.38, 0.62), builder.uniform(0.045, 0.065)
    builder.rotations_deg = (0, 0, 30, 90)
    lift = builder.uniform(0.12, 0.25)  # of the body above the floor
    waist = builder.uniform(0.08, 0.26)
    angles = np.radians(np.arange(0, 360, 10))
    radius = 1 + waist * np.cos(2 * angles) - builder.uniform(0.05, 0.15) * np.cos(angles)
    outline = np.stack([radius * np.cos(angles), ratio * radius * np.sin(angles)], -1)
    outline *= body_h / np.ptp(outline[:, 0])  # x is the height until the body is upright
    outline[:, 0] -= outline[:, 0].min()
    body = prism(outline, body_d).rotated("y", -90).with_color(builder.body)
    z, top = lift, lift + body_h
    builder.add("body", body, (0, 0, z))
    neck = join(
        box(0.03, neck_w, neck_l + 0.05).translated(-0.01),
        *[box(0.008, neck_w, 0.006).translated(0.008, 0, 0.06 + i * neck_l / 9) for i in range(9)],
    )
    builder.add("neck", neck.with_color(builder.trim), (0.01, 0, top - 0.05))
    strings = builder.integer(4, 6)
    _add_head(builder, top + neck_l, neck_w, strings)
    bridge_z = z + builder.uniform(0.18, 0.3) * body_h
    bridge = box(0.03, 2.2 * neck_w, 0.04).with_color(builder.dark)
    builder.add("bridge", bridge, (0.01, 0, bridge_z))
    ys = evenly_spaced(0.75 * neck_w, strings)
    wires = [box(0.005, 0.0045, top + neck_l - bridge_z).translated(0, y) for y in ys]
    builder.add("strings", join(*wires).with_color(builder.accent), (0.03, 0, bridge_z))
    _add_electrics(builder, z, body_h, neck_w, ratio)
    _add_stand(builder, lift, body_d)


def _add_head(builder: ObjectBuilder, z: float, neck_w: float, strings: int) -> None:
    """Add the headstock and its pegs: equal ones on each side, or all on one side."""
    h = builder.uniform(0.11, 0.18)
    head = taper((0.02, neck_w), (0.02, builder.uniform(1.2, 1.8) * neck_w), h)
    builder.add("head", head.with_color(builder.choice(builder.body, builder.trim)), (0, 0, z))
    shaft = cylinder(0.004, 0.03, sides=8)
    knob = rounded_box(0.018, 0.024, 0.024, 0.009).translated(0, 0, 0.02)
    peg = join(shaft, knob).rotated("x", -90).with_color(builder.dark)
    if builder.bernoulli(0.5):
        rows = [(1, z + h * (i + 0.7) / (strings + 0.5)) for i in range(strings)]
    else:
        rows = [(s, z + h * (i + 0.6) / 2.5) for s in (-1, 1) for i in range(2)]
    mirrored = peg.scaled(1, -1, 1)
    for side, mesh in ((1, peg), (-1, mirrored)):
        positions = [(0, side * 0.55 * neck_w, height) for s, height in rows if s == side]
        if positions:
            builder.add("peg", mesh, *positions)


def _add_electrics(
    builder: ObjectBuilder, z: float, body_h: float, neck_w: float, ratio: float
) -> None:
    """Add equal pickups under the strings, or a sound hole, and sometimes knobs."""
    if builder.bernoulli(0.55):
        pickup = rounded_box(0.02, 1.6 * neck_w, 0.035, 0.008).with_color(builder.dark)
        heights = [0.42, 0.56, 0.7][: builder.integer(1, 3)]
        builder.add("pickup", pickup, *[(0.005, 0, z + s * body_h) for s in heights])
        if len(builder.parts) <= 10:
            knob = cylinder(0.017, 0.02, top=0.013).rotated("y", 90).with_color(builder.accent)
            y = 0.3 * ratio * body_h
            builder.add("knob", knob, (0, y, z + 0.24 * body_h), (0, y - 0.04, z + 0.16 * body_h))
        return
    r = builder.uniform(0.1, 0.14) * body_h
    disc = cylinder(r, 0.004).rotated("y", 90).with_color(EBONY)
    ring = cylinder(1.25 * r, 0.002).rotated("y", 90).with_color(builder.accent)
    builder.add("rosette", join(disc, ring), (0, 0, z + 0.56 * body_h))
    if builder.bernoulli(0.5):
        guard = prism(circle(0.09, 16) * [1.2, 0.6], 0.004).rotated("y", 90)
        position = (0, 0.2 * ratio * body_h, z + 0.42 * body_h)
        builder.add("guard", guard.with_color(builder.trim), position)


def _add_stand(builder: ObjectBuilder, lift: float, body_d: float) -> None:
    """Add a tripod with two equal forks that carry the body, and a column behind it."""
    back = -body_d - 0.03
    feet = [(0.16, -0.2, 0), (0.16, 0.2, 0), (-0.22, 0, 0)]
    legs = [rod((back, 0, 0.8 * lift), (back + x, y, 0), 0.012) for x, y, _ in feet]
    column = rod((back, 0, 0.7 * lift), (back, 0, lift + 0.3), 0.014)
    stand = join(*legs, column).with_color(builder.dark)
    builder.add("stand", stand)
    fork = join(
        box(body_d + 0.06, 0.025, 0.02).translated(back + body_d / 2 + 0.03, 0, -0.02),
        box(0.015, 0.025, 0.05).translated(0.025, 0, -0.02),
    )
    builder.add(
        "fork", fork.with_color(builder.dark), *[(0, y, lift + 0.015) for y in (-0.08, 0.08)]
    )
