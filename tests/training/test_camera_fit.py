"""The camera fitted from labels is the one that rendered the images."""

import numpy as np
import pytest
import torch
from folders import write_folder
from torch.testing import assert_close
from toys import index_table

from partloc.model.camera import PinholeCamera
from partloc.pose import PartPose
from partloc.synthetic.camera import DEMO_CAMERA
from partloc.synthetic.dataset import write_dataset
from partloc.training.camera_fit import (
    fit_camera,
    fit_camera_to_points,
    fit_either_handedness,
)

MAX_PIXELS = 10_000_000


def test_the_demo_camera_is_found_from_a_few_dozen_models(rendered_models):
    table = index_table(rendered_models)
    camera = fit_camera(table, MAX_PIXELS, seed=0)
    positions = camera.project(PartPose(table.translation, table.scale))
    uv, distance = DEMO_CAMERA.project(table.translation.numpy())
    truth = torch.from_numpy(2 * uv - 1).float()
    error = (positions[:, :2] - truth).norm(dim=1).mean()
    constant_error = (truth - truth.mean(0)).norm(dim=1).mean()
    assert error < 0.08 * constant_error
    magnification = positions[:, 2:].exp() / table.scale  # by perspective
    expected = torch.from_numpy(DEMO_CAMERA.distance / distance).float()
    assert_close(magnification[:, 0], expected, atol=0.1, rtol=0)
    assert_close(camera.forward, torch.from_numpy(DEMO_CAMERA.axes[2]).float(), atol=0.05, rtol=0)
    assert camera.inlier_fraction > 0.4
    again = fit_camera(table, MAX_PIXELS, seed=0)
    assert torch.equal(camera.slope, again.slope)


@pytest.mark.parametrize("inverse_distance", [0.0, 0.3, 0.6])
def test_a_camera_is_recovered_from_its_image_positions_despite_outliers(inverse_distance):
    slope = torch.tensor([[-0.8, 0.7, 0.1], [0.3, 0.5, -0.9]])
    camera = PinholeCamera(slope, torch.tensor([0.02, -0.03]), torch.tensor(inverse_distance), 1.0)
    points = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    positions = camera.project(PartPose(points, torch.ones(60, 1)))[:, :2]
    positions[::5] += 0.4  # wrong matches
    found = fit_camera_to_points(points, positions)
    assert_close(found.inverse_distance, camera.inverse_distance, atol=0.03, rtol=0)
    assert_close(found.slope, slope, atol=0.03, rtol=0)


def test_there_is_no_camera_with_too_few_parts(tmp_path):
    table = index_table(write_folder(tmp_path / "images"))
    assert fit_camera(table, MAX_PIXELS, seed=0) is None


def test_few_parts_agree_if_the_labels_do_not_belong_to_the_images(tmp_path):
    write_dataset(tmp_path / "demo", num_models=26, image_size=64, seed=0, workers=0)
    table = index_table(tmp_path / "demo")
    shuffled = np.random.default_rng(0).permutation(len(table))
    table.translation = table.translation[shuffled]
    assert fit_camera(table, MAX_PIXELS, seed=0).inlier_fraction < 0.25


def test_a_few_parts_do_not_overrule_a_known_camera(tmp_path, rendered_models):
    known = fit_camera(index_table(rendered_models), MAX_PIXELS, seed=0)
    write_dataset(tmp_path / "small", num_models=8, image_size=96, seed=5, workers=0)
    small = index_table(tmp_path / "small")
    fitted = fit_camera(small, MAX_PIXELS, seed=0)
    assert not torch.allclose(fitted.slope, known.slope, atol=0.01)
    kept = fit_camera(small, MAX_PIXELS, seed=0, known=known)
    assert torch.equal(kept.slope, known.slope)

    small.translation = small.translation[:, [1, 2, 0]]  # but a clearly different camera does
    other = fit_camera(small, MAX_PIXELS, seed=0, known=known)
    assert not torch.allclose(other.slope, known.slope, atol=0.1)


def test_labels_in_a_plane_determine_no_camera(rendered_models):
    """Any direction out of the plane fits them, and depths along a wrong one would be useless."""
    table = index_table(rendered_models)
    assert fit_camera(table, MAX_PIXELS, seed=0).inlier_fraction > 0.4
    table.translation[:, 1] *= 1e-3
    assert fit_camera(table, MAX_PIXELS, seed=0) is None


# -- frames of other tools -------------------------------------------------------------------------

FRAMES = {
    "right-handed frame with z upward": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "right-handed frame with y upward": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "left-handed frame with z upward": ((0, 1, 0), (1, 0, 0), (0, 0, 1)),
    "left-handed frame with y upward": ((1, 0, 0), (0, 0, 1), (0, 1, 0)),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("fov_deg", [0.0, 30.0, 60.0])
def test_the_frame_of_the_labels_is_recognised(frame, fov_deg):
    """From correct matches of most parts; the others are matched anywhere."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(80, 3, generator=generator) - 0.5
    camera = PinholeCamera.from_view(-35.0, 25.0, fov_deg)
    positions = camera.project(PartPose(points, torch.ones(80, 1)))[:, :2]
    positions[::3] += torch.randn(27, 2, generator=generator) * 0.4
    axes = torch.tensor(FRAMES[frame]).float()
    found = fit_either_handedness(points @ axes.T, positions)
    assert found.describe_frame() == frame
    assert_close(found.forward, axes @ camera.forward, atol=0.03, rtol=0)
    assert_close(found.code, camera.code, atol=0.04, rtol=0)
    assert_close(found.depth(points @ axes.T), camera.depth(points), atol=0.03, rtol=0)


def test_perspective_tells_the_handedness_where_the_camera_is_level():
    points = torch.rand(80, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    camera = PinholeCamera.from_view(30.0, 0.0, 50.0)
    positions = camera.project(PartPose(points, torch.ones(80, 1)))[:, :2]
    for swap, handedness in (([0, 1, 2], 1.0), ([1, 0, 2], -1.0)):
        assert fit_either_handedness(points[:, swap], positions).handedness == handedness
