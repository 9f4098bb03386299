"""The camera projects points as its documentation says."""

import math

import numpy as np
import pytest
import torch

from partloc.model.camera import PinholeCamera
from partloc.pose import PartPose
from partloc.synthetic.camera import (
    DEMO_CAMERA,
    Camera,
    Lights,
    random_camera,
    random_lights,
)

project, DISTANCE, POSITION = DEMO_CAMERA.project, DEMO_CAMERA.distance, DEMO_CAMERA.position
RIGHT, DOWN, FORWARD = DEMO_CAMERA.axes


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


@pytest.mark.parametrize("view", [(45.0, 30.0, 30.0), (-60.0, 55.0, 60.0), (200.0, -10.0, 2.0)])
def test_the_pinhole_camera_of_a_view_projects_as_the_rendering_camera(view):
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    uv, depth = Camera(*view).project(points)
    camera = PinholeCamera.from_view(*view)
    poses = PartPose(torch.tensor(points, dtype=torch.float32), torch.ones(20, 1))
    assert camera.project(poses)[:, :2].numpy() == pytest.approx(2 * uv - 1, abs=1e-4)
    behind = depth - Camera(*view).distance
    assert camera.depth(poses.translation)[:, 0].numpy() == pytest.approx(behind, abs=1e-4)


def test_the_code_of_a_camera_is_the_direction_of_up_and_the_inverse_distance():
    right, down, forward, inverse_distance = PinholeCamera.from_view(10, 30, 30).code.tolist()
    assert right == pytest.approx(0, abs=1e-6)
    assert (down, forward) == pytest.approx((-math.cos(math.pi / 6), -0.5))
    assert inverse_distance == pytest.approx(1 / Camera(10, 30, 30).distance)
    unknown = PinholeCamera(torch.zeros(2, 3), torch.zeros(2), torch.zeros(()), 0.0)
    assert not unknown.code.any()


def test_random_cameras_cover_their_range_and_depend_on_the_generator_alone():
    rng = np.random.default_rng(0)
    cameras = [random_camera(rng) for _ in range(300)]
    azimuths = [camera.azimuth_deg for camera in cameras]
    elevations = [camera.elevation_deg for camera in cameras]
    fovs = [camera.fov_deg for camera in cameras]
    assert min(azimuths) < 15 and max(azimuths) > 345
    assert -10 <= min(elevations) < 0 and 70 < max(elevations) <= 80
    assert 2 <= min(fovs) < 10 and 60 < max(fovs) <= 70
    assert random_camera(np.random.default_rng(0)) == cameras[0]


def test_random_lights_are_bright_enough_and_unit_directed():
    rng = np.random.default_rng(0)
    for lights in (random_lights(rng) for _ in range(100)):
        assert isinstance(lights, Lights)
        assert 0.7 < lights.headlight + lights.lamp + lights.ambient < 1.3
        assert np.linalg.norm(lights.lamp_direction) == pytest.approx(1, abs=1e-3)
