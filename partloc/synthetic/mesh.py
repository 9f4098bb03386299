"""Simple solids as coloured triangle meshes, all made by one operation: lofting through loops.

Lengths are in the family's own units (a model is normalised at the end), angles in degrees.
Unless told otherwise a solid stands on z = 0 and is centred in x and y.

Shapes: N points, M triangles, L loops of K points each.
"""

import math
from dataclasses import dataclass

import numpy as np

GREY = (0.9, 0.9, 0.9)


@dataclass(frozen=True, eq=False)
class Mesh:
    """points (N, 3) float64; triangles (M, 3) int64; colours (M, 3) float64, 0..1."""

    points: np.ndarray
    triangles: np.ndarray
    colours: np.ndarray

    def moved(self, x: float = 0, y: float = 0, z: float = 0) -> "Mesh":
        return Mesh(self.points + np.array([x, y, z], float), self.triangles, self.colours)

    def scaled(self, x: float, y: float, z: float) -> "Mesh":
        return Mesh(self.points * np.array([x, y, z], float), self.triangles, self.colours)

    def turned(self, axis: str, angle_deg: float) -> "Mesh":
        """Turned about a coordinate axis through the origin, by the right-hand rule."""
        return Mesh(self.points @ rotation(axis, angle_deg).T, self.triangles, self.colours)

    def painted(self, colour: tuple[float, float, float]) -> "Mesh":
        colours = np.broadcast_to(np.array(colour, float), self.colours.shape)
        return Mesh(self.points, self.triangles, colours)

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest corner, (3,) each."""
        return self.points.min(0), self.points.max(0)


def rotation(axis: str, angle_deg: float) -> np.ndarray:
    """(3, 3). Right angles are exact, so that a turned box stays a box to the last bit."""
    cos, sin = (math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg)))
    if angle_deg % 90 == 0:
        cos, sin = round(cos), round(sin)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, -sin, sin, cos
    return matrix


def join(*meshes: Mesh) -> Mesh:
    counts = np.cumsum([0] + [len(mesh.points) for mesh in meshes])
    return Mesh(
        np.concatenate([mesh.points for mesh in meshes]),
        np.concatenate([m.triangles + n for m, n in zip(meshes, counts, strict=False)]),
        np.concatenate([mesh.colours for mesh in meshes]),
    )


def loft(loops: np.ndarray, closed: bool = False, capped: bool = True) -> Mesh:
    """A skin through loops (L, K, 3); the ends are capped by fans, or joined when `closed`.

    A cap's fan starts at the mean of its loop, which must see the whole loop.
    """
    loops = np.asarray(loops, float)
    count, size, _ = loops.shape
    grid = np.arange(count * size).reshape(count, size)
    if closed:
        grid = np.concatenate([grid, grid[:1]])
    a, b = grid[:-1], grid[1:]
    c, d = np.roll(b, -1, axis=1), np.roll(a, -1, axis=1)
    triangles = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    points = loops.reshape(-1, 3)
    if capped and not closed:
        for loop, hub in ((grid[0], count * size), (grid[-1], count * size + 1)):
            fan = np.stack([loop, np.roll(loop, -1), np.full(size, hub)], -1)
            triangles.append(fan)
        points = np.concatenate([points, loops[[0, -1]].mean(1)])
    triangles = np.concatenate(triangles)
    return Mesh(points, triangles, np.tile(np.array(GREY), (len(triangles), 1)))


def prism(outline: np.ndarray, height: float) -> Mesh:
    """An outline (K, 2) in the xy plane, pulled up to `height`."""
    outline = np.asarray(outline, float)
    return loft([_at(outline, 0.0), _at(outline, height)])


def box(width: float, depth: float, height: float) -> Mesh:
    return prism(_rectangle(width, depth), height)


def taper(bottom: tuple[float, float], top: tuple[float, float], height: float, shift=0.0) -> Mesh:
    """A box whose top differs from its bottom, (width, depth) each; `shift` moves the top in x."""
    upper = _rectangle(*top) + np.array([shift, 0.0])
    return loft([_at(_rectangle(*bottom), 0.0), _at(upper, height)])


def rounded_box(width: float, depth: float, height: float, radius: float) -> Mesh:
    """A box with upright edges rounded."""
    radius = min(radius, 0.499 * width, 0.499 * depth)
    angles = np.radians(np.arange(0, 360, 90)[:, None] + np.linspace(0, 90, 5)[None]).ravel()
    corner = np.repeat([[1, 1], [-1, 1], [-1, -1], [1, -1]], 5, axis=0)
    centre = corner * (np.array([width, depth]) / 2 - radius)
    arc = radius * np.stack([np.cos(angles), np.sin(angles)], -1)
    return prism(centre + arc, height)


def lathe(profile: list[tuple[float, float]], sides: int = 24, closed: bool = False) -> Mesh:
    """A profile of (radius, z) turned about z."""
    turn = circle(1.0, sides)  # (K, 2)
    loops = [_at(turn * max(radius, 1e-6), z) for radius, z in profile]
    return loft(loops, closed=closed)


def cylinder(radius: float, height: float, top: float | None = None, sides: int = 24) -> Mesh:
    """A cylinder, or a cone or frustum when `top`, the upper radius, differs."""
    return lathe([(radius, 0), (radius if top is None else top, height)], sides)


def tube(outer: float, inner: float, height: float, sides: int = 28) -> Mesh:
    profile = [(inner, 0), (outer, 0), (outer, height), (inner, height)]
    return lathe(profile, sides, closed=True)


def dome(radius: float, start_deg: float = -90.0, end_deg: float = 90.0, sides: int = 20) -> Mesh:
    """The part of a ball, centred at the origin, between two latitudes; all of it by default."""
    steps = max(3, round((end_deg - start_deg) / 18))
    angles = np.radians(np.linspace(start_deg, end_deg, steps + 1))
    return lathe([(radius * math.cos(a), radius * math.sin(a)) for a in angles], sides)


def torus(radius: float, thickness: float, sides: int = 28) -> Mesh:
    """A ring centred at the origin, lying level; `thickness` is the radius of the rod."""
    angles = np.linspace(0, 2 * math.pi, 10, endpoint=False)
    profile = [(radius + thickness * math.cos(a), thickness * math.sin(a)) for a in angles]
    return lathe(profile, sides, closed=True)


def gear(radius: float, teeth: int, height: float, hole: float = 0.0, tooth: float = 0.15) -> Mesh:
    """A spur gear; `tooth` is the height of a tooth and `hole` the bore, parts of the radius."""
    angles = (np.arange(4 * teeth) + np.tile([0.1, 0.3, -0.3, -0.1], teeth)) / (4 * teeth)
    length = np.tile([1 - tooth, 1.0, 1.0, 1 - tooth], teeth) * radius
    turn = np.stack([np.cos(2 * math.pi * angles), np.sin(2 * math.pi * angles)], -1)
    outer = turn * length[:, None]
    if not hole:
        return prism(outer, height)
    inner = turn * hole * radius
    loops = [_at(inner, 0), _at(outer, 0), _at(outer, height), _at(inner, height)]
    return loft(loops, closed=True)


def rod(start: np.ndarray, end: np.ndarray, radius: float, top=None, sides: int = 14) -> Mesh:
    """A cylinder, or frustum, from one point to another."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    return _sweep(np.stack([start, end]), [radius, radius if top is None else top], sides)


def pipe(path: np.ndarray, radius: float, sides: int = 10) -> Mesh:
    """A round tube along a path (L, 3) without sharp turns back."""
    path = np.asarray(path, float)
    return _sweep(path, [radius] * len(path), sides)


def beam(start: np.ndarray, end: np.ndarray, width: float, top: float | None = None) -> Mesh:
    """A square bar from one point to another, `width` thick, or tapering to `top`."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    radii = [width / math.sqrt(2), (width if top is None else top) / math.sqrt(2)]
    return _sweep(np.stack([start, end]), radii, 4, 45.0)


def circle(radius: float, sides: int, start_deg: float = 0.0) -> np.ndarray:
    """(sides, 2)"""
    angles = np.radians(start_deg + np.arange(sides) * 360 / sides)
    return radius * np.stack([np.cos(angles), np.sin(angles)], -1)


def _sweep(path: np.ndarray, radii: list[float], sides: int, start_deg: float = 0.0) -> Mesh:
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    # One reference for the whole path keeps the loops from twisting against each other.
    reference = np.eye(3)[np.argmin(np.abs(ahead).max(0))]
    turn = circle(1.0, sides, start_deg)
    loops = []
    for point, direction, radius in zip(path, ahead, radii, strict=True):
        side = np.cross(reference, direction)
        side /= np.linalg.norm(side)
        up = np.cross(direction, side)
        loops.append(point + radius * (turn[:, :1] * side + turn[:, 1:] * up))
    return loft(loops)


def _rectangle(width: float, depth: float) -> np.ndarray:
    return np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * np.array([width, depth]) / 2


def _at(outline: np.ndarray, z: float) -> np.ndarray:
    return np.concatenate([outline, np.full((len(outline), 1), z)], axis=1)
