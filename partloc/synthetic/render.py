"""Off-screen rendering of coloured meshes with a camera of `synthetic.camera`.

Shading is flat and computed here: a triangle has one colour. VTK only determines which triangle is
visible at each pixel. It draws the triangle indices as colours, without lighting and without
anti-aliasing, in one window per process.

Shapes: M triangles, S image side in pixels, P foreground pixels.
"""

import subprocess
import sys
from functools import cache
from multiprocessing import parent_process

import numpy as np
import pyvista

from partloc.synthetic.camera import DEMO_CAMERA, DEMO_LIGHTS, Camera, Lights

SUPERSAMPLING = 2  # rendered at this multiple of the image size, then averaged down
WHITE = (255, 255, 255)
CONTRAST = 0.92  # pulls colours slightly toward mid grey, so that black and white show shading
OPEN_WINDOW_CODE = "import pyvista; pyvista.Plotter(off_screen=True).show()"
OPEN_WINDOW_TIMEOUT_S = 120  # opening takes one or two seconds with a warm disk cache


class RenderError(OSError):
    """This machine has no OpenGL library that renders off screen."""


def render_image(
    triangles: np.ndarray,
    colors: np.ndarray,
    size: int,
    camera: Camera = DEMO_CAMERA,
    lights: Lights = DEMO_LIGHTS,
    background: tuple[int, int, int] = WHITE,
) -> np.ndarray:
    """Render shaded triangles on a plain background.

    Args:
        triangles: (M, 3, 3), corners in the frame of the whole model.
        colors: (M, 3), 0..1, before shading.
        size: S.
        background: RGB, 0..255.
    Returns: (S, S, 3) uint8.
    Raises: RenderError as `check_opengl`.
    """
    image = np.empty((size, size, 3), dtype=np.uint8)
    image[:] = background
    indices = visible_triangles(triangles, size * SUPERSAMPLING, camera)
    region = _foreground_region(indices >= 0)  # most of an image is background
    if region is None:
        return image
    top, bottom, left, right = region
    step = SUPERSAMPLING
    indices = indices[top * step : bottom * step, left * step : right * step]
    # Index -1, the background, selects the last colour.
    palette = np.concatenate([shade_triangles(triangles, colors, camera, lights), [background]])
    large = palette.astype(np.uint16)[indices]
    # Sums of slices: ten times as fast as a sum over axes.
    rows = sum(large[i::step] for i in range(step))
    total = sum(rows[:, i::step] for i in range(step))
    image[top:bottom, left:right] = (total + step**2 // 2) // step**2
    return image


def shade_triangles(
    triangles: np.ndarray, colors: np.ndarray, camera: Camera, lights: Lights
) -> np.ndarray:
    """Flat colours under the lights, (M, 3) uint8; arguments as in `render_image`."""
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)  # (M, 3)
    # Normals point toward the camera, whatever the winding order.
    faces_away = ((camera.position - triangles.mean(1)) * normal).sum(1, keepdims=True) < 0
    normal = np.where(faces_away, -normal, normal)
    light = lights.headlight * np.abs(normal @ camera.axes[2])
    light += lights.lamp * np.maximum(normal @ np.array(lights.lamp_direction), 0)
    light += lights.ambient
    muted = 0.5 + CONTRAST * (colors - 0.5)
    return np.round(255 * np.clip(light[:, None] * muted, 0, 1)).astype(np.uint8)


def visible_triangles(triangles: np.ndarray, size: int, camera: Camera = DEMO_CAMERA) -> np.ndarray:
    """Index of the triangle visible at each pixel centre, -1 on the background.

    Args:
        triangles: (M, 3, 3), M < 2**24 - 1, corners in the frame of the whole model.
        size: S.
    Returns: (S, S) int32.
    Raises: RenderError as `check_opengl`.
    """
    if len(triangles) == 0:  # pyvista rejects an empty mesh
        return np.full((size, size), -1, dtype=np.int32)
    plotter = _shared_plotter()
    configure_camera(plotter.camera, camera)
    assert plotter.mapper is not None
    # One actor for all images: adding an actor costs more than rendering it.
    plotter.mapper.dataset = _index_colored_mesh(triangles)
    if plotter.window_size != [size, size]:
        plotter.window_size = [size, size]  # this also renders
    else:
        plotter.render()
    image = plotter.image.astype(np.int32)  # (S, S, 3)
    return image[..., 0] + (image[..., 1] << 8) + (image[..., 2] << 16) - 1


def render_depth_map(triangles: np.ndarray, size: int, camera: Camera = DEMO_CAMERA) -> np.ndarray:
    """Depth of the visible surface at each pixel centre, relative to the origin, model units.

    Args: as `visible_triangles`.
    Returns: (S, S) float32, NaN on the background; positive behind the origin.
    Raises: RenderError as `check_opengl`.
    """
    indices = visible_triangles(triangles, size, camera)
    right_axis, down_axis, forward = camera.axes
    foreground = indices >= 0
    corner, *others = triangles[indices[foreground]].transpose(1, 0, 2) - camera.position
    normal = np.cross(others[0] - corner, others[1] - corner)
    centers = (np.arange(size) + 0.5) * (2 / size) - 1
    right, down = np.meshgrid(camera.tan_half_fov * centers, camera.tan_half_fov * centers)
    ray = forward + right[foreground][:, None] * right_axis + down[foreground][:, None] * down_axis
    slope = (ray * normal).sum(1)
    distance = (corner * normal).sum(1) / np.where(slope == 0, 1, slope)
    # The plane of a nearly edge-on triangle may be hit beyond the corners.
    corner_depths = np.stack([corner, *others]) @ forward  # (3, P)
    depth = np.full((size, size), np.nan, dtype=np.float32)
    depth[foreground] = (
        np.clip(distance, corner_depths.min(0), corner_depths.max(0)) - camera.distance
    )
    return depth


def configure_camera(vtk_camera: pyvista.Camera, camera: Camera) -> None:
    """Set a VTK camera."""
    vtk_camera.position, vtk_camera.focal_point = tuple(camera.position), (0, 0, 0)
    vtk_camera.up, vtk_camera.view_angle = (0, 0, 1), camera.fov_deg
    # The unit cube extends to 0.87.
    vtk_camera.clipping_range = (max(0.01, camera.distance - 1), camera.distance + 1)


@cache
def check_opengl() -> None:
    """Check in a child process that VTK can open a window: without OpenGL it crashes.

    Raises: RenderError naming the packages to install.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-c", OPEN_WINDOW_CODE],
            capture_output=True,
            timeout=OPEN_WINDOW_TIMEOUT_S,
        )
        reason = f"a trial ended with status {child.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"a trial did not end in {OPEN_WINDOW_TIMEOUT_S} seconds"
    else:
        if child.returncode == 0:
            return
    raise RenderError(
        f"cannot render off screen: {reason}; expected an OpenGL library that works without a "
        "display. On Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri (or libosmesa6)"
    )


@cache
def _shared_plotter() -> pyvista.Plotter:
    """The plotter of this process, opened on first use."""
    if parent_process() is None:  # a worker's parent has checked already
        check_opengl()
    # Without a display, VTK warns about X11 before it falls back to EGL or OSMesa.
    with pyvista.vtk_verbosity("off"):
        plotter = pyvista.Plotter(off_screen=True, lighting="none")
        plotter.disable_anti_aliasing()
        plotter.set_background("black")  # type: ignore[arg-type]
        placeholder = _index_colored_mesh(np.zeros((1, 3, 3)))
        plotter.add_mesh(placeholder, scalars="index", rgb=True, lighting=False)
        plotter.show(auto_close=False)  # fits the camera to the mesh, once
    return plotter


def _index_colored_mesh(triangles: np.ndarray) -> pyvista.PolyData:
    """Triangles that share no corners, coloured by index + 1; black is the background."""
    points = triangles.reshape(-1, 3).astype(np.float32)
    corners = np.arange(3 * len(triangles)).reshape(-1, 3)
    mesh = pyvista.PolyData.from_regular_faces(points, corners)  # type: ignore[arg-type]
    index = np.arange(1, len(triangles) + 1)
    colors = np.stack([index & 255, index >> 8 & 255, index >> 16], axis=-1)
    mesh.cell_data["index"] = colors.astype(np.uint8)  # (M, 3)
    return mesh


def _foreground_region(foreground: np.ndarray) -> tuple[int, int, int, int] | None:
    """Rows [top, bottom) and columns [left, right) of the image that contain all foreground.

    Args:
        foreground: (SUPERSAMPLING * S, SUPERSAMPLING * S) bool.
    Returns: None without foreground.
    """
    rows, columns = (np.flatnonzero(foreground.any(axis)) // SUPERSAMPLING for axis in (1, 0))
    return (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if len(rows) else None
