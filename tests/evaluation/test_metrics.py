"""Metrics of errors that are known by hand, and the baseline."""

import math

import pytest
import torch
from torch.testing import assert_close

from partloc.evaluation.metrics import assigned_errors, median_pose, pose_errors, summarize
from partloc.pose import PartPose


def make_poses(*rows):
    values = torch.tensor(rows)
    return PartPose(values[:, :3], values[:, 3:])


def without_twins(labelled):
    """Twin groups of one."""
    return PartPose(labelled.translation[:, None], labelled.scale[:, None])


def test_the_metrics_of_five_known_errors():
    labelled = make_poses(*[[0.0, 0.0, 0.0, 0.5]] * 5)
    predicted = make_poses(
        [0.0, 0.0, 0.0, 0.5],
        [0.03, 0.0, 0.04, 0.55],  # an error of 0.05 is not below 0.05
        [0.0, 0.04, 0.0, 0.6],
        [0.1, 0.1, 0.1, 0.25],
        [0.3, 0.4, 0.0, 1.0],
    )
    metrics = summarize(pose_errors(predicted, labelled, without_twins(labelled)))
    translation = {
        "mean": pytest.approx((0 + 0.05 + 0.04 + math.sqrt(0.03) + 0.5) / 5),
        "median": pytest.approx(0.05),
        "p90": pytest.approx(0.6 * 0.5 + 0.4 * math.sqrt(0.03)),
        "within_0.05": pytest.approx(2 / 5),
    }
    log_scale = (0 + math.log(1.1) + math.log(1.2) + 2 * math.log(2)) / 5
    assert metrics == {
        "translation_error": translation,
        "labelled_error": translation,
        "relative_scale_error": {
            "mean": pytest.approx((0 + 0.1 + 0.2 + 0.5 + 1) / 5),
            "median": pytest.approx(0.2),
            "within_0.15": pytest.approx(2 / 5),
        },
        "absolute_scale_error": {"mean": pytest.approx((0 + 0.05 + 0.1 + 0.25 + 0.5) / 5)},
        "log_scale_error": {"mean": pytest.approx(log_scale)},
    }


def test_the_position_of_a_twin_is_right_for_the_translation_error_only():
    labelled, other = make_poses([0.4, 0.0, 0.0, 0.2]), make_poses([-0.4, 0.0, 0.0, 0.2])
    twins = PartPose(*(torch.stack(pair, 1) for pair in zip(labelled, other, strict=True)))
    metrics = summarize(pose_errors(other, labelled, twins))
    assert metrics["labelled_error"]["mean"] == pytest.approx(0.8)
    assert metrics["labelled_error"]["within_0.05"] == 0
    assert metrics["translation_error"]["mean"] == 0
    assert metrics["translation_error"]["within_0.05"] == 1


def test_the_baseline_is_the_median_training_pose():
    training = make_poses([0.1, 0.0, -0.3, 0.2], [0.2, 0.0, 0.3, 0.4], [0.9, 0.0, 0.2, 0.9])
    median = median_pose(training)
    assert_close(median.translation, torch.tensor([[0.2, 0.0, 0.2]]))
    assert_close(median.scale, torch.tensor([[0.4]]))


def test_many_equal_parts_at_their_labels_have_no_error():
    labelled = PartPose(torch.rand(40, 3), torch.full((40, 1), 0.1))
    errors = assigned_errors(labelled, labelled, [torch.arange(40).numpy()])
    assert errors.tolist() == [0.0] * 40
