"""Which triangle is seen at each pixel: scan conversion and a depth buffer, in numpy.

All triangles go through at once: first they are cut into rows, then rows into pixels, then each
pixel keeps the nearest.

Shapes: M triangles, S side of the picture in pixels, R rows crossed by triangles (all of them
together), F pixels covered by triangles (all of them together).
"""

import numpy as np

from partloc.camera import project

DEPTH_STEPS = 2.0**36  # of 1/depth, which stays below 1/2 in front of the camera


def rasterise(triangles: np.ndarray, size: int) -> np.ndarray:
    """The nearest triangle at each pixel's centre, (size, size) int, -1 where there is none.

    triangles: (M, 3, 3), M < 2**24, corners in the camera's scene and in front of the camera by
    at least 2, as all of the unit cube is.
    """
    uv, depth = project(triangles.reshape(-1, 3))
    corners = np.concatenate([uv * size, 1 / depth[:, None]], axis=1).reshape(-1, 3, 3)
    order = np.argsort(corners[:, :, 1], axis=1)  # by height in the picture, upper first
    corners = np.take_along_axis(corners, order[:, :, None], axis=1)  # (M, 3, [x, y, 1/depth])

    owner, row = _rows(corners, size)  # (R,)
    start, stop = _spans(corners[owner], row, size)  # (R,)
    # 1/depth is linear across the picture, so one plane tells it for a whole triangle.
    slope_x, slope_y = _slopes(corners)  # (M,)
    x, y, near = corners[:, 0].T
    at_start = near[owner] + slope_x[owner] * (start + 0.5 - x[owner])
    at_start += slope_y[owner] * (row + 0.5 - y[owner])

    span, step = _expand(stop - start)  # (F,)
    # Nearness and number in one integer, so that the largest is the nearest triangle's.
    key = at_start[span]
    key += slope_x[owner][span] * step
    key *= DEPTH_STEPS
    key = key.astype(np.int64)
    key <<= 24
    key |= owner[span]
    step += (row * size + start)[span]  # the pixel
    nearest = np.full(size * size, -1, dtype=np.int64)
    np.maximum.at(nearest, step, key)
    numbers = (nearest & 0xFFFFFF).astype(np.int32)
    numbers[nearest < 0] = -1
    return numbers.reshape(size, size)


def _rows(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows whose centre line crosses a triangle, as pairs of triangle and row, (R,) each."""
    first = np.clip(np.ceil(corners[:, 0, 1] - 0.5), 0, size).astype(np.int32)
    last = np.clip(np.ceil(corners[:, 2, 1] - 0.5), 0, size).astype(np.int32)
    owner, step = _expand(last - first)
    return owner, first[owner] + step


def _spans(corners: np.ndarray, row: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels [start, stop) of a row whose centres lie in its triangle, (R,) each."""
    upper, middle, lower = corners[:, 0], corners[:, 1], corners[:, 2]
    y = row + 0.5
    through = _cross(upper, lower, y)
    above = y < middle[:, 1]
    side = _cross(
        np.where(above[:, None], upper, middle), np.where(above[:, None], middle, lower), y
    )
    start = np.ceil(np.minimum(through, side) - 0.5)
    stop = np.ceil(np.maximum(through, side) - 0.5)
    start, stop = (np.clip(edge, 0, size).astype(np.int32) for edge in (start, stop))
    return start, stop


def _cross(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x where the line from a to b reaches the height y, (R,)."""
    rise = b[:, 1] - a[:, 1]
    share = np.divide(y - a[:, 1], rise, out=np.zeros_like(y), where=rise != 0)
    return a[:, 0] + share * (b[:, 0] - a[:, 0])


def _slopes(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How 1/depth changes by pixel to the right and by pixel down, (M,) each."""
    (x1, y1, d1), (x2, y2, d2) = (
        (corners[:, 1] - corners[:, 0]).T,
        (corners[:, 2] - corners[:, 0]).T,
    )
    area = x1 * y2 - x2 * y1
    safe = np.where(np.abs(area) > 1e-9, area, np.inf)  # a sliver is level
    return (d1 * y2 - d2 * y1) / safe, (x1 * d2 - x2 * d1) / safe


def _expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[2, 0, 3] gives owners [0, 0, 2, 2, 2] and steps [0, 1, 0, 1, 2]."""
    # int32 halves the traffic of arrays as long as the picture has pixels.
    owner = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    before = (np.cumsum(counts) - counts).astype(np.int32)
    return owner, np.arange(len(owner), dtype=np.int32) - before[owner]
