"""The rasteriser sees what it should, and what VTK sees."""

import ctypes.util
import sys

import numpy as np
import pytest

from partloc.camera import DISTANCE, POSITION, VIEW_ANGLE_DEG, project
from partloc.demo import draw_model, scene
from partloc.raster import rasterise
from partloc.render import picture, shade
from partloc.shapes import box, dome, join

LINUX_GL = any(ctypes.util.find_library(name) for name in ("EGL", "OSMesa"))


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
    assert np.array_equal(rasterise(triangle, size) == 0, inside)


def test_triangles_that_share_an_edge_leave_no_gap_between_them():
    square = corners_of(box(0.5, 0.5, 0.5))
    seen = rasterise(square, 101) >= 0
    filled = [np.ptp(np.nonzero(row)[0]) + 1 == row.sum() for row in seen if row.any()]
    assert seen.any() and all(filled)


def test_the_nearest_triangle_wins_whatever_the_order():
    far = corners_of(box(0.6, 0.6, 0.2).moved(0, 0, -0.4))
    near = corners_of(dome(0.15).moved(0.2, 0.2, 0.2))
    one = rasterise(np.concatenate([far, near]), 64) >= len(far)
    two = rasterise(np.concatenate([near, far]), 64)
    assert one.any() and np.array_equal(one, (two >= 0) & (two < len(near)))


def test_what_leaves_the_frame_is_cut_off():
    assert (rasterise(corners_of(box(1.9, 1.9, 1.9).moved(0, 0, -0.9)), 32) >= 0).all()


def test_nothing_to_draw_is_an_empty_picture():
    assert (picture(np.zeros((0, 3, 3)), np.zeros((0, 3)), 16) == 255).all()


def test_shading_tells_the_three_visible_faces_of_a_box_apart():
    cube = box(1, 1, 1)
    seen = np.unique(rasterise(corners_of(cube), 128))
    colours = {tuple(c) for c in shade(corners_of(cube), cube.colours)[seen[seen >= 0]].tolist()}
    assert len(colours) == 3


def test_shading_does_not_depend_on_the_way_round_a_triangle():
    mesh = join(dome(0.3), box(0.4, 0.2, 0.6))
    triangles = corners_of(mesh)
    assert np.array_equal(shade(triangles, mesh.colours), shade(triangles[:, ::-1], mesh.colours))


@pytest.mark.skipif(sys.platform == "linux" and not LINUX_GL, reason="VTK needs EGL or OSMesa")
@pytest.mark.parametrize("number", [1, 12])
def test_vtk_sees_the_same(number):
    """A reference that knows nothing of `camera.project`: pyvista's own camera and depth test."""
    pyvista = pytest.importorskip("pyvista")
    triangles, _, owner = scene(draw_model(0, number).parts)
    mine = rasterise(triangles, 256)
    faces = np.c_[np.full(len(triangles), 3), np.arange(3 * len(triangles)).reshape(-1, 3)]
    mesh = pyvista.PolyData(triangles.reshape(-1, 3), faces.ravel())
    code = owner + 1
    mesh.cell_data["part"] = np.stack([8 * code, 0 * code, 255 - 8 * code], -1).astype(np.uint8)
    plotter = pyvista.Plotter(off_screen=True, window_size=(256, 256), lighting="none")
    plotter.disable_anti_aliasing()
    plotter.add_mesh(mesh, scalars="part", rgb=True, lighting=False)
    plotter.camera_position = [tuple(POSITION), (0, 0, 0), (0, 0, 1)]
    plotter.camera.view_angle = VIEW_ANGLE_DEG
    plotter.camera.clipping_range = (DISTANCE - 1, DISTANCE + 1)
    plotter.background_color = "white"
    red = plotter.screenshot(return_img=True)[..., 0].astype(int)
    plotter.close()
    theirs = np.where(red == 255, -1, red // 8 - 1)
    assert (theirs >= 0).any()
    assert np.mean(theirs != np.append(owner, -1)[mine]) < 0.005
