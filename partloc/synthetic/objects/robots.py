"""The demo's robots and carts. The front looks toward +x.

Lengths are in no special unit; proportions are free.
"""

import math

import numpy as np

from partloc.synthetic.builder import Kit, corners, spread
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    cylinder,
    dome,
    join,
    lathe,
    rod,
    rounded_box,
    taper,
)
from partloc.synthetic.objects.vehicles import wheel


def robot_arm(kit: Kit) -> None:
    r = kit.between(0.08, 0.16)
    kit.turns_deg = (0, 30, 60, 90, 180, 270, -45)
    foot = kit.choose(
        cylinder(2 * r, 0.12), box(4 * r, 4 * r, 0.1), cylinder(2.2 * r, 0.3, top=1.2 * r)
    )
    kit.add("base", foot.painted(kit.dark))
    at = np.array([0.0, 0.0, kit.between(0.2, 0.4)])
    kit.add("turret", cylinder(1.3 * r, at[2], sides=20).painted(kit.body), (0, 0, 0.08))
    slope = kit.between(45, 120)
    for i in range(kit.count(2, 4)):
        link = kit.between(0.35, 0.9) * 0.85**i
        ahead = np.array([math.cos(math.radians(slope)), 0, math.sin(math.radians(slope))])
        kit.add(f"joint-{i}", _joint(kit, r).painted(kit.accent), tuple(at))
        kit.add(f"arm-{i}", _link(kit, link * ahead, r).painted(kit.body), tuple(at))
        at, slope, r = at + link * ahead, slope - kit.between(20, 85), 0.82 * r
    kit.add("wrist", dome(1.2 * r).painted(kit.trim), tuple(at))
    ahead = np.array([math.cos(math.radians(slope)), 0, math.sin(math.radians(slope))])
    if kit.chance(0.5):
        finger = beam((0, 0, 0), tuple(3.2 * r * ahead), 0.6 * r).painted(kit.dark)
        kit.add("finger", finger, *[(*(at + r * ahead + [0, y * r, 0]),) for y in (-0.8, 0.8)])
    else:
        kit.add(
            "tool",
            rod((0, 0, 0), tuple(4 * r * ahead), 0.8 * r, 0.2 * r).painted(kit.dark),
            tuple(at),
        )


def _joint(kit: Kit, r: float) -> Mesh:
    hub = cylinder(1.2 * r, 2.6 * r).moved(0, 0, -1.3 * r).turned("x", 90)
    return kit.choose(
        hub,
        hub,
        dome(1.4 * r),
        rounded_box(2.4 * r, 2.6 * r, 2.4 * r, 0.5 * r).moved(0, 0, -1.2 * r),
    )


def _link(kit: Kit, end: np.ndarray, r: float) -> Mesh:
    if kit.chance(0.35):
        rail = beam((0, 0, 0), end, 0.6 * r)
        return join(rail.moved(0, r), rail.moved(0, -r))
    return kit.choose(rod((0, 0, 0), end, r, 0.8 * r), beam((0, 0, 0), end, 1.8 * r, 1.3 * r))


def humanoid(kit: Kit) -> None:
    hip, chest = kit.between(0.4, 1.0), kit.between(0.4, 0.8)
    w, d, girth = kit.between(0.3, 0.6), kit.between(0.2, 0.35), kit.between(0.06, 0.13)
    kit.turns_deg = (0, 90, 45, 20, 70, 180)
    torso = kit.choose(
        taper((0.8 * d, 0.7 * w), (d, w), chest),
        rounded_box(d, w, chest, 0.08),
        lathe([(0.3 * w, 0), (0.5 * w, 0.7 * chest), (0.25 * w, chest)]).scaled(d / w, 1, 1),
    )
    kit.add("torso", torso.painted(kit.body), (0, 0, hip))
    size = kit.between(0.12, 0.32)
    skull = kit.choose(
        dome(size).moved(0, 0, 0.8 * size), box(size, 1.2 * size, size), cylinder(0.7 * size, size)
    )
    top = hip + chest
    kit.add("head", skull.painted(kit.accent), (0, 0, top + 0.05))
    if kit.chance(0.4):
        hat = join(
            cylinder(1.3 * size, 0.04),
            cylinder(0.8 * size, 0.8 * size, top=kit.between(0, 0.8) * size),
        )
        kit.add("hat", hat.painted(kit.trim), (0, 0, top + kit.between(1.0, 1.5) * size))
    if kit.chance(0.7):
        visor = box(0.05, kit.between(0.6, 1.1) * size, 0.25 * size).painted(kit.dark)
        kit.add("visor", visor, (0.75 * size, 0, top + 0.05 + 0.6 * size))
    kit.add("pelvis", box(0.8 * d, 0.75 * w, 0.12).painted(kit.trim), (0, 0, hip - 0.1))
    shoe = rounded_box(2.6 * girth, 1.6 * girth, 0.08, 0.05).moved(0.5 * girth)
    limb = kit.choose(
        cylinder(girth, hip, sides=14),
        box(1.6 * girth, 1.6 * girth, hip),
        taper((girth, girth), (2 * girth, 2 * girth), hip),
    )
    kit.add(
        "leg",
        join(limb.painted(kit.body), shoe.painted(kit.dark)),
        *[(0, y * 0.25 * w, 0) for y in (-1, 1)],
    )
    reach = kit.between(0.4, 0.8)
    raised = kit.chance(0.4)
    for name, side in (("left", 1), ("right", -1)):
        swing = kit.between(-20, 110) if raised else 0.0
        upper = rod((0, 0, 0), (0, side * 0.08, -reach), 0.7 * girth)
        hand = dome(girth).moved(0, side * 0.08, -reach)
        sleeve = join(upper.painted(kit.trim), hand.painted(kit.accent)).turned("y", -swing)
        kit.add(f"arm-{name}", sleeve, (0, side * (0.5 * w + 0.6 * girth), top - 0.1))
    if kit.chance(0.4):
        kit.add(
            "pack", box(0.5 * d, 0.7 * w, 0.7 * chest).painted(kit.dark), (-0.7 * d, 0, hip + 0.2)
        )


def quadruped(kit: Kit) -> None:
    length, w, h = kit.between(0.8, 1.6), kit.between(0.3, 0.6), kit.between(0.3, 0.9)
    trunk = kit.choose(
        box(length, w, 0.3),
        rounded_box(length, w, 0.3, 0.12),
        cylinder(0.5 * w, length).turned("y", 90).moved(-length / 2, 0, 0.15),
    )
    kit.add("trunk", trunk.painted(kit.body), (0, 0, h))
    knee = kit.between(-0.25, 0.25)
    hub = dome(0.11).painted(kit.accent)
    thigh = rod((0, 0, 0), (knee, 0, -0.5 * h), 0.075, 0.055).painted(kit.trim)
    shank = rod((knee, 0, -0.5 * h), (0, 0, -h), 0.045, 0.03).painted(kit.dark)
    places = corners(0.8 * length, w + 0.1, h + 0.05)
    if kit.chance(0.5):
        kit.add("leg", join(hub, thigh, shank), *places)
    else:
        kit.add("thigh", join(hub, thigh), *places)
        kit.add("shank", shank, *places)
    size = kit.between(0.12, 0.25)
    head = kit.choose(
        box(1.6 * size, size, size), dome(size), taper((2 * size, size), (size, size), size)
    )
    kit.add(
        "head", head.painted(kit.accent), (0.5 * length + 0.5 * size, 0, h + kit.between(0.1, 0.4))
    )
    if kit.chance(0.5):
        kit.add(
            "tail",
            rod((0, 0, 0), (-0.4, 0, kit.between(-0.2, 0.5)), 0.05, 0.02).painted(kit.dark),
            (-0.5 * length, 0, h + 0.2),
        )
    if kit.chance(0.5):
        kit.add(
            "payload",
            kit.choose(box(0.35, 0.3, 0.2), cylinder(0.15, 0.25)).painted(kit.trim),
            (kit.between(-0.3, 0.2) * length, 0, h + 0.28),
        )


def cart(kit: Kit) -> None:
    """A mobile base with wheels and something on it."""
    length, w, h = kit.between(0.7, 1.6), kit.between(0.5, 1.0), kit.between(0.15, 0.4)
    r = kit.between(0.1, 0.22)
    base = kit.choose(box(length, w, h), rounded_box(length, w, h, 0.2))
    kit.add("base", base.painted(kit.body), (0, 0, r))
    disc = wheel(kit, r, 0.1)
    kit.add("wheel", disc, *corners(0.7 * length, w + 0.1, r))
    deck = r + h
    style = kit.count(0, 3)
    if style == 0:
        tall = kit.between(0.5, 1.4)
        kit.add("mast", box(0.1, 0.3 * w, tall).painted(kit.trim), (0.3 * length, 0, deck))
        fork = join(box(0.5, 0.08, 0.05).moved(0.25), box(0.05, 0.08, 0.3)).painted(kit.dark)
        kit.add("fork", fork, *[(0.3 * length + 0.06, y * w, deck + 0.3) for y in (-0.2, 0.2)])
    elif style == 1:
        crates = kit.count(1, 3)
        load = box(0.8 * length / crates, 0.8 * w, kit.between(0.2, 0.5)).painted(kit.accent)
        kit.add(
            "crate", load, *[(x, 0, deck) for x in spread(0.9 * length * (1 - 1 / crates), crates)]
        )
    elif style == 2:
        sensor = join(cylinder(0.12, 0.1), cylinder(0.09, 0.1).moved(0, 0, 0.1))
        kit.add("sensor", sensor.painted(kit.dark), (0.25 * length, 0, deck))
        tank = cylinder(0.3 * w, 0.6 * length).turned("y", 90).moved(-0.3 * length)
        kit.add("tank", tank.painted(kit.accent), (-0.1, 0, deck + 0.25 * w))
    else:
        rail = beam((0, 0, 0), (-0.35, 0, 0.7), 0.05)
        grip = join(
            rail.moved(0, 0.35 * w),
            rail.moved(0, -0.35 * w),
            box(0.06, 0.8 * w, 0.06).moved(-0.35, 0, 0.7),
        )
        kit.add("handle", grip.painted(kit.trim), (-0.45 * length, 0, deck))
        kit.add(
            "sack", dome(0.3 * w).scaled(1.2, 1.2, 1).painted(kit.accent), (0.1, 0, deck + 0.2 * w)
        )
    if kit.chance(0.5):
        light = dome(0.06).painted(kit.accent)
        kit.add("light", light, *[(0.5 * length, y * w, r + 0.6 * h) for y in (-0.35, 0.35)])
