"""Confidence: what is said with 0.8 is right four times in five."""

import pytest
import torch

from partloc.evaluation.calibration import reliability


def test_bins_hold_every_answer_once():
    confidence = torch.tensor([0.0, 0.05, 0.55, 1.0])
    found = reliability(confidence, torch.tensor([False, True, True, True]))
    assert [row["answers"] for row in found["bins"]] == [2, 1, 1]
    assert found["bins"][0] == {"confidence": pytest.approx(0.025), "right": 0.5, "answers": 2}
    assert found["expected_error"] == pytest.approx((2 * 0.475 + 0.45 + 0) / 4)
