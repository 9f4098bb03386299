"""The demo's machines, vessels and loose assemblies.

Lengths are in no special unit; proportions are free.
"""

import numpy as np

from partloc.synthetic.builder import Kit, spread
from partloc.synthetic.mesh import (
    Mesh,
    box,
    circle,
    cylinder,
    dome,
    gear,
    join,
    lathe,
    pipe,
    rod,
    rounded_box,
    taper,
    torus,
    tube,
)


def gearbox(kit: Kit) -> None:
    """Shafts with meshing gears between two plates, or on one."""
    gap, t = kit.between(0.3, 0.6), 0.05
    kit.turns_deg = (0, 90, 0, 90, 180, 270)
    count = kit.count(2, 4)
    radii = [kit.between(0.15, 0.42) for _ in range(count)]
    if kit.chance(0.3):
        radii = radii[:1] * count
    ys = np.concatenate(
        [[0], np.cumsum([0.93 * (a + b) for a, b in zip(radii, radii[1:], strict=False)])]
    )
    ys -= (ys[0] - radii[0] + ys[-1] + radii[-1]) / 2
    width, z = sum(2 * r for r in radii) + 0.1, max(radii) + 0.1
    plate = box(t, width, kit.between(0.4, 1.9) * z).painted(kit.body)
    kit.add("plate", plate, *[(x, 0, 0) for x in (-gap / 2, gap / 2)[: kit.count(1, 2)]])
    kit.add("bed", box(gap + 3 * t, 1.05 * width, 0.07).painted(kit.trim), (0, 0, -0.07))
    shaft = rod((-0.75 * gap, 0, 0), (0.75 * gap, 0, 0), kit.between(0.03, 0.06)).painted(kit.dark)
    kit.add("shaft", shaft, *[(0, y, z) for y in ys])
    thick, hole = kit.between(0.06, 0.15), kit.between(0.1, 0.4)
    wheels: dict[float, Mesh] = {}
    for radius, y in zip(radii, ys, strict=True):
        disc = gear(radius, max(8, round(40 * radius)), thick, hole).turned("y", 90)
        mesh = wheels.setdefault(radius, disc.painted(kit.choose(kit.accent, kit.trim)))
        kit.add("gear", mesh, (kit.between(0.1, 0.3) * gap, y, z))
    if kit.chance(0.5):
        crank = join(box(0.04, 0.06, 0.3), rod((0, 0, 0.27), (0.2, 0, 0.27), 0.03)).turned(
            "x", kit.between(0, 360)
        )
        kit.add("crank", crank.painted(kit.accent), (0.75 * gap, ys[0], z))


def engine(kit: Kit) -> None:
    """Cylinders in a row, cut open at the top, with pistons that stand at different heights."""
    count, r, h = kit.count(1, 4), kit.between(0.14, 0.25), kit.between(0.4, 0.8)
    pitch = 2.4 * r
    ys = spread(pitch * (count - 1), count)
    block = box(3 * r, pitch * count + 0.1, kit.between(0.3, 0.7)).painted(kit.body)
    low = block.box()[1][2]
    kit.add("block", block)
    kit.add(
        "sump",
        taper((1.6 * r, 0.7 * pitch * count), (2.8 * r, pitch * count), 0.25).painted(kit.dark),
        (0, 0, -0.25),
    )
    kit.add("sleeve", tube(1.1 * r, 0.9 * r, h).painted(kit.trim), *[(0, y, low) for y in ys])
    piston = join(cylinder(0.88 * r, 0.3 * h), cylinder(0.15 * r, 0.6 * h).moved(0, 0, -0.5 * h))
    lifts = [kit.between(0.5, 0.95) * h for _ in ys]
    kit.add(
        "piston",
        piston.painted(kit.accent),
        *[(0, y, low + z) for y, z in zip(ys, lifts, strict=True)],
    )
    end = pitch * count / 2 + 0.05
    flywheel = join(cylinder(kit.between(0.25, 0.4), 0.1), cylinder(0.1, 0.16)).turned("x", -90)
    kit.add("flywheel", flywheel.painted(kit.dark), (0, end, 0.15))
    if kit.chance(0.6):
        bend = [(0, 0, 0), (0.15, 0, 0), (0.25, 0, -0.08), (0.28, 0, -0.2), (0.28, 0, -0.4)]
        kit.add("exhaust", pipe(bend, 0.06).painted(kit.trim), (1.5 * r, ys[0], 0.25))
    if kit.chance(0.4):
        kit.add(
            "filter",
            cylinder(0.12, 0.3).turned("y", 90).painted(kit.accent),
            (1.4 * r, ys[-1], 0.12),
        )


def flange(kit: Kit) -> None:
    """Turned parts on one axis, held by equal bolts: pumps, bearings, couplings."""
    r, h = kit.between(0.35, 0.8), kit.between(0.06, 0.2)
    low = kit.choose(
        cylinder(r, h), box(2 * r, 2 * r, h), rounded_box(2 * r, 2 * r, h, 0.3 * r)
    ).painted(kit.body)
    kit.add("plate", low)
    neck, tall = kit.between(0.35, 0.6) * r, kit.between(0.3, 1.2)
    body = kit.choose(
        tube(neck, 0.7 * neck, tall),
        lathe([(neck, 0), (1.2 * neck, 0.5 * tall), (0.8 * neck, tall)]),
        cylinder(neck, tall, sides=6),
    )
    kit.add("housing", body.painted(kit.trim), (0, 0, h))
    bolts = kit.count(3, 6)
    bolt = join(cylinder(0.09 * r, 0.08, sides=6).moved(0, 0, h), cylinder(0.05 * r, h + 0.12))
    kit.add("bolt", bolt.painted(kit.dark), *[(x, y, 0) for x, y in circle(0.8 * r, bolts, 45)])
    if kit.chance(0.6):
        cover = join(cylinder(1.2 * neck, 0.08), cylinder(0.4 * neck, 0.2)).painted(kit.accent)
        kit.add("cover", cover, (0, 0, h + tall))
    else:
        kit.add("shaft", cylinder(0.3 * neck, tall + h + 0.4, sides=16).painted(kit.accent))
    if kit.chance(0.6):
        side = join(cylinder(0.3 * neck, r), tube(0.5 * neck, 0.3 * neck, 0.08).moved(0, 0, r))
        kit.add("outlet", side.turned("y", 90).painted(kit.trim), (0, 0, h + 0.5 * tall))
    if kit.chance(0.4):
        kit.add("seal", torus(1.15 * neck, 0.05).painted(kit.dark), (0, 0, h + 0.03))
    if kit.chance(0.4):
        wheel_ = join(
            torus(0.6 * r, 0.05), *[rod((0, 0, 0), (*p, 0), 0.03) for p in circle(0.6 * r, 4)]
        )
        kit.add("handwheel", wheel_.painted(kit.accent), (0, 0, h + tall + 0.45))


def vessel(kit: Kit) -> None:
    """Pots, presses and bottles: a body, a lid, a handle, a spout, feet."""
    r, h = kit.between(0.25, 0.55), kit.between(0.4, 1.4)
    knots = [(kit.between(0.6, 1.15) * r, z * h) for z in (0, 0.35, 0.7, 1)]
    open_top = kit.chance(0.3)
    if open_top:
        wall = [*knots, *[(0.92 * a, b) for a, b in knots[:0:-1]], (0.9 * knots[0][0], 0.05 * h)]
        kit.add("body", lathe(wall, 28, closed=True).painted(kit.body))
        kit.add(
            "content",
            cylinder(0.8 * min(a for a, _ in knots), 0.75 * h).painted(kit.accent),
            (0, 0, 0.06 * h),
        )
    else:
        kit.add("body", lathe(knots, 28).painted(kit.body))
        lid = join(
            cylinder(1.04 * knots[-1][0], 0.06), dome(kit.between(0.04, 0.1)).moved(0, 0, 0.1)
        )
        kit.add("lid", lid.painted(kit.trim), (0, 0, h))
    if kit.chance(0.7):
        bow = [
            (0, 0.3 * h * np.sin(a), 0.3 * h * np.cos(a)) for a in np.linspace(0.1, np.pi - 0.1, 12)
        ]
        grips = kit.choose((1,), (1, -1))
        for side in grips:
            kit.add(
                "handle",
                pipe(bow, 0.04).scaled(1, side, 1).painted(kit.dark),
                (0, side * 0.9 * r, 0.5 * h),
            )
    if kit.chance(0.5):
        spout = rod((0, 0, 0), (0.5, 0, kit.between(0.1, 0.5)), 0.1, 0.05).painted(kit.trim)
        kit.add("spout", spout, (0.7 * r, 0, 0.45 * h))
    if kit.chance(0.4):
        kit.add(
            "band", torus(1.08 * r, 0.04).painted(kit.accent), (0, 0, kit.between(0.2, 0.7) * h)
        )
    if kit.chance(0.5):
        kit.add(
            "foot",
            cylinder(0.05, 0.15, sides=12).painted(kit.dark),
            *[(x, y, -0.14) for x, y in circle(0.55 * r, 3)],
        )
    elif kit.chance(0.6):
        kit.add("saucer", cylinder(r, 0.06, top=1.5 * r).painted(kit.trim), (0, 0, -0.06))


def blocks(kit: Kit) -> None:
    """Nothing in particular: solids grown upon each other at random, some of them equal."""
    stock = []
    for _ in range(kit.count(3, 9)):
        size = kit.between(0.15, 0.7), kit.between(0.15, 0.7), kit.between(0.1, 0.8)
        colour = kit.choose(kit.body, kit.body, kit.trim, kit.accent, kit.dark)
        stock.append(_solid(kit, *size).painted(colour))
    placed = [(stock[0], np.zeros(3))]
    for _ in range(kit.count(3, 10)):
        mesh = kit.choose(*stock)
        placed.append((mesh, _beside(kit, mesh, *kit.choose(*placed))))
    for mesh, at in placed:
        kit.add("block", mesh, tuple(at))


def _beside(kit: Kit, mesh: Mesh, host: Mesh, at: np.ndarray) -> np.ndarray:
    """A place for `mesh` on top of, or touching a side of, a host that stands at `at`."""
    (low, high), (own_low, own_high) = host.box(), mesh.box()
    axis = kit.choose(0, 1, 2, 2)
    middle = (low + high - own_low - own_high) / 2
    slack = 0.25 * (high - low + own_high - own_low)
    place = at + middle + kit.rng.uniform(-1, 1, 3) * slack
    if axis < 2 and kit.chance(0.4):
        place[axis] = (at + low - own_high)[axis] + 0.02
    else:
        place[axis] = (at + high - own_low)[axis] - 0.02
    return place


def _solid(kit: Kit, width: float, depth: float, height: float) -> Mesh:
    style = kit.count(0, 8)
    r = min(width, depth) / 2
    solids = [
        lambda: box(width, depth, height),
        lambda: rounded_box(width, depth, height, 0.4 * r),
        lambda: taper((width, depth), (0.4 * width, 0.7 * depth), height),
        lambda: cylinder(r, height),
        lambda: cylinder(r, height, top=0.1 * r),
        lambda: dome(r).scaled(1, 1, height / (2 * r)),
        lambda: torus(r, 0.3 * r),
        lambda: tube(r, 0.6 * r, height),
        lambda: gear(r, 12, 0.4 * height),
    ]
    turned = solids[style]()
    axis = kit.choose("x", "y", "z", "z")
    return turned if axis == "z" else turned.turned(axis, 90)
