"""Confidence: what is said with 0.8 is right four times in five."""

import pytest
import torch

from partloc.evaluation.calibration import reliability
from partloc.training.calibration import fit_platt


def test_overconfident_answers_are_brought_to_the_share_that_is_right():
    chance = torch.manual_seed(0)
    true = torch.rand(4000, generator=chance)
    right = torch.rand(4000, generator=chance) < true
    odds = 3 * true.logit() + 1  # far too sure
    slope, offset = fit_platt(odds, right)
    assert slope == pytest.approx(1 / 3, abs=0.05)
    assert offset == pytest.approx(-1 / 3, abs=0.15)
    said, mended = odds.sigmoid(), torch.sigmoid(slope * odds + offset)
    before, after = (reliability(each, right)["expected_error"] for each in (said, mended))
    assert before > 0.1 > 0.04 > after


@torch.inference_mode()
def test_it_is_fitted_within_a_validation_where_nothing_has_a_gradient():
    odds = torch.linspace(0.05, 0.95, 40).logit()
    assert fit_platt(odds, torch.arange(40) % 3 > 0) is not None


def test_the_order_of_the_answers_stays_even_if_the_surest_are_wrong():
    odds = torch.linspace(0.05, 0.95, 60).logit()
    slope, _ = fit_platt(odds, torch.arange(60) < 30)
    assert slope > 0


@pytest.mark.parametrize("right", [torch.ones(50).bool(), torch.zeros(50).bool()])
def test_one_kind_of_answer_tells_nothing(right):
    assert fit_platt(torch.rand(50).logit(), right) is None
    assert fit_platt(torch.rand(5).logit(), torch.tensor([True, False, True, True, False])) is None


def test_bins_hold_every_answer_once():
    confidence = torch.tensor([0.0, 0.05, 0.55, 1.0])
    found = reliability(confidence, torch.tensor([False, True, True, True]))
    assert [row["answers"] for row in found["bins"]] == [2, 1, 1]
    assert found["bins"][0] == {"confidence": pytest.approx(0.025), "right": 0.5, "answers": 2}
    assert found["expected_error"] == pytest.approx((2 * 0.475 + 0.45 + 0) / 4)
