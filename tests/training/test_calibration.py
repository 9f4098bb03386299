"""Platt scaling: what has a confidence of 0.8 is right four times in five."""

import pytest
import torch

from partloc.training.calibration import fit_platt


def test_overconfident_predictions_are_calibrated():
    rng = torch.manual_seed(0)
    probability = torch.rand(4000, generator=rng)
    is_right = torch.rand(4000, generator=rng) < probability
    logits = 3 * probability.logit() + 1  # overconfident
    slope, offset = fit_platt(logits, is_right)
    assert slope == pytest.approx(1 / 3, abs=0.05)
    assert offset == pytest.approx(-1 / 3, abs=0.15)
    confidences = logits.sigmoid(), torch.sigmoid(slope * logits + offset)
    before, after = ((c - probability).abs().mean() for c in confidences)
    assert before > 0.1 > 0.04 > after


@torch.inference_mode()
def test_fitting_works_in_inference_mode():
    """As in validation, where no tensor has a gradient."""
    logits = torch.linspace(0.05, 0.95, 40).logit()
    assert fit_platt(logits, torch.arange(40) % 3 > 0) is not None


def test_the_order_of_predictions_stays_even_if_the_most_confident_are_wrong():
    logits = torch.linspace(0.05, 0.95, 60).logit()
    slope, _ = fit_platt(logits, torch.arange(60) < 30)
    assert slope > 0


@pytest.mark.parametrize("is_right", [torch.ones(50).bool(), torch.zeros(50).bool()])
def test_there_is_no_fit_if_all_predictions_are_right_or_all_wrong_or_few(is_right):
    assert fit_platt(torch.rand(50).logit(), is_right) is None
    assert fit_platt(torch.rand(5).logit(), torch.tensor([True, False, True, True, False])) is None
