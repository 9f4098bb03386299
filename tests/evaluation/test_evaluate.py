"""The evaluation of a split, and the command `evaluate`."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from programs import run_here
from samples import (
    FRONT_CAMERA,
    labels_of,
    make_samples,
    predict_hypotheses,
    predict_poses,
    write_images,
)
from toys import make_untrained_model

from partloc.commands import evaluate as command
from partloc.commands import infer
from partloc.data.table import PairTable
from partloc.evaluation.accumulator import ERROR_COLUMNS, ErrorAccumulator
from partloc.evaluation.evaluate import (
    compute_metrics,
    evaluation_paths,
    format_comparison,
    read_split,
    select_figures,
    training_median_pose,
)
from partloc.evaluation.metrics import median_pose
from partloc.evaluation.report import NUM_TYPICAL, NUM_WORST
from partloc.inference.prediction_files import TablePredictions
from partloc.model.camera import PinholeCamera
from partloc.model.model_file import save_model
from partloc.pose import PartPose
from partloc.system.files import write_table


def evaluate(
    predictions: PartPose | TablePredictions,
    table: PairTable,
    training: PairTable | None = None,
    camera: PinholeCamera | None = None,
) -> dict:
    """The metrics of predictions for all rows of a table."""
    if isinstance(predictions, PartPose):
        predictions = predict_poses(predictions)
    accumulator = ErrorAccumulator(table)
    accumulator.update(predictions, median_pose(labels_of(training or table)), camera)
    return compute_metrics(accumulator, seed=0)


@pytest.fixture
def table() -> PairTable:
    """Three models with four parts, of which two are twins."""
    return PairTable(make_samples(), Path("data"))


# -- metrics -----------------------------------------------------------------------------------


def test_perfect_predictions_have_no_error(table):
    metrics = evaluate(labels_of(table), table)
    zero = {"mean": 0, "median": 0, "p90": 0, "within_0.05": 1}
    for name in ("translation_error", "labelled_error", "assigned_error"):
        assert metrics[name] == zero
    assert metrics["relative_scale_error"] == {"mean": 0, "median": 0, "within_0.15": 1}
    assert metrics["absolute_scale_error"] == metrics["log_scale_error"] == {"mean": 0}
    assert (metrics["n_samples"], metrics["n_models"]) == (12, 3)


def test_the_position_of_a_twin_is_right_for_the_translation_error(table):
    predicted = labels_of(table)
    predicted.translation[[0, 1]] = table.translation[[1, 0]]  # a and b of m0
    distance = (table.translation[0] - table.translation[1]).norm().item()
    metrics = evaluate(predicted, table)
    assert metrics["translation_error"]["mean"] == metrics["assigned_error"]["mean"] == 0
    assert metrics["labelled_error"]["mean"] == pytest.approx(2 * distance / 12)


def test_twins_at_one_position_are_right_alone_but_not_together(table):
    predicted = labels_of(table)
    predicted.translation[1] = table.translation[0]  # b of m0 at the position of a
    distance = (table.translation[0] - table.translation[1]).norm().item()
    metrics = evaluate(predicted, table)
    assert metrics["translation_error"]["mean"] == 0
    assert metrics["assigned_error"]["mean"] == pytest.approx(distance / 12)
    kinds = metrics["by_kind"]
    assert (kinds["unique"]["n_samples"], kinds["twins"]["n_samples"]) == (6, 6)
    assert kinds["unique"]["assigned_error_mean"] == 0
    assert kinds["twins"]["assigned_error_mean"] == pytest.approx(distance / 6)


def test_the_position_of_another_part_is_wrong_for_both_errors(table):
    predicted = labels_of(table)
    predicted.translation[3] = table.translation[2]  # d of m0 is no twin of c
    metrics = evaluate(predicted, table)
    error = metrics["labelled_error"]["mean"]
    assert metrics["translation_error"]["mean"] == pytest.approx(error) != 0


def test_an_interval_contains_the_metric_and_is_narrower_with_more_models():
    widths = []
    for count in (10, 160):
        table = PairTable(make_samples(models=count), Path("data"))
        predicted = labels_of(table)
        predicted.translation.add_(0.1 * torch.randn(4 * count, 3, generator=torch.manual_seed(0)))
        metrics = evaluate(predicted, table)
        interval = metrics["interval_95"]["labelled_error"]["mean"]
        assert interval["low"] < metrics["labelled_error"]["mean"] < interval["high"]
        widths.append(interval["high"] - interval["low"])
        assert evaluate(predicted, table) == metrics
    assert 3 < widths[0] / widths[1] < 5  # 4, the square root of the ratio of the counts


def test_an_interval_depends_on_the_number_of_models_not_of_samples():
    """The errors of all parts of a model are equal, so more parts add no information."""
    table = PairTable(make_samples(models=40, parts=8), Path("data"))
    predicted = labels_of(table)
    shift = 0.2 * torch.rand(40, generator=torch.manual_seed(0))
    predicted.translation[:, 0].add_(shift.repeat_interleave(8))
    interval = evaluate(predicted, table)["interval_95"]["labelled_error"]["mean"]
    expected = 2 * 1.96 * shift.std().item() / 40**0.5
    assert interval["high"] - interval["low"] == pytest.approx(expected, rel=0.15)


def test_errors_are_split_into_across_the_image_and_along_the_view(table):
    predicted = labels_of(table)
    predicted.translation.add_(torch.tensor([0.03, 0.04, -0.12]))
    metrics = evaluate(predicted, table, camera=FRONT_CAMERA)
    error = metrics["translation_error"]
    assert error["mean"] == pytest.approx(0.13, abs=1e-6)
    for name in ("mean", "median"):
        assert error[f"across_image_{name}"] == pytest.approx(0.05, abs=1e-6)
        assert error[f"along_view_{name}"] == pytest.approx(0.12, abs=1e-6)
    assert "along the view" in format_comparison(metrics, "test")
    without_camera = evaluate(predicted, table)
    assert "along the view" not in format_comparison(without_camera, "test")


def test_the_contributions_of_the_error_sources_add_up(table):
    """Depth at the correct image position, a wrong choice, and a position not proposed."""
    poses = PartPose(*(field[:, None].repeat(1, 2, 1) for field in labels_of(table)))
    translation = poses.translation  # (12, 2, 3), the first hypothesis is the prediction
    translation[0, 0] = table.translation[1]  # b, a's twin: no error
    translation[1] += torch.tensor([0.0, 0.0, 0.12])
    translation[2, 0] += torch.tensor([0.3, 0.0, 0.0])
    translation[3] += torch.tensor([0.0, 0.4, 0.0])
    log_weight = torch.tensor([0.7, 0.3]).log().repeat(12, 1)
    metrics = evaluate(predict_hypotheses(poses, log_weight), table, camera=FRONT_CAMERA)
    error = metrics["translation_error"]
    assert error["sources"] == {
        "correct_position": pytest.approx({"fraction": 10 / 12, "mean_contribution": 0.12 / 12}),
        "wrong_choice": pytest.approx({"fraction": 1 / 12, "mean_contribution": 0.3 / 12}),
        "not_proposed": pytest.approx({"fraction": 1 / 12, "mean_contribution": 0.4 / 12}),
    }
    assert error["mean"] == pytest.approx(0.82 / 12)
    assert "sources" not in metrics["baseline"]["translation_error"]
    assert "sources" not in evaluate(labels_of(table), table)["translation_error"]


def test_the_baseline_predicts_the_training_median_for_every_part(table):
    training = make_samples(models=5, seed=1)
    metrics = evaluate(labels_of(table), table, PairTable(training, Path("data")))
    baseline, median = metrics["baseline"], training[["tx", "ty", "tz"]].median().to_numpy()
    errors = np.linalg.norm(table.translation.numpy() - median, axis=1)
    scale = table.scale.numpy()[:, 0]
    relative = np.abs(scale - training.scale.median()) / scale
    assert baseline["labelled_error"]["mean"] == pytest.approx(errors.mean(), abs=1e-6)
    assert baseline["labelled_error"]["median"] == pytest.approx(np.median(errors), abs=1e-6)
    assert baseline["relative_scale_error"]["mean"] == pytest.approx(relative.mean(), abs=1e-6)
    assert "training median" in format_comparison(metrics, "test")


# -- tables and paths --------------------------------------------------------------------------


def test_the_baseline_is_read_from_the_training_table(tmp_path):
    samples = make_samples()
    write_table(tmp_path / "split/train.csv", samples)
    median = training_median_pose(tmp_path)
    assert median.translation[0].tolist() == pytest.approx(samples[["tx", "ty", "tz"]].median())
    assert median.scale.tolist() == [[pytest.approx(samples.scale.median())]]


def test_the_error_for_an_empty_split_names_the_ratio_to_raise(tmp_path):
    write_table(tmp_path / "split/test.csv", make_samples().iloc[:0])
    with pytest.raises(ValueError, match=r"test set has no samples; raise data.test_ratio"):
        read_split(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="dvc repro split"):
        read_split(tmp_path, "val")


def test_only_the_test_split_and_the_pipelines_model_have_the_pipelines_paths():
    model, output = Path("models/best_model.pth"), Path("outputs")
    pipeline = evaluation_paths(output, "test", model)
    assert pipeline == (Path("metrics.json"), output / "evaluate", output / "infer")
    paths = ("other.pth", "runs/a/model.pth", "runs/b/model.pth", "/mnt/models/other.pth")
    others = [evaluation_paths(output, "test", Path(path)) for path in paths]
    others += [evaluation_paths(output, "val", model)]
    assert [other.folder.name for other in others] == [
        "evaluate-test-other",
        "evaluate-test-runs-a-model",
        "evaluate-test-runs-b-model",
        "evaluate-test-mnt-models-other",
        "evaluate-val",
    ]
    assert all(other.metrics.parent == other.folder for other in others)
    assert all(other.predictions == other.folder / "infer" for other in others)


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path) -> Path:
    samples = make_samples()
    write_images(tmp_path / "data", samples)
    for name, seed in (("test", 0), ("train", 1), ("val", 0)):
        write_table(tmp_path / f"outputs/split/{name}.csv", make_samples(seed=seed))
    save_model(tmp_path / "models/best_model.pth", make_untrained_model(), {})
    machine = "machine: {device: cpu, num_workers: 0}"
    (tmp_path / "params.yaml").write_text(f"data: {{data_dir: data}}\n{machine}\n")
    return tmp_path


@pytest.fixture
def run_evaluate(project, run_command):
    """Runs the command in the project's folder."""
    return partial(run_command, command)


def predict_in_this_process(monkeypatch) -> None:
    """Make `evaluate` run the command `infer`, which it starts as a process, in this one."""

    def run(arguments: list, **_environment) -> subprocess.CompletedProcess:
        assert arguments[:5] == [sys.executable, "-P", "-m", "partloc", "infer"]
        return subprocess.CompletedProcess(arguments, run_here(monkeypatch, infer, *arguments[5:]))

    monkeypatch.setattr(subprocess, "run", run)


def read_results(project: Path) -> dict[str, bytes]:
    """The outputs of the pipeline's stage, by path."""
    folder = project / "outputs/evaluate"
    files = [project / "metrics.json", *sorted(folder.rglob("*.*"))]
    return {str(file.relative_to(project)): file.read_bytes() for file in files}


def test_the_stage_writes_equal_bytes_each_time_and_other_splits_elsewhere(
    project, run_evaluate, monkeypatch
):
    """Existing predictions are evaluated without the network, and without the model file."""
    first = run_evaluate()
    assert first.status == 0, first.err
    assert "training median" in first.err and first.out == ""
    before = read_results(project)
    images = [name for name in before if name.endswith(".png")]
    assert len(images) == 9  # of 12 samples, 3 are twins of another
    assert NUM_WORST <= len(images) <= NUM_WORST + NUM_TYPICAL
    report = json.loads(before["outputs/evaluate/report.json"])
    rows = pd.read_csv(project / "outputs/evaluate/predictions.csv")
    for name in ERROR_COLUMNS:
        assert rows[name].mean() == pytest.approx(report[name]["mean"], rel=5e-6)
    assert json.loads(before["metrics.json"]) == select_figures(report)

    with monkeypatch.context() as patch:
        patch.setattr(command, "run_infer", lambda *_: pytest.fail("runs the network"))
        assert run_evaluate().status == 0
    assert read_results(project) == before
    predict_in_this_process(monkeypatch)  # the first call has started a process
    assert run_evaluate("--split", "val").status == 0
    assert read_results(project) == before
    assert (project / "outputs/evaluate-val/metrics.json").is_file()
    assert (project / "outputs/evaluate-val/infer/predictions.csv").is_file()

    (project / "models/best_model.pth").unlink()
    assert run_evaluate().status == 0
    assert read_results(project) == before


def test_predictions_of_another_model_file_are_not_evaluated(project, run_evaluate, monkeypatch):
    predict_in_this_process(monkeypatch)
    assert run_evaluate().status == 0
    save_model(project / "models/best_model.pth", make_untrained_model(), {"changed": True})
    run = run_evaluate()
    assert run.status == 2
    assert "not the predictions of models/best_model.pth; run `dvc repro infer`" in run.err


def test_an_image_without_prediction_is_reported_in_one_line(project, run_evaluate, monkeypatch):
    predict_in_this_process(monkeypatch)
    (project / "data/m1/m1-c.png").write_bytes(b"no image")
    run = run_evaluate()
    assert run.status == 2
    assert "m1/m1-c.png: unreadable image: not an image" in run.err.splitlines()[-1]
    assert "Traceback" not in run.err


def test_a_missing_checkpoint_is_reported_in_one_line(run_evaluate):
    run = run_evaluate("--checkpoint", "gone.pth")
    assert run.status == 2
    assert run.err.startswith("error: gone.pth: no such file; train it (dvc repro)")
    assert "Traceback" not in run.err


def test_an_error_of_the_prediction_ends_the_evaluation(project, run_evaluate, monkeypatch):
    predict_in_this_process(monkeypatch)
    (project / "other.pth").write_bytes(b"no model")
    run = run_evaluate("--checkpoint", "other.pth")
    assert run.status == 2
    assert "error: other.pth: not a readable checkpoint" in run.err
    assert run.err.count("error: ") == 1
    assert "Traceback" not in run.err
