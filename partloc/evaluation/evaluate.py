"""The evaluation of a split: its tables, its report and metrics, and where the results go."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from partloc.data.index import MANIFEST_COLUMNS
from partloc.data.layout import SPLITS
from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.evaluation.accumulator import (
    ERROR_COLUMNS,
    MAX_PLOT_RECORDS,
    ErrorAccumulator,
    evenly_spaced,
    labelled_poses,
)
from partloc.evaluation.calibration import reliability
from partloc.evaluation.metrics import bootstrap, median_pose, summarize
from partloc.pose import POSE_COLUMNS, RIGHT_TOLERANCE, PartPose
from partloc.system.files import nested_value

PIPELINE_MODEL = Path("models/best_model.pth")
PIPELINE_METRICS = Path("metrics.json")
PLOTTED_AXES = ("x", "y", "z", "scale")
# The figures in metrics.json -> their paths in the report. DVC prints them as one row of a table,
# with four spaces between columns: more or longer names do not fit 120 columns. "scale" is the
# relative scale error, "baseline" the translation error of the training median.
FIGURES = {
    "translation_error": "translation_error/mean",
    "median": "translation_error/median",
    "below_0.05": "translation_error/within_0.05",
    "assigned": "assigned_error/mean",
    "labelled": "labelled_error/mean",
    "scale": "relative_scale_error/mean",
    "scale_median": "relative_scale_error/median",
    "baseline": "baseline/translation_error/mean",
}
FIGURE_DIGITS = 4  # after the decimal point


class EvaluationPaths(NamedTuple):
    """metrics: the file of the FIGURES. folder: of report.json, predictions.csv, plots/ and
    samples/. predictions: what the command `infer` writes."""

    metrics: Path
    folder: Path
    predictions: Path


def evaluation_paths(output_dir: Path, split: str, checkpoint: Path) -> EvaluationPaths:
    """The paths of the pipeline for its own model and test split, others for anything else."""
    is_pipeline_model = checkpoint.resolve() == PIPELINE_MODEL.resolve()
    if is_pipeline_model and split == "test":
        return EvaluationPaths(PIPELINE_METRICS, output_dir / "evaluate", output_dir / "infer")
    names = () if is_pipeline_model else _path_names(checkpoint)
    folder = output_dir / "-".join(["evaluate", split, *names])
    return EvaluationPaths(folder / "metrics.json", folder, folder / "infer")


def _path_names(checkpoint: Path) -> tuple[str, ...]:
    """The folders and the stem of a model file; the stem alone is often model.pth."""
    path, here = checkpoint.resolve().with_suffix(""), Path.cwd()
    return path.relative_to(here if path.is_relative_to(here) else path.anchor).parts


def split_path(output_dir: Path, name: str) -> Path:
    return output_dir / "split" / f"{name}.csv"


def read_split(
    output_dir: Path, name: str, columns: Sequence[str] = MANIFEST_COLUMNS
) -> pd.DataFrame:
    """Read the table of a split, in the order of its file.

    Raises: FileNotFoundError or ValueError with advice if it is missing or empty.
    """
    path = split_path(output_dir, name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make it with `dvc repro split`")
    table = read_manifest(path, columns)
    if table.empty:
        raise ValueError(
            f"{path}: the {name} set has no samples; raise data.{name}_ratio in params.yaml, "
            f"or choose one of --split {', '.join(other for other in SPLITS if other != name)}"
        )
    return table


def training_median_pose(output_dir: Path) -> PartPose:
    """The baseline, (1, 3) and (1, 1). Raises: like `read_split`."""
    labels = read_split(output_dir, "train", POSE_COLUMNS).to_numpy(np.float32)  # (N, 4)
    return median_pose(PartPose(*torch.from_numpy(labels).split([3, 1], 1)))


def compute_metrics(accumulator: ErrorAccumulator, seed: int) -> dict[str, Any]:
    """The report of a split, after all rows have been added.

    Metrics of the model and of the baseline, intervals, reliability, and counts.
    """
    table, errors = accumulator.table, accumulator.errors
    translation_error = errors["translation_error"]
    reported = {name: errors[name] for name in ERROR_COLUMNS}
    return {
        **summarize(errors),
        "by_kind": _means_by_kind(reported, table),
        "interval_95": bootstrap(reported, table.models, seed),
        "confidence": reliability(accumulator.confidence, translation_error < RIGHT_TOLERANCE),
        "baseline": summarize(accumulator.baseline_errors),
        "n_samples": len(table),
        "n_models": len(set(table.models)),
    }


def select_figures(report: dict[str, Any]) -> dict[str, float]:
    """The FIGURES of a report, rounded."""
    return {
        name: round(nested_value(report, path), FIGURE_DIGITS) for name, path in FIGURES.items()
    }


def plot_records(accumulator: ErrorAccumulator, report: dict[str, Any]) -> dict[str, list[Any]]:
    """Name of a plot -> its records; DVC draws them."""
    series = {
        "model": accumulator.errors["translation_error"],
        "training_median": accumulator.baseline_errors["translation_error"],
    }
    return {
        "parity": _parity_records(accumulator),
        "errors": [
            {name: values[row].item() for name, values in series.items()}
            for row in evenly_spaced(len(accumulator.table), MAX_PLOT_RECORDS)
        ],
        "reliability": report["confidence"]["bins"],
    }


def _means_by_kind(
    errors: dict[str, Tensor], table: PairTable
) -> dict[str, dict[str, int | float]]:
    """Mean errors of the parts with twins and of those without."""
    has_twins = torch.from_numpy(table.twin_group_sizes > 1)
    kinds = {}
    for kind, rows in (("unique", ~has_twins), ("twins", has_twins)):
        if rows.any():
            means = {f"{name}_mean": values[rows].mean().item() for name, values in errors.items()}
            kinds[kind] = {"n_samples": int(rows.sum()), **means}
    return kinds


def _parity_records(accumulator: ErrorAccumulator) -> list[dict[str, Any]]:
    """Labelled and predicted values, for each axis of the plotted rows."""
    labelled = torch.cat(labelled_poses(accumulator.table, accumulator.plotted_rows), 1)  # (M, 4)
    pairs = torch.stack([labelled, accumulator.plotted_poses], 2)  # (M, 4, 2)
    return [
        {"axis": axis, "true": true, "predicted": predicted}
        for column, axis in enumerate(PLOTTED_AXES)
        for true, predicted in pairs[:, column].tolist()
    ]


def format_comparison(metrics: dict[str, Any], split: str) -> str:
    """For the terminal: the metrics of the model and of the baseline."""
    lines = [
        f"{split}: {metrics['n_samples']} samples of {metrics['n_models']} models",
        f"{'':34}{'model':>9}{'training median':>18}",
    ]
    for label, path, form in (
        ("translation error, mean", "translation_error/mean", ".3f"),
        ("  median", "translation_error/median", ".3f"),
        ("  across the image, mean", "translation_error/across_image_mean", ".3f"),
        ("  along the view, mean", "translation_error/along_view_mean", ".3f"),
        ("  below 0.05", "translation_error/within_0.05", ".1%"),
        ("labelled error, mean", "labelled_error/mean", ".3f"),
        ("assigned error, mean", "assigned_error/mean", ".3f"),
        ("relative scale error, mean", "relative_scale_error/mean", ".1%"),
        ("  median", "relative_scale_error/median", ".1%"),
    ):
        model, baseline = (nested_value(m, path) for m in (metrics, metrics["baseline"]))
        if model is not None:  # without a camera, errors are not split
            lines.append(f"{label:34}{model:>9{form}}{baseline:>18{form}}")
    return "\n".join(lines)
