"""Cranes, excavators and bridges. The front faces +x.

Lengths are in arbitrary units; proportions are random.
"""

import numpy as np

from partloc.synthetic.builder import ObjectBuilder, corner_positions, evenly_spaced
from partloc.synthetic.mesh import (
    Mesh,
    beam,
    box,
    cylinder,
    join,
    loft,
    prism,
    rod,
    rounded_box,
    sphere,
    taper,
)


def crane(builder: ObjectBuilder) -> None:
    """A tower crane: equal mast sections, a jib, a counter-jib with equal weights."""
    sections, section_h = builder.integer(2, 4), builder.uniform(0.3, 0.7)
    w, bar = builder.uniform(0.12, 0.24), builder.uniform(0.018, 0.03)
    builder.rotations_deg = (0, 45, 90, 180, 270, 315)
    base = builder.choice(
        box(3 * w, 3 * w, 0.12),
        join(box(4 * w, 0.3 * w, 0.1), box(0.3 * w, 4 * w, 0.1), box(1.2 * w, 1.2 * w, 0.1)),
        taper((3.4 * w, 3.4 * w), (1.3 * w, 1.3 * w), 0.15),
    )
    base_h = base.bounds()[1][2]
    builder.add("base", base.with_color(builder.dark))
    section = _lattice(section_h, w, bar, max(1, round(section_h / w))).with_color(builder.body)
    builder.add("section", section, *[(0, 0, base_h + i * section_h) for i in range(sections)])
    top = base_h + sections * section_h
    builder.add("turntable", cylinder(0.75 * w, 0.06).with_color(builder.dark), (0, 0, top))
    cab_w = builder.uniform(0.8, 1.3) * w
    cab = _cab(builder, 1.2 * cab_w, cab_w, 1.3 * cab_w)
    side = builder.choice(-1, 1)
    builder.add("cab", cab, (0.3 * w, side * (0.6 * w + cab_w / 2), top + 0.05))
    _add_jibs(builder, w, bar, top + 0.06)


def _add_jibs(builder: ObjectBuilder, w: float, bar: float, z: float) -> None:
    """Add what turns above the mast, whose width is w, from the height z."""
    jib_w = 0.8 * w
    jib_l, counter_l = builder.uniform(0.9, 2.2), builder.uniform(0.45, 0.8)
    panels = max(3, round(jib_l / jib_w / 1.3))
    jib = _lattice(jib_l, jib_w, bar, panels).rotated("y", 90).translated(0.4 * w, 0, jib_w / 2)
    builder.add("jib", jib.with_color(builder.body), (0, 0, z))
    rails = [box(counter_l, bar * 1.5, 0.5 * jib_w).translated(0, y * jib_w / 2) for y in (-1, 1)]
    floor = box(counter_l, jib_w, bar)
    counter_jib = join(floor, *rails).translated(-0.5 * counter_l + 0.4 * w)
    builder.add("counter-jib", counter_jib.with_color(builder.body), (0, 0, z))
    end = 0.4 * w - counter_l
    weights, size = builder.integer(1, 3), builder.uniform(0.07, 0.11)
    weight = box(0.8 * size, 1.1 * w, builder.uniform(0.2, 0.35)).with_color(builder.trim)
    xs = [end + size * (i + 0.5) for i in range(weights)]
    builder.add("weight", weight, *[(x, 0, z - 0.1) for x in xs])
    drum = cylinder(0.4 * jib_w, 0.8 * jib_w).translated(0, 0, -0.4 * jib_w).rotated("x", 90)
    drum_position = (end + size * weights + 0.5 * jib_w, 0, z + 0.4 * jib_w + bar)
    builder.add("winch", drum.with_color(builder.dark), drum_position)
    if builder.bernoulli(0.6):
        apex_h = builder.uniform(0.25, 0.55)
        feet = corner_positions(w, w)
        mast = join(*[beam(foot, (0, 0, apex_h), bar) for foot in feet], box(w, w, bar))
        builder.add("apex", mast.with_color(builder.body), (0, 0, z))
        for name, reach in (("tie", 0.7 * jib_l), ("stay", end + 0.05)):
            cable = rod((0, 0, apex_h), (reach, 0, 0.6 * jib_w), 0.4 * bar, sides=8)
            builder.add(name, cable.with_color(builder.dark), (0, 0, z))
    x, drop = builder.uniform(0.35, 0.95) * jib_l, builder.uniform(0.15, 0.6)
    trolley = box(0.16, 1.2 * jib_w, 0.05).translated(0, 0, -0.05)
    cable = rod((0, 0, -drop), (0, 0, -0.03), 0.4 * bar).with_color(builder.dark)
    hook = join(box(0.07, 0.03, 0.08), sphere(0.04)).translated(0, 0, -drop)
    hoist = join(trolley.with_color(builder.trim), cable, hook.with_color(builder.accent))
    builder.add("hoist", hoist, (x, 0, z))


def _lattice(length: float, width: float, bar: float, panels: int) -> Mesh:
    """A square mast along z: four chords, and a diagonal per panel on each side."""
    chords = [box(bar, bar, length).translated(x, y) for x, y, _ in corner_positions(width, width)]
    step = length / panels
    braces = []
    for i in range(panels):
        ends = (-1, 1) if i % 2 else (1, -1)
        low, high = (np.array([e * width / 2, width / 2, i * step]) for e in ends)
        high = high + [0, 0, step]
        brace = beam(low, high, 0.6 * bar)
        braces += [brace.rotated("z", angle) for angle in (0, 90, 180, 270)]
    return join(*chords, *braces)


def _cab(builder: ObjectBuilder, d: float, w: float, h: float) -> Mesh:
    """A driver's cab with windows on all sides."""
    panes = [
        box(1.01 * d, 0.8 * w, 0.4 * h).translated(0, 0, 0.5 * h),
        box(0.8 * d, 1.01 * w, 0.4 * h).translated(0, 0, 0.5 * h),
    ]
    walls = taper((d, w), (0.9 * d, 0.95 * w), h)
    return join(walls.with_color(builder.accent), join(*panes).with_color(builder.dark))


def excavator(builder: ObjectBuilder) -> None:
    """An undercarriage with two equal tracks, a house with an engine, and a jointed arm."""
    length, w = builder.uniform(1.2, 2.0), builder.uniform(0.9, 1.4)
    track_h, track_w = builder.uniform(0.22, 0.42), builder.uniform(0.18, 0.32)
    builder.rotations_deg = (0, 45, 90, 315)
    track = _track(builder, length, track_w, track_h)
    builder.add("track", track, *[(0, y * (w - track_w) / 2, 0) for y in (-1, 1)])
    frame = join(
        box(0.6 * length, w - 1.5 * track_w, 0.5 * track_h),
        cylinder(0.28 * w, 0.4 * track_h + 0.1).translated(0, 0, 0.5 * track_h),
    )
    builder.add("undercarriage", frame.with_color(builder.dark), (0, 0, 0.3 * track_h))
    z = 1.2 * track_h + 0.1
    d = builder.uniform(0.8, 1.1) * length
    x = 0.5 * length - 0.5 * d - builder.uniform(0.0, 0.2)
    builder.add("platform", rounded_box(d, 0.95 * w, 0.08, 0.1).with_color(builder.body), (x, 0, z))
    z += 0.08
    cab_d, cab_h = builder.uniform(0.4, 0.5) * d, builder.uniform(0.55, 0.85)
    side = builder.choice(-1, 1)
    cab_position = (x + 0.48 * d - cab_d / 2, side * 0.27 * w, z)
    builder.add("cab", _cab(builder, cab_d, 0.38 * w, cab_h), cab_position)
    _add_engine(builder, (x, z), d, w)
    _add_arm(builder, np.array([x + 0.38 * d, -side * 0.12 * w, z]))


def _track(builder: ObjectBuilder, length: float, width: float, height: float) -> Mesh:
    """A belt around rollers, standing on z = 0."""

    def stadium(radius: float) -> np.ndarray:
        angles = np.radians(np.linspace(-90, 90, 9))
        right = np.stack([np.cos(angles), np.sin(angles)], -1) * radius
        right += [(length - height) / 2, height / 2]
        outline = np.concatenate([right, right[::-1] * [-1, 1]])
        return outline

    outer, inner = stadium(height / 2), stadium(0.38 * height)
    loops = [
        np.stack([o[:, 0], np.full(len(o), y * width / 2), o[:, 1]], -1)
        for o, y in ((inner, -1), (outer, -1), (outer, 1), (inner, 1))
    ]
    belt = loft(loops, closed=True).with_color(builder.dark)
    rollers = builder.integer(3, 6)
    roller = cylinder(0.36 * height, 0.9 * width, sides=16)
    roller = roller.translated(0, 0, -0.45 * width).rotated("x", 90).translated(0, 0, height / 2)
    xs = evenly_spaced(length - height, rollers)
    return join(belt, *[roller.with_color(builder.trim).translated(x) for x in xs])


def _add_engine(builder: ObjectBuilder, base: tuple[float, float], d: float, w: float) -> None:
    """Add a counterweight and an engine inside a hood that is open at its sides.

    base: (x, z) of the centre of the platform's upper side.
    """
    x, z = base
    h = builder.uniform(0.3, 0.5)
    hood_d = builder.uniform(0.28, 0.36) * d
    center = x - 0.3 * d + 0.05
    walls = [box(0.03, 0.9 * w, h).translated(sign * hood_d / 2) for sign in (-1, 1)]
    slats = [box(hood_d, 0.02, 0.05 * h).translated(0, 0.44 * w, s * h) for s in (0.2, 0.5, 0.8)]
    slats += [slat.translated(0, -0.88 * w) for slat in slats]
    roof = box(1.1 * hood_d, 0.92 * w, 0.04).translated(0, 0, h)
    builder.add("hood", join(*walls, *slats, roof).with_color(builder.body), (center, 0, z))
    block = box(0.7 * hood_d, 0.7 * w, 0.5 * h)
    heads = [
        cylinder(0.22 * hood_d, 0.25 * h).translated(0, y, 0.5 * h)
        for y in evenly_spaced(0.5 * w, 3)
    ]
    builder.add("engine", join(block, *heads).with_color(builder.accent), (center, 0, z))
    weight = taper((0.16 * d, 0.98 * w), (0.1 * d, 0.9 * w), 0.8 * h)
    weight = weight.with_color(builder.choice(builder.dark, builder.body))
    builder.add("counterweight", weight, (x - 0.5 * d - 0.02, 0, z - 0.08))


def _add_arm(builder: ObjectBuilder, foot: np.ndarray) -> None:
    """Add boom, stick and bucket from a joint on the platform, moved by hydraulic cylinders."""
    thickness = builder.uniform(0.09, 0.15)
    knee = np.array([builder.uniform(0.3, 0.5), 0, builder.uniform(0.6, 1.0)])
    elbow = knee + [builder.uniform(0.3, 0.8), 0, builder.uniform(-0.1, 0.3)]
    boom = join(
        beam((0, 0, 0), knee, thickness, 1.3 * thickness),
        beam(knee - 0.03 * (elbow - knee), elbow, 1.3 * thickness, 0.8 * thickness),
    )
    builder.add("boom", boom.with_color(builder.body), foot)
    drop = builder.uniform(0.6, 1.0)
    tip = elbow + [builder.uniform(-0.15, 0.35), 0, -drop]
    back = elbow - 0.2 * (tip - elbow)
    stick = beam(back, tip, thickness, 0.6 * thickness)
    builder.add("stick", stick.with_color(builder.choice(builder.body, builder.trim)), foot)
    size, width = builder.uniform(0.22, 0.4), builder.uniform(0.25, 0.5)
    profile = np.array(
        [(0.1, 0.15), (-0.35, 0), (-0.9, -0.1), (-0.75, -0.7), (-0.3, -1), (0.15, -0.6)]
    )
    bucket = prism(size * profile, width).rotated("x", 90).translated(0, width / 2)
    teeth = [
        beam(
            (-0.85 * size, y, -0.05 * size),
            (-1.15 * size, y, 0.05 * size),
            0.16 * size,
            0.05 * size,
        )
        for y in evenly_spaced(0.8 * width, 4)
    ]
    builder.add("bucket", join(bucket, *teeth).with_color(builder.dark), foot + tip)
    start, end = np.array([0.22, 0, 0.02]), 0.75 * knee
    ram = join(
        rod(start, 0.5 * (start + end), 0.04).with_color(builder.dark),
        rod(start, end, 0.022).with_color(builder.trim),
    )
    ys = [sign * (0.6 * thickness + 0.04) for sign in (-1, 1)]
    builder.add("ram", ram, *[foot + [0, y, 0] for y in ys])


def bridge(builder: ObjectBuilder) -> None:
    """A truss bridge along x: a deck between two equal trusses, on equal piers."""
    panels, panel_l = builder.integer(3, 7), builder.uniform(0.3, 0.5)
    w, h = builder.uniform(0.35, 0.8), builder.uniform(0.3, 0.7)
    bar, pier_h = builder.uniform(0.025, 0.05), builder.uniform(0.2, 0.8)
    length = panels * panel_l
    builder.rotations_deg = (0, 30, 60, 90)
    z = pier_h + 0.05
    if panels <= 3:
        panel = _truss_panel(builder, panel_l, h, bar).with_color(builder.body)
        xs = evenly_spaced(length - panel_l, panels)
        builder.add("panel", panel, *[(x, y * w / 2, z) for y in (-1, 1) for x in xs])
    else:
        truss = _truss(builder, panels, panel_l, h, bar).with_color(builder.body)
        builder.add("truss", truss, *[(0, y * w / 2, z) for y in (-1, 1)])
    deck = join(
        box(1.04 * length, w - bar, 0.05).with_color(builder.trim),
        box(1.04 * length, 0.7 * w, 0.01).translated(0, 0, 0.05).with_color(builder.dark),
    )
    builder.add("deck", deck, (0, 0, z - 0.03))
    braces = builder.integer(1, 3)
    brace = join(
        box(bar, w, bar),
        *[beam((0, s * w / 2, 0), (0.3, -s * w / 2, 0), 0.6 * bar) for s in (-1, 1)],
    ).translated(-0.15)
    xs = evenly_spaced(length - 4 * panel_l + 0.1, braces) if panels > 3 else [0.0]
    builder.add("brace", brace.with_color(builder.body), *[(x, 0, z + h - bar) for x in xs])
    _add_piers(builder, length, w, pier_h)


def _truss_panel(builder: ObjectBuilder, length: float, height: float, bar: float) -> Mesh:
    """A rectangle with crossed or single diagonals, of the size length x height."""
    chords = [box(length, bar, bar).translated(0, 0, z) for z in (0, height - bar)]
    posts = [box(bar, bar, height).translated(sign * (length - bar) / 2) for sign in (-1, 1)]
    slopes = builder.choice((-1, 1), (1,))
    diagonals = [
        beam((-s * length / 2, 0, bar / 2), (s * length / 2, 0, height - bar / 2), 0.7 * bar)
        for s in slopes
    ]
    return join(*chords, *posts, *diagonals)


def _truss(builder: ObjectBuilder, panels: int, panel_l: float, height: float, bar: float) -> Mesh:
    """A truss whose upper chord is level or an arch, and whose diagonals meet in the middle."""
    xs = np.linspace(-panels / 2, panels / 2, panels + 1) * panel_l
    curvature = builder.choice(0.0, 0.0, 0.6)
    heights = height * (1 - curvature * (2 * xs / (panels * panel_l)) ** 2)
    heights[[0, -1]] = bar / 2  # the end posts are inclined
    lower, upper = (np.stack([xs, 0 * xs, z], -1) for z in (0 * xs + bar / 2, heights - bar / 2))
    upper[[0, -1]] = lower[[0, -1]]
    members = [box(panels * panel_l, bar, bar)]
    members += [beam(a, b, bar) for a, b in zip(upper[:-1], upper[1:], strict=True)]
    members += [beam(lower[i], upper[i], 0.8 * bar) for i in range(1, panels)]
    for i in range(1, panels - 1):
        a, b = (i, i + 1) if xs[i] + xs[i + 1] > -1e-6 else (i + 1, i)
        members.append(beam(lower[a], upper[b], 0.7 * bar))
    return join(*members)


def _add_piers(builder: ObjectBuilder, length: float, w: float, pier_h: float) -> None:
    """Add equal piers, and sometimes bearings between them and the deck."""
    piers = builder.integer(2, 3)
    style = builder.integer(0, 2)
    if style == 0:
        pier = taper((0.3, 1.2 * w), (0.16, w), pier_h - 0.04)
    elif style == 1:
        columns = [cylinder(0.07, pier_h - 0.1).translated(0, y * 0.4 * w) for y in (-1, 1)]
        pier = join(*columns, box(0.16, 1.1 * w, 0.06).translated(0, 0, pier_h - 0.1))
    else:
        pier = rounded_box(0.2, 1.1 * w, pier_h - 0.04, 0.1)
    xs = evenly_spaced(0.94 * length, piers)
    builder.add("pier", pier.with_color(builder.trim), *[(x, 0, 0) for x in xs])
    bearing = cylinder(0.06, 0.07, sides=12)
    pair = join(*[bearing.translated(0, y * 0.4 * w) for y in (-1, 1)]).with_color(builder.dark)
    builder.add("bearing", pair, *[(x, 0, pier_h - 0.045) for x in xs])
