"""Reliability of confidences."""

import pytest
import torch

from partloc.evaluation.calibration import reliability


def test_bins_hold_every_prediction_once():
    confidence = torch.tensor([0.0, 0.05, 0.55, 1.0])
    result = reliability(confidence, torch.tensor([False, True, True, True]))
    assert [row["count"] for row in result["bins"]] == [2, 1, 1]
    first = {"confidence": pytest.approx(0.025), "accuracy": 0.5, "count": 2}
    assert result["bins"][0] == first
    error = (2 * 0.475 + 0.45 + 0) / 4
    assert result["expected_calibration_error"] == pytest.approx(error)
