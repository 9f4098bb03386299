"""Errors of streamed predictions, and the table of them."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from samples import FRONT_CAMERA, labels_of, make_samples, predict_hypotheses, predict_poses

from partloc.data.table import PairTable
from partloc.evaluation.accumulator import MAX_PLOT_RECORDS, ErrorAccumulator
from partloc.evaluation.evaluate import compute_metrics, plot_records
from partloc.evaluation.metrics import median_pose
from partloc.inference.hypotheses import Hypotheses
from partloc.inference.prediction_files import TablePredictions
from partloc.pose import PartPose
from partloc.system.files import write_table_chunks


def make_table(samples: pd.DataFrame) -> PairTable:
    return PairTable(samples, Path("data"))


def select(predictions: TablePredictions, rows: list[int]) -> TablePredictions:
    hypotheses: Hypotheses = predictions.hypotheses.select(rows)
    assigned = PartPose(*(field[rows] for field in predictions.assigned))
    confidence = predictions.confidence[rows]
    return TablePredictions(predictions.rows[rows], hypotheses, confidence, assigned)


def iter_rows(samples, chunks, accumulator=None) -> list[pd.DataFrame]:
    accumulator = accumulator or ErrorAccumulator(make_table(samples))
    baseline = median_pose(labels_of(accumulator.table))
    return list(accumulator.iter_rows(samples, chunks, baseline, None))


def test_the_rows_of_the_table_agree_with_the_metrics():
    samples = make_samples()
    accumulator = ErrorAccumulator(make_table(samples))
    predicted = labels_of(accumulator.table)
    predicted.translation.add_(0.1 * torch.randn(12, 3, generator=torch.manual_seed(0)))
    predicted.scale.mul_(1.1)
    (rows,) = iter_rows(samples, [predict_poses(predicted)], accumulator)
    metrics = compute_metrics(accumulator, seed=0)
    for name in (
        "translation_error",
        "labelled_error",
        "assigned_error",
        "relative_scale_error",
        "absolute_scale_error",
    ):
        assert rows[name].mean() == pytest.approx(metrics[name]["mean"], abs=2e-6)
    assert rows.twins.tolist() == [1, 1, 0, 0] * 3
    assert list(zip(rows.model, rows.part, strict=True)) == sorted(
        zip(samples.model, samples.part, strict=True)
    )


def test_predictions_stay_with_their_rows_when_the_table_is_not_grouped_by_model():
    samples = make_samples().sample(frac=1, random_state=0)
    (rows,) = iter_rows(samples, [predict_poses(labels_of(make_table(samples)))])
    assert rows.labelled_error.max() == 0
    assert (rows.tx - rows.predicted_tx).abs().max() < 1e-6
    assert rows.part.tolist() == samples.part.tolist()


def test_chunks_give_the_errors_of_all_rows_at_once():
    samples = make_samples()
    table = make_table(samples)
    predicted = labels_of(table)
    predicted.translation.add_(0.1 * torch.randn(12, 3, generator=torch.manual_seed(0)))
    predictions = predict_poses(predicted)
    at_once, chunked = ErrorAccumulator(table), ErrorAccumulator(table)
    (expected,) = iter_rows(samples, [predictions], at_once)
    chunks = [select(predictions, list(range(start, start + 4))) for start in (0, 4, 8)]
    rows = iter_rows(samples, chunks, chunked)
    pd.testing.assert_frame_equal(pd.concat(rows), expected)
    assert compute_metrics(chunked, seed=0) == compute_metrics(at_once, seed=0)


def test_rows_are_written_before_the_next_chunk_is_predicted(tmp_path):
    samples = make_samples()
    accumulator = ErrorAccumulator(make_table(samples))
    predictions = predict_poses(labels_of(accumulator.table))

    def chunks():
        for start in (0, 4, 8):
            if start:
                (unfinished,) = tmp_path.iterdir()
                assert unfinished.read_text().count("\n") == 1 + start
            yield select(predictions, list(range(start, start + 4)))

    baseline = median_pose(labels_of(accumulator.table))
    rows = accumulator.iter_rows(samples, chunks(), baseline, None)
    write_table_chunks(tmp_path / "rows.csv", rows)
    assert len(pd.read_csv(tmp_path / "rows.csv")) == 12


def test_only_errors_of_the_predictions_are_kept():
    table = make_table(make_samples())
    predictions, accumulator = predict_poses(labels_of(table)), ErrorAccumulator(table)
    accumulator.update(predictions, median_pose(labels_of(table)), FRONT_CAMERA)
    columns = [*accumulator.errors.values(), *accumulator.baseline_errors.values()]
    columns.append(accumulator.confidence)
    assert {(column.shape, column.dtype) for column in columns} == {((12,), torch.float32)}
    assert 4 * len(columns) <= 80  # bytes per sample
    storages = {field.untyped_storage().data_ptr() for field in predictions.hypotheses.poses}
    assert not storages & {column.untyped_storage().data_ptr() for column in columns}


def test_twins_with_two_hypotheses_are_assigned_to_both():
    table = make_table(make_samples())
    labelled = labels_of(table)
    poses = PartPose(*(field[:, None].repeat(1, 2, 1) for field in labelled))
    for rows in ([0, 1], [4, 5], [8, 9]):  # a and b of each model: the same two hypotheses
        for field, values in zip(poses, labelled, strict=True):
            field[rows] = values[rows]
    log_weight = torch.tensor([0.7, 0.3]).log().repeat(12, 1)
    accumulator = ErrorAccumulator(table)
    predictions = predict_hypotheses(poses, log_weight, assigned=labelled)
    accumulator.update(predictions, median_pose(labelled), None)
    metrics = compute_metrics(accumulator, seed=0)
    assert metrics["assigned_error"]["mean"] == metrics["translation_error"]["mean"] == 0
    assert metrics["labelled_error"]["mean"] > 0


def test_series_for_the_plots_are_short_and_span_the_table():
    table = make_table(make_samples(models=100, parts=8))
    accumulator = ErrorAccumulator(table)
    labelled = labels_of(table)
    accumulator.update(predict_poses(labelled), median_pose(labelled), None)
    plots = plot_records(accumulator, compute_metrics(accumulator, seed=0))
    points = plots["parity"]
    assert len(points) == len(plots["errors"]) == MAX_PLOT_RECORDS
    assert {point["axis"] for point in points} == {"x", "y", "z", "scale"}
    assert all(point["true"] == point["predicted"] for point in points)
    first, last = points[0], points[MAX_PLOT_RECORDS // 4 - 1]
    assert first["true"] == pytest.approx(table.translation[0, 0].item())
    assert last["true"] == pytest.approx(table.translation[-1, 0].item())
