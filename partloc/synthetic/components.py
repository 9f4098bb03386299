"""Components that several object families share."""

import numpy as np

from partloc.synthetic.builder import ObjectBuilder, corner_positions
from partloc.synthetic.mesh import (
    Mesh,
    box,
    circle,
    cylinder,
    join,
    lathe,
    prism,
    rounded_box,
    sphere,
    taper,
    tube,
)


def leg(builder: ObjectBuilder, height: float, width: float) -> Mesh:
    """A straight leg in one of five styles."""
    style = builder.integer(0, 4)
    if style == 0:
        return box(width, width, height)
    if style == 1:
        return cylinder(width / 2, height, sides=14)
    if style == 2:
        return taper((0.6 * width, 0.6 * width), (width, width), height)
    if style == 3:
        return cylinder(0.3 * width, height, top=0.55 * width, sides=14)
    profile = [(0.3, 0), (0.5, 0.1), (0.3, 0.2), (0.35, 0.5), (0.55, 0.65), (0.3, 0.75), (0.5, 1)]
    return lathe([(radius * width, z * height) for radius, z in profile], 14)


def add_corner_legs(builder: ObjectBuilder, mesh: Mesh, width: float, depth: float) -> None:
    """Add legs at four corners: vertical and equal, or each one leaning outward."""
    splay = builder.uniform(0.05, 0.3) if builder.bernoulli(0.3) else 0.0
    if not splay:
        builder.add("leg", mesh, *corner_positions(width, depth))
        return
    top = mesh.points[:, 2:].max()
    for x, y, _ in corner_positions(width, depth):
        lean = splay * np.array([np.sign(x), np.sign(y), 0.0])
        sheared = mesh.points + (top - mesh.points[:, 2:]) * lean
        builder.add("leg", Mesh(sheared, mesh.triangles, mesh.colors), (x, y, 0))


def board(builder: ObjectBuilder, width: float, depth: float, thickness: float) -> Mesh:
    """A horizontal board: rectangular, rounded, elliptic, or with a chamfer."""
    style = builder.integer(0, 4)
    if style == 0:
        radius = builder.uniform(0.05, 0.5) * min(width, depth)
        return rounded_box(width, depth, thickness, radius)
    if style == 1:
        return prism(circle(0.5, 36) * [width, depth], thickness)
    if style == 2:
        return taper((0.9 * width, 0.9 * depth), (width, depth), thickness)
    return box(width, depth, thickness)


def wheel(builder: ObjectBuilder, radius: float, width: float) -> Mesh:
    """An upright wheel with its axle along y through the origin."""
    tyre = tube(radius, builder.uniform(0.5, 0.75) * radius, width, 26).with_color(builder.dark)
    rim = cylinder(0.75 * radius, 0.6 * width, sides=builder.choice(6, 20))
    rim = rim.translated(0, 0, 0.2 * width).with_color(builder.accent)
    hub = sphere(0.25 * radius).scaled(1, 1, 0.5).translated(0, 0, 0.8 * width)
    disc = join(tyre, rim, hub.with_color(builder.trim), hub.translated(0, 0, -0.6 * width))
    return disc.translated(0, 0, -width / 2).rotated("x", 90)
