"""The network as a whole: its predictions, their shapes, and what they depend on."""

import pytest
import torch
from torch.testing import assert_close
from toys import CAMERA, randomize_output_layers

from partloc.config import ModelConfig
from partloc.data.transforms import Preprocessing
from partloc.model.camera import PinholeCamera
from partloc.model.locator import PartLocator
from partloc.model.prediction import Prediction
from partloc.pose import PartPose

IMAGE_SIDE = 56  # pixels, 4 x 4 patches


def random_images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, IMAGE_SIDE, IMAGE_SIDE)


def small_model(**changes) -> PartLocator:
    torch.manual_seed(0)
    settings = {
        "backbone_name": "dinov2_vitt14",
        "pretrained": False,
        "downsample_size": 4,
        "cross_attention_layers": 1,
        "cross_attention_dim": 48,
        "mlp_hidden_dim": 32,
        "match_size": 8,
        "hypotheses": 3,
        "dropout": 0.0,
    }
    return PartLocator(ModelConfig(**{**settings, **changes}), Preprocessing(IMAGE_SIDE)).eval()


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
        model = small_model()
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


def test_an_untrained_model_predicts_the_prior_or_through_the_camera():
    model = small_model()
    model.prior.center.copy_(torch.tensor([0.1, 0.2, 0.3, -1.0]))
    images = random_images(2)
    pose = model(images[:1], images[1:], torch.tensor([0])).pose
    assert_close(pose.translation, torch.tensor([[0.1, 0.2, 0.3]]))
    assert_close(pose.scale, torch.tensor([[-1.0]]).exp())

    slope, offset = torch.tensor([[1.0, 0, 0], [0, 0, -1.0]]), torch.tensor([0.1, 0.0])
    assert not model.has_camera
    model.set_camera(PinholeCamera(slope, offset, torch.tensor(0.3), 1.0))
    assert model.has_camera
    position = torch.tensor([[0.3, -0.2, -0.5]])
    gt_pose = model.pinhole_camera.unproject(position, torch.tensor([[0.1]]))
    prediction = model(images[:1], images[1:], torch.tensor([0]), gt_pose)
    assert_close(model.project(prediction.gt_prediction), position)
    assert prediction.gt_prediction.translation[0, 1] != 0  # from the depth maps
    assert_close(model.pinhole_camera.forward, torch.tensor([0.0, 1.0, 0.0]))
    model.depth_net = None
    flat = model(images[:1], images[1:], torch.tensor([0]), gt_pose)
    assert_close(flat.gt_prediction.translation, torch.tensor([[0.2, 0.0, 0.2]]))
    assert prediction.depth_error is not None and flat.depth_error is None


def test_training_uses_fewer_hypotheses_than_evaluation():
    model = small_model(hypotheses=10)
    images = torch.randn(2, 1, 3, IMAGE_SIDE, IMAGE_SIDE)
    pair = *images, torch.zeros(1, dtype=torch.long)
    evaluated = model(*pair)
    training = model.train()(*pair)
    assert evaluated.log_weight.shape == (1, 10) and training.log_weight.shape == (1, 8)
    # The most probable positions are proposed first, however many there are.
    assert_close(training.proposals, evaluated.proposals[:, :8])


def test_gt_poses_are_predicted_beside_the_hypotheses_and_change_none():
    model = small_model()
    randomize_output_layers(model, std=1.0)
    wholes, parts = (
        random_images(1),
        random_images(2),
    )
    which = torch.tensor([0, 0])
    plain = model(wholes, parts, which)
    gt_pose = PartPose(torch.tensor([[0.1, 0.2, -0.1], [0.0, 0.0, -0.2]]), torch.full((2, 1), 0.3))
    gt_prediction = model(wholes, parts, which, gt_pose)
    assert plain.hypotheses.translation.shape == (2, 3, 3)
    assert_close(plain.log_weight.exp().sum(1), torch.ones(2))
    assert_close(plain.hypotheses.translation, gt_prediction.hypotheses.translation)
    assert_close(plain.log_weight, gt_prediction.log_weight)
    assert plain.gt_prediction is None
    assert gt_prediction.gt_prediction.translation.shape == (2, 3)


def test_the_answer_is_the_hypothesis_of_the_highest_weight():
    poses = PartPose(torch.arange(12.0).view(2, 2, 3), torch.arange(1.0, 5.0).view(2, 2, 1))
    weights, logits = torch.tensor([[0.2, 0.8], [0.9, 0.1]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    prediction = Prediction(poses, weights.log(), logits)
    assert_close(prediction.pose.translation, torch.tensor([[3.0, 4, 5], [6, 7, 8]]))
    assert_close(prediction.pose.scale, torch.tensor([[2.0], [3.0]]))
    assert_close(prediction.best_confidence_logit, torch.tensor([2.0, 3.0]))
    assert_close(small_model().best_confidence(prediction), torch.tensor([2.0, 3.0]).sigmoid())


@pytest.mark.parametrize("match_size", [0, 8])
def test_the_confidence_loss_trains_only_the_confidence_head(match_size):
    model = small_model(match_size=match_size).train()
    randomize_output_layers(model, std=1.0)
    images = random_images(2)
    prediction = model(images[:1], images[1:], torch.tensor([0]))
    assert prediction.confidence_logit.shape == prediction.log_weight.shape
    prediction.confidence_logit.sum().backward()
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert moved == {"confidence_head.linear.weight", "confidence_head.linear.bias"}
    assert model.confidence_head.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", [{}, {"match_size": 0}, {"cross_attention_layers": 0}])
def test_a_prediction_does_not_depend_on_the_rest_of_its_batch(changes):
    model = small_model(**changes)
    randomize_output_layers(model, std=1.0)
    wholes, parts = (
        random_images(2),
        random_images(3),
    )
    together = model(wholes, parts, torch.tensor([0, 1, 1])).pose
    for i, whole in enumerate([0, 1, 1]):
        alone = model(wholes[whole, None], parts[i, None], torch.tensor([0])).pose
        assert_close(together.translation[i], alone.translation[0], atol=1e-5, rtol=1e-4)
        assert_close(together.scale[i], alone.scale[0], atol=1e-5, rtol=1e-4)
    assert (together.scale > 0).all()


def test_a_scale_near_zero_stays_positive_with_a_finite_gradient():
    model = small_model(match_size=0)
    with torch.no_grad():
        model.pose_head.output.bias[3] = -50.0
    images = random_images(2)
    scale = model(images[:1], images[1:], torch.tensor([0])).pose.scale
    scale.log().sum().backward()
    assert 0 < scale.item() < 1e-2
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_only_the_encoder_runs_in_half_precision():
    """Transforms and distances have no bf16; three digits of a feature are enough."""
    model = small_model()
    images = torch.rand(2, 3, IMAGE_SIDE, IMAGE_SIDE)
    exact = model.encode(images)
    rough = model.encode(images, torch.bfloat16)
    assert all(field.dtype == torch.float32 for field in rough)
    assert torch.equal(rough.image, exact.image)
    assert not torch.equal(rough.patches, exact.patches)
    assert (rough.patches - exact.patches).norm() < 0.02 * exact.patches.norm()
    model(images, images, torch.arange(2), None, torch.bfloat16).pose.scale.sum().backward()
