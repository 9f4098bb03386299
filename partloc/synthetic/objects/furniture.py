"""The demo's furniture. Each function fills a kit; the front looks toward +x.

Lengths are roughly metres. Proportions are free: only what must touch, touches.
"""

import numpy as np

from partloc.synthetic.builder import Kit, corners, spread
from partloc.synthetic.mesh import (
    Mesh,
    box,
    circle,
    cylinder,
    dome,
    join,
    lathe,
    prism,
    rod,
    rounded_box,
    taper,
    torus,
)

FRONT_SEEN = (0.0, 90.0)  # turns in degrees that show the front to the camera


def leg(kit: Kit, height: float, width: float) -> Mesh:
    """A straight leg in one of several styles."""
    style = kit.count(0, 4)
    if style == 0:
        return box(width, width, height)
    if style == 1:
        return cylinder(width / 2, height, sides=14)
    if style == 2:
        return taper((0.6 * width, 0.6 * width), (width, width), height)
    if style == 3:
        return cylinder(0.3 * width, height, top=0.55 * width, sides=14)
    turned = [(0.3, 0), (0.5, 0.1), (0.3, 0.2), (0.35, 0.5), (0.55, 0.65), (0.3, 0.75), (0.5, 1)]
    return lathe([(r * width, z * height) for r, z in turned], 14)


def stand(kit: Kit, mesh: Mesh, width: float, depth: float) -> None:
    """Legs at four corners: upright and equal, or each leaning outward its own way."""
    splay = kit.between(0.05, 0.3) if kit.chance(0.3) else 0.0
    if not splay:
        kit.add("leg", mesh, *corners(width, depth))
        return
    top = mesh.points[:, 2:].max()
    for x, y, _ in corners(width, depth):
        lean = splay * np.array([np.sign(x), np.sign(y), 0.0])
        sheared = mesh.points + (top - mesh.points[:, 2:]) * lean
        kit.add("leg", Mesh(sheared, mesh.triangles, mesh.colours), (x, y, 0))


def slab(kit: Kit, width: float, depth: float, thickness: float) -> Mesh:
    """A level board: square, rounded, round, or with a chamfer."""
    style = kit.count(0, 4)
    if style == 0:
        return rounded_box(width, depth, thickness, kit.between(0.05, 0.5) * min(width, depth))
    if style == 1:
        return prism(circle(0.5, 36) * [width, depth], thickness)
    if style == 2:
        return taper((0.9 * width, 0.9 * depth), (width, depth), thickness)
    return box(width, depth, thickness)


def table(kit: Kit) -> None:
    w, d, h = kit.between(0.5, 1.2), kit.between(0.5, 2.0), kit.between(0.3, 1.1)
    thick, width = kit.between(0.02, 0.09), kit.between(0.04, 0.13)
    kit.add("top", slab(kit, w, d, thick).painted(kit.body), (0, 0, h))
    inset = kit.between(0.72, 0.92)
    style = kit.count(0, 4)
    if style <= 2:
        inner = (inset * w - width, inset * d - width)
        stand(kit, leg(kit, h, width).painted(kit.trim), *inner)
        rail = kit.between(0.05, 0.12)
        if kit.chance(0.4):
            bar = box(0.5 * width, inner[1] - width, rail).painted(kit.trim)
            kit.add("rail", bar, *[(x * inner[0] / 2, 0, h - rail) for x in (-1, 1)])
        if kit.chance(0.4):
            shelf = box(inner[0], inner[1], 0.6 * thick).painted(kit.accent)
            kit.add("shelf", shelf, (0, 0, kit.between(0.15, 0.5) * h))
    elif style == 3:
        side = taper((kit.between(0.3, 0.9) * w, width), (0.8 * w, width), h).painted(kit.trim)
        kit.add("trestle", side, *[(0, y * inset * d / 2, 0) for y in (-0.85, 0.85)])
        bar = box(width, 0.85 * inset * d - width, kit.between(0.1, 0.3) * h).painted(kit.accent)
        kit.add("stretcher", bar, (0, 0, kit.between(0.15, 0.6) * h))
    else:
        foot = min(w, d) * kit.between(0.25, 0.42)
        column = leg(kit, 0.92 * h, kit.between(1.2, 2.5) * width).painted(kit.trim)
        kit.add("column", column, (0, 0, 0.08 * h))
        base = cylinder(foot, 0.08 * h, top=kit.between(0.5, 1) * foot).painted(kit.dark)
        kit.add("base", base)
    if kit.chance(0.3):
        vase = lathe([(0.05, 0), (0.09, 0.08), (0.04, 0.2), (0.06, 0.25)]).painted(kit.accent)
        kit.add("vase", vase, (kit.between(-0.2, 0.2) * w, kit.between(-0.25, 0.25) * d, h + thick))


def bookcase(kit: Kit) -> None:
    w, d, h = kit.between(0.4, 1.6), kit.between(0.2, 0.5), kit.between(0.5, 2.0)
    t = kit.between(0.015, 0.05)
    kit.turns_deg = FRONT_SEEN
    kit.add("side", box(d, t, h).painted(kit.body), (0, -(w - t) / 2, 0), (0, (w - t) / 2, 0))
    boards = kit.count(2, 5)
    heights = np.linspace(kit.between(0, 0.15) * h, h - t, boards)
    board = box(0.96 * d, w - 2 * t, t).painted(kit.choose(kit.body, kit.trim))
    kit.add("board", board, *[(0, 0, z) for z in heights])
    if kit.chance(0.6):
        kit.add("back", box(0.4 * t, w - 2 * t, 0.98 * h).painted(kit.trim), (-d / 2, 0, 0))
    gap = heights[1] - heights[0] - t
    for _ in range(kit.count(0, 3)):
        z = heights[kit.count(0, boards - 2)] + t
        y = kit.between(-0.3, 0.3) * (w - 2 * t)
        kit.add(*_content(kit, d, 0.3 * (w - 2 * t), gap), (0, y, z))


def _content(kit: Kit, depth: float, width: float, height: float) -> tuple[str, Mesh]:
    """Something to stand on a shelf."""
    name = kit.choose("books", "crate", "jar", "globe")
    if name == "books":
        thickness = kit.rng.uniform(0.12, 0.25, 5) * width
        places = np.cumsum(thickness) - thickness / 2 - thickness.sum() / 2
        tall = kit.rng.uniform(0.5, 0.9, 5) * height
        tints = [kit.choose(kit.accent, kit.trim, kit.dark) for _ in tall]
        items = zip(thickness, places, tall, tints, strict=True)
        return name, join(
            *[box(0.6 * depth, 0.9 * a, z).moved(0, y).painted(c) for a, y, z, c in items]
        )
    if name == "crate":
        return name, box(0.8 * depth, width, kit.between(0.3, 0.9) * height).painted(kit.accent)
    radius = 0.4 * min(depth, width, height)
    if name == "jar":
        return name, lathe(
            [(0.7 * radius, 0), (radius, radius), (0.5 * radius, 2 * radius)]
        ).painted(kit.accent)
    foot = cylinder(0.6 * radius, 0.3 * radius).painted(kit.dark)
    return name, join(dome(0.8 * radius).moved(0, 0, 1.1 * radius).painted(kit.accent), foot)


def cabinet(kit: Kit) -> None:
    w, d, h = kit.between(0.4, 1.5), kit.between(0.35, 0.7), kit.between(0.4, 1.6)
    foot, t = kit.between(0.03, 0.2), 0.03
    kit.turns_deg = FRONT_SEEN
    shell = join(
        box(t, w, h).moved(-d / 2),
        *[box(d, t, h).moved(0, y * (w - t) / 2) for y in (-1, 1)],
        *[box(d, w - 2 * t, t).moved(0, 0, z) for z in (0, h - t)],
    )
    kit.add("carcass", shell.painted(kit.body), (0, 0, foot))
    rows, columns = kit.choose((1, 1), (1, 2), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2))
    fw, fh = (w - 2 * t) / columns, (h - 2 * t) / rows
    places = [(y, foot + t + i * fh) for y in spread(w - 2 * t - fw, columns) for i in range(rows)]
    knob_z, knob_y = kit.choose(0.5, 0.85) * fh, kit.choose(0, 0.35) * fw
    knob = kit.choose(dome(0.025), box(0.03, 0.3 * fw, 0.02), cylinder(0.012, 0.3 * min(fh, w)))
    front = box(0.025, 0.96 * fw, 0.94 * fh).painted(kit.choose(kit.body, kit.trim))
    front = join(front, knob.moved(0.025, knob_y, knob_z).painted(kit.accent))
    if rows * columns == 1 or kit.chance(0.4):
        kit.add("door", front, *[(d / 2, y, z) for y, z in places])
    else:
        tray = box(0.8 * d, 0.86 * fw, 0.6 * fh).moved(-0.4 * d).painted(kit.trim)
        drawer = join(front, tray)
        opened = kit.count(0, len(places) - 1)
        pull = [kit.between(0.1, 0.6) * d if i == opened else 0.0 for i in range(len(places))]
        kit.add("drawer", drawer, *[(d / 2 + p, *at) for p, at in zip(pull, places, strict=True)])
    if kit.chance(0.8):
        kit.add("leg", leg(kit, foot, 0.06).painted(kit.dark), *corners(0.85 * d, 0.85 * w)[:4])
    if kit.chance(0.5) or rows * columns == 1:
        cover = slab(kit, 1.06 * d, 1.06 * w, 0.03).painted(kit.trim)
        kit.add("top", cover, (0, 0, foot + h))


def desk(kit: Kit) -> None:
    w, d, h = kit.between(1.0, 1.8), kit.between(0.5, 0.8), kit.between(0.6, 0.85)
    t, chest = kit.between(0.02, 0.05), kit.between(0.3, 0.45)
    kit.turns_deg = FRONT_SEEN
    kit.add("top", box(d, w, t).painted(kit.body), (0, 0, h))
    hand = kit.choose(-1, 1)  # the side on which the chest stands
    y = hand * (w - chest) / 2
    frame = join(
        *[box(0.9 * d, 0.02, h).moved(0, s * (chest - 0.02) / 2) for s in (-1, 1)],
        box(0.02, chest, h).moved(-0.45 * d),
    )
    kit.add("chest", frame.painted(kit.trim), (0, y, 0))
    rows = kit.count(2, 4)
    front = box(0.03, chest, 0.9 * h / rows).moved(0.45 * d).painted(kit.accent)
    tray = box(0.8 * d, 0.85 * chest, 0.6 * h / rows).painted(kit.trim)
    drawer = join(
        front, tray, dome(0.025).moved(0.45 * d + 0.03, 0, 0.5 * h / rows).painted(kit.dark)
    )
    out = [kit.choose(0, 0, 0.3, 0.5) * d for _ in range(rows)]
    kit.add("drawer", drawer, *[(p, y, 0.05 * h + i * 0.95 * h / rows) for i, p in enumerate(out)])
    if kit.chance(0.5):
        kit.add("panel", box(0.9 * d, t, h).painted(kit.body), (0, -hand * (w - t) / 2, 0))
    else:
        post = leg(kit, h, 0.06).painted(kit.dark)
        kit.add("leg", post, *[(x * 0.42 * d, -hand * 0.46 * w, 0) for x in (-1, 1)])
    if kit.chance(0.5):
        screen = join(
            box(0.02, 0.5, 0.3).moved(0, 0, 0.1), box(0.15, 0.2, 0.02), box(0.03, 0.05, 0.2)
        )
        kit.add("screen", screen.painted(kit.dark), (-0.2 * d, -hand * 0.15 * w, h + t))
    if kit.chance(0.3):
        kit.add(
            "keyboard", box(0.14, 0.4, 0.02).painted(kit.accent), (0.2 * d, -hand * 0.15 * w, h + t)
        )


def lamp(kit: Kit) -> None:
    h, foot = kit.between(0.4, 1.7), kit.between(0.1, 0.25)
    base = kit.choose(
        cylinder(foot, 0.04), cylinder(foot, 0.06, top=0.05), box(foot, foot, 0.05), dome(foot, 0)
    )
    kit.add("base", base.painted(kit.dark))
    size = kit.between(0.12, 0.35)
    shade = lathe([(size, 0), (kit.between(0.2, 1.1) * size, kit.between(0.8, 2) * size)], 28)
    if kit.chance(0.5):
        kit.add("pole", leg(kit, h, kit.between(0.02, 0.06)).painted(kit.trim))
        if kit.chance(0.3):
            kit.add("ring", torus(0.7 * size, 0.02).painted(kit.accent), (0, 0, 0.6 * h))
        kit.add("shade", shade.painted(kit.body), (0, 0, h - 0.2 * size))
        kit.add("bulb", dome(0.5 * size).painted(kit.accent), (0, 0, h - 0.25 * size))
        return
    reach, fold = kit.between(0.15, 0.6), kit.between(0.35, 0.8) * h
    kit.add("lower-arm", rod((0, 0, 0), (-0.5 * reach, 0, fold), 0.02).painted(kit.trim))
    kit.add("joint", dome(0.04).painted(kit.accent), (-0.5 * reach, 0, fold))
    kit.add("upper-arm", rod((-0.5 * reach, 0, fold), (reach, 0, h), 0.02).painted(kit.trim))
    tilt = kit.between(-30, 50)
    kit.add("shade", shade.turned("y", tilt).painted(kit.body), (reach, 0, h - size))
