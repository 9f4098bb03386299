"""Vehicles on land, in the air and on water. The front faces +x.

Lengths are in arbitrary units; proportions are random.

w, h: width (y) and height (z); r: radius.
"""

import numpy as np

from partloc.synthetic.builder import ObjectBuilder, corner_positions, evenly_spaced
from partloc.synthetic.components import wheel
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    circle,
    cylinder,
    join,
    lathe,
    loft,
    prism,
    rounded_box,
    sphere,
    taper,
    torus,
    tube,
)


def car(builder: ObjectBuilder) -> None:
    """A hull on four wheels with a cabin, sometimes with bumpers and a spoiler."""
    length, w = builder.uniform(1.6, 3.2), builder.uniform(0.8, 1.3)
    r = builder.uniform(0.2, 0.42)
    hull_h, cabin_h = builder.uniform(0.25, 0.5), builder.uniform(0.25, 0.6)
    hull_z = builder.uniform(0.7, 1.1) * r
    top = hull_z + hull_h
    hull = builder.choice(box(length, w, hull_h), rounded_box(length, w, hull_h, 0.2))
    builder.add("hull", hull.with_color(builder.body), (0, 0, hull_z))
    disc = wheel(builder, r, builder.uniform(0.12, 0.3))
    wheelbase = builder.uniform(0.55, 0.72) * length
    builder.add("wheel", disc, *corner_positions(wheelbase, w, r))
    _add_car_cabin(builder, length, w, cabin_h, top)
    if builder.bernoulli(0.5):
        bumper = box(0.1, 1.05 * w, 0.12).with_color(builder.dark)
        builder.add("bumper", bumper, *[(x * length / 2, 0, hull_z) for x in (-1, 1)])
    if builder.bernoulli(0.3):
        spoiler = join(
            box(0.2, w, 0.04).translated(0, 0, 0.2),
            *[box(0.1, 0.05, 0.2).translated(0, y * 0.4 * w) for y in (-1, 1)],
        )
        builder.add("spoiler", spoiler.with_color(builder.accent), (-0.45 * length, 0, top))


def _add_car_cabin(builder: ObjectBuilder, length: float, w: float, h: float, z: float) -> None:
    """Add a closed cabin, a glass cabin with a roof, or two open seats with a windscreen."""
    fraction, x = builder.uniform(0.3, 0.65), builder.uniform(-0.12, 0.08) * length
    upper_length = builder.uniform(0.5, 0.9) * fraction * length
    cabin = taper((fraction * length, 0.9 * w), (upper_length, 0.75 * w), h)
    glass = builder.choice(builder.dark, builder.trim)
    style = builder.integer(0, 2)
    if style == 0:
        builder.add("cabin", cabin.with_color(builder.trim), (x, 0, z))
    elif style == 1:
        builder.add("glass", cabin.with_color(glass), (x, 0, z))
        roof = box(0.6 * fraction * length, 0.8 * w, 0.06).with_color(builder.body)
        builder.add("roof", roof, (x, 0, z + h))
    else:
        seat = join(box(0.3, 0.35, 0.15), box(0.08, 0.35, 0.45).translated(-0.18))
        seat = seat.with_color(builder.accent)
        builder.add("seat", seat, *[(x, y * w, z) for y in (-0.23, 0.23)])
        windscreen = box(0.03, 0.9 * w, 0.8 * h).rotated("y", -20).with_color(glass)
        builder.add("windscreen", windscreen, (x + 0.45, 0, z))


def truck(builder: ObjectBuilder) -> None:
    """A chassis on two to four axles with a cab and a load."""
    axles, w = builder.integer(2, 4), builder.uniform(0.8, 1.1)
    length, r = builder.uniform(2.2, 4.0), builder.uniform(0.22, 0.35)
    builder.add("chassis", box(length, 0.6 * w, 0.15).with_color(builder.dark), (0, 0, r))
    disc = wheel(builder, r, 0.2)
    xs = [0.4 * length, *[-0.42 * length + i * 2.3 * r for i in range(axles - 1)]]
    builder.add("wheel", disc, *[(x, y * 0.45 * w, r) for x in xs for y in (-1, 1)])
    cab_length, cab_h = builder.uniform(0.5, 0.9), builder.uniform(0.7, 1.3)
    roof_length = builder.uniform(0.6, 1) * cab_length
    shift = builder.uniform(-0.1, 0.05)
    cab = taper((cab_length, w), (roof_length, 0.95 * w), cab_h, shift)
    deck_z = r + 0.15
    builder.add("cab", cab.with_color(builder.body), ((length - cab_length) / 2, 0, deck_z))
    _add_truck_load(builder, length - cab_length - 0.1, w, (-(cab_length + 0.1) / 2, 0, deck_z))


def _add_truck_load(
    builder: ObjectBuilder, length: float, w: float, center: tuple[float, float, float]
) -> None:
    """Add a box, a tank, a tray with logs, or a crane; center: of the deck behind the cab."""
    x, y, z = center
    style = builder.integer(0, 3)
    if style == 0:
        load = box(length, w, builder.uniform(0.6, 1.6))
        builder.add("box", load.with_color(builder.trim), center)
    elif style == 1:
        tank = cylinder(0.5 * w, length, sides=20).rotated("y", 90).translated(-length / 2)
        tank = tank.scaled(1, 1, builder.uniform(0.7, 1)).with_color(builder.accent)
        builder.add("tank", tank, (x, y, z + 0.45 * w))
    elif style == 2:
        walls = [box(length, 0.05, 0.3).translated(0, side * 0.47 * w) for side in (-1, 1)]
        builder.add("tray", join(box(length, w, 0.06), *walls).with_color(builder.trim), center)
        if builder.bernoulli(0.7):
            log = cylinder(0.14 * w, 0.9 * length, sides=14).rotated("y", 90)
            log = log.translated(-0.45 * length).with_color(builder.accent)
            builder.add("log", log, *[(x, side * w, z + 0.2 * w) for side in (-0.25, 0.25)])
    else:
        builder.add("turret", cylinder(0.4 * w, 0.3).with_color(builder.trim), center)
        tip = (builder.uniform(-0.5, 1.2) * length, 0, builder.uniform(0.8, 1.8))
        boom = beam((0, 0, 0.25), tip, 0.2, 0.12).with_color(builder.accent)
        builder.add("boom", boom, center)


def aeroplane(builder: ObjectBuilder) -> None:
    """A fuselage with wings, a tail, and engines or a propeller."""
    length, r = builder.uniform(2.0, 3.5), builder.uniform(0.14, 0.3)
    span = builder.uniform(1.6, 3.8)
    profile = [
        (0.15 * r, -length / 2),
        (0.7 * r, -0.2 * length),
        (r, 0),
        (r, 0.3 * length),
        (0.6 * r, 0.45 * length),
        (0.1, length * 0.5),
    ]
    builder.add("fuselage", lathe(profile, 20).rotated("y", 90).with_color(builder.body))
    chord, sweep = builder.uniform(0.35, 0.7), builder.uniform(-0.1, 0.8)
    tip_chord, wing_z = builder.uniform(0.3, 0.9) * chord, builder.choice(-0.6 * r, 0.0, 0.8 * r)
    wing = _wing(chord, tip_chord, span / 2, sweep, 0.05)
    for name, side in (("wing-left", 1), ("wing-right", -1)):
        mirrored = wing.scaled(1, side, 1).with_color(builder.trim)
        builder.add(name, mirrored, (0.1, side * 0.5 * r, wing_z))
    tail = _wing(0.5 * chord, 0.3 * chord, 0.22 * span, 0.3 * sweep, 0.04)
    tailplane = join(tail, tail.scaled(1, -1, 1)).with_color(builder.trim)
    builder.add("tailplane", tailplane, (-0.45 * length, 0, 0.2 * r))
    fin = _wing(0.6 * chord, 0.3 * chord, builder.uniform(0.35, 0.8), 0.35, 0.04)
    builder.add("fin", fin.rotated("x", 90).with_color(builder.accent), (-0.45 * length, 0, 0))
    if builder.bernoulli(0.5):
        _add_jet_engines(builder, span, sweep, wing_z - 0.15)
    else:
        _add_propeller(builder, length / 2)
    if builder.bernoulli(0.6):
        canopy = sphere(0.8 * r, 0, 90).scaled(2.2, 0.8, 1).with_color(builder.accent)
        builder.add("canopy", canopy, (builder.uniform(0.08, 0.2) * length, 0, 0.85 * r))
    if builder.bernoulli(0.5):
        gear = join(wheel(builder, 0.13, 0.07), box(0.05, 0.03, 0.35).with_color(builder.trim))
        builder.add("gear", gear, *[(0.1, y * 1.2 * r, -r - 0.25) for y in (-1, 1)])


def _wing(root: float, tip: float, span: float, sweep: float, thickness: float) -> Mesh:
    """A wing from the origin toward +y with the chords `root` and `tip`, swept back."""
    outline = np.array(
        [(root / 2, 0), (tip / 2 - sweep, span), (-tip / 2 - sweep, span), (-root / 2, 0)]
    )
    return prism(outline, thickness).translated(0, 0, -thickness / 2)


def _add_jet_engines(builder: ObjectBuilder, span: float, sweep: float, z: float) -> None:
    """Add one or two engines below each wing."""
    offsets = builder.choice((0.25,), (0.18, 0.34))  # from the fuselage, as fractions of the span
    engine = lathe([(0.1, -0.25), (0.14, 0), (0.13, 0.25)], 16).rotated("y", 90)
    positions = [
        (0.2 - sweep * offset, side * offset * span, z) for offset in offsets for side in (-1, 1)
    ]
    builder.add("engine", engine.with_color(builder.dark), *positions)


def _add_propeller(builder: ObjectBuilder, x: float) -> None:
    hub = sphere(0.08).translated(0, 0, 0.5)
    blades = join(box(0.03, 0.1, builder.uniform(0.8, 1.3)), hub).translated(0, 0, -0.5)
    blades = blades.rotated("x", builder.uniform(0, 180))
    builder.add("propeller", blades.with_color(builder.dark), (x, 0, 0))


def drone(builder: ObjectBuilder) -> None:
    """A hub with three to six arms, each with a motor and, up to four, a rotor."""
    arms, reach = builder.choice(3, 4, 4, 6), builder.uniform(0.5, 1.0)
    hub = builder.choice(
        cylinder(0.25, 0.15),
        box(0.5, 0.35, 0.18),
        sphere(0.25).scaled(1, 1, 0.6),
        rounded_box(0.55, 0.4, 0.2, 0.1),
    )
    builder.add("hub", hub.with_color(builder.body))
    tips = circle(reach, arms, builder.choice(0, 45, 30))
    frame = join(*[beam((0, 0, 0.08), (x, y, 0.08), 0.07, 0.05) for x, y in tips])
    builder.add("frame", frame.with_color(builder.trim))
    motor = cylinder(0.07, builder.uniform(0.08, 0.2)).with_color(builder.dark)
    builder.add("motor", motor, *[(x, y, 0.08) for x, y in tips])
    radius = builder.uniform(0.25, 0.5) * reach
    rotor = builder.choice(
        join(box(2 * radius, 0.07, 0.02), cylinder(0.04, 0.05)),
        tube(radius, 0.9 * radius, 0.06),
        cylinder(radius, 0.015),
    )
    if arms < 6:
        builder.add("rotor", rotor.with_color(builder.accent), *[(x, y, 0.24) for x, y in tips])
    if builder.bernoulli(0.7):
        camera = join(sphere(0.11), cylinder(0.05, 0.12).rotated("y", 90))
        builder.add("camera", camera.with_color(builder.dark), (0.1, 0, -0.15))
    if builder.bernoulli(0.7):
        struts = [beam((x, 0, 0), (0.5 * x, 0, 0.3), 0.04) for x in (-0.2, 0.2)]
        skid = join(box(0.6, 0.04, 0.04), *struts).with_color(builder.trim)
        builder.add("skid", skid, *[(0, y * 0.22, -0.3) for y in (-1, 1)])


def boat(builder: ObjectBuilder) -> None:
    """A hull with a deck, and sails or a cabin, sometimes with lifebuoys and crates."""
    length, w = builder.uniform(1.5, 3.5), builder.uniform(0.5, 1.0)
    h = builder.uniform(0.25, 0.6)
    outline = np.array(
        [(-0.5, -0.8), (-0.5, 0.8), (0.1, 1), (0.35, 0.7), (0.52, 0), (0.35, -0.7), (0.1, -1)]
    )
    outline = outline * [length, w / 2]
    sections = ((0.75, 0), (0.92, 0.5 * h), (1, h))  # scale and z
    loops = [np.c_[outline * scale, np.full(7, z)] for scale, z in sections]
    builder.add("hull", loft(loops).with_color(builder.body))
    builder.add("deck", prism(0.93 * outline, 0.04).with_color(builder.trim), (0, 0, h))
    style, deck_z = builder.integer(0, 2), h + 0.04
    if style == 0:
        _add_sails(builder, length, deck_z)
    else:
        _add_boat_cabin(builder, length, w, deck_z, has_funnels=style == 1)
    if builder.bernoulli(0.5):
        lifebuoy = torus(0.1, 0.03).rotated("x", 90).with_color(builder.accent)
        positions = [(x * length, 0.48 * w, 0.8 * h) for x in (-0.25, 0.05)]
        builder.add("buoy", lifebuoy, *positions)
    if builder.bernoulli(0.5):
        crate = box(0.2, 0.2, 0.2).with_color(builder.dark)
        ys = (-0.18, 0.12)[: builder.integer(1, 2)]
        builder.add("crate", crate, *[(0.28 * length, y * w, deck_z) for y in ys])


def _add_sails(builder: ObjectBuilder, length: float, deck_z: float) -> None:
    """Add a mast with a mainsail and sometimes a jib."""
    mast_h, x = builder.uniform(1.2, 2.8), builder.uniform(-0.05, 0.2) * length
    mast = cylinder(0.035, mast_h, sides=12).with_color(builder.accent)
    builder.add("mast", mast, (x, 0, deck_z))
    sail = _sail(-0.5 * length, 0.8 * mast_h)
    sail = sail.with_color(builder.choice(builder.trim, builder.accent))
    builder.add("sail", sail, (x - 0.05, 0, deck_z + 0.15 * mast_h))
    if builder.bernoulli(0.6):
        jib = _sail(0.45 * length - x, 0.6 * mast_h).with_color(builder.trim)
        builder.add("jib", jib, (x + 0.06, 0, deck_z + 0.05))


def _sail(length: float, height: float) -> Mesh:
    """A right-angled triangle in the xz plane."""
    return prism(np.array([(0, 0), (length, 0), (0, height)]), 0.02).rotated("x", 90)


def _add_boat_cabin(
    builder: ObjectBuilder, length: float, w: float, deck_z: float, has_funnels: bool
) -> None:
    """Add a cabin with one to three funnels, or with a flat roof."""
    cabin_length = builder.uniform(0.2, 0.45) * length
    cabin_h = builder.uniform(0.2, 0.6)
    cabin = taper((cabin_length, 0.6 * w), (0.8 * cabin_length, 0.5 * w), cabin_h)
    x = builder.uniform(-0.2, 0.05) * length
    builder.add("cabin", cabin.with_color(builder.accent), (x, 0, deck_z))
    roof_z = deck_z + cabin_h
    if has_funnels:
        funnel = lathe([(0.12 * w, 0), (0.1 * w, 0.35), (0.14 * w, 0.36), (0.14 * w, 0.42)], 16)
        offsets = evenly_spaced(0.5 * cabin_length, builder.integer(1, 3))
        positions = [(x + offset, 0, roof_z) for offset in offsets]
        builder.add("funnel", funnel.with_color(builder.dark), *positions)
    else:
        roof = box(0.95 * cabin_length, 0.65 * w, 0.05).with_color(builder.dark)
        builder.add("roof", roof, (x, 0, roof_z))
