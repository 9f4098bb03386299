"""How well the model answers on a split, sample by sample and in figures.

Shapes: N samples of a table, K twins of a part.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from partloc.assign import assign
from partloc.calibration import reliability
from partloc.config import Config
from partloc.data import PairDataset, make_loader
from partloc.metrics import (
    NEAR,
    assigned_errors,
    bootstrap,
    relative_scale_errors,
    spread,
    summarize,
    translation_errors,
    twin_translation_errors,
)
from partloc.model import PartLocator, Prediction
from partloc.plan import PairTable, PlannedBatches, plan_in_order
from partloc.pose import PartPose
from partloc.schedule import encoder_dtype
from partloc.split import SETS, read_manifest

PAIRS_PER_BATCH = 8
ROWS_AT_ONCE = 4096  # whose twins are looked at together; one group of many widens only these
MAX_RECORDS = 500  # of a series for the plots; a chart with more says no more
AXES = ("x", "y", "z", "scale")
PIPELINE_MODEL = Path("models/best_model.pth")


def results_of(output_dir: Path, split: str, checkpoint: Path) -> tuple[Path, Path]:
    """Where the figures and the folder with tables and pictures go.

    The pipeline's own places hold the test set under the pipeline's model, nothing else.
    """
    pipelines = checkpoint.resolve() == PIPELINE_MODEL.resolve()
    if pipelines and split == "test":
        return Path("metrics/evaluate.json"), output_dir / "evaluate"
    folder = output_dir / f"evaluate-{split if pipelines else f'{split}-{checkpoint.stem}'}"
    return folder / "evaluate.json", folder


def read_split(output_dir: Path, name: str) -> pd.DataFrame:
    """The table of one set.

    Raises: FileNotFoundError or ValueError, saying what to do, if it is missing or empty.
    """
    path = output_dir / "split" / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make it with `dvc repro split`")
    table = read_manifest(path)
    if table.empty:
        raise ValueError(
            f"{path}: the {name} set has no samples; raise data.{name}_ratio in params.yaml, "
            f"or choose one of --split {', '.join(other for other in SETS if other != name)}"
        )
    return table


@torch.inference_mode()
def predict_table(
    model: PartLocator, table: PairTable, config: Config, device: torch.device
) -> Prediction:
    """The model's hypotheses for each row of the table, in its order, on the CPU.

    Batch by batch; of the images nothing is kept. Raises: ImageError for an unreadable one.
    """
    model = model.to(device).eval()
    count = model.hypotheses
    poses = PartPose(torch.empty(len(table), count, 3), torch.empty(len(table), count, 1))
    answer = Prediction(poses, torch.empty(len(table), count))
    batches = PlannedBatches(table)
    batches.set_plan(0, plan_in_order(table, PAIRS_PER_BATCH))
    dataset = PairDataset(table, model.preprocessing, config.data.max_image_pixels)
    loader = make_loader(dataset, batches, config.machine.num_workers, device)
    precision = encoder_dtype(device)
    with tqdm(desc="evaluate", total=len(table), unit="pair", disable=None) as bar:
        for batch in loader:
            moved = batch.to(device)
            wholes, parts = (model.encode(each, precision) for each in (moved.wholes, moved.parts))
            found = model.locate(wholes, parts, moved.whole_of_part)
            found = found.pick(moved.part_of_pair)
            poses.translation[batch.rows] = found.hypotheses.translation.cpu()
            poses.scale[batch.rows] = found.hypotheses.scale.cpu()
            answer.log_confidence[batch.rows] = found.log_confidence.cpu()
            bar.update(len(batch.rows))
    return answer


def assign_twins(found: Prediction, table: PairTable) -> PartPose:
    """The answer to each row when equal parts of a model take distinct places: (N, 3), (N, 1)."""
    answer = PartPose(*(field.clone() for field in found.pose))
    for rows in table.twin_groups():
        hypotheses = PartPose(*(field[rows] for field in found.hypotheses))
        chosen = assign(hypotheses, found.log_confidence[rows])
        for field, offered in zip(answer, hypotheses, strict=True):
            field[rows] = offered.flatten(0, 1)[chosen]
    return answer


def errors_of(found: Prediction, table: PairTable) -> dict[str, Tensor]:
    """(N,) each: what evaluate and prediction_table report, by name."""
    predicted, truth = found.pose, _truth(table)
    twins = nearest_twins(predicted, table)
    placed = assign_twins(found, table)
    return {
        "translation_error": translation_errors(predicted, truth),
        "twin_aware_error": twin_translation_errors(predicted, twins),
        "assigned_error": assigned_errors(placed, truth, table.twin_groups()),
        "relative_scale_error": relative_scale_errors(predicted, truth),
    }


def evaluate(
    found: Prediction,
    errors: dict[str, Tensor],
    confidence: Tensor,
    table: PairTable,
    baseline: PartPose,
    viewing: Tensor | None,
    seed: int,
) -> dict[str, Any]:
    """The content of metrics/evaluate.json: figures, the baseline's figures, series for plots.

    errors: `errors_of` the answers; confidence: (N,) of them. baseline: the answers that need no
    model, (N, 3) and (N, 1). viewing: as `metrics.summarize` takes it.
    """
    truth, answers = _truth(table), (found.pose, baseline)
    nearest = [nearest_twins(answer, table) for answer in answers]
    figures, constant = (
        summarize(answer, truth, twins, viewing)
        for answer, twins in zip(answers, nearest, strict=True)
    )
    figures["translation_error"]["assigned"] = spread(errors["assigned_error"])
    constant["translation_error"]["assigned"] = spread(
        assigned_errors(baseline, truth, table.twin_groups())
    )
    series = {
        "model": errors["twin_aware_error"],
        "training_median": twin_translation_errors(baseline, nearest[1]),
    }
    return {
        **figures,
        "by_kind": _by_kind(errors, table),
        "interval_95": bootstrap(errors, table.models, seed),
        "confidence": reliability(confidence, errors["twin_aware_error"] < NEAR),
        "baseline": constant,
        "n_samples": len(table),
        "n_models": len(set(table.models)),
        "points": _points(found.pose, truth),
        "errors": [
            {name: values[row].item() for name, values in series.items()}
            for row in _spread_rows(len(table), MAX_RECORDS)
        ],
    }


def _by_kind(errors: dict[str, Tensor], table: PairTable) -> dict[str, dict[str, float]]:
    """Mean errors of the parts that have a twin, and of those that have none."""
    has_twin = torch.from_numpy(table.twin_counts > 1)
    kinds = {}
    for kind, rows in (("unique", ~has_twin), ("twins", has_twin)):
        if rows.any():
            means = {f"{name}_mean": values[rows].mean().item() for name, values in errors.items()}
            kinds[kind] = {"n_samples": int(rows.sum()), **means}
    return kinds


def _truth(table: PairTable) -> PartPose:
    """The labelled poses (N, 3), (N, 1)."""
    return PartPose(table.translation, table.scale)


def nearest_twins(predicted: PartPose, table: PairTable) -> PartPose:
    """Of each row's twins the one that the answer is nearest to: (N, 1, 3), (N, 1, 1).

    All twins of all rows would be as wide as the largest group, hence some rows at a time.
    """
    nearest = []
    for start in range(0, len(table), ROWS_AT_ONCE):
        rows = range(len(table))[start : start + ROWS_AT_ONCE]
        twins = table.twins(rows)  # (P, K, 3), (P, K, 1)
        offsets = predicted.translation[rows.start : rows.stop, None] - twins.translation
        place = torch.linalg.vector_norm(offsets, dim=-1).argmin(1, keepdim=True)[..., None]
        nearest.append(PartPose(*(field.take_along_dim(place, 1) for field in twins)))
    return PartPose(*(torch.cat(fields) for fields in zip(*nearest, strict=True)))


def _points(predicted: PartPose, truth: PartPose) -> list[dict[str, Any]]:
    """Predicted against true, a record for each axis of some rows: the parity plot."""
    true, found = torch.cat(truth, 1), torch.cat(predicted, 1)  # (N, 4)
    rows = _spread_rows(len(true), MAX_RECORDS // len(AXES))
    return [
        {"axis": axis, "true": true[row, i].item(), "predicted": found[row, i].item()}
        for i, axis in enumerate(AXES)
        for row in rows
    ]


def _spread_rows(count: int, most: int) -> list[int]:
    """At most `most` of `count` rows, evenly spaced: no chance, and every model has its turn."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def prediction_table(
    samples: pd.DataFrame,
    table: PairTable,
    found: Prediction,
    errors: dict[str, Tensor],
    confidence: Tensor,
) -> pd.DataFrame:
    """Truth, answer and errors of each sample, sorted; `twins` counts the part's look-alikes."""
    answers = torch.cat(found.pose, 1).numpy().astype(float)  # (N, 4)
    columns = ["model", "part", "whole_path", "part_path", "tx", "ty", "tz", "scale"]
    rows = samples[columns].reset_index(drop=True)
    for i, name in enumerate(("tx", "ty", "tz", "scale")):
        rows[f"predicted_{name}"] = answers[:, i]
    measured = errors | {"confidence": confidence}
    rows = rows.assign(**{name: values.numpy().astype(float) for name, values in measured.items()})
    rows["twin_group"] = samples["twin_group"].to_numpy()
    rows["twins"] = table.twin_counts - 1
    return rows.sort_values(["model", "part"], ignore_index=True).round(6)


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
        ours, theirs = _figure(figures, path), _figure(figures["baseline"], path)
        if ours is not None:  # without a fitted camera there is no across and along
            lines.append(f"{label:34}{ours:>9{form}}{theirs:>18{form}}")
    return "\n".join(lines)


def _figure(figures: dict[str, Any], path: str) -> float | None:
    *groups, name = path.split("/")
    for group in groups:
        figures = figures[group]
    return figures.get(name)
