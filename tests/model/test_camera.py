"""A pinhole camera maps poses to image positions and back."""

import torch
from folders import write_folder
from torch.testing import assert_close
from toys import index_table, tiny_config

from partloc.data.transforms import Preprocessing
from partloc.model.build import build_locator
from partloc.model.camera import FittedCamera, PinholeCamera
from partloc.pose import PartPose


def test_unproject_is_the_inverse_of_project():
    slope = torch.tensor([[-0.8, 0.7, 0.1], [0.3, 0.5, -0.9]])
    camera = PinholeCamera(slope, torch.tensor([0.02, -0.03]), torch.tensor(0.3), 1.0)
    points = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.4, -0.4]])
    pose = PartPose(points, torch.tensor([[0.2], [0.9]]))
    back = camera.unproject(camera.project(pose), camera.depth(pose.translation))
    assert_close(back.translation, pose.translation)
    assert_close(back.scale, pose.scale)
    nearer = pose.translation - 0.2 * camera.forward
    larger = camera.project(PartPose(nearer, pose.scale))[:, 2] - camera.project(pose)[:, 2]
    assert (larger > 0).all()


def test_a_fitted_camera_is_unknown_until_it_is_set():
    fitted = FittedCamera()
    assert not fitted.is_known and fitted.image_scale == 1
    slope = torch.tensor([[0.8, 0.0, 0.0], [0.0, 0.0, -0.8]])
    fitted.set(PinholeCamera(slope, torch.tensor([0.1, 0.2]), torch.tensor(0.3), 0.9))
    assert fitted.is_known
    assert_close(fitted.image_scale, torch.tensor(0.8))
    restored = FittedCamera()
    restored.load_state_dict(fitted.state_dict())
    assert_close(restored.pinhole[:3], fitted.pinhole[:3])


def test_the_axes_of_a_camera_are_orthonormal_and_forward_is_right_cross_down():
    slope = torch.tensor([[-0.8, 0.7, 0.1], [0.3, 0.5, -0.9]])
    camera = PinholeCamera(slope, torch.zeros(2), torch.tensor(0.0), 1.0)
    right, down, forward = camera.axes
    assert_close(camera.axes @ camera.axes.T, torch.eye(3), atol=1e-6, rtol=0)
    assert_close(torch.linalg.cross(right, down), forward)
    assert_close(slope @ camera.forward, torch.zeros(2), atol=1e-6, rtol=0)


def test_a_degenerate_camera_gives_finite_predictions(tmp_path):
    model = build_locator(tiny_config(model={"match_size": 8}).model, Preprocessing(28))
    model.prior.fit(index_table(write_folder(tmp_path / "images")))
    slope = torch.tensor([[1e-4, 0.0, 0.0], [2e-4, 0.0, 0.0]])  # rank 1: no viewing direction
    model.set_camera(PinholeCamera(slope, torch.zeros(2), torch.tensor(0.0), 1.0))
    prediction = model(torch.rand(1, 3, 28, 28), torch.rand(1, 3, 28, 28), torch.tensor([0]))
    assert all(field.isfinite().all() for field in (*prediction.hypotheses, prediction.log_weight))
