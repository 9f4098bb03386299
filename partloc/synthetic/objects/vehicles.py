"""The demo's vehicles. The front looks toward +x.

Lengths are in no special unit; proportions are free.
"""

import numpy as np

from partloc.synthetic.builder import Kit, corners, spread
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    circle,
    cylinder,
    dome,
    join,
    lathe,
    loft,
    prism,
    rounded_box,
    taper,
    torus,
    tube,
)


def wheel(kit: Kit, radius: float, width: float) -> Mesh:
    """An upright wheel, its axle along y through the origin."""
    tyre = tube(radius, kit.between(0.5, 0.75) * radius, width, 26).painted(kit.dark)
    rim = cylinder(0.75 * radius, 0.6 * width, sides=kit.choose(6, 20)).moved(0, 0, 0.2 * width)
    hub = dome(0.25 * radius).scaled(1, 1, 0.5).moved(0, 0, 0.8 * width)
    disc = join(tyre, rim.painted(kit.accent), hub.painted(kit.trim), hub.moved(0, 0, -0.6 * width))
    return disc.moved(0, 0, -width / 2).turned("x", 90)


def car(kit: Kit) -> None:
    length, w = kit.between(1.6, 3.2), kit.between(0.8, 1.3)
    r, low, high = kit.between(0.2, 0.42), kit.between(0.25, 0.5), kit.between(0.25, 0.6)
    z = kit.between(0.7, 1.1) * r
    shape = kit.choose(box, rounded_box)
    hull = box(length, w, low) if shape is box else rounded_box(length, w, low, 0.2)
    kit.add("hull", hull.painted(kit.body), (0, 0, z))
    kit.add(
        "wheel",
        wheel(kit, r, kit.between(0.12, 0.3)),
        *corners(kit.between(0.55, 0.72) * length, w, r),
    )
    share, shift = kit.between(0.3, 0.65), kit.between(-0.12, 0.08) * length
    cabin = taper(
        (share * length, 0.9 * w), (kit.between(0.5, 0.9) * share * length, 0.75 * w), high
    )
    glass = kit.choose(kit.dark, kit.trim)
    style = kit.count(0, 2)
    if style == 0:
        kit.add("cabin", cabin.painted(kit.trim), (shift, 0, z + low))
    elif style == 1:
        kit.add("glass", cabin.painted(glass), (shift, 0, z + low))
        kit.add(
            "roof",
            box(0.6 * share * length, 0.8 * w, 0.06).painted(kit.body),
            (shift, 0, z + low + high),
        )
    else:
        seat = join(box(0.3, 0.35, 0.15), box(0.08, 0.35, 0.45).moved(-0.18)).painted(kit.accent)
        kit.add("seat", seat, *[(shift, y * w, z + low) for y in (-0.23, 0.23)])
        screen = box(0.03, 0.9 * w, 0.8 * high).turned("y", -20).painted(glass)
        kit.add("windscreen", screen, (shift + 0.45, 0, z + low))
    if kit.chance(0.5):
        kit.add(
            "bumper",
            box(0.1, 1.05 * w, 0.12).painted(kit.dark),
            *[(x * length / 2, 0, z) for x in (-1, 1)],
        )
    if kit.chance(0.3):
        wing = join(
            box(0.2, w, 0.04).moved(0, 0, 0.2),
            *[box(0.1, 0.05, 0.2).moved(0, y * 0.4 * w) for y in (-1, 1)],
        )
        kit.add("spoiler", wing.painted(kit.accent), (-0.45 * length, 0, z + low))


def truck(kit: Kit) -> None:
    axles, w = kit.count(2, 4), kit.between(0.8, 1.1)
    length, r = kit.between(2.2, 4.0), kit.between(0.22, 0.35)
    kit.add("chassis", box(length, 0.6 * w, 0.15).painted(kit.dark), (0, 0, r))
    discs = wheel(kit, r, 0.2)
    xs = [0.4 * length, *[-0.42 * length + i * 2.3 * r for i in range(axles - 1)]]
    kit.add("wheel", discs, *[(x, y * 0.45 * w, r) for x in xs for y in (-1, 1)])
    front, tall = kit.between(0.5, 0.9), kit.between(0.7, 1.3)
    cab = taper((front, w), (kit.between(0.6, 1) * front, 0.95 * w), tall, kit.between(-0.1, 0.05))
    kit.add("cab", cab.painted(kit.body), ((length - front) / 2, 0, r + 0.15))
    load, deck = length - front - 0.1, r + 0.15
    x = -(front + 0.1) / 2
    style = kit.count(0, 3)
    if style == 0:
        kit.add("box", box(load, w, kit.between(0.6, 1.6)).painted(kit.trim), (x, 0, deck))
    elif style == 1:
        tank = cylinder(0.5 * w, load, sides=20).turned("y", 90).moved(-load / 2)
        kit.add(
            "tank",
            tank.scaled(1, 1, kit.between(0.7, 1)).painted(kit.accent),
            (x, 0, deck + 0.45 * w),
        )
    elif style == 2:
        tray = join(
            box(load, w, 0.06), *[box(load, 0.05, 0.3).moved(0, y * 0.47 * w) for y in (-1, 1)]
        )
        kit.add("tray", tray.painted(kit.trim), (x, 0, deck))
        if kit.chance(0.7):
            log = cylinder(0.14 * w, 0.9 * load, sides=14).turned("y", 90).moved(-0.45 * load)
            kit.add(
                "log", log.painted(kit.accent), *[(x, y * w, deck + 0.2 * w) for y in (-0.25, 0.25)]
            )
    else:
        kit.add("turret", cylinder(0.4 * w, 0.3).painted(kit.trim), (x, 0, deck))
        tip = (kit.between(-0.5, 1.2) * load, 0, kit.between(0.8, 1.8))
        kit.add("boom", beam((0, 0, 0.25), tip, 0.2, 0.12).painted(kit.accent), (x, 0, deck))


def aeroplane(kit: Kit) -> None:
    length, r, span = kit.between(2.0, 3.5), kit.between(0.14, 0.3), kit.between(1.6, 3.8)
    profile = [
        (0.15 * r, -length / 2),
        (0.7 * r, -0.2 * length),
        (r, 0),
        (r, 0.3 * length),
        (0.6 * r, 0.45 * length),
        (0.1, length * 0.5),
    ]
    kit.add("fuselage", lathe(profile, 20).turned("y", 90).painted(kit.body))
    chord, sweep = kit.between(0.35, 0.7), kit.between(-0.1, 0.8)
    tip, z = kit.between(0.3, 0.9) * chord, kit.choose(-0.6 * r, 0.0, 0.8 * r)
    for name, side in (("wing-left", 1), ("wing-right", -1)):
        panel = _blade(chord, tip, span / 2, sweep, 0.05)
        kit.add(name, panel.scaled(1, side, 1).painted(kit.trim), (0.1, side * 0.5 * r, z))
    tail = _blade(0.5 * chord, 0.3 * chord, 0.22 * span, 0.3 * sweep, 0.04)
    rear = -0.45 * length
    kit.add("tailplane", join(tail, tail.scaled(1, -1, 1)).painted(kit.trim), (rear, 0, 0.2 * r))
    fin = _blade(0.6 * chord, 0.3 * chord, kit.between(0.35, 0.8), 0.35, 0.04).turned("x", 90)
    kit.add("fin", fin.painted(kit.accent), (rear, 0, 0))
    if kit.chance(0.5):
        pods = kit.choose((0.25,), (0.18, 0.34))
        pod = lathe([(0.1, -0.25), (0.14, 0), (0.13, 0.25)], 16).turned("y", 90).painted(kit.dark)
        kit.add(
            "engine",
            pod,
            *[(0.2 - sweep * p, s * p * span, z - 0.15) for p in pods for s in (-1, 1)],
        )
    else:
        blade = join(box(0.03, 0.1, kit.between(0.8, 1.3)), dome(0.08).moved(0, 0, 0.5)).moved(
            0, 0, -0.5
        )
        kit.add(
            "propeller",
            blade.turned("x", kit.between(0, 180)).painted(kit.dark),
            (length / 2, 0, 0),
        )
    if kit.chance(0.6):
        canopy = dome(0.8 * r, 0, 90).scaled(2.2, 0.8, 1).painted(kit.accent)
        kit.add("canopy", canopy, (kit.between(0.08, 0.2) * length, 0, 0.85 * r))
    if kit.chance(0.5):
        gear = join(wheel(kit, 0.13, 0.07), box(0.05, 0.03, 0.35).painted(kit.trim))
        kit.add("gear", gear, *[(0.1, y * 1.2 * r, -r - 0.25) for y in (-1, 1)])


def _blade(root: float, tip: float, span: float, sweep: float, thickness: float) -> Mesh:
    """A wing from the origin toward +y, its chord along x, swept back."""
    outline = np.array(
        [(root / 2, 0), (tip / 2 - sweep, span), (-tip / 2 - sweep, span), (-root / 2, 0)]
    )
    return prism(outline, thickness).moved(0, 0, -thickness / 2)


def drone(kit: Kit) -> None:
    arms, reach = kit.choose(3, 4, 4, 6), kit.between(0.5, 1.0)
    hub = kit.choose(
        cylinder(0.25, 0.15),
        box(0.5, 0.35, 0.18),
        dome(0.25).scaled(1, 1, 0.6),
        rounded_box(0.55, 0.4, 0.2, 0.1),
    )
    kit.add("hub", hub.painted(kit.body))
    tips = circle(reach, arms, kit.choose(0, 45, 30))
    frame = join(*[beam((0, 0, 0.08), (x, y, 0.08), 0.07, 0.05) for x, y in tips])
    kit.add("frame", frame.painted(kit.trim))
    motor = cylinder(0.07, kit.between(0.08, 0.2)).painted(kit.dark)
    kit.add("motor", motor, *[(x, y, 0.08) for x, y in tips])
    size = kit.between(0.25, 0.5) * reach
    rotor = kit.choose(
        join(box(2 * size, 0.07, 0.02), cylinder(0.04, 0.05)),
        tube(size, 0.9 * size, 0.06),
        cylinder(size, 0.015),
    )
    if arms < 6:
        kit.add("rotor", rotor.painted(kit.accent), *[(x, y, 0.24) for x, y in tips])
    if kit.chance(0.7):
        kit.add(
            "camera",
            join(dome(0.11), cylinder(0.05, 0.12).turned("y", 90)).painted(kit.dark),
            (0.1, 0, -0.15),
        )
    if kit.chance(0.7):
        skid = join(
            box(0.6, 0.04, 0.04), *[beam((x, 0, 0), (0.5 * x, 0, 0.3), 0.04) for x in (-0.2, 0.2)]
        )
        kit.add("skid", skid.painted(kit.trim), *[(0, y * 0.22, -0.3) for y in (-1, 1)])


def boat(kit: Kit) -> None:
    length, w, h = kit.between(1.5, 3.5), kit.between(0.5, 1.0), kit.between(0.25, 0.6)
    outline = np.array(
        [(-0.5, -0.8), (-0.5, 0.8), (0.1, 1), (0.35, 0.7), (0.52, 0), (0.35, -0.7), (0.1, -1)]
    )
    outline = outline * [length, w / 2]
    loops = [np.c_[outline * s, np.full(7, z)] for s, z in ((0.75, 0), (0.92, 0.5 * h), (1, h))]
    kit.add("hull", loft(loops).painted(kit.body))
    kit.add("deck", prism(0.93 * outline, 0.04).painted(kit.trim), (0, 0, h))
    style, deck = kit.count(0, 2), h + 0.04
    if style == 0:
        tall = kit.between(1.2, 2.8)
        x = kit.between(-0.05, 0.2) * length
        kit.add("mast", cylinder(0.035, tall, sides=12).painted(kit.accent), (x, 0, deck))
        sail = prism(np.array([(0, 0), (-0.5 * length, 0), (0, 0.8 * tall)]), 0.02).turned("x", 90)
        kit.add(
            "sail",
            sail.painted(kit.choose(kit.trim, kit.accent)),
            (x - 0.05, 0, deck + 0.15 * tall),
        )
        if kit.chance(0.6):
            jib = prism(np.array([(0, 0), (0.45 * length - x, 0), (0, 0.6 * tall)]), 0.02).turned(
                "x", 90
            )
            kit.add("jib", jib.painted(kit.trim), (x + 0.06, 0, deck + 0.05))
    else:
        house = kit.between(0.2, 0.45) * length
        tall = kit.between(0.2, 0.6)
        cabin = taper((house, 0.6 * w), (0.8 * house, 0.5 * w), tall)
        x = kit.between(-0.2, 0.05) * length
        kit.add("cabin", cabin.painted(kit.accent), (x, 0, deck))
        if style == 1:
            funnel = lathe([(0.12 * w, 0), (0.1 * w, 0.35), (0.14 * w, 0.36), (0.14 * w, 0.42)], 16)
            places = spread(0.5 * house, kit.count(1, 3))
            kit.add("funnel", funnel.painted(kit.dark), *[(x + p, 0, deck + tall) for p in places])
        else:
            kit.add(
                "roof", box(0.95 * house, 0.65 * w, 0.05).painted(kit.dark), (x, 0, deck + tall)
            )
    if kit.chance(0.5):
        ring = torus(0.1, 0.03).turned("x", 90).painted(kit.accent)
        kit.add("buoy", ring, *[(x * length, 0.48 * w, 0.8 * h) for x in (-0.25, 0.05)])
    if kit.chance(0.5):
        crate = box(0.2, 0.2, 0.2).painted(kit.dark)
        kit.add(
            "crate",
            crate,
            *[(0.28 * length, y * w, deck) for y in (-0.18, 0.12)[: kit.count(1, 2)]],
        )
