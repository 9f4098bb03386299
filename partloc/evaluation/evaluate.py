"""How well the model answers on a split, sample by sample and in figures.

Answers come some whole models at a time, are judged, written and forgotten. Of all samples are held
their names and labels, and a number for each error.

Shapes: N samples of a table, n of them that are answered together, K twins of a part.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from partloc.config import Config
from partloc.data.dataset import PairDataset, make_loader
from partloc.data.index import MANIFEST_COLUMNS
from partloc.data.sampler import PlannedBatchSampler, plan_sequential
from partloc.data.split import SPLITS, read_manifest
from partloc.data.table import PairTable
from partloc.distributed import inference_dtype
from partloc.evaluation.calibration import reliability
from partloc.evaluation.metrics import (
    assigned_errors,
    bootstrap,
    constant_answer,
    errors_of,
    nearest_across,
    summarize,
)
from partloc.files import nested_value
from partloc.inference.assignment import assign
from partloc.model.camera import PinholeCamera
from partloc.model.locator import PartLocator
from partloc.model.prediction import Prediction
from partloc.pose import RIGHT_TOLERANCE, PartPose

PAIRS_PER_BATCH = 8
ROWS_AT_ONCE = 4096  # that are judged together, at least; one group of many widens only these
MAX_RECORDS = 500  # of a series for the plots; a chart with more says no more
AXES = ("x", "y", "z", "scale")
# What is told of each sample, and what has intervals and is told apart by kind.
ERRORS = ("translation_error", "twin_aware_error", "assigned_error", "relative_scale_error")
# Of the same answers, had each place been judged by itself.
UNARRANGED = "unarranged_error"
PIPELINE_MODEL = Path("models/best_model.pth")


def results_of(output_dir: Path, split: str, checkpoint: Path) -> tuple[Path, Path]:
    """Where the figures and the folder with tables and pictures go.

    The pipeline's own places hold the test set under the pipeline's model, nothing else.
    """
    pipelines = checkpoint.resolve() == PIPELINE_MODEL.resolve()
    if pipelines and split == "test":
        return Path("metrics/evaluate.json"), output_dir / "evaluate"
    folder = output_dir / "-".join(["evaluate", split, *([] if pipelines else _named(checkpoint))])
    return folder / "evaluate.json", folder


def _named(checkpoint: Path) -> tuple[str, ...]:
    """The steps of its path, from here where it lies below: many are called model.pth."""
    path, here = checkpoint.resolve().with_suffix(""), Path.cwd()
    return path.relative_to(here if path.is_relative_to(here) else path.anchor).parts


class Answers(NamedTuple):
    """What the model says to rows (n,) of a table: hypotheses, and the answers' confidence (n,)."""

    rows: np.ndarray
    found: Prediction
    confidence: Tensor


def read_split(
    output_dir: Path, name: str, columns: Sequence[str] = MANIFEST_COLUMNS
) -> pd.DataFrame:
    """The table of one set, in the order of its file.

    Raises: FileNotFoundError or ValueError, saying what to do, if it is missing or empty.
    """
    path = output_dir / "split" / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make it with `dvc repro split`")
    table = read_manifest(path, columns)
    if table.empty:
        raise ValueError(
            f"{path}: the {name} set has no samples; raise data.{name}_ratio in params.yaml, "
            f"or choose one of --split {', '.join(other for other in SPLITS if other != name)}"
        )
    return table


def training_median(output_dir: Path) -> PartPose:
    """The constant answer, (1, 3) and (1, 1). Raises: as `read_split`."""
    labels = read_split(output_dir, "train", ("tx", "ty", "tz", "scale"))
    labels = torch.from_numpy(labels.to_numpy(np.float32))  # (N, 4)
    return constant_answer(PartPose(labels[:, :3], labels[:, 3:]), 1)


@torch.inference_mode()
def answer_models(
    model: PartLocator, table: PairTable, config: Config, device: torch.device
) -> Iterator[Answers]:
    """The model's answers to each row of the table, some whole models at a time, on the CPU.

    Of the images nothing is kept. Raises: ImageError for an unreadable one.
    """
    model = model.to(device).eval()
    with tqdm(desc="evaluate", total=len(table), unit="pair", disable=None) as bar:
        for fields in _regroup(_locate_batches(model, table, config, device), sizes_of(table)):
            rows, translation, scale, *told = fields
            found = Prediction(PartPose(translation, scale), *told)
            yield Answers(rows.numpy(), found, model.best_confidence(found))
            bar.update(len(rows))


def _locate_batches(
    model: PartLocator, table: PairTable, config: Config, device: torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """Rows, translations, scales, log shares and log odds of one batch after the other, on the
    CPU."""
    batches = PlannedBatchSampler(table)
    batches.set_plan(0, plan_sequential(table, PAIRS_PER_BATCH))
    dataset = PairDataset(table, model.preprocessing, config.data.max_image_pixels)
    precision = inference_dtype(device)
    for batch in make_loader(dataset, batches, config.machine.num_workers, device):
        moved = batch.to(device)
        wholes, parts = (model.encode(each, precision) for each in (moved.wholes, moved.parts))
        found = model.predict(wholes, parts, moved.whole_of_part).select(moved.part_of_pair)
        fields = (batch.rows, *found.hypotheses, found.log_weight, found.confidence_logit)
        yield tuple(field.cpu() for field in fields)


def sizes_of(table: PairTable) -> Iterator[int]:
    """How many rows are judged together: whole models, in order."""
    size = 0
    for rows in table.rows_by_model():
        size += len(rows)
        if size >= ROWS_AT_ONCE:
            yield size
            size = 0
    if size:
        yield size


def _regroup(
    batches: Iterator[tuple[Tensor, ...]], sizes: Iterable[int]
) -> Iterator[tuple[Tensor, ...]]:
    """The same rows in the same order, so many at a time."""
    held, count = [], 0
    for size in sizes:
        while count < size:
            held.append(next(batches))
            count += len(held[-1][0])
        fields = [torch.cat(pieces) for pieces in zip(*held, strict=True)]
        yield tuple(field[:size] for field in fields)
        held, count = [tuple(field[size:] for field in fields)], count - size


def assign_twins(
    found: Prediction, groups: list[np.ndarray], view: PinholeCamera | None
) -> PartPose:
    """The answers (n, 3), (n, 1) when equal parts of a model, given as groups of rows, take
    distinct places; view: by which these are judged together, None: each by itself."""
    answer = PartPose(*(field.clone() for field in found.pose))
    for rows in groups:
        if len(rows) > 1:
            hypotheses = PartPose(*(field[rows] for field in found.hypotheses))
            told = found.log_weight[rows], found.confidence_logit[rows]
            placed = assign(hypotheses, *told, view and view.axes)
            for field, values in zip(answer, placed.pose, strict=True):
                field[rows] = values
    return answer


class Judge:
    """What the figures need of all answers: errors, not the answers.

    errors and constant: by name, (N,) each, of the model's answers and of the constant one;
    confidence: (N,). Of shown_rows, some few, also the answers (., 4).
    """

    def __init__(self, table: PairTable) -> None:
        self.table = table
        self.errors: dict[str, Tensor] = {}
        self.constant: dict[str, Tensor] = {}
        self.confidence = torch.empty(len(table))
        self.shown_rows = _spread_rows(len(table), MAX_RECORDS // len(AXES))
        self.shown = torch.empty(len(self.shown_rows), len(AXES))

    def enter(self, answers: Answers, constant: PartPose, view: PinholeCamera | None) -> None:
        """Judge the answers to whole models, and the constant one, (1, 3) and (1, 1), to the same.

        view: the model's camera, if it knows one.
        """
        rows, found, pose = answers.rows, answers.found, answers.found.pose
        truth, twins = truth_of(self.table, rows), self.table.twin_poses(rows)
        groups = self.table.twin_groups(rows)
        same = PartPose(*(field.expand(len(rows), -1) for field in constant))
        viewing = view and view.forward
        ours = errors_of(pose, truth, twins, viewing)
        placed, singly = (assign_twins(found, groups, each) for each in (view, None))
        ours["assigned_error"] = assigned_errors(placed, truth, groups)
        ours[UNARRANGED] = assigned_errors(singly, truth, groups)
        if viewing is not None:
            ours["nearest_across"] = nearest_across(found.hypotheses, twins, viewing)
        theirs = errors_of(same, truth, twins, viewing)
        theirs["assigned_error"] = theirs[UNARRANGED] = assigned_errors(same, truth, groups)
        for kept, errors in ((self.errors, ours), (self.constant, theirs)):
            for name, values in errors.items():
                kept.setdefault(name, torch.full((len(self.table),), math.nan))[rows] = values
        self.confidence[rows] = answers.confidence
        place, here = np.nonzero(self.shown_rows[:, None] == rows)
        self.shown[place] = torch.cat(pose, 1)[here]


def judged_rows(
    samples: pd.DataFrame,
    judge: Judge,
    answers: Iterable[Answers],
    constant: PartPose,
    view: PinholeCamera | None,
) -> Iterator[pd.DataFrame]:
    """The table of predictions, piece by piece, while the judge gets to know all answers.

    samples: of the judge's table; constant, view: as in `Judge.enter`.
    """
    for some in answers:
        judge.enter(some, constant, view)
        yield prediction_rows(samples, judge, some)


def prediction_rows(samples: pd.DataFrame, judge: Judge, answers: Answers) -> pd.DataFrame:
    """Truth, answer and errors of samples; `twins` counts the part's look-alikes."""
    chosen = answers.rows
    found = torch.cat(answers.found.pose, 1).numpy().astype(float)  # (n, 4)
    columns = ["model", "part", "whole_path", "part_path", "tx", "ty", "tz", "scale"]
    rows = samples[columns].iloc[chosen].copy()
    for i, name in enumerate(("tx", "ty", "tz", "scale")):
        rows[f"predicted_{name}"] = found[:, i]
    for name in ERRORS:
        rows[name] = judge.errors[name][chosen].numpy().astype(float)
    rows["confidence"] = answers.confidence.numpy().astype(float)
    rows["twin_group"] = samples["twin_group"].to_numpy()[chosen]
    rows["twins"] = judge.table.twin_group_sizes[chosen] - 1
    return rows.round(6)


def evaluate(judge: Judge, seed: int) -> dict[str, Any]:
    """The content of metrics/evaluate.json: figures, the constant answer's figures, and series for
    plots. Every row has been judged."""
    table, near = judge.table, judge.errors["twin_aware_error"]
    told = {name: judge.errors[name] for name in ERRORS}
    series = {"model": near, "training_median": judge.constant["twin_aware_error"]}
    return {
        **summarize(judge.errors),
        "by_kind": _by_kind(told | {UNARRANGED: judge.errors[UNARRANGED]}, table),
        "interval_95": bootstrap(told, table.models, seed),
        "confidence": reliability(judge.confidence, near < RIGHT_TOLERANCE),
        "baseline": summarize(judge.constant),
        "n_samples": len(table),
        "n_models": len(set(table.models)),
        "points": _points(judge),
        "errors": [
            {name: values[row].item() for name, values in series.items()}
            for row in _spread_rows(len(table), MAX_RECORDS)
        ],
    }


def _by_kind(errors: dict[str, Tensor], table: PairTable) -> dict[str, dict[str, float]]:
    """Mean errors of the parts that have a twin, and of those that have none."""
    has_twin = torch.from_numpy(table.twin_group_sizes > 1)
    kinds = {}
    for kind, rows in (("unique", ~has_twin), ("twins", has_twin)):
        if rows.any():
            means = {f"{name}_mean": values[rows].mean().item() for name, values in errors.items()}
            kinds[kind] = {"n_samples": int(rows.sum()), **means}
    return kinds


def truth_of(table: PairTable, rows: np.ndarray) -> PartPose:
    """The labelled poses (n, 3), (n, 1)."""
    return PartPose(table.translation[rows], table.scale[rows])


def _points(judge: Judge) -> list[dict[str, Any]]:
    """Predicted against true, a record for each axis of some rows: the parity plot."""
    true = torch.cat(truth_of(judge.table, judge.shown_rows), 1)  # (., 4)
    return [
        {"axis": axis, "true": true[place, i].item(), "predicted": judge.shown[place, i].item()}
        for i, axis in enumerate(AXES)
        for place in range(len(true))
    ]


def _spread_rows(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` rows, evenly spaced: no chance, and every model has its turn."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def comparison(figures: dict[str, Any], split: str) -> str:
    """For the terminal: the model's figures beside those of the constant answer."""
    lines = [
        f"{split}: {figures['n_samples']} samples of {figures['n_models']} models",
        f"{'':34}{'model':>9}{'training median':>18}",
    ]
    for label, path, form in (
        ("translation error, mean", "translation_error/mean", ".3f"),
        ("  nearest twin, mean", "translation_error/twin_aware/mean", ".3f"),
        ("  nearest twin, median", "translation_error/twin_aware/median", ".3f"),
        ("    across the image", "translation_error/twin_aware/across_image_mean", ".3f"),
        ("    along the view", "translation_error/twin_aware/along_view_mean", ".3f"),
        ("  nearest twin, under 0.05", "translation_error/twin_aware/within_0.05", ".1%"),
        ("  twins on distinct places, mean", "translation_error/assigned/mean", ".3f"),
        ("relative scale error, mean", "scale_error/relative_mean", ".1%"),
        ("relative scale error, median", "scale_error/relative_median", ".1%"),
        ("  under 15 %", "scale_error/within_15pct", ".1%"),
    ):
        ours, theirs = nested_value(figures, path), nested_value(figures["baseline"], path)
        if ours is not None:  # without a fitted camera there is no across and along
            lines.append(f"{label:34}{ours:>9{form}}{theirs:>18{form}}")
    return "\n".join(lines)
