"""Poses are predicted relative to the labels' spread, and through the camera."""

import torch
from torch.testing import assert_close

from partloc.model.camera import PinholeCamera
from partloc.model.pose_head import ConfidenceHead, PoseHead, PosePrior, PositionDecoder
from partloc.pose import PartPose


def test_predictions_are_clamped_to_the_whole_except_in_training():
    prior = PosePrior().eval()
    raw = torch.tensor([[[0.9, -0.6, 0.2, 0.4]]], requires_grad=True)
    translation, scale = prior(raw)
    assert_close(translation, torch.tensor([[[0.5, -0.5, 0.2]]]))
    assert scale.item() == 1
    translation, scale = prior.train()(raw)
    assert_close(translation, raw[..., :3])
    (translation.sum() + scale.sum()).backward()
    assert (raw.grad > 0).all()


def test_the_inverse_of_the_prior_gives_the_raw_prediction_back():
    torch.manual_seed(0)
    prior = PosePrior()
    prior.center.copy_(torch.tensor([0.1, 0.0, -0.1, -1.0]))
    prior.spread.copy_(torch.tensor([0.3, 0.2, 0.4, 0.5]))
    raw = torch.randn(5, 4)
    assert_close(prior.inverse(prior(raw)), raw, atol=1e-5, rtol=0)


def test_an_untrained_decoder_predicts_what_the_camera_sees():
    prior, decoder = PosePrior(), PositionDecoder()
    slope = torch.tensor([[0.9, 0.0, 0.1], [0.0, -0.2, -0.8]])
    camera = PinholeCamera(slope, torch.tensor([0.05, 0.0]), torch.tensor(0.3), 1.0)
    decoder.set_camera(camera, prior)
    pose = PartPose(torch.tensor([[[0.2, -0.1, 0.3]]]), torch.tensor([[[0.25]]]))
    full_image = torch.zeros(1, 3)  # the crops are the full images
    depth = camera.depth(pose.translation) * camera.image_scale
    normalized = decoder.normalize(camera.project(pose), depth, full_image, full_image)
    predicted = prior(decoder(normalized, prior))
    assert_close(predicted.translation, pose.translation, atol=1e-5, rtol=0)
    assert_close(predicted.scale, pose.scale, atol=1e-5, rtol=0)


def test_without_a_camera_a_decoder_predicts_the_prior_median():
    prior, decoder = PosePrior(), PositionDecoder()
    positions, depth, full_image = torch.randn(2, 3, 3), torch.randn(2, 3, 1), torch.zeros(2, 3)
    normalized = decoder.normalize(positions, depth, full_image, full_image)
    assert_close(decoder(normalized, prior), torch.zeros(2, 3, 4))


def test_an_untrained_head_outputs_zeros_and_an_even_confidence():
    head, confidence = PoseHead(6, 8, 5, dropout=0.0), ConfidenceHead(8)
    outputs, hidden = head(torch.randn(2, 3, 6))
    assert outputs.shape == (2, 3, 5) and not outputs.any() and hidden.shape == (2, 3, 8)
    logit = confidence(hidden, torch.zeros(2, 3))
    assert_close(confidence.calibrated(logit), torch.full((2, 3), 0.5))
