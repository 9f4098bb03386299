"""Direct regression: one hypothesis per pair, from the tokens."""

import torch
from torch.testing import assert_close
from toys import make_small_model, randomize_output_layers

from partloc.pose import PartPose


def test_an_untrained_model_predicts_the_median_training_pose():
    model = make_small_model(match_size=0)
    model.prior.center.copy_(torch.tensor([0.1, 0.2, 0.3, -1.0]))
    images = torch.randn(3, 3, 56, 56)
    prediction = model(images[:1], images[1:], torch.tensor([0, 0]))
    assert_close(prediction.pose.translation, torch.tensor([[0.1, 0.2, 0.3]] * 2))
    assert_close(prediction.pose.scale, torch.tensor([[-1.0]] * 2).exp())
    assert model.num_hypotheses == prediction.log_weight.shape[1] == 1
    assert_close(prediction.log_weight.exp(), torch.ones(2, 1))


def test_equal_parts_share_one_prediction():
    model = make_small_model(match_size=0)
    randomize_output_layers(model)
    whole, parts = torch.randn(1, 3, 56, 56), torch.randn(2, 3, 56, 56)
    shared = model(whole, parts, torch.tensor([0, 0]), part_of_pair=torch.tensor([0, 1, 0]))
    repeated = model(whole, parts[[0, 1, 0]], torch.tensor([0, 0, 0]))
    assert_close(shared.hypotheses, repeated.hypotheses)
    assert_close(shared.confidence_logit, repeated.confidence_logit)


def test_there_is_no_camera_and_no_prediction_at_true_positions():
    model = make_small_model(match_size=0)
    assert not model.has_camera and model.pinhole_camera is None
    images, gt_pose = torch.randn(2, 3, 56, 56), PartPose(torch.zeros(1, 3), torch.ones(1, 1))
    prediction = model(images[:1], images[1:], torch.tensor([0]), gt_pose)
    assert prediction.gt_prediction is None and prediction.depth_error is None


def test_a_scale_near_zero_stays_positive_with_a_finite_gradient():
    model = make_small_model(match_size=0)
    with torch.no_grad():
        model.pose_head.output.bias[3] = -50.0
    images = torch.randn(2, 3, 56, 56)
    scale = model(images[:1], images[1:], torch.tensor([0])).pose.scale
    scale.log().sum().backward()
    assert 0 < scale.item() < 1e-2
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
