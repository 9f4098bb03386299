"""Coloured triangle meshes of simple solids, all made by one operation: lofting through loops.

Lengths are in the units of the object family (a finished model is normalised), angles in degrees.
Unless documented otherwise, a solid stands on z = 0 and is centred in x and y.

Shapes: N points, M triangles, L loops of K points each.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

DEFAULT_COLOR = (0.9, 0.9, 0.9)


@dataclass(frozen=True, eq=False)
class Mesh:
    """points (N, 3) float64; triangles (M, 3) int64; colors (M, 3) float64, 0..1."""

    points: np.ndarray
    triangles: np.ndarray
    colors: np.ndarray

    def translated(self, x: float = 0, y: float = 0, z: float = 0) -> "Mesh":
        """Return a translated copy."""
        return Mesh(self.points + np.array([x, y, z], float), self.triangles, self.colors)

    def scaled(self, x: float, y: float, z: float) -> "Mesh":
        """Return a copy scaled about the origin; negative factors mirror it."""
        return Mesh(self.points * np.array([x, y, z], float), self.triangles, self.colors)

    def rotated(self, axis: str, angle_deg: float) -> "Mesh":
        """Return a copy rotated about a coordinate axis, by the right-hand rule."""
        return Mesh(self.points @ rotation_matrix(axis, angle_deg).T, self.triangles, self.colors)

    def with_color(self, color: tuple[float, ...]) -> "Mesh":
        """Return a copy whose triangles all have one colour."""
        colors = np.broadcast_to(np.array(color, float), self.colors.shape)
        return Mesh(self.points, self.triangles, colors)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the minimum and the maximum corner of the bounding box, (3,) each."""
        return self.points.min(0), self.points.max(0)


def rotation_matrix(axis: str, angle_deg: float) -> np.ndarray:
    """Rotation matrix (3, 3); exact for right angles, so a rotated box stays axis-aligned."""
    cos, sin = (math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg)))
    if angle_deg % 90 == 0:
        cos, sin = round(cos), round(sin)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, -sin, sin, cos
    return matrix


def join(*meshes: Mesh) -> Mesh:
    """Concatenate meshes into one; intersections are not resolved."""
    offsets = np.cumsum([0] + [len(mesh.points) for mesh in meshes])
    return Mesh(
        np.concatenate([mesh.points for mesh in meshes]),
        np.concatenate([m.triangles + n for m, n in zip(meshes, offsets, strict=False)]),
        np.concatenate([mesh.colors for mesh in meshes]),
    )


def loft(loops: ArrayLike, closed: bool = False) -> Mesh:
    """Surface through consecutive loops (L, K, 3).

    When `closed`, the last loop is connected to the first. Otherwise both ends are capped by
    triangle fans around the mean of the loop, from which the whole loop must be visible.
    """
    loops = np.asarray(loops, float)
    count, size, _ = loops.shape
    grid = np.arange(count * size).reshape(count, size)
    if closed:
        grid = np.concatenate([grid, grid[:1]])
    a, b = grid[:-1], grid[1:]
    c, d = np.roll(b, -1, axis=1), np.roll(a, -1, axis=1)
    faces = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    points = loops.reshape(-1, 3)
    if not closed:
        for loop, center in ((grid[0], count * size), (grid[-1], count * size + 1)):
            faces.append(np.stack([loop, np.roll(loop, -1), np.full(size, center)], -1))
        points = np.concatenate([points, loops[[0, -1]].mean(1)])
    triangles = np.concatenate(faces)
    return Mesh(points, triangles, np.tile(np.array(DEFAULT_COLOR), (len(triangles), 1)))


def prism(outline: ArrayLike, height: float) -> Mesh:
    """Extrude an outline (K, 2) in the xy plane up to `height`."""
    outline = np.asarray(outline, float)
    return loft([_at_height(outline, 0.0), _at_height(outline, height)])


def box(width: float, depth: float, height: float) -> Mesh:
    """Box with `width` along x and `depth` along y."""
    return prism(_rectangle(width, depth), height)


def taper(bottom: tuple[float, float], top: tuple[float, float], height: float, shift=0.0) -> Mesh:
    """Box whose bottom and top differ, (width, depth) each; `shift` moves the top along x."""
    upper = _rectangle(*top) + np.array([shift, 0.0])
    return loft([_at_height(_rectangle(*bottom), 0.0), _at_height(upper, height)])


def rounded_box(width: float, depth: float, height: float, radius: float) -> Mesh:
    """Box with rounded vertical edges."""
    radius = min(radius, 0.499 * width, 0.499 * depth)
    angles = np.radians(np.arange(0, 360, 90)[:, None] + np.linspace(0, 90, 5)[None]).ravel()
    corner = np.repeat([[1, 1], [-1, 1], [-1, -1], [1, -1]], 5, axis=0)
    center = corner * (np.array([width, depth]) / 2 - radius)
    arc = radius * np.stack([np.cos(angles), np.sin(angles)], -1)
    return prism(center + arc, height)


def lathe(profile: list[tuple[float, float]], sides: int = 24, closed: bool = False) -> Mesh:
    """Surface of revolution about z; profile: pairs of (radius, z)."""
    unit_circle = circle(1.0, sides)  # (K, 2)
    loops = [_at_height(unit_circle * max(radius, 1e-6), z) for radius, z in profile]
    return loft(loops, closed=closed)


def cylinder(radius: float, height: float, top: float | None = None, sides: int = 24) -> Mesh:
    """Cylinder, or a frustum with the upper radius `top`."""
    return lathe([(radius, 0), (radius if top is None else top, height)], sides)


def tube(outer: float, inner: float, height: float, sides: int = 28) -> Mesh:
    """Hollow cylinder with an outer and an inner radius."""
    profile = [(inner, 0), (outer, 0), (outer, height), (inner, height)]
    return lathe(profile, sides, closed=True)


def sphere(radius: float, start_deg: float = -90.0, end_deg: float = 90.0, sides: int = 20) -> Mesh:
    """Sphere centred at the origin, or its part between two latitudes, capped."""
    steps = max(3, round((end_deg - start_deg) / 18))
    angles = np.radians(np.linspace(start_deg, end_deg, steps + 1))
    return lathe([(radius * math.cos(a), radius * math.sin(a)) for a in angles], sides)


def torus(radius: float, thickness: float, sides: int = 28) -> Mesh:
    """Torus around z, centred at the origin; `thickness` is the radius of the tube."""
    angles = np.linspace(0, 2 * math.pi, 10, endpoint=False)
    profile = [(radius + thickness * math.cos(a), thickness * math.sin(a)) for a in angles]
    return lathe(profile, sides, closed=True)


def gear(radius: float, teeth: int, height: float, hole: float = 0.0, tooth: float = 0.15) -> Mesh:
    """Spur gear; `tooth` (tooth height) and `hole` (bore radius) are fractions of the radius."""
    angles = (np.arange(4 * teeth) + np.tile([0.1, 0.3, -0.3, -0.1], teeth)) / (4 * teeth)
    length = np.tile([1 - tooth, 1.0, 1.0, 1 - tooth], teeth) * radius
    unit_circle = np.stack([np.cos(2 * math.pi * angles), np.sin(2 * math.pi * angles)], -1)
    outer = unit_circle * length[:, None]
    if not hole:
        return prism(outer, height)
    inner = unit_circle * hole * radius
    loops = [(inner, 0), (outer, 0), (outer, height), (inner, height)]
    return loft([_at_height(outline, z) for outline, z in loops], closed=True)


def rod(start: ArrayLike, end: ArrayLike, radius: float, top=None, sides: int = 14) -> Mesh:
    """Cylinder between two points, or a frustum with the end radius `top`."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    return _sweep(np.stack([start, end]), [radius, radius if top is None else top], sides)


def pipe(path: ArrayLike, radius: float, sides: int = 10) -> Mesh:
    """Round tube along a path (L, 3) without sharp bends."""
    path = np.asarray(path, float)
    return _sweep(path, [radius] * len(path), sides)


def beam(start: ArrayLike, end: ArrayLike, width: float, top: float | None = None) -> Mesh:
    """Square bar between two points, `width` thick, tapering to `top`."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    radii = [width / math.sqrt(2), (width if top is None else top) / math.sqrt(2)]
    return _sweep(np.stack([start, end]), radii, 4, 45.0)


def circle(radius: float, sides: int, start_deg: float = 0.0) -> np.ndarray:
    """Evenly spaced points on a circle, (sides, 2)."""
    angles = np.radians(start_deg + np.arange(sides) * 360 / sides)
    return radius * np.stack([np.cos(angles), np.sin(angles)], -1)


def _sweep(path: np.ndarray, radii: list[float], sides: int, start_deg: float = 0.0) -> Mesh:
    """Loft regular polygons perpendicular to a path (L, 3)."""
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    # A single reference direction for the whole path keeps the loops from twisting.
    reference = np.eye(3)[np.argmin(np.abs(tangents).max(0))]
    unit_circle = circle(1.0, sides, start_deg)
    loops = []
    for point, tangent, radius in zip(path, tangents, radii, strict=True):
        side = np.cross(reference, tangent)
        side /= np.linalg.norm(side)
        up = np.cross(tangent, side)
        loops.append(point + radius * (unit_circle[:, :1] * side + unit_circle[:, 1:] * up))
    return loft(loops)


def _rectangle(width: float, depth: float) -> np.ndarray:
    return np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * np.array([width, depth]) / 2


def _at_height(outline: np.ndarray, z: float) -> np.ndarray:
    """Lift an outline (K, 2) to the height z, (K, 3)."""
    return np.concatenate([outline, np.full((len(outline), 1), z)], axis=1)
