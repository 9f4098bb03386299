"""Visibility, depth and shading of rendered meshes, and the error without OpenGL."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvista
from pyvista import Camera

from partloc.synthetic import render
from partloc.synthetic.camera import DEMO_CAMERA, DEMO_LIGHTS, Lights
from partloc.synthetic.camera import Camera as View
from partloc.synthetic.dataset import family_and_name, write_dataset
from partloc.synthetic.families import DEMO_OBJECTS
from partloc.synthetic.mesh import Mesh, box, join, sphere
from partloc.synthetic.render import (
    RenderError,
    check_opengl,
    configure_camera,
    render_depth_map,
    render_image,
    shade_triangles,
    visible_triangles,
)

RIGHT, DOWN, FORWARD = DEMO_CAMERA.axes
ROOT = Path(__file__).resolve().parents[2]
NO_DRIVER = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere", "LIBGL_DRIVERS_PATH": "/nowhere"}


def triangles_of(mesh: Mesh) -> np.ndarray:
    return mesh.points[mesh.triangles]


def test_a_triangle_covers_the_pixels_whose_centres_are_inside():
    triangle = np.array([[[0.1, -0.3, 0.2], [-0.3, 0.3, -0.2], [0.3, 0.2, 0.4]]])
    size = 200
    a, b, c = DEMO_CAMERA.project(triangle[0])[0] * size
    v, u = np.mgrid[:size, :size] + 0.5
    sides = [
        (q[0] - p[0]) * (v - p[1]) - (q[1] - p[1]) * (u - p[0]) for p, q in ((a, b), (b, c), (c, a))
    ]
    inside = np.all(np.array(sides) > 0, axis=0) | np.all(np.array(sides) < 0, axis=0)
    assert inside.sum() > 50
    # OpenGL rounds corners to 1/256 pixel, so a centre that close to a side may be outside.
    assert ((visible_triangles(triangle, size) == 0) != inside).sum() <= 2


def test_triangles_with_a_common_edge_leave_no_gap():
    cube = triangles_of(box(0.5, 0.5, 0.5))
    visible = visible_triangles(cube, 101) >= 0
    filled = [np.ptp(np.nonzero(row)[0]) + 1 == row.sum() for row in visible if row.any()]
    assert visible.any() and all(filled)


def test_the_nearest_triangle_is_visible_in_any_order():
    far = triangles_of(box(0.6, 0.6, 0.2).translated(0, 0, -0.4))
    near = triangles_of(sphere(0.15).translated(0.2, 0.2, 0.2))
    far_first = visible_triangles(np.concatenate([far, near]), 64)
    near_first = visible_triangles(np.concatenate([near, far]), 64)
    near_pixels = far_first >= len(far)
    assert near_pixels.any()
    assert np.array_equal(near_pixels, (near_first >= 0) & (near_first < len(near)))


def test_a_triangle_is_clipped_at_the_image_border():
    """A triangle far larger than the image, through the origin and parallel to the image."""
    triangle = np.array([[-9 * RIGHT - 9 * DOWN, 9 * RIGHT - 9 * DOWN, 9 * DOWN]])
    assert (visible_triangles(triangle, 32) == 0).all()


def test_no_triangles_give_a_white_image():
    assert (render_image(np.zeros((0, 3, 3)), np.zeros((0, 3)), 16) == 255).all()


def test_a_depth_map_agrees_with_the_projection():
    mesh, size = box(0.8, 0.5, 0.4), 200
    low, high = mesh.bounds()
    depth_map = render_depth_map(triangles_of(mesh), size)
    top_centre = np.array([*(low + high)[:2] / 2, high[2]])
    for point in (high, top_centre):  # high: the corner that points to the camera
        (uv,), (distance,) = DEMO_CAMERA.project(point[None])
        column, row = (uv * size).astype(int)
        assert depth_map[row, column] == pytest.approx(distance - DEMO_CAMERA.distance, abs=0.01)
    nearest = DEMO_CAMERA.project(high[None])[1][0] - DEMO_CAMERA.distance
    assert np.nanmin(depth_map) == pytest.approx(nearest, abs=0.01)
    assert np.isnan(depth_map[0]).all()


def test_the_three_visible_faces_of_a_box_have_different_shades():
    cube = box(1, 1, 1)
    indices = np.unique(visible_triangles(triangles_of(cube), 128))
    shades = shade_triangles(triangles_of(cube), cube.colors, DEMO_CAMERA, DEMO_LIGHTS)
    shades = shades[indices[indices >= 0]]
    assert len({tuple(shade) for shade in shades.tolist()}) == 3


def test_shading_does_not_depend_on_the_winding_order():
    mesh = join(sphere(0.3), box(0.4, 0.2, 0.6))
    triangles = triangles_of(mesh)
    expected = shade_triangles(triangles, mesh.colors, DEMO_CAMERA, DEMO_LIGHTS)
    assert np.array_equal(
        shade_triangles(triangles[:, ::-1], mesh.colors, DEMO_CAMERA, DEMO_LIGHTS), expected
    )


def test_each_light_and_the_background_are_those_of_the_arguments():
    cube = box(0.5, 0.5, 0.5)
    scene = triangles_of(cube), np.ones_like(cube.colors)
    up = (0.0, 0.0, 1.0)
    lamp = render_image(*scene, 64, DEMO_CAMERA, Lights(0.0, 0.8, up), (10, 20, 30))
    assert lamp[0, 0].tolist() == [10, 20, 30]
    colors = {tuple(color) for color in lamp.reshape(-1, 3).tolist()}
    assert (0, 0, 0) in colors  # the sides are dark: the lamp is above
    flat = render_image(*scene, 64, DEMO_CAMERA, Lights(0.0, 0.0, up, 0.5), (0, 0, 0))
    assert len({tuple(color) for color in flat[28:36, 28:36].reshape(-1, 3).tolist()}) == 1


def test_an_image_depends_on_its_camera_alone_whatever_was_rendered_before():
    scene = triangles_of(box(0.9, 0.3, 0.5))
    expected = visible_triangles(scene, 48)
    other = visible_triangles(scene, 48, View(-60.0, 55.0, 60.0))
    assert not np.array_equal(other, expected)
    assert np.array_equal(visible_triangles(scene, 48), expected)


def test_triangle_indices_beyond_two_bytes_are_encoded_in_colours():
    """70,000 triangles at the same position; all but the last one are degenerate."""
    triangles = np.zeros((70_000, 3, 3))
    triangles[-1] = [[0.1, -0.3, 0.2], [-0.3, 0.3, -0.2], [0.3, 0.2, 0.4]]
    assert set(np.unique(visible_triangles(triangles, 32))) == {-1, 69_999}


def test_an_image_does_not_depend_on_earlier_images():
    large = triangles_of(box(1, 1, 1))
    small = triangles_of(sphere(0.1).translated(0.3, 0, 0.2))
    expected = visible_triangles(small, 48)
    visible_triangles(large, 96)
    visible_triangles(large, 48)
    assert np.array_equal(visible_triangles(small, 48), expected)


@pytest.mark.parametrize("view", [DEMO_CAMERA, View(-60.0, 55.0, 60.0), View(200.0, -10.0, 2.0)])
def test_the_vtk_camera_projects_like_camera_project(view):
    camera = Camera()
    configure_camera(camera, view)
    vtk_matrix = camera.GetCompositeProjectionTransformMatrix(1, -1, 1)
    matrix = pyvista.array_from_vtkmatrix(vtk_matrix)  # (4, 4)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    clip = np.c_[points, np.ones(50)] @ matrix.T  # (50, 4)
    uv, depth = view.project(points)
    assert uv[:, 0] == pytest.approx((1 + clip[:, 0] / clip[:, 3]) / 2)
    assert uv[:, 1] == pytest.approx((1 - clip[:, 1] / clip[:, 3]) / 2)
    assert depth == pytest.approx(clip[:, 3])
    assert (np.abs(clip[:, 2] / clip[:, 3]) < 1).all()  # nothing is clipped


@pytest.fixture
def uncached_check():
    """Forget the result of earlier checks, before and after the test."""
    check_opengl.cache_clear()
    yield
    check_opengl.cache_clear()


def test_without_opengl_the_error_names_packages_and_nothing_is_removed(
    tmp_path, monkeypatch, uncached_check
):
    folder = tmp_path / "demo"
    write_dataset(folder, 1, 32, seed=0, workers=0)
    monkeypatch.setattr(render, "OPEN_WINDOW_CODE", "import os; os.kill(os.getpid(), 11)")
    check_opengl.cache_clear()
    with pytest.raises(RenderError, match="status -11.*libegl1 libgl1-mesa-dri .or libosmesa6"):
        write_dataset(folder, 1, 32, seed=0, workers=0)
    assert (folder / family_and_name(0, DEMO_OBJECTS)[1]).is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="hides the EGL drivers")
def test_the_stage_reports_one_line_where_vtk_would_crash(tmp_path):
    env = {**os.environ, **NO_DRIVER}
    env.pop("DISPLAY", None)
    trial = subprocess.run(
        [sys.executable, "-c", render.OPEN_WINDOW_CODE], env=env, capture_output=True
    )
    if trial.returncode == 0:
        pytest.skip("this machine has another OpenGL library, which cannot be hidden")
    params = tmp_path / "params.yaml"
    params.write_text("demo: {num_models: 8}\nmachine: {num_workers: 2}\n")
    command = [sys.executable, ROOT / "stages" / "demo.py", "--config", params]
    command += ["--out", tmp_path / "out"]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: cannot render")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
