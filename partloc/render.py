"""Pictures of coloured meshes through the demo's camera.

Shading is flat, so a triangle has one colour, computed here; `partloc.raster` finds the triangle
that is seen at each pixel. There is no OpenGL in it: nothing to install, nothing that a machine
without a display lacks, and the same bytes wherever it runs.

Shapes: M triangles, S side of the picture in pixels.
"""

import numpy as np

from partloc.camera import FORWARD, POSITION
from partloc.raster import rasterise

OVERSAMPLING = 2  # drawn at twice the size and averaged down
HEADLIGHT = 0.78  # strength of the light at the camera
OVERHEAD = 0.42  # strength of the light from above
OVERHEAD_DIRECTION = np.array([0.32, 0.0, 0.947])  # toward it; leaning, so a box's sides differ
CONTRAST = 0.92  # colours are pulled a little toward mid grey, so black and white keep shading


def picture(triangles: np.ndarray, colours: np.ndarray, size: int) -> np.ndarray:
    """Shaded triangles on white ground, (size, size, 3) uint8.

    triangles: (M, 3, 3), corners in the camera's scene; colours: (M, 3), 0..1, before shading.
    """
    image = np.full((size, size, 3), 255, dtype=np.uint8)
    seen = rasterise(triangles, size * OVERSAMPLING)
    window = _window(seen >= 0)  # most of a picture is ground
    if window is None:
        return image
    top, bottom, left, right = window
    step = OVERSAMPLING
    seen = seen[top * step : bottom * step, left * step : right * step]
    palette = np.concatenate([shade(triangles, colours), [[255, 255, 255]]])  # -1 is the ground
    large = palette.astype(np.uint16)[seen]
    # Sums of slices: ten times as fast as a sum over axes.
    rows = sum(large[i::step] for i in range(step))
    total = sum(rows[:, i::step] for i in range(step))
    image[top:bottom, left:right] = (total + step**2 // 2) // step**2
    return image


def shade(triangles: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Flat colours under the two lights, (M, 3) uint8; arguments as in `picture`."""
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)  # (M, 3)
    # The visible side counts, whichever way round the corners run.
    away = ((POSITION - triangles.mean(1)) * normal).sum(1, keepdims=True) < 0
    normal = np.where(away, -normal, normal)
    light = HEADLIGHT * np.abs(normal @ FORWARD)
    light += OVERHEAD * np.maximum(normal @ OVERHEAD_DIRECTION, 0)
    muted = 0.5 + CONTRAST * (colours - 0.5)
    return np.round(255 * np.clip(light[:, None] * muted, 0, 1)).astype(np.uint8)


def _window(drawn: np.ndarray) -> tuple[int, int, int, int] | None:
    """Rows [top, bottom) and columns [left, right) of the small picture that hold all drawn pixels.

    drawn: (OVERSAMPLING * S, OVERSAMPLING * S) bool. None when nothing is drawn.
    """
    rows, columns = (np.flatnonzero(drawn.any(axis)) // OVERSAMPLING for axis in (1, 0))
    return (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if len(rows) else None
