"""Pictures of coloured meshes through the demo's camera, off screen.

Shading is flat, so a triangle has one colour, computed here. What is left is which triangle is
seen at each pixel: VTK draws the triangles' numbers as colours, without light and without
anti-aliasing, in a window that a process opens once.

Shapes: M triangles, S side of the picture in pixels, P pixels that show something.
"""

import subprocess
import sys
from functools import cache
from multiprocessing import parent_process

import numpy as np
import pyvista

from partloc.synthetic.camera import (
    DISTANCE,
    DOWN,
    FORWARD,
    HALF_WIDTH,
    POSITION,
    RIGHT,
    VIEW_ANGLE_DEG,
)

OVERSAMPLING = 2  # drawn at twice the size and averaged down
HEADLIGHT = 0.78  # strength of the light at the camera
OVERHEAD = 0.42  # strength of the light from above
OVERHEAD_DIRECTION = np.array([0.32, 0.0, 0.947])  # toward it; leaning, so a box's sides differ
CONTRAST = 0.92  # colours are pulled a little toward mid grey, so black and white keep shading
OPEN_A_WINDOW = "import pyvista; pyvista.Plotter(off_screen=True).show()"
PATIENCE_S = 120  # for a child that opens a window, which takes one or two on a warm disk


class RenderError(OSError):
    """This machine lacks what drawing needs."""


def picture(triangles: np.ndarray, colours: np.ndarray, size: int) -> np.ndarray:
    """Shaded triangles on white ground, (size, size, 3) uint8.

    triangles: (M, 3, 3), corners in the camera's scene; colours: (M, 3), 0..1, before shading.

    Raises: RenderError as `require_opengl`.
    """
    image = np.full((size, size, 3), 255, dtype=np.uint8)
    seen = seen_triangles(triangles, size * OVERSAMPLING)
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


def seen_triangles(triangles: np.ndarray, size: int) -> np.ndarray:
    """The number of the triangle seen at each pixel's centre, (size, size) int, -1 on the ground.

    triangles: (M, 3, 3), M < 2**24 - 1, corners in the camera's scene.

    Raises: RenderError as `require_opengl`.
    """
    if len(triangles) == 0:  # pyvista refuses an empty mesh
        return np.full((size, size), -1, dtype=np.int32)
    plotter = _plotter()
    # One actor for all pictures: adding one costs more than drawing it.
    plotter.mapper.dataset = _numbered(triangles)
    if plotter.window_size != [size, size]:
        plotter.window_size = [size, size]  # it draws, too
    else:
        plotter.render()
    image = plotter.image.astype(np.int32)  # (size, size, 3)
    return image[..., 0] + (image[..., 1] << 8) + (image[..., 2] << 16) - 1


def depth_map(triangles: np.ndarray, size: int) -> np.ndarray:
    """How far behind the origin each pixel's centre sees a surface, along the view, model units.

    (size, size) float32, NaN on the ground; triangles as in `seen_triangles`.

    Raises: RenderError as `require_opengl`.
    """
    seen = seen_triangles(triangles, size)
    drawn = seen >= 0
    corner, *others = triangles[seen[drawn]].transpose(1, 0, 2) - POSITION  # (P, 3) each
    normal = np.cross(others[0] - corner, others[1] - corner)
    across = (np.arange(size) + 0.5) * (2 / size) - 1
    right, down = np.meshgrid(HALF_WIDTH * across, HALF_WIDTH * across)
    ray = FORWARD + right[drawn][:, None] * RIGHT + down[drawn][:, None] * DOWN  # (P, 3)
    facing = (ray * normal).sum(1)
    distance = (corner * normal).sum(1) / np.where(facing == 0, 1, facing)
    # A triangle seen almost edge-on reaches no further than its corners.
    reach = np.stack([corner, *others]) @ FORWARD  # (3, P)
    depth = np.full((size, size), np.nan, dtype=np.float32)
    depth[drawn] = np.clip(distance, reach.min(0), reach.max(0)) - DISTANCE
    return depth


def aim(camera: pyvista.Camera) -> None:
    """Make VTK's camera the one that `partloc.camera` describes."""
    camera.position, camera.focal_point, camera.up = tuple(POSITION), (0, 0, 0), (0, 0, 1)
    camera.view_angle = VIEW_ANGLE_DEG
    camera.clipping_range = (DISTANCE - 1, DISTANCE + 1)  # the unit cube reaches 0.87


@cache
def require_opengl() -> None:
    """A child opens a window first: without OpenGL, VTK does not raise but crash.

    Raises: RenderError naming the packages to install.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-c", OPEN_A_WINDOW], capture_output=True, timeout=PATIENCE_S
        )
        found = f"a trial ended with status {child.returncode}"
    except subprocess.TimeoutExpired:
        found = f"a trial did not end in {PATIENCE_S} seconds"
    else:
        if child.returncode == 0:
            return
    raise RenderError(
        f"cannot draw off screen: {found}; expected an OpenGL library that works without a "
        "display. On Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri (or libosmesa6)"
    )


@cache
def _plotter() -> pyvista.Plotter:
    """One for each process, opened when it is first needed."""
    if parent_process() is None:  # else the parent has asked
        require_opengl()
    # Without a display VTK complains about X11 before it turns to EGL or OSMesa.
    with pyvista.vtk_verbosity("off"):
        plotter = pyvista.Plotter(off_screen=True, lighting="none")
        plotter.disable_anti_aliasing()
        plotter.set_background("black")
        nothing = _numbered(np.zeros((1, 3, 3)))
        plotter.add_mesh(nothing, scalars="number", rgb=True, lighting=False)
        plotter.show(auto_close=False)
    aim(plotter.camera)  # only here: opening the window fits the camera to what it holds
    return plotter


def _numbered(triangles: np.ndarray) -> pyvista.PolyData:
    """Triangles that share no corners, coloured by their number plus one; black is the ground."""
    corners = np.arange(3 * len(triangles)).reshape(-1, 3)
    mesh = pyvista.PolyData.from_regular_faces(triangles.reshape(-1, 3).astype(np.float32), corners)
    number = np.arange(1, len(triangles) + 1)
    colours = np.stack([number & 255, number >> 8 & 255, number >> 16], axis=-1)
    mesh.cell_data["number"] = colours.astype(np.uint8)  # (M, 3)
    return mesh


def _window(drawn: np.ndarray) -> tuple[int, int, int, int] | None:
    """Rows [top, bottom) and columns [left, right) of the small picture that hold all drawn pixels.

    drawn: (OVERSAMPLING * S, OVERSAMPLING * S) bool. None when nothing is drawn.
    """
    rows, columns = (np.flatnonzero(drawn.any(axis)) // OVERSAMPLING for axis in (1, 0))
    return (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if len(rows) else None
