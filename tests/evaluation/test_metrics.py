"""Known figures by hand, the constant answer, and JSON whose bytes repeat."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

from partloc.evaluation.metrics import assigned_errors, constant_answer, errors_of, summarize
from partloc.files import nested_value, write_json
from partloc.pose import PartPose


def poses(*rows):
    values = torch.tensor(rows)
    return PartPose(values[:, :3], values[:, 3:])


def alone(truth):
    """Twin groups of one."""
    return PartPose(truth.translation[:, None], truth.scale[:, None])


def test_the_figures_of_five_known_errors():
    truth = poses(*[[0.0, 0.0, 0.0, 0.5]] * 5)
    predicted = poses(
        [0.0, 0.0, 0.0, 0.5],
        [0.03, 0.0, 0.04, 0.55],  # 0.05 away is not within 0.05
        [0.0, 0.04, 0.0, 0.6],
        [0.1, 0.1, 0.1, 0.25],
        [0.3, 0.4, 0.0, 1.0],
    )
    figures = summarize(errors_of(predicted, truth, alone(truth)))
    spread = figures["translation_error"]
    assert spread["mean"] == pytest.approx((0 + 0.05 + 0.04 + math.sqrt(0.03) + 0.5) / 5)
    assert spread["median"] == pytest.approx(0.05)
    assert spread["p90"] == pytest.approx(0.6 * 0.5 + 0.4 * math.sqrt(0.03))
    assert spread["within_0.05"] == pytest.approx(2 / 5)
    assert spread["twin_aware"] == {key: spread[key] for key in spread if key != "twin_aware"}
    assert figures["scale_error"] == pytest.approx(
        {
            "absolute_mean": (0 + 0.05 + 0.1 + 0.25 + 0.5) / 5,
            "relative_mean": (0 + 0.1 + 0.2 + 0.5 + 1) / 5,
            "relative_median": 0.2,
            "log_ratio_mean": (0 + math.log(1.1) + math.log(1.2) + 2 * math.log(2)) / 5,
            "within_15pct": 2 / 5,
        }
    )


def test_the_place_of_a_twin_is_right_only_in_the_twin_aware_figures():
    truth, other = poses([0.4, 0.0, 0.0, 0.2]), poses([-0.4, 0.0, 0.0, 0.2])
    twins = PartPose(*(torch.stack(pair, 1) for pair in zip(truth, other, strict=True)))
    figures = summarize(errors_of(other, truth, twins))["translation_error"]
    assert figures["mean"] == pytest.approx(0.8) and figures["within_0.05"] == 0
    assert figures["twin_aware"]["mean"] == 0 and figures["twin_aware"]["within_0.05"] == 1


def test_the_baseline_answers_the_training_median_whatever_it_sees():
    training = poses([0.1, 0.0, -0.3, 0.2], [0.2, 0.0, 0.3, 0.4], [0.9, 0.0, 0.2, 0.9])
    answer = constant_answer(training, 4)
    assert_close(answer.translation, torch.tensor([[0.2, 0.0, 0.2]]).expand(4, 3))
    assert_close(answer.scale, torch.full((4, 1), 0.4))


def test_equal_values_give_equal_bytes_and_the_file_is_replaced_whole(tmp_path):
    one, other = tmp_path / "deep" / "one.json", tmp_path / "other.json"
    write_json(one, {"b": 0.1 + 0.2, "a": [{"y": 2.0, "x": 1}, {"x": 3, "y": 4.0}]})
    write_json(other, {"a": [{"x": 1, "y": 2.0}, {"y": 4.0, "x": 3}], "b": 0.3})
    assert one.read_bytes() == other.read_bytes()
    assert json.loads(one.read_text()) == {"a": [{"x": 1, "y": 2}, {"x": 3, "y": 4}], "b": 0.3}
    assert one.read_text().splitlines()[2] == '    {"x": 1, "y": 2.0},'  # a record a line
    assert [path.name for path in one.parent.iterdir()] == ["one.json"]


def test_a_figure_is_found_by_its_place_and_zero_is_one():
    figures = {"error": {"mean": 0.25, "within": 0.0}}
    assert nested_value(figures, "error/mean") == 0.25
    assert nested_value(figures, "error/within") == 0.0
    for nowhere in ("error/median", "scale/mean", "error/mean/more"):
        assert nested_value(figures, nowhere) is None


def test_many_equal_parts_in_their_places_have_no_error():
    truth = PartPose(torch.rand(40, 3), torch.full((40, 1), 0.1))
    errors = assigned_errors(truth, truth, [torch.arange(40).numpy()])
    assert errors.tolist() == [0.0] * 40
