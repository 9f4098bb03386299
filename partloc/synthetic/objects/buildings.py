"""Buildings. The front faces +x.

Lengths are in arbitrary units; proportions are random.

w, d, h: width (y), depth (x) and height (z).
"""

import numpy as np

from partloc.synthetic.builder import ObjectBuilder, corner_positions
from partloc.synthetic.mesh import (
    Mesh,
    box,
    circle,
    cylinder,
    join,
    loft,
    prism,
    sphere,
    taper,
)


def house(builder: ObjectBuilder) -> None:
    """Walls, a roof, a door and windows, sometimes with a chimney, an annex and trees."""
    w, d, h = builder.uniform(0.8, 1.8), builder.uniform(0.8, 1.6), builder.uniform(0.5, 1.5)
    builder.rotations_deg = (0, 90, 0, 90, 180, 270)
    builder.add("walls", box(d, w, h).with_color(builder.body))
    roof_h, overhang = builder.uniform(0.2, 0.9), builder.uniform(1.02, 1.25)
    roof = _house_roof(builder, overhang * w, overhang * d, roof_h, w, d)
    builder.add("roof", roof.with_color(builder.trim), (0, 0, h))
    door = box(0.06, 0.25, 0.45).with_color(builder.accent)
    builder.add("door", door, (d / 2, builder.uniform(-0.35, 0.35) * w, 0))
    window = join(box(0.04, 0.25, 0.22), box(0.1, 0.3, 0.03)).with_color(builder.dark)
    rows = [0.62 * h] if h < 0.9 else [0.35 * h, 0.72 * h]
    positions = [(d / 2, y * w, z) for z in rows for y in (-0.28, 0.28)[: builder.integer(1, 2)]]
    builder.add("window", window, *positions)
    if builder.bernoulli(0.6):
        chimney = box(0.18, 0.18, roof_h + 0.35).with_color(builder.dark)
        builder.add("chimney", chimney, (0.2 * d, 0.28 * w, h))
    if builder.bernoulli(0.4):
        size = builder.uniform(0.4, 0.8)
        y = -(w + size) / 2
        builder.add("annex", box(size, size, 0.5 * h).with_color(builder.body), (0, y, 0))
        annex_roof = taper((1.1 * size, 1.1 * size), (0.4 * size, 0.4 * size), 0.2)
        builder.add("annex-roof", annex_roof.with_color(builder.trim), (0, y, 0.5 * h))
    if builder.bernoulli(0.4):
        tree = join(
            cylinder(0.05, 0.3).with_color(builder.dark),
            cylinder(0.3, 0.7, top=0.0).translated(0, 0, 0.25).with_color(builder.accent),
        )
        ys = (-0.45, 0.5)[: builder.integer(1, 2)]
        builder.add("tree", tree, *[(0.5 * d + 0.35, y * w, 0) for y in ys])


def tower(builder: ObjectBuilder) -> None:
    """Storeys on top of each other and a roof, sometimes with four turrets or an aerial."""
    storeys, radius = builder.integer(2, 5), builder.uniform(0.3, 0.6)
    sides = builder.choice(4, 4, 6, 8, 24)
    shrink = builder.uniform(0.7, 1.0)
    equal_storeys = builder.bernoulli(0.3)
    h = builder.uniform(0.25, 0.8)
    plinth_radius = builder.uniform(1.05, 1.6) * radius
    builder.add("plinth", _frustum(plinth_radius, 0.12, 1.0, sides).with_color(builder.dark))
    z = 0.12
    storey = _frustum(radius, h, 0.9, sides).with_color(builder.body)
    for _ in range(storeys):
        if not equal_storeys:
            h = builder.uniform(0.2, 0.8)
            color = builder.choice(builder.body, builder.body, builder.trim)
            storey = _frustum(radius, h, builder.uniform(0.75, 1), sides).with_color(color)
            radius *= shrink
        builder.add("storey", storey, (0, 0, z))
        z += h
    roof = builder.choice(
        _frustum(1.15 * radius, 0.8, 0.02, sides),
        sphere(radius, 0, 90),
        _frustum(radius, 0.15, 1.3, sides),
    )
    builder.add("roof", roof.with_color(builder.accent), (0, 0, z))
    if builder.bernoulli(0.5):
        aerial = cylinder(0.03, builder.uniform(0.4, 1.0), sides=10).with_color(builder.dark)
        builder.add("aerial", aerial, (0, 0, z + 0.1))
    if builder.bernoulli(0.4):
        turret = join(
            cylinder(0.13, 0.6).with_color(builder.trim),
            cylinder(0.17, 0.3, top=0).translated(0, 0, 0.6).with_color(builder.accent),
        )
        builder.add("tower", turret, *corner_positions(1.6 * plinth_radius, 1.6 * plinth_radius))


def _house_roof(
    builder: ObjectBuilder, width: float, depth: float, height: float, w: float, d: float
) -> Mesh:
    """A gable roof, a hip roof or a flat roof of width x depth over walls of w x d."""
    style = builder.integer(0, 2)
    if style == 0:
        triangle = np.array([(-0.5, 0), (0.5, 0), (0, 1)]) * [depth, height]
        return prism(triangle, width).rotated("x", 90).translated(0, width / 2)
    if style == 1:
        return taper((depth, width), (0.05 * d, builder.uniform(0.05, 0.5) * w), height)
    return box(depth, width, 0.12)


def _frustum(radius: float, height: float, shrink: float, sides: int) -> Mesh:
    """Frustum of a regular pyramid; `shrink` is the ratio of its radii."""
    # With four sides, the edges are parallel to the axes.
    lower, upper = (circle(r, sides, 180 / sides) for r in (radius, shrink * radius))
    return loft([np.c_[lower, np.zeros(sides)], np.c_[upper, np.full(sides, height)]])
