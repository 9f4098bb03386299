"""Furniture for storage, work and light. The front faces +x.

Lengths are roughly in metres; proportions are random.

w, d, h: width (y), depth (x) and height (z); t: thickness of a board.
"""

import numpy as np

from partloc.synthetic.builder import (
    FRONT_VIEWS_DEG,
    ObjectBuilder,
    corner_positions,
    evenly_spaced,
)
from partloc.synthetic.components import add_corner_legs, board, leg
from partloc.synthetic.mesh import Mesh, box, cylinder, join, lathe, rod, sphere, taper, torus

CABINET_THICKNESS = 0.03  # of its boards


def table(builder: ObjectBuilder) -> None:
    """A board on four legs, on two trestles or on a column."""
    w, d = builder.uniform(0.5, 1.2), builder.uniform(0.5, 2.0)
    h = builder.uniform(0.3, 1.1)
    t, leg_width = builder.uniform(0.02, 0.09), builder.uniform(0.04, 0.13)
    builder.add("top", board(builder, w, d, t).with_color(builder.body), (0, 0, h))
    inset = builder.uniform(0.72, 0.92)
    style = builder.integer(0, 4)
    if style <= 2:
        _add_table_legs(builder, inset * w - leg_width, inset * d - leg_width, h, leg_width, t)
    elif style == 3:
        _add_trestles(builder, (w, d, h), inset, leg_width)
    else:
        foot = min(w, d) * builder.uniform(0.25, 0.42)
        column = leg(builder, 0.92 * h, builder.uniform(1.2, 2.5) * leg_width)
        builder.add("column", column.with_color(builder.trim), (0, 0, 0.08 * h))
        base = cylinder(foot, 0.08 * h, top=builder.uniform(0.5, 1) * foot)
        builder.add("base", base.with_color(builder.dark))
    if builder.bernoulli(0.3):
        vase = lathe([(0.05, 0), (0.09, 0.08), (0.04, 0.2), (0.06, 0.25)])
        position = (builder.uniform(-0.2, 0.2) * w, builder.uniform(-0.25, 0.25) * d, h + t)
        builder.add("vase", vase.with_color(builder.accent), position)


def _add_table_legs(
    builder: ObjectBuilder, w: float, d: float, h: float, leg_width: float, t: float
) -> None:
    """Add legs at the corners of w x d, and sometimes rails and a shelf between them."""
    add_corner_legs(builder, leg(builder, h, leg_width).with_color(builder.trim), w, d)
    rail_height = builder.uniform(0.05, 0.12)
    if builder.bernoulli(0.4):
        rail = box(0.5 * leg_width, d - leg_width, rail_height).with_color(builder.trim)
        builder.add("rail", rail, *[(x * w / 2, 0, h - rail_height) for x in (-1, 1)])
    if builder.bernoulli(0.4):
        shelf = box(w, d, 0.6 * t).with_color(builder.accent)
        builder.add("shelf", shelf, (0, 0, builder.uniform(0.15, 0.5) * h))


def _add_trestles(
    builder: ObjectBuilder, size: tuple[float, float, float], inset: float, leg_width: float
) -> None:
    """Add two trestles and a stretcher between them."""
    w, d, h = size
    trestle = taper((builder.uniform(0.3, 0.9) * w, leg_width), (0.8 * w, leg_width), h)
    trestle = trestle.with_color(builder.trim)
    builder.add("trestle", trestle, *[(0, y * inset * d / 2, 0) for y in (-0.85, 0.85)])
    stretcher = box(leg_width, 0.85 * inset * d - leg_width, builder.uniform(0.1, 0.3) * h)
    stretcher = stretcher.with_color(builder.accent)
    builder.add("stretcher", stretcher, (0, 0, builder.uniform(0.15, 0.6) * h))


def bookcase(builder: ObjectBuilder) -> None:
    """Two sides with shelves, sometimes with a back and a few items on the shelves."""
    w, d = builder.uniform(0.4, 1.6), builder.uniform(0.2, 0.5)
    h = builder.uniform(0.5, 2.0)
    t = builder.uniform(0.015, 0.05)
    builder.rotations_deg = FRONT_VIEWS_DEG
    side = box(d, t, h).with_color(builder.body)
    builder.add("side", side, (0, -(w - t) / 2, 0), (0, (w - t) / 2, 0))
    boards = builder.integer(2, 5)
    heights = np.linspace(builder.uniform(0, 0.15) * h, h - t, boards)
    shelf = box(0.96 * d, w - 2 * t, t).with_color(builder.choice(builder.body, builder.trim))
    builder.add("board", shelf, *[(0, 0, z) for z in heights])
    if builder.bernoulli(0.6):
        back = box(0.4 * t, w - 2 * t, 0.98 * h).with_color(builder.trim)
        builder.add("back", back, (-d / 2, 0, 0))
    gap = heights[1] - heights[0] - t
    for _ in range(builder.integer(0, 3)):
        z = heights[builder.integer(0, boards - 2)] + t
        y = builder.uniform(-0.3, 0.3) * (w - 2 * t)
        builder.add(*_shelf_content(builder, 0.3 * (w - 2 * t), d, gap), (0, y, z))


def _shelf_content(builder: ObjectBuilder, w: float, d: float, h: float) -> tuple[str, Mesh]:
    """Name and mesh of an item that fits into w x d x h."""
    name = builder.choice("books", "crate", "jar", "globe")
    radius = 0.4 * min(d, w, h)
    if name == "books":
        return name, _books(builder, w, d, h)
    if name == "crate":
        crate = box(0.8 * d, w, builder.uniform(0.3, 0.9) * h)
        return name, crate.with_color(builder.accent)
    if name == "jar":
        jar = lathe([(0.7 * radius, 0), (radius, radius), (0.5 * radius, 2 * radius)])
        return name, jar.with_color(builder.accent)
    foot = cylinder(0.6 * radius, 0.3 * radius).with_color(builder.dark)
    globe = sphere(0.8 * radius).translated(0, 0, 1.1 * radius).with_color(builder.accent)
    return name, join(globe, foot)


def _books(builder: ObjectBuilder, w: float, d: float, h: float) -> Mesh:
    thicknesses = builder.rng.uniform(0.12, 0.25, 5) * w
    ys = np.cumsum(thicknesses) - thicknesses / 2 - thicknesses.sum() / 2
    heights = builder.rng.uniform(0.5, 0.9, 5) * h
    colors = [builder.choice(builder.accent, builder.trim, builder.dark) for _ in heights]
    return join(
        *[
            box(0.6 * d, 0.9 * thickness, height).translated(0, y).with_color(color)
            for thickness, y, height, color in zip(thicknesses, ys, heights, colors, strict=True)
        ]
    )


def cabinet(builder: ObjectBuilder) -> None:
    """A cabinet with a grid of equal doors or drawers."""
    w, d, h = builder.uniform(0.4, 1.5), builder.uniform(0.35, 0.7), builder.uniform(0.4, 1.6)
    foot_h, t = builder.uniform(0.03, 0.2), CABINET_THICKNESS
    builder.rotations_deg = FRONT_VIEWS_DEG
    carcass = join(
        box(t, w, h).translated(-d / 2),
        *[box(d, t, h).translated(0, y * (w - t) / 2) for y in (-1, 1)],
        *[box(d, w - 2 * t, t).translated(0, 0, z) for z in (0, h - t)],
    )
    builder.add("carcass", carcass.with_color(builder.body), (0, 0, foot_h))
    rows, columns = builder.choice((1, 1), (1, 2), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2))
    _add_cabinet_fronts(builder, (w, d, h), foot_h, rows, columns)
    if builder.bernoulli(0.8):
        foot = leg(builder, foot_h, 0.06).with_color(builder.dark)
        builder.add("leg", foot, *corner_positions(0.85 * d, 0.85 * w))
    if builder.bernoulli(0.5) or rows * columns == 1:
        top = board(builder, 1.06 * d, 1.06 * w, 0.03).with_color(builder.trim)
        builder.add("top", top, (0, 0, foot_h + h))


def _add_cabinet_fronts(
    builder: ObjectBuilder, size: tuple[float, float, float], foot_h: float, rows: int, columns: int
) -> None:
    """Add a grid of doors, or of drawers of which one is open."""
    (w, d, h), t = size, CABINET_THICKNESS
    front_w, front_h = (w - 2 * t) / columns, (h - 2 * t) / rows
    ys = evenly_spaced(w - 2 * t - front_w, columns)
    cells = [(y, foot_h + t + row * front_h) for y in ys for row in range(rows)]
    knob_z, knob_y = builder.choice(0.5, 0.85) * front_h, builder.choice(0, 0.35) * front_w
    knob = builder.choice(
        sphere(0.025), box(0.03, 0.3 * front_w, 0.02), cylinder(0.012, 0.3 * min(front_h, w))
    )
    front = box(0.025, 0.96 * front_w, 0.94 * front_h)
    front = front.with_color(builder.choice(builder.body, builder.trim))
    front = join(front, knob.translated(0.025, knob_y, knob_z).with_color(builder.accent))
    if rows * columns == 1 or builder.bernoulli(0.4):
        builder.add("door", front, *[(d / 2, *cell) for cell in cells])
        return
    tray = box(0.8 * d, 0.86 * front_w, 0.6 * front_h).translated(-0.4 * d)
    drawer = join(front, tray.with_color(builder.trim))
    open_drawer = builder.integer(0, len(cells) - 1)
    pulls = [builder.uniform(0.1, 0.6) * d if i == open_drawer else 0.0 for i in range(len(cells))]
    positions = [(d / 2 + pull, *cell) for pull, cell in zip(pulls, cells, strict=True)]
    builder.add("drawer", drawer, *positions)


def desk(builder: ObjectBuilder) -> None:
    """A board on a chest of drawers and on a panel or two legs."""
    w, d = builder.uniform(1.0, 1.8), builder.uniform(0.5, 0.8)
    h = builder.uniform(0.6, 0.85)
    t, chest_w = builder.uniform(0.02, 0.05), builder.uniform(0.3, 0.45)
    builder.rotations_deg = FRONT_VIEWS_DEG
    builder.add("top", box(d, w, t).with_color(builder.body), (0, 0, h))
    side = builder.choice(-1, 1)  # of the chest
    _add_desk_chest(builder, chest_w, d, h, side * (w - chest_w) / 2)
    if builder.bernoulli(0.5):
        panel = box(0.9 * d, t, h).with_color(builder.body)
        builder.add("panel", panel, (0, -side * (w - t) / 2, 0))
    else:
        post = leg(builder, h, 0.06).with_color(builder.dark)
        builder.add("leg", post, *[(x * 0.42 * d, -side * 0.46 * w, 0) for x in (-1, 1)])
    if builder.bernoulli(0.5):
        screen = join(
            box(0.02, 0.5, 0.3).translated(0, 0, 0.1), box(0.15, 0.2, 0.02), box(0.03, 0.05, 0.2)
        )
        builder.add("screen", screen.with_color(builder.dark), (-0.2 * d, -side * 0.15 * w, h + t))
    if builder.bernoulli(0.3):
        keyboard = box(0.14, 0.4, 0.02).with_color(builder.accent)
        builder.add("keyboard", keyboard, (0.2 * d, -side * 0.15 * w, h + t))


def _add_desk_chest(builder: ObjectBuilder, w: float, d: float, h: float, y: float) -> None:
    frame = join(
        *[box(0.9 * d, 0.02, h).translated(0, side * (w - 0.02) / 2) for side in (-1, 1)],
        box(0.02, w, h).translated(-0.45 * d),
    )
    builder.add("chest", frame.with_color(builder.trim), (0, y, 0))
    rows = builder.integer(2, 4)
    front = box(0.03, w, 0.9 * h / rows).translated(0.45 * d).with_color(builder.accent)
    tray = box(0.8 * d, 0.85 * w, 0.6 * h / rows).with_color(builder.trim)
    knob = sphere(0.025).translated(0.45 * d + 0.03, 0, 0.5 * h / rows).with_color(builder.dark)
    pulls = [builder.choice(0, 0, 0.3, 0.5) * d for _ in range(rows)]
    positions = [(pull, y, 0.05 * h + i * 0.95 * h / rows) for i, pull in enumerate(pulls)]
    builder.add("drawer", join(front, tray, knob), *positions)


def lamp(builder: ObjectBuilder) -> None:
    """A floor lamp on a pole, or a desk lamp with two arms."""
    h, foot = builder.uniform(0.4, 1.7), builder.uniform(0.1, 0.25)
    base = builder.choice(
        cylinder(foot, 0.04),
        cylinder(foot, 0.06, top=0.05),
        box(foot, foot, 0.05),
        sphere(foot, 0),
    )
    builder.add("base", base.with_color(builder.dark))
    size = builder.uniform(0.12, 0.35)
    top = (builder.uniform(0.2, 1.1) * size, builder.uniform(0.8, 2) * size)
    shade = lathe([(size, 0), top], 28).with_color(builder.body)
    if builder.bernoulli(0.5):
        pole = leg(builder, h, builder.uniform(0.02, 0.06)).with_color(builder.trim)
        builder.add("pole", pole)
        if builder.bernoulli(0.3):
            ring = torus(0.7 * size, 0.02).with_color(builder.accent)
            builder.add("ring", ring, (0, 0, 0.6 * h))
        builder.add("shade", shade, (0, 0, h - 0.2 * size))
        bulb = sphere(0.5 * size).with_color(builder.accent)
        builder.add("bulb", bulb, (0, 0, h - 0.25 * size))
        return
    reach, elbow_z = builder.uniform(0.15, 0.6), builder.uniform(0.35, 0.8) * h
    elbow, tip = (-0.5 * reach, 0, elbow_z), (reach, 0, h)
    builder.add("lower-arm", rod((0, 0, 0), elbow, 0.02).with_color(builder.trim))
    builder.add("joint", sphere(0.04).with_color(builder.accent), elbow)
    builder.add("upper-arm", rod(elbow, tip, 0.02).with_color(builder.trim))
    tilt = builder.uniform(-30, 50)
    builder.add("shade", shade.rotated("y", tilt), (reach, 0, h - size))
