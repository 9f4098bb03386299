"""The camera projects points as its documentation says."""

import math

import numpy as np
import pytest

from partloc.synthetic.camera import DISTANCE, DOWN, FORWARD, POSITION, RIGHT, project


def test_the_origin_is_projected_to_the_image_centre_at_the_camera_distance():
    uv, depth = project(np.zeros((1, 3)))
    assert uv == pytest.approx(np.array([[0.5, 0.5]]))
    assert depth == pytest.approx([DISTANCE])
    assert DISTANCE == pytest.approx(3.346, abs=5e-4)


def test_the_camera_is_at_azimuth_45_and_elevation_30():
    x, y, z = POSITION
    assert math.degrees(math.atan2(y, x)) == pytest.approx(45)
    assert math.degrees(math.atan2(z, math.hypot(x, y))) == pytest.approx(30)


def test_z_points_up_and_x_to_the_left_and_y_to_the_right():
    uv, depth = project(np.array([[0, 0, 0.3], [0.3, 0, 0], [0, 0.3, 0]]))
    assert uv[0, 0] == pytest.approx(0.5) and uv[0, 1] < 0.5
    assert uv[1, 0] < 0.5 < uv[2, 0]
    assert (depth < DISTANCE).all()  # all three axes point toward the camera


def test_the_axes_are_right_handed_and_orthonormal():
    frame = np.stack([RIGHT, DOWN, FORWARD])
    assert frame @ frame.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(frame) == pytest.approx(1)


def test_the_bounding_sphere_of_the_unit_cube_just_fits_the_image():
    """A ray through the lower image border touches the sphere of radius sqrt(3)/2."""
    half = math.radians(15)
    ray = math.cos(half) * FORWARD + math.sin(half) * DOWN
    nearest = POSITION - (POSITION @ ray) * ray
    assert np.linalg.norm(nearest) == pytest.approx(math.sqrt(3) / 2)
    border, _ = project(POSITION[None] + ray)
    assert border == pytest.approx(np.array([[0.5, 1.0]]))


def test_a_corner_of_the_cube_is_projected_as_by_trigonometry():
    """The near top corner is in the plane of symmetry, where one angle determines the result."""
    corner = np.array([[0.5, 0.5, 0.5]])
    angle = math.atan2(0.5, math.hypot(0.5, 0.5)) - math.radians(30)  # above the line of sight
    radius = math.sqrt(0.75)
    expected_depth = DISTANCE - radius * math.cos(angle)
    expected_v = 0.5 - radius * math.sin(angle) / expected_depth / (2 * math.tan(math.radians(15)))
    uv, depth = project(corner)
    assert uv == pytest.approx(np.array([[0.5, expected_v]]))
    assert depth == pytest.approx([expected_depth])
