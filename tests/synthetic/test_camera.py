"""The camera puts points where its documentation says."""

import math

import numpy as np
import pytest

from partloc.synthetic.camera import DISTANCE, DOWN, FORWARD, POSITION, RIGHT, project


def test_the_origin_lands_in_the_middle_at_the_cameras_distance():
    uv, depth = project(np.zeros((1, 3)))
    assert uv == pytest.approx(np.array([[0.5, 0.5]]))
    assert depth == pytest.approx([DISTANCE])
    assert DISTANCE == pytest.approx(3.346, abs=5e-4)


def test_the_camera_stands_at_azimuth_45_and_elevation_30():
    x, y, z = POSITION
    assert math.degrees(math.atan2(y, x)) == pytest.approx(45)
    assert math.degrees(math.atan2(z, math.hypot(x, y))) == pytest.approx(30)


def test_up_is_up_and_plus_x_goes_left_and_plus_y_goes_right():
    uv, depth = project(np.array([[0, 0, 0.3], [0.3, 0, 0], [0, 0.3, 0]]))
    assert uv[0, 0] == pytest.approx(0.5) and uv[0, 1] < 0.5
    assert uv[1, 0] < 0.5 < uv[2, 0]
    assert (depth < DISTANCE).all()  # all three point toward the camera's side


def test_the_axes_are_a_right_handed_orthonormal_frame():
    frame = np.stack([RIGHT, DOWN, FORWARD])
    assert frame @ frame.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(frame) == pytest.approx(1)


def test_the_sphere_round_the_unit_cube_just_fits_the_frame():
    """A ray to the frame's lower edge touches the sphere of radius sqrt(3)/2."""
    half = math.radians(15)
    ray = math.cos(half) * FORWARD + math.sin(half) * DOWN
    nearest = POSITION - (POSITION @ ray) * ray
    assert np.linalg.norm(nearest) == pytest.approx(math.sqrt(3) / 2)
    edge, _ = project(POSITION[None] + ray)
    assert edge == pytest.approx(np.array([[0.5, 1.0]]))


def test_a_corner_of_the_cube_lands_where_trigonometry_says():
    """The near top corner lies in the plane of symmetry, so one angle tells all."""
    corner = np.array([[0.5, 0.5, 0.5]])
    rise = math.atan2(0.5, math.hypot(0.5, 0.5)) - math.radians(30)  # over the line of sight
    radius = math.sqrt(0.75)
    ahead = DISTANCE - radius * math.cos(rise)
    expected_v = 0.5 - radius * math.sin(rise) / ahead / (2 * math.tan(math.radians(15)))
    uv, depth = project(corner)
    assert uv == pytest.approx(np.array([[0.5, expected_v]]))
    assert depth == pytest.approx([ahead])
