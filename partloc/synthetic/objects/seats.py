"""The demo's furniture to sit and lie on. The front looks toward +x.

Lengths are roughly metres. Proportions are free: only what must touch, touches.
"""

import numpy as np

from partloc.synthetic.builder import Kit, corners, spread
from partloc.synthetic.mesh import (
    beam,
    box,
    circle,
    cylinder,
    join,
    loft,
    pipe,
    prism,
    rod,
    rounded_box,
    taper,
)
from partloc.synthetic.objects.furniture import FRONT_SEEN, leg, slab, stand


def chair(kit: Kit) -> None:
    w, d = kit.between(0.38, 0.6), kit.between(0.38, 0.65)
    seat_z, back_h = kit.between(0.3, 0.75), kit.between(0.2, 0.8)
    thick, width = kit.between(0.03, 0.1), kit.between(0.03, 0.06)
    kit.add("seat", slab(kit, d, w, thick).painted(kit.body), (0, 0, seat_z))
    top = seat_z + thick
    if kit.chance(0.75):
        stand(kit, leg(kit, seat_z, width).painted(kit.trim), 0.8 * d, 0.8 * w)
    else:
        spokes = [rod((0, 0, 0.1), (*p, 0.03), 0.025) for p in circle(0.45 * w, kit.count(4, 6))]
        kit.add("star", join(*spokes).painted(kit.dark))
        kit.add("stem", cylinder(0.035, seat_z - 0.1).painted(kit.trim), (0, 0, 0.1))
    rear = -0.45 * d
    style = kit.count(0, 3)
    if style == 0:
        lean = kit.between(0, 0.15) * back_h
        panel = loft([_bar(0, width, 0.9 * w, 0), _bar(-lean, width, 0.9 * w, back_h)])
        kit.add("back", panel.painted(kit.accent), (rear, 0, top))
    elif style == 1:
        post = box(width, width, back_h).painted(kit.trim)
        kit.add("post", post, *[(rear, y * 0.42 * w, top) for y in (-1, 1)])
        slats = kit.count(1, 3)
        slat = box(0.6 * width, 0.84 * w - width, 0.5 * back_h / slats).painted(kit.accent)
        kit.add("slat", slat, *[(rear, 0, top + (i + 0.5) * back_h / slats) for i in range(slats)])
    elif style == 2:
        arc = [(rear, 0.42 * w * np.cos(a), back_h * np.sin(a)) for a in np.linspace(0, np.pi, 15)]
        kit.add("hoop", pipe(arc, 0.5 * width).painted(kit.trim), (0, 0, top))
        cane = cylinder(0.3 * width, 0.85 * back_h, sides=8).painted(kit.accent)
        kit.add("cane", cane, *[(rear, y, top) for y in spread(0.4 * w, kit.count(2, 4))])
    if style < 3 and kit.chance(0.3):
        arm = join(
            box(0.7 * d, width, width).moved(0, 0, 0.2), box(width, width, 0.2).moved(0.25 * d)
        )
        kit.add("arm", arm.painted(kit.trim), *[(0, y * 0.47 * w, top) for y in (-1, 1)])
    if kit.chance(0.3):
        kit.add(
            "cushion",
            rounded_box(0.75 * d, 0.8 * w, 0.06, 0.08).painted(kit.accent),
            (0.02, 0, top),
        )
    if style == 3:
        kit.turns_deg = (0, 45, 90)


def bed(kit: Kit) -> None:
    w, d, z = kit.between(0.8, 1.9), kit.between(1.7, 2.2), kit.between(0.15, 0.45)
    kit.turns_deg = (0, 90, 90, 0, 180, 270)
    kit.add("frame", box(d, w, 0.15).painted(kit.body), (0, 0, z))
    kit.add(
        "leg", leg(kit, z, kit.between(0.05, 0.12)).painted(kit.trim), *corners(0.9 * d, 0.9 * w)
    )
    soft = kit.between(0.12, 0.3)
    kit.add(
        "mattress", rounded_box(0.96 * d, 0.94 * w, soft, 0.1).painted(kit.accent), (0, 0, z + 0.15)
    )
    high = kit.between(0.4, 1.0)
    head = kit.choose(
        box(0.06, w, high), prism(circle(0.5, 24) * [2 * high, w], 0.06).turned("y", -90)
    )
    kit.add("headboard", head.painted(kit.trim), (-0.5 * d, 0, z))
    pillow = rounded_box(0.4, 0.4 * w, 0.1, 0.15).painted(kit.choose(kit.body, kit.dark))
    kit.add(
        "pillow",
        pillow,
        *[(-0.36 * d, y, z + 0.15 + soft) for y in spread(0.46 * w, kit.count(1, 2))],
    )
    if kit.chance(0.6):
        kit.add(
            "blanket",
            box(kit.between(0.3, 0.6) * d, 1.02 * w, soft + 0.03).painted(kit.dark),
            (0.15 * d, 0, z + 0.16),
        )


def sofa(kit: Kit) -> None:
    seats, w = kit.count(1, 3), kit.between(0.55, 0.8)
    d, seat = kit.between(0.7, 0.95), kit.between(0.25, 0.4)
    kit.turns_deg = FRONT_SEEN
    arm, total = kit.between(0.1, 0.25), seats * w
    kit.add("base", box(d, total, seat - 0.1).painted(kit.body), (0, 0, 0.1))
    side = kit.choose(box(d, arm, seat + 0.2), rounded_box(d, arm, seat + 0.25, 0.1))
    kit.add("armrest", side.painted(kit.body), *[(0, y * (total + arm) / 2, 0.05) for y in (-1, 1)])
    tall = kit.between(0.5, 0.9)
    kit.add("back", taper((0.22, total), (0.14, total), tall).painted(kit.body), (-0.5 * d, 0, 0.1))
    cushion = rounded_box(0.75 * d, 0.97 * w, kit.between(0.1, 0.2), 0.06).painted(kit.trim)
    kit.add("cushion", cushion, *[(0.1 * d, y, seat) for y in spread(total - w, seats)])
    kit.add("leg", leg(kit, 0.1, 0.06).painted(kit.dark), *corners(0.85 * d, 0.92 * total)[2:])
    if kit.chance(0.5):
        soft = kit.between(0.25, 0.4)
        throw = rounded_box(soft, soft, 0.1, 0.05).turned("y", 70).painted(kit.accent)
        kit.add("throw", throw, (-0.3 * d, kit.between(-0.3, 0.3) * total, seat + 0.3))


def bench(kit: Kit) -> None:
    """A garden bench, also a rail with slats: many equal parts."""
    w, d, h = kit.between(0.8, 2.0), kit.between(0.35, 0.5), kit.between(0.35, 0.5)
    kit.turns_deg = FRONT_SEEN
    rise = kit.between(0.3, 0.6)
    side = join(
        *[beam((x, 0, 0), (0.8 * x, 0, h), 0.06) for x in (-d / 2, d / 2)],
        box(d, 0.06, 0.06).moved(0, 0, h - 0.06),
        beam((-0.4 * d, 0, h), (-0.65 * d, 0, h + rise), 0.06),
    )
    kit.add("side", side.painted(kit.trim), *[(0, y * 0.42 * w, 0) for y in (-1, 1)])
    planks = kit.count(2, 4)
    plank = box(0.85 * d / planks, w, 0.03).painted(kit.body)
    kit.add("plank", plank, *[(x, 0, h) for x in spread(d - d / planks, planks)])
    rails = kit.count(1, 3)
    rail = box(0.03, w, 0.6 * rise / rails).painted(kit.choose(kit.body, kit.accent))
    steps = [(i + 0.6) / (rails + 0.4) for i in range(rails)]
    kit.add("rail", rail, *[(-(0.36 + 0.25 * s) * d, 0, h + 0.8 * s * rise) for s in steps])


def _bar(x: float, thickness: float, width: float, z: float) -> np.ndarray:
    """A level rectangle (4, 3) to loft through."""
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    flat = signs * [thickness / 2, width / 2] + [x, 0]
    return np.c_[flat, np.full(4, z)]
