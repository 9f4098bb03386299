"""Poses are predicted at proposed positions and, in training, at the true ones."""

import torch
from torch.testing import assert_close
from toys import CAMERA, make_small_model, randomize_output_layers

from partloc.data.transforms import Preprocessing
from partloc.model.build import build_locator
from partloc.model.camera import PinholeCamera
from partloc.model.crop import from_crop_frame
from partloc.pose import PartPose

SLOPE_ALONG_Y = torch.tensor([[1.0, 0, 0], [0, 0, -1.0]])


def random_images(count: int) -> torch.Tensor:
    """(count, 3, 56, 56)."""
    return torch.randn(count, 3, 56, 56)


def test_an_untrained_model_without_a_camera_predicts_the_median_training_pose():
    model = make_small_model()
    model.prior.center.copy_(torch.tensor([0.1, 0.2, 0.3, -1.0]))
    images = random_images(2)
    assert not model.has_camera
    pose = model(images[:1], images[1:], torch.tensor([0])).pose
    assert_close(pose.translation, torch.tensor([[0.1, 0.2, 0.3]]))
    assert_close(pose.scale, torch.tensor([[-1.0]]).exp())


def test_an_untrained_model_with_a_camera_predicts_the_point_at_the_depth_of_the_maps():
    model = make_small_model()
    model.prior.center.copy_(torch.tensor([0.1, 0.2, 0.3, -1.0]))
    camera = PinholeCamera(SLOPE_ALONG_Y, torch.tensor([0.1, 0.0]), torch.tensor(0.3), 1.0)
    model.set_camera(camera)
    assert model.has_camera
    assert_close(model.pinhole_camera.forward, torch.tensor([0.0, 1.0, 0.0]))
    images, position = random_images(2), torch.tensor([[0.3, -0.2, -0.5]])
    gt_pose = camera.unproject(position, torch.tensor([[0.1]]))
    prediction = model(images[:1], images[1:], torch.tensor([0]), gt_pose)
    assert_close(model.project(prediction.gt_prediction), position)
    assert prediction.gt_prediction.translation[0, 1] != 0 and prediction.depth_error is not None
    model.depth_net = None
    flat = model(images[:1], images[1:], torch.tensor([0]), gt_pose)
    assert_close(flat.gt_prediction.translation, torch.tensor([[0.2, 0.0, 0.2]]))
    assert flat.depth_error is None


def test_predictions_are_in_the_full_image_frame():
    """Proposals are positions in the crops, true positions are in the full image; both poses are
    the point that the camera sees there."""
    torch.manual_seed(0)
    whole, part = torch.ones(2, 1, 3, 128, 128)
    whole[:, :, 48:80, 32:96] = torch.rand(1, 3, 32, 64)
    part[:, :, 50:80, 20:68] = 0.2
    config = make_small_model(depth_maps=False).config
    model = build_locator(config, Preprocessing(56, 128)).eval()
    camera = PinholeCamera(SLOPE_ALONG_Y, torch.zeros(2), torch.zeros(()), 1.0)
    model.set_camera(camera)
    gt_pose = camera.unproject(torch.tensor([[0.3, -0.2, -0.5]]), torch.tensor([[0.1]]))
    prediction = model(whole, part, torch.tensor([0]), gt_pose)
    assert_close(prediction.gt_prediction.translation, torch.tensor([[0.3, 0.0, 0.2]]))
    assert_close(prediction.gt_prediction.scale.log(), torch.tensor([[-0.5]]))
    crops = prediction.crops.split(3, 1)
    assert (crops[0] - crops[1]).abs().max() > 0.1
    positions = from_crop_frame(prediction.proposals, *crops)
    right_and_up = (positions[..., :2] * torch.tensor([1, -1])).clamp(-0.5, 0.5)
    assert_close(prediction.hypotheses.translation[..., [0, 2]], right_and_up)
    assert_close(prediction.hypotheses.scale.log(), positions[..., 2:].clamp(max=0))


def test_training_uses_fewer_hypotheses_than_evaluation():
    model = make_small_model(hypotheses=10)
    images = torch.randn(2, 1, 3, 56, 56)
    pair = *images, torch.zeros(1, dtype=torch.long)
    evaluated = model(*pair)
    training = model.train()(*pair)
    assert evaluated.log_weight.shape == (1, 10) and training.log_weight.shape == (1, 4)
    # The most probable positions are proposed first, whatever their number.
    assert_close(training.proposals, evaluated.proposals[:, :4])


def test_true_poses_add_a_prediction_and_change_no_hypothesis():
    model = make_small_model()
    randomize_output_layers(model, std=1.0)
    pairs = random_images(1), random_images(2), torch.tensor([0, 0])
    gt_pose = PartPose(torch.tensor([[0.1, 0.2, -0.1], [0.0, 0.0, -0.2]]), torch.full((2, 1), 0.3))
    without, with_gt = model(*pairs), model(*pairs, gt_pose)
    assert without.hypotheses.translation.shape == (2, 3, 3)
    assert_close(without.log_weight.exp().sum(1), torch.ones(2))
    assert_close(without.hypotheses.translation, with_gt.hypotheses.translation)
    assert_close(without.log_weight, with_gt.log_weight)
    assert without.gt_prediction is None
    assert with_gt.gt_prediction.translation.shape == (2, 3)


def test_equal_parts_share_one_prediction_and_its_gradient():
    """Equal images are computed once; the gradient is that of computing them twice.

    At the true positions, which differ, each part has its own prediction.
    """
    wholes, parts = random_images(1), random_images(2)
    translation = torch.tensor([[0.1, 0.2, -0.1], [0.0, 0.0, -0.2], [-0.2, 0.1, 0.1]])
    gt_pose = PartPose(translation, torch.tensor([[0.3], [0.4], [0.5]]))
    predictions, gradients = [], []
    for shown, whole_of_part, part_of_pair in (
        (parts, [0, 0], [0, 1, 0]),
        (parts[[0, 1, 0]], [0, 0, 0], [0, 1, 2]),
    ):
        model = make_small_model()
        model.set_camera(CAMERA)
        randomize_output_layers(model, std=0.1)
        indices = {"part_of_pair": torch.tensor(part_of_pair), "gt_pose": gt_pose}
        prediction = model(wholes, shown, torch.tensor(whole_of_part), **indices)
        weights = torch.tensor([1.0, 2.0, 3.0])[:, None]
        (prediction.hypotheses.translation * weights[..., None]).sum().backward(retain_graph=True)
        (prediction.gt_prediction.translation * weights).sum().backward(retain_graph=True)
        (prediction.depth_error.depth * weights).mean().backward()
        predictions.append(prediction)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    once, twice = predictions
    assert_close(once.hypotheses, twice.hypotheses, rtol=1e-4, atol=1e-5)
    assert_close(once.gt_prediction, twice.gt_prediction, rtol=1e-4, atol=1e-5)
    assert_close(once.depth_error, twice.depth_error, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(*once.gt_prediction.translation[[0, 2]], atol=0.01)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-5, msg=name)
