"""Robots and carts. The front faces +x.

Lengths are in arbitrary units; proportions are random.

w, d, h: width (y), depth (x) and height (z); r: radius.
"""

import math

import numpy as np

from partloc.synthetic.builder import ObjectBuilder, corner_positions, evenly_spaced
from partloc.synthetic.components import wheel
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    cylinder,
    join,
    lathe,
    rod,
    rounded_box,
    sphere,
    taper,
)


def robot_arm(builder: ObjectBuilder) -> None:
    """A chain of links in the xz plane on a turret, with two fingers or a tool at its end."""
    r = builder.uniform(0.08, 0.16)
    builder.rotations_deg = (0, 30, 60, 90, 180, 270, -45)
    base = builder.choice(
        cylinder(2 * r, 0.12), box(4 * r, 4 * r, 0.1), cylinder(2.2 * r, 0.3, top=1.2 * r)
    )
    builder.add("base", base.with_color(builder.dark))
    position = np.array([0.0, 0.0, builder.uniform(0.2, 0.4)])
    turret = cylinder(1.3 * r, position[2], sides=20).with_color(builder.body)
    builder.add("turret", turret, (0, 0, 0.08))
    slope_deg = builder.uniform(45, 120)
    for i in range(builder.integer(2, 4)):
        length = builder.uniform(0.35, 0.9) * 0.85**i
        end = length * _slope_direction(slope_deg)
        joint = _robot_joint(builder, r).with_color(builder.accent)
        builder.add(f"joint-{i}", joint, position)
        link = _robot_link(builder, end, r).with_color(builder.body)
        builder.add(f"arm-{i}", link, position)
        position, slope_deg, r = position + end, slope_deg - builder.uniform(20, 85), 0.82 * r
    builder.add("wrist", sphere(1.2 * r).with_color(builder.trim), position)
    direction = _slope_direction(slope_deg)
    if builder.bernoulli(0.5):
        finger = beam((0, 0, 0), 3.2 * r * direction, 0.6 * r).with_color(builder.dark)
        positions = [position + r * direction + [0, y * r, 0] for y in (-0.8, 0.8)]
        builder.add("finger", finger, *positions)
    else:
        tool = rod((0, 0, 0), 4 * r * direction, 0.8 * r, 0.2 * r)
        builder.add("tool", tool.with_color(builder.dark), position)


def _slope_direction(slope_deg: float) -> np.ndarray:
    """Unit vector (3,) in the xz plane; the slope is measured from +x toward +z."""
    return np.array([math.cos(math.radians(slope_deg)), 0, math.sin(math.radians(slope_deg))])


def _robot_joint(builder: ObjectBuilder, r: float) -> Mesh:
    hub = cylinder(1.2 * r, 2.6 * r).translated(0, 0, -1.3 * r).rotated("x", 90)
    return builder.choice(
        hub,
        hub,
        sphere(1.4 * r),
        rounded_box(2.4 * r, 2.6 * r, 2.4 * r, 0.5 * r).translated(0, 0, -1.2 * r),
    )


def _robot_link(builder: ObjectBuilder, end: np.ndarray, r: float) -> Mesh:
    if builder.bernoulli(0.35):
        rail = beam((0, 0, 0), end, 0.6 * r)
        return join(rail.translated(0, r), rail.translated(0, -r))
    return builder.choice(rod((0, 0, 0), end, r, 0.8 * r), beam((0, 0, 0), end, 1.8 * r, 1.3 * r))


def humanoid(builder: ObjectBuilder) -> None:
    """A standing figure with arms and legs, sometimes with a hat, a visor and a backpack."""
    hip_z, chest_h = builder.uniform(0.4, 1.0), builder.uniform(0.4, 0.8)
    w, d = builder.uniform(0.3, 0.6), builder.uniform(0.2, 0.35)
    limb_r = builder.uniform(0.06, 0.13)
    builder.rotations_deg = (0, 90, 45, 20, 70, 180)
    profile = [(0.3 * w, 0), (0.5 * w, 0.7 * chest_h), (0.25 * w, chest_h)]
    torso = builder.choice(
        taper((0.8 * d, 0.7 * w), (d, w), chest_h),
        rounded_box(d, w, chest_h, 0.08),
        lathe(profile).scaled(d / w, 1, 1),
    )
    builder.add("torso", torso.with_color(builder.body), (0, 0, hip_z))
    shoulder_z = hip_z + chest_h
    _add_head(builder, shoulder_z)
    pelvis = box(0.8 * d, 0.75 * w, 0.12).with_color(builder.trim)
    builder.add("pelvis", pelvis, (0, 0, hip_z - 0.1))
    shoe = rounded_box(2.6 * limb_r, 1.6 * limb_r, 0.08, 0.05).translated(0.5 * limb_r)
    limb = builder.choice(
        cylinder(limb_r, hip_z, sides=14),
        box(1.6 * limb_r, 1.6 * limb_r, hip_z),
        taper((limb_r, limb_r), (2 * limb_r, 2 * limb_r), hip_z),
    )
    leg = join(limb.with_color(builder.body), shoe.with_color(builder.dark))
    builder.add("leg", leg, *[(0, y * 0.25 * w, 0) for y in (-1, 1)])
    _add_arms(builder, w, shoulder_z, limb_r)
    if builder.bernoulli(0.4):
        backpack = box(0.5 * d, 0.7 * w, 0.7 * chest_h).with_color(builder.dark)
        builder.add("pack", backpack, (-0.7 * d, 0, hip_z + 0.2))


def _add_head(builder: ObjectBuilder, shoulder_z: float) -> None:
    size = builder.uniform(0.12, 0.32)
    head = builder.choice(
        sphere(size).translated(0, 0, 0.8 * size),
        box(size, 1.2 * size, size),
        cylinder(0.7 * size, size),
    )
    builder.add("head", head.with_color(builder.accent), (0, 0, shoulder_z + 0.05))
    if builder.bernoulli(0.4):
        crown = cylinder(0.8 * size, 0.8 * size, top=builder.uniform(0, 0.8) * size)
        hat = join(cylinder(1.3 * size, 0.04), crown).with_color(builder.trim)
        builder.add("hat", hat, (0, 0, shoulder_z + builder.uniform(1.0, 1.5) * size))
    if builder.bernoulli(0.7):
        visor = box(0.05, builder.uniform(0.6, 1.1) * size, 0.25 * size).with_color(builder.dark)
        builder.add("visor", visor, (0.75 * size, 0, shoulder_z + 0.05 + 0.6 * size))


def _add_arms(builder: ObjectBuilder, w: float, shoulder_z: float, limb_r: float) -> None:
    """Add two arms that hang down, or are raised by different angles."""
    length = builder.uniform(0.4, 0.8)
    raised = builder.bernoulli(0.4)
    for name, side in (("left", 1), ("right", -1)):
        angle_deg = builder.uniform(-20, 110) if raised else 0.0
        sleeve = rod((0, 0, 0), (0, side * 0.08, -length), 0.7 * limb_r)
        hand = sphere(limb_r).translated(0, side * 0.08, -length)
        arm = join(sleeve.with_color(builder.trim), hand.with_color(builder.accent))
        position = (0, side * (0.5 * w + 0.6 * limb_r), shoulder_z - 0.1)
        builder.add(f"arm-{name}", arm.rotated("y", -angle_deg), position)


def quadruped(builder: ObjectBuilder) -> None:
    """A trunk on four legs of one or two links, with a head, sometimes a tail and a payload."""
    length, w = builder.uniform(0.8, 1.6), builder.uniform(0.3, 0.6)
    h = builder.uniform(0.3, 0.9)
    trunk = builder.choice(
        box(length, w, 0.3),
        rounded_box(length, w, 0.3, 0.12),
        cylinder(0.5 * w, length).rotated("y", 90).translated(-length / 2, 0, 0.15),
    )
    builder.add("trunk", trunk.with_color(builder.body), (0, 0, h))
    knee = (builder.uniform(-0.25, 0.25), 0, -0.5 * h)
    hub = sphere(0.11).with_color(builder.accent)
    thigh = rod((0, 0, 0), knee, 0.075, 0.055).with_color(builder.trim)
    shank = rod(knee, (0, 0, -h), 0.045, 0.03).with_color(builder.dark)
    positions = corner_positions(0.8 * length, w + 0.1, h + 0.05)
    if builder.bernoulli(0.5):
        builder.add("leg", join(hub, thigh, shank), *positions)
    else:
        builder.add("thigh", join(hub, thigh), *positions)
        builder.add("shank", shank, *positions)
    size = builder.uniform(0.12, 0.25)
    head = builder.choice(
        box(1.6 * size, size, size), sphere(size), taper((2 * size, size), (size, size), size)
    )
    position = (0.5 * length + 0.5 * size, 0, h + builder.uniform(0.1, 0.4))
    builder.add("head", head.with_color(builder.accent), position)
    if builder.bernoulli(0.5):
        tail = rod((0, 0, 0), (-0.4, 0, builder.uniform(-0.2, 0.5)), 0.05, 0.02)
        builder.add("tail", tail.with_color(builder.dark), (-0.5 * length, 0, h + 0.2))
    if builder.bernoulli(0.5):
        payload = builder.choice(box(0.35, 0.3, 0.2), cylinder(0.15, 0.25))
        position = (builder.uniform(-0.3, 0.2) * length, 0, h + 0.28)
        builder.add("payload", payload.with_color(builder.trim), position)


def cart(builder: ObjectBuilder) -> None:
    """A base on four wheels that carries a fork, crates, a tank, or a handle and a sack."""
    length, w = builder.uniform(0.7, 1.6), builder.uniform(0.5, 1.0)
    h = builder.uniform(0.15, 0.4)
    r = builder.uniform(0.1, 0.22)
    base = builder.choice(box(length, w, h), rounded_box(length, w, h, 0.2))
    builder.add("base", base.with_color(builder.body), (0, 0, r))
    builder.add("wheel", wheel(builder, r, 0.1), *corner_positions(0.7 * length, w + 0.1, r))
    add_load = (_add_fork, _add_crates, _add_tank, _add_handle)[builder.integer(0, 3)]
    add_load(builder, length, w, r + h)
    if builder.bernoulli(0.5):
        light = sphere(0.06).with_color(builder.accent)
        builder.add("light", light, *[(0.5 * length, y * w, r + 0.6 * h) for y in (-0.35, 0.35)])


def _add_fork(builder: ObjectBuilder, length: float, w: float, deck_z: float) -> None:
    mast = box(0.1, 0.3 * w, builder.uniform(0.5, 1.4)).with_color(builder.trim)
    builder.add("mast", mast, (0.3 * length, 0, deck_z))
    fork = join(box(0.5, 0.08, 0.05).translated(0.25), box(0.05, 0.08, 0.3))
    positions = [(0.3 * length + 0.06, y * w, deck_z + 0.3) for y in (-0.2, 0.2)]
    builder.add("fork", fork.with_color(builder.dark), *positions)


def _add_crates(builder: ObjectBuilder, length: float, w: float, deck_z: float) -> None:
    count = builder.integer(1, 3)
    crate = box(0.8 * length / count, 0.8 * w, builder.uniform(0.2, 0.5))
    xs = evenly_spaced(0.9 * length * (1 - 1 / count), count)
    builder.add("crate", crate.with_color(builder.accent), *[(x, 0, deck_z) for x in xs])


def _add_tank(builder: ObjectBuilder, length: float, w: float, deck_z: float) -> None:
    """Add a horizontal tank and a sensor."""
    sensor = join(cylinder(0.12, 0.1), cylinder(0.09, 0.1).translated(0, 0, 0.1))
    builder.add("sensor", sensor.with_color(builder.dark), (0.25 * length, 0, deck_z))
    tank = cylinder(0.3 * w, 0.6 * length).rotated("y", 90).translated(-0.3 * length)
    builder.add("tank", tank.with_color(builder.accent), (-0.1, 0, deck_z + 0.25 * w))


def _add_handle(builder: ObjectBuilder, length: float, w: float, deck_z: float) -> None:
    """Add a push handle and a sack."""
    rail = beam((0, 0, 0), (-0.35, 0, 0.7), 0.05)
    handle = join(
        rail.translated(0, 0.35 * w),
        rail.translated(0, -0.35 * w),
        box(0.06, 0.8 * w, 0.06).translated(-0.35, 0, 0.7),
    )
    builder.add("handle", handle.with_color(builder.trim), (-0.45 * length, 0, deck_z))
    sack = sphere(0.3 * w).scaled(1.2, 1.2, 1).with_color(builder.accent)
    builder.add("sack", sack, (0.1, 0, deck_z + 0.2 * w))
