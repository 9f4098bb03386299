"""Furniture to sit and lie on. The front faces +x.

Lengths are roughly in metres; proportions are random.

w, d, h: width (y), depth (x) and height (z).
"""

import numpy as np

from partloc.synthetic.builder import (
    FRONT_VIEWS_DEG,
    ObjectBuilder,
    corner_positions,
    evenly_spaced,
)
from partloc.synthetic.components import add_corner_legs, board, leg
from partloc.synthetic.mesh import (
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


def chair(builder: ObjectBuilder) -> None:
    """A seat on four legs or on a star base, with a back in one of three styles, or a stool."""
    w, d = builder.uniform(0.38, 0.6), builder.uniform(0.38, 0.65)
    seat_z, back_h = builder.uniform(0.3, 0.75), builder.uniform(0.2, 0.8)
    thickness, bar_width = builder.uniform(0.03, 0.1), builder.uniform(0.03, 0.06)
    seat = board(builder, d, w, thickness).with_color(builder.body)
    builder.add("seat", seat, (0, 0, seat_z))
    top = seat_z + thickness
    if builder.bernoulli(0.75):
        legs = leg(builder, seat_z, bar_width).with_color(builder.trim)
        add_corner_legs(builder, legs, 0.8 * d, 0.8 * w)
    else:
        feet = circle(0.45 * w, builder.integer(4, 6))
        star = join(*[rod((0, 0, 0.1), (*foot, 0.03), 0.025) for foot in feet])
        builder.add("star", star.with_color(builder.dark))
        stem = cylinder(0.035, seat_z - 0.1).with_color(builder.trim)
        builder.add("stem", stem, (0, 0, 0.1))
    style = builder.integer(0, 3)
    add_back = (_add_panel_back, _add_slat_back, _add_hoop_back, None)[style]
    if add_back:
        add_back(builder, w, back_h, (-0.45 * d, top), bar_width)
    if add_back and builder.bernoulli(0.3):
        arm = join(
            box(0.7 * d, bar_width, bar_width).translated(0, 0, 0.2),
            box(bar_width, bar_width, 0.2).translated(0.25 * d),
        )
        builder.add("arm", arm.with_color(builder.trim), *[(0, y * 0.47 * w, top) for y in (-1, 1)])
    if builder.bernoulli(0.3):
        cushion = rounded_box(0.75 * d, 0.8 * w, 0.06, 0.08).with_color(builder.accent)
        builder.add("cushion", cushion, (0.02, 0, top))
    if not add_back:
        builder.rotations_deg = (0, 45, 90)


def _add_panel_back(
    builder: ObjectBuilder, w: float, h: float, base: tuple[float, float], bar_width: float
) -> None:
    """Add a panel that leans backward; base: (x, z) of its lower edge."""
    x, z = base
    lean = builder.uniform(0, 0.15) * h
    rectangles = [
        _horizontal_rectangle(0, bar_width, 0.9 * w, 0),
        _horizontal_rectangle(-lean, bar_width, 0.9 * w, h),
    ]
    builder.add("back", loft(rectangles).with_color(builder.accent), (x, 0, z))


def _add_slat_back(
    builder: ObjectBuilder, w: float, h: float, base: tuple[float, float], bar_width: float
) -> None:
    """Add two posts with horizontal slats; base: (x, z) of the posts."""
    x, z = base
    post = box(bar_width, bar_width, h).with_color(builder.trim)
    builder.add("post", post, *[(x, y * 0.42 * w, z) for y in (-1, 1)])
    slats = builder.integer(1, 3)
    slat = box(0.6 * bar_width, 0.84 * w - bar_width, 0.5 * h / slats).with_color(builder.accent)
    builder.add("slat", slat, *[(x, 0, z + (i + 0.5) * h / slats) for i in range(slats)])


def _add_hoop_back(
    builder: ObjectBuilder, w: float, h: float, base: tuple[float, float], bar_width: float
) -> None:
    """Add a hoop with vertical canes; base: (x, z) of its ends."""
    x, z = base
    arc = [(x, 0.42 * w * np.cos(a), h * np.sin(a)) for a in np.linspace(0, np.pi, 15)]
    builder.add("hoop", pipe(arc, 0.5 * bar_width).with_color(builder.trim), (0, 0, z))
    cane = cylinder(0.3 * bar_width, 0.85 * h, sides=8).with_color(builder.accent)
    ys = evenly_spaced(0.4 * w, builder.integer(2, 4))
    builder.add("cane", cane, *[(x, y, z) for y in ys])


def bed(builder: ObjectBuilder) -> None:
    """A frame with a mattress, a headboard, and one or two pillows."""
    w, d = builder.uniform(0.8, 1.9), builder.uniform(1.7, 2.2)
    frame_z = builder.uniform(0.15, 0.45)
    builder.rotations_deg = (0, 90, 90, 0, 180, 270)
    builder.add("frame", box(d, w, 0.15).with_color(builder.body), (0, 0, frame_z))
    foot = leg(builder, frame_z, builder.uniform(0.05, 0.12)).with_color(builder.trim)
    builder.add("leg", foot, *corner_positions(0.9 * d, 0.9 * w))
    mattress_h = builder.uniform(0.12, 0.3)
    mattress = rounded_box(0.96 * d, 0.94 * w, mattress_h, 0.1).with_color(builder.accent)
    builder.add("mattress", mattress, (0, 0, frame_z + 0.15))
    headboard_h = builder.uniform(0.4, 1.0)
    ellipse = circle(0.5, 24) * [2 * headboard_h, w]
    headboard = builder.choice(box(0.06, w, headboard_h), prism(ellipse, 0.06).rotated("y", -90))
    builder.add("headboard", headboard.with_color(builder.trim), (-0.5 * d, 0, frame_z))
    pillow = rounded_box(0.4, 0.4 * w, 0.1, 0.15)
    pillow = pillow.with_color(builder.choice(builder.body, builder.dark))
    ys = evenly_spaced(0.46 * w, builder.integer(1, 2))
    builder.add("pillow", pillow, *[(-0.36 * d, y, frame_z + 0.15 + mattress_h) for y in ys])
    if builder.bernoulli(0.6):
        blanket = box(builder.uniform(0.3, 0.6) * d, 1.02 * w, mattress_h + 0.03)
        builder.add("blanket", blanket.with_color(builder.dark), (0.15 * d, 0, frame_z + 0.16))


def sofa(builder: ObjectBuilder) -> None:
    """A sofa for one to three people; w is the width of a seat."""
    seats, w = builder.integer(1, 3), builder.uniform(0.55, 0.8)
    d, seat_z = builder.uniform(0.7, 0.95), builder.uniform(0.25, 0.4)
    builder.rotations_deg = FRONT_VIEWS_DEG
    arm_w, total_w = builder.uniform(0.1, 0.25), seats * w
    builder.add("base", box(d, total_w, seat_z - 0.1).with_color(builder.body), (0, 0, 0.1))
    armrest = builder.choice(
        box(d, arm_w, seat_z + 0.2), rounded_box(d, arm_w, seat_z + 0.25, 0.1)
    ).with_color(builder.body)
    builder.add("armrest", armrest, *[(0, y * (total_w + arm_w) / 2, 0.05) for y in (-1, 1)])
    back = taper((0.22, total_w), (0.14, total_w), builder.uniform(0.5, 0.9))
    builder.add("back", back.with_color(builder.body), (-0.5 * d, 0, 0.1))
    cushion = rounded_box(0.75 * d, 0.97 * w, builder.uniform(0.1, 0.2), 0.06)
    ys = evenly_spaced(total_w - w, seats)
    builder.add("cushion", cushion.with_color(builder.trim), *[(0.1 * d, y, seat_z) for y in ys])
    front_leg = leg(builder, 0.1, 0.06).with_color(builder.dark)
    builder.add("leg", front_leg, *corner_positions(0.85 * d, 0.92 * total_w)[2:])
    if builder.bernoulli(0.5):
        size = builder.uniform(0.25, 0.4)
        pillow = rounded_box(size, size, 0.1, 0.05).rotated("y", 70).with_color(builder.accent)
        position = (-0.3 * d, builder.uniform(-0.3, 0.3) * total_w, seat_z + 0.3)
        builder.add("throw", pillow, position)


def _horizontal_rectangle(x: float, depth: float, width: float, z: float) -> np.ndarray:
    """Corners (4, 3) of a rectangle to loft through."""
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    corners = signs * [depth / 2, width / 2] + [x, 0]
    return np.c_[corners, np.full(4, z)]
