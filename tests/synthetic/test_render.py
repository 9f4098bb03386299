"""VTK sees what it should, the shading tells faces apart, and a machine without OpenGL is told."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvista
from pyvista import Camera

from partloc.synthetic import render
from partloc.synthetic.camera import DOWN, RIGHT, project
from partloc.synthetic.dataset import write_demo
from partloc.synthetic.mesh import box, dome, join
from partloc.synthetic.render import (
    RenderError,
    aim,
    picture,
    require_opengl,
    seen_triangles,
    shade,
)

ROOT = Path(__file__).resolve().parents[2]
NO_DRIVER = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere", "LIBGL_DRIVERS_PATH": "/nowhere"}


def corners_of(mesh):
    return mesh.points[mesh.triangles]


def test_a_triangle_covers_the_pixels_whose_centres_lie_in_it():
    triangle = np.array([[[0.1, -0.3, 0.2], [-0.3, 0.3, -0.2], [0.3, 0.2, 0.4]]])
    size = 200
    a, b, c = project(triangle[0])[0] * size
    v, u = np.mgrid[:size, :size] + 0.5
    sides = [
        (q[0] - p[0]) * (v - p[1]) - (q[1] - p[1]) * (u - p[0]) for p, q in ((a, b), (b, c), (c, a))
    ]
    inside = np.all(np.array(sides) > 0, axis=0) | np.all(np.array(sides) < 0, axis=0)
    assert inside.sum() > 50
    # OpenGL rounds corners to 1/256 of a pixel, so a centre that close to a side may fall out.
    assert ((seen_triangles(triangle, size) == 0) != inside).sum() <= 2


def test_triangles_that_share_an_edge_leave_no_gap_between_them():
    square = corners_of(box(0.5, 0.5, 0.5))
    seen = seen_triangles(square, 101) >= 0
    filled = [np.ptp(np.nonzero(row)[0]) + 1 == row.sum() for row in seen if row.any()]
    assert seen.any() and all(filled)


def test_the_nearest_triangle_wins_whatever_the_order():
    far = corners_of(box(0.6, 0.6, 0.2).moved(0, 0, -0.4))
    near = corners_of(dome(0.15).moved(0.2, 0.2, 0.2))
    one = seen_triangles(np.concatenate([far, near]), 64) >= len(far)
    two = seen_triangles(np.concatenate([near, far]), 64)
    assert one.any() and np.array_equal(one, (two >= 0) & (two < len(near)))


def test_what_leaves_the_frame_is_cut_off():
    """One triangle, far larger than the frame, through the origin and level with the picture."""
    triangle = np.array([[-9 * RIGHT - 9 * DOWN, 9 * RIGHT - 9 * DOWN, 9 * DOWN]])
    assert (seen_triangles(triangle, 32) == 0).all()


def test_nothing_to_draw_is_an_empty_picture():
    assert (picture(np.zeros((0, 3, 3)), np.zeros((0, 3)), 16) == 255).all()


def test_shading_tells_the_three_visible_faces_of_a_box_apart():
    cube = box(1, 1, 1)
    seen = np.unique(seen_triangles(corners_of(cube), 128))
    colours = {tuple(c) for c in shade(corners_of(cube), cube.colours)[seen[seen >= 0]].tolist()}
    assert len(colours) == 3


def test_shading_does_not_depend_on_the_way_round_a_triangle():
    mesh = join(dome(0.3), box(0.4, 0.2, 0.6))
    triangles = corners_of(mesh)
    assert np.array_equal(shade(triangles, mesh.colours), shade(triangles[:, ::-1], mesh.colours))


def test_numbers_survive_the_way_through_colours_beyond_one_and_two_bytes():
    """Seventy thousand triangles in the same place; only the last one is not a point."""
    triangles = np.zeros((70_000, 3, 3))
    triangles[-1] = [[0.1, -0.3, 0.2], [-0.3, 0.3, -0.2], [0.3, 0.2, 0.4]]
    assert set(np.unique(seen_triangles(triangles, 32))) == {-1, 69_999}


def test_a_picture_does_not_depend_on_the_ones_before_it():
    large, small = corners_of(box(1, 1, 1)), corners_of(dome(0.1).moved(0.3, 0, 0.2))
    first = seen_triangles(small, 48)
    seen_triangles(large, 96)
    seen_triangles(large, 48)
    assert np.array_equal(seen_triangles(small, 48), first)


def test_vtks_camera_projects_as_ours_does():
    """A reference that knows nothing of `camera.project`: VTK's own matrix."""
    camera = Camera()
    aim(camera)
    vtk_matrix = camera.GetCompositeProjectionTransformMatrix(1, -1, 1)
    matrix = pyvista.array_from_vtkmatrix(vtk_matrix)  # (4, 4)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    clip = np.c_[points, np.ones(50)] @ matrix.T  # (50, 4)
    uv, depth = project(points)
    assert uv[:, 0] == pytest.approx((1 + clip[:, 0] / clip[:, 3]) / 2)
    assert uv[:, 1] == pytest.approx((1 - clip[:, 1] / clip[:, 3]) / 2)
    assert depth == pytest.approx(clip[:, 3])
    assert (np.abs(clip[:, 2] / clip[:, 3]) < 1).all()  # nothing is clipped


@pytest.fixture
def forgotten():
    """The answer of an earlier trial is not kept."""
    require_opengl.cache_clear()
    yield
    require_opengl.cache_clear()


def test_a_machine_that_cannot_draw_is_told_what_to_install(tmp_path, monkeypatch, forgotten):
    made = tmp_path / "made"
    write_demo(made, 1, 32, seed=0, workers=0)
    monkeypatch.setattr(render, "OPEN_A_WINDOW", "import os; os.kill(os.getpid(), 11)")
    require_opengl.cache_clear()
    with pytest.raises(RenderError, match="status -11.*libegl1 libgl1-mesa-dri .or libosmesa6"):
        write_demo(made, 1, 32, seed=0, workers=0)
    assert (made / "table-0000").is_dir()  # the earlier demo is still there


@pytest.mark.skipif(sys.platform != "linux", reason="hides the drivers of EGL")
def test_the_stage_ends_in_one_line_where_vtk_would_crash(tmp_path):
    hidden = {**os.environ, **NO_DRIVER}
    hidden.pop("DISPLAY", None)
    crash = subprocess.run(
        [sys.executable, "-c", render.OPEN_A_WINDOW], env=hidden, capture_output=True
    )
    if crash.returncode == 0:
        pytest.skip("there is another OpenGL here, which cannot be hidden")
    params = tmp_path / "params.yaml"
    params.write_text("demo: {num_models: 8, image_size: 32}\nmachine: {num_workers: 2}\n")
    command = [sys.executable, ROOT / "stages" / "demo.py", "--config", params]
    command += ["--out", tmp_path / "out"]
    found = subprocess.run(command, env=hidden, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("error: cannot draw") and len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
