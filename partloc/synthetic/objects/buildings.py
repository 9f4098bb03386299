"""The demo's buildings. The front looks toward +x.

Lengths are in no special unit; proportions are free.
"""

import numpy as np

from partloc.synthetic.builder import Kit, corners
from partloc.synthetic.mesh import (
    Mesh,
    box,
    circle,
    cylinder,
    dome,
    join,
    loft,
    prism,
    rod,
    rounded_box,
    taper,
)


def house(kit: Kit) -> None:
    w, d, h = kit.between(0.8, 1.8), kit.between(0.8, 1.6), kit.between(0.5, 1.5)
    kit.turns_deg = (0, 90, 0, 90, 180, 270)
    kit.add("walls", box(d, w, h).painted(kit.body))
    tall, over = kit.between(0.2, 0.9), kit.between(1.02, 1.25)
    style = kit.count(0, 2)
    if style == 0:
        gable = prism(np.array([(-0.5, 0), (0.5, 0), (0, 1)]) * [over * d, tall], over * w)
        roof = gable.turned("x", 90).moved(0, over * w / 2)
    elif style == 1:
        roof = taper((over * d, over * w), (0.05 * d, kit.between(0.05, 0.5) * w), tall)
    else:
        roof = box(over * d, over * w, 0.12)
    kit.add("roof", roof.painted(kit.trim), (0, 0, h))
    kit.add(
        "door", box(0.06, 0.25, 0.45).painted(kit.accent), (d / 2, kit.between(-0.35, 0.35) * w, 0)
    )
    pane = join(box(0.04, 0.25, 0.22), box(0.1, 0.3, 0.03)).painted(kit.dark)
    rows = [0.62 * h] if h < 0.9 else [0.35 * h, 0.72 * h]
    kit.add(
        "window", pane, *[(d / 2, y * w, z) for z in rows for y in (-0.28, 0.28)[: kit.count(1, 2)]]
    )
    if kit.chance(0.6):
        kit.add("chimney", box(0.18, 0.18, tall + 0.35).painted(kit.dark), (0.2 * d, 0.28 * w, h))
    if kit.chance(0.4):
        a = kit.between(0.4, 0.8)
        kit.add("annex", box(a, a, 0.5 * h).painted(kit.body), (0, -(w + a) / 2, 0))
        kit.add(
            "annex-roof",
            taper((1.1 * a, 1.1 * a), (0.4 * a, 0.4 * a), 0.2).painted(kit.trim),
            (0, -(w + a) / 2, 0.5 * h),
        )
    if kit.chance(0.4):
        tree = join(
            cylinder(0.05, 0.3).painted(kit.dark),
            cylinder(0.3, 0.7, top=0.0).moved(0, 0, 0.25).painted(kit.accent),
        )
        kit.add(
            "tree", tree, *[(0.5 * d + 0.35, y * w, 0) for y in (-0.45, 0.5)[: kit.count(1, 2)]]
        )


def tower(kit: Kit) -> None:
    """Storeys upon each other, a roof on top, sometimes four turrets or an aerial."""
    storeys, radius, z = kit.count(2, 5), kit.between(0.3, 0.6), 0.0
    sides = kit.choose(4, 4, 6, 8, 24)
    shrink = kit.between(0.7, 1.0)
    equal = kit.chance(0.3)
    tall = kit.between(0.25, 0.8)
    base = kit.between(1.05, 1.6) * radius
    kit.add("plinth", _storey(base, 0.12, 1.0, sides).painted(kit.dark))
    z = 0.12
    shared = _storey(radius, tall, 0.9, sides).painted(kit.body)
    for _ in range(storeys):
        if not equal:
            tall = kit.between(0.2, 0.8)
            colour = kit.choose(kit.body, kit.body, kit.trim)
            shared = _storey(radius, tall, kit.between(0.75, 1), sides).painted(colour)
            radius *= shrink
        kit.add("storey", shared, (0, 0, z))
        z += tall
    roof = kit.choose(
        _storey(1.15 * radius, 0.8, 0.02, sides),
        dome(radius, 0, 90),
        _storey(radius, 0.15, 1.3, sides),
    )
    kit.add("roof", roof.painted(kit.accent), (0, 0, z))
    if kit.chance(0.5):
        kit.add(
            "aerial",
            cylinder(0.03, kit.between(0.4, 1.0), sides=10).painted(kit.dark),
            (0, 0, z + 0.1),
        )
    if kit.chance(0.4):
        turret = join(
            cylinder(0.13, 0.6).painted(kit.trim),
            cylinder(0.17, 0.3, top=0).moved(0, 0, 0.6).painted(kit.accent),
        )
        kit.add("tower", turret, *corners(1.6 * base, 1.6 * base))


def windmill(kit: Kit) -> None:
    h, blades = kit.between(1.2, 2.6), kit.choose(3, 4, 4, 5)
    body = _storey(kit.between(0.12, 0.45), h, kit.between(0.4, 0.8), kit.choose(8, 20))
    kit.turns_deg = (0, 90, 45)
    kit.add("tower", body.painted(kit.body))
    kit.add(
        "cap",
        kit.choose(
            dome(0.28, 0, 90), box(0.6, 0.3, 0.25), rounded_box(0.7, 0.25, 0.25, 0.1)
        ).painted(kit.trim),
        (0, 0, h),
    )
    kit.add(
        "hub",
        join(dome(0.1), rod((-0.3, 0, 0), (0, 0, 0), 0.05)).painted(kit.dark),
        (0.45, 0, h + 0.13),
    )
    long, wide = kit.between(0.5, 0.95) * h, kit.between(0.08, 0.25)
    start = kit.between(0, 90)
    for i in range(blades):
        sail = taper((0.04, 0.4 * wide), (0.02, wide), long).moved(0, 0, 0.08)
        kit.add(
            "blade",
            sail.turned("x", start + i * 360 / blades).painted(kit.accent),
            (0.45, 0, h + 0.13),
        )
    if kit.chance(0.6):
        kit.add("base", cylinder(0.6, 0.1, top=0.55).painted(kit.dark), (0, 0, -0.1))


def _storey(radius: float, height: float, shrink: float, sides: int) -> Mesh:
    """A frustum; with four sides it stands square to the axes."""
    lower, upper = (circle(r, sides, 180 / sides) for r in (radius, shrink * radius))
    return loft([np.c_[lower, np.zeros(sides)], np.c_[upper, np.full(sides, height)]])
