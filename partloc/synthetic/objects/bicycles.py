"""Bicycles. The front faces +x, the axles are along y.

Lengths are roughly in metres; proportions are random.
"""

from typing import NamedTuple

import numpy as np

from partloc.synthetic.builder import ObjectBuilder
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    circle,
    cylinder,
    gear,
    join,
    pipe,
    prism,
    rod,
    sphere,
    taper,
    torus,
)

HALF_HUB = 0.06  # half the distance between the two blades of a fork


class _Geometry(NamedTuple):
    """Points (3,) of a frame in the plane y = 0; radius of the wheels and of the tubes."""

    radius: float
    tube: float
    rear: np.ndarray
    front: np.ndarray
    crank: np.ndarray
    seat: np.ndarray
    head_low: np.ndarray
    head_top: np.ndarray


def bicycle(builder: ObjectBuilder) -> None:
    """A frame with two equal wheels, cranks, a saddle and a handlebar, and some equipment."""
    geometry = _sample_geometry(builder)
    builder.rotations_deg = (0, 30, 90, 180, 210, 270)
    frame = _frame(geometry, step_through=builder.bernoulli(0.35))
    builder.add("frame", frame.with_color(builder.body))
    builder.add("fork", _fork(geometry).with_color(builder.choice(builder.body, builder.trim)))
    _add_wheels(builder, geometry)
    _add_cranks(builder, geometry)
    _add_saddle(builder, geometry)
    _add_handlebar(builder, geometry)
    for add_equipment in builder.rng.permutation([_add_mudguards, _add_rack, _add_basket])[:2]:
        if len(builder.parts) < 12 and builder.bernoulli(0.5):
            add_equipment(builder, geometry)


def _sample_geometry(builder: ObjectBuilder) -> _Geometry:
    radius = builder.uniform(0.2, 0.38)
    base = max(builder.uniform(0.8, 1.15), 2.5 * radius)
    crank = np.array([builder.uniform(-0.14, -0.02) * base, 0, max(0.24, 0.85 * radius)])
    seat = np.array([builder.uniform(-0.32, -0.2) * base, 0, builder.uniform(0.6, 0.95)])
    front = np.array([base / 2, 0, radius])
    head_z = max(2 * radius + 0.08, builder.uniform(0.55, 0.75))
    lean = builder.uniform(0.25, 0.45)  # of the steering axis: x per z
    head_low = np.array([base / 2 - lean * (head_z - radius), 0, head_z])
    head_top = head_low + builder.uniform(0.1, 0.3) * np.array([-lean, 0, 1])
    rear = np.array([-base / 2, 0, radius])
    tube = builder.uniform(0.014, 0.026)
    return _Geometry(radius, tube, rear, front, crank, seat, head_low, head_top)


def _frame(geometry: _Geometry, step_through: bool) -> Mesh:
    """Tubes between the joints; without a top tube if `step_through`."""
    tube, crank, seat = geometry.tube, geometry.crank, geometry.seat
    tubes = [
        rod(crank, seat, tube),
        rod(crank, geometry.head_low, 1.2 * tube),
        rod(geometry.head_low, geometry.head_top, 1.3 * tube),
        cylinder(1.8 * tube, 0.1).translated(0, 0, -0.05).rotated("x", 90).translated(*crank),
    ]
    if step_through:
        middle = 0.5 * (crank + seat)
        tubes.append(rod(middle, 0.7 * geometry.head_low + 0.3 * crank, tube))
    else:
        tubes.append(rod(0.1 * crank + 0.9 * seat, geometry.head_top, tube))
    for y in (-HALF_HUB, HALF_HUB):
        axle = geometry.rear + [0, y, 0]
        tubes += [rod(end + [0, y / 2, 0], axle, 0.6 * tube) for end in (crank, 0.85 * seat)]
    return join(*tubes)


def _fork(geometry: _Geometry) -> Mesh:
    crown = box(2.5 * geometry.tube, 2.4 * HALF_HUB, 2 * geometry.tube)
    blades = [
        rod(geometry.head_low + [0, y, 0], geometry.front + [0, y, 0], 0.7 * geometry.tube)
        for y in (-HALF_HUB, HALF_HUB)
    ]
    return join(crown.translated(*geometry.head_low), *blades)


def _add_wheels(builder: ObjectBuilder, geometry: _Geometry) -> None:
    """Add the tyres and the spokes, as separate parts or together."""
    thickness = builder.uniform(0.05, 0.12) * geometry.radius
    rim = geometry.radius - thickness
    tyre = torus(rim, thickness).rotated("x", 90).with_color(builder.dark)
    count, gauge = builder.choice((3, 0.022), (5, 0.015), (8, 0.008), (12, 0.006), (16, 0.005))
    ends = circle(rim, count, builder.uniform(0, 90))
    spokes = [rod((0, 0, 0), (x, 0, z), gauge, sides=6) for x, z in ends]
    hub = cylinder(0.03, 1.8 * HALF_HUB).translated(0, 0, -0.9 * HALF_HUB).rotated("x", 90)
    ring = torus(rim - thickness, 0.4 * thickness).rotated("x", 90)
    star = join(hub, ring, *spokes).with_color(builder.accent)
    axles = (geometry.rear, geometry.front)
    if builder.bernoulli(0.5):
        builder.add("tyre", tyre, *axles)
        builder.add("spokes", star, *axles)
    else:
        builder.add("wheel", join(tyre, star), *axles)


def _add_cranks(builder: ObjectBuilder, geometry: _Geometry) -> None:
    """Add a chainring with two arms, sometimes behind a guard, and two equal pedals."""
    angle = np.radians(builder.uniform(0, 180))
    arm = builder.uniform(0.13, 0.19) * np.array([np.cos(angle), 0, np.sin(angle)])
    radius = builder.uniform(0.06, 0.11)
    side = builder.choice(-1, 1)  # of the chainring
    ring = gear(radius, 16, 0.012, hole=0.6, tooth=0.1).rotated("x", 90)
    cross = box(0.03, 0.012, 1.8 * radius).translated(0, 0, -0.9 * radius)
    hubs = (arm + [0, 0.1, 0], -arm - [0, 0.1, 0])
    arms = [beam((0, np.sign(hub[1]) * 0.09, 0), hub, 0.025) for hub in hubs]
    axle = rod((0, -0.1, 0), (0, 0.1, 0), 0.015)
    cranks = join(axle, *arms, join(ring, cross).translated(0, side * 0.075, 0))
    builder.add("crankset", cranks.with_color(builder.trim), geometry.crank)
    pedal = box(0.09, 0.1, 0.025).with_color(builder.dark)
    positions = [geometry.crank + hub * [1, 1.6, 1] - [0, 0, 0.012] for hub in hubs]
    builder.add("pedal", pedal, *positions)
    if builder.bernoulli(0.35):
        length = geometry.crank[0] - geometry.rear[0]
        outline = np.array([(0, -0.03), (length, -0.8 * radius), (length, 0.8 * radius), (0, 0.03)])
        guard = prism(outline * [1, 1.4], 0.02).rotated("x", 90).with_color(builder.body)
        builder.add("chain-guard", guard, geometry.rear + [0, side * 0.085 + 0.01, 0])


def _add_saddle(builder: ObjectBuilder, geometry: _Geometry) -> None:
    length, height = builder.uniform(0.2, 0.32), builder.uniform(0.06, 0.25)
    nose = taper((0.06, 0.2), (0.06, 0.05), length, builder.uniform(-0.02, 0.02))
    cushion = nose.rotated("y", 90).translated(-0.5 * length, 0, height)
    post = rod((0, 0, -0.1), (-0.02, 0, height), 0.7 * geometry.tube).with_color(builder.trim)
    builder.add("saddle", join(cushion.with_color(builder.accent), post), geometry.seat)


def _add_handlebar(builder: ObjectBuilder, geometry: _Geometry) -> None:
    """Add a straight, swept-back or dropped bar on a stem, with equal grips if there is room."""
    half, rise = builder.uniform(0.2, 0.34), builder.uniform(0.03, 0.2)
    x, z = builder.choice((0.0, 0.0), (-0.18, 0.06), (0.1, -0.14))
    side = [(0, 0.4 * half, 0), (0.3 * x, 0.8 * half, 0.3 * z), (0.4 * x, half, 0.4 * z)]
    end = (x - 0.08, half, z)
    path = np.array([*([*side, end] if x else [*side[:1], (0, half, 0)])])
    path = np.concatenate([path[::-1] * [1, -1, 1], path])
    bar = pipe(path, 0.8 * geometry.tube) if not x else _segments(path, 0.8 * geometry.tube)
    stem = rod((0, 0, -rise - 0.05), (0, 0, 0), geometry.tube)
    position = geometry.head_top + [0, 0, rise]
    builder.add("handlebar", join(stem, bar).with_color(builder.trim), position)
    if len(builder.parts) < 10 and builder.bernoulli(0.6):
        grip = cylinder(1.7 * geometry.tube, 0.13).rotated("x", 90)
        if x:
            grip = cylinder(1.7 * geometry.tube, 0.13).rotated("y", -90)
        end = np.array([x, half, z] if x else [0, half, 0])
        offset = np.array([0.02, 0, 0] if x else [0, 0.065, 0])
        positions = [position + end * [1, sign, 1] + offset for sign in (-1, 1)]
        builder.add("grip", grip.with_color(builder.dark), *positions)


def _segments(path: np.ndarray, radius: float) -> Mesh:
    """Rods along a path (L, 3) with sharp bends, which are covered by spheres."""
    rods = [rod(a, b, radius, sides=10) for a, b in zip(path[:-1], path[1:], strict=True)]
    return join(*rods, *[sphere(radius, sides=10).translated(*point) for point in path[1:-1]])


def _add_mudguards(builder: ObjectBuilder, geometry: _Geometry) -> None:
    """Add two equal arcs over the wheels, with stays to the axles."""
    radius = geometry.radius + 0.02
    angles = np.radians(np.linspace(20, 170, 14))
    arc = np.stack([radius * np.cos(angles), 0 * angles, radius * np.sin(angles)], -1)
    strip = pipe(arc, 0.035)
    stays = [rod((0, y, 0), arc[-3] + [0, 0.5 * y, 0], 0.007, sides=6) for y in (-0.06, 0.06)]
    mudguard = join(strip, *stays).with_color(builder.choice(builder.body, builder.accent))
    builder.add("mudguard", mudguard, geometry.rear, geometry.front)


def _add_rack(builder: ObjectBuilder, geometry: _Geometry) -> None:
    """Add a carrier over the rear wheel, often with a bag on it."""
    z = geometry.radius + 0.06
    rails = [box(0.36, 0.015, 0.015).translated(0, y, z) for y in (-0.06, 0, 0.06)]
    stays = [rod((0, y, 0), (0, y, z), 0.008) for y in (-HALF_HUB, HALF_HUB)]
    bar = box(0.015, 0.13, 0.015).translated(0.17, 0, z)
    rack = join(*rails, *stays, bar).with_color(builder.trim)
    builder.add("rack", rack, geometry.rear)
    if builder.bernoulli(0.5):
        bag = box(0.24, 0.1, builder.uniform(0.18, 0.3)).translated(-0.05, 0, 0.02 - 0.15 * z)
        sides = [geometry.rear + [0, y, 0.45 * z] for y in (-0.12, 0.12)]
        builder.add("bag", bag.with_color(builder.accent), *sides)


def _add_basket(builder: ObjectBuilder, geometry: _Geometry) -> None:
    """Add a basket of bars in front of the handlebar."""
    d, w, h = builder.uniform(0.18, 0.28), builder.uniform(0.24, 0.36), builder.uniform(0.14, 0.24)
    rims = [
        box(d if along else 0.014, 0.014 if along else w, 0.014).translated(x, y, z)
        for z in (0.0, 0.5 * h, h)
        for along, x, y in ((1, 0, w / 2), (1, 0, -w / 2), (0, d / 2, 0), (0, -d / 2, 0))
    ]
    bars = [box(0.01, 0.01, h).translated(d / 2, y) for y in np.linspace(-w / 2, w / 2, 6)]
    bars += [box(0.01, 0.01, h).translated(x, w / 2) for x in np.linspace(-d / 2, d / 2, 5)]
    basket = join(box(d, w, 0.012), *rims, *bars).with_color(builder.accent)
    builder.add("basket", basket, geometry.head_top + [0.5 * d + 0.06, 0, -0.5 * h])
