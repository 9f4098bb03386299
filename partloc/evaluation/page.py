"""The content of the report page: headline figures, data of the charts, and cases with labels.

Shapes: N samples of the table; K hypotheses per part; F = hypotheses.NUM_FIELDS.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from partloc.evaluation.accumulator import ErrorAccumulator
from partloc.evaluation.metrics import RELATIVE_SCALE_TOLERANCE
from partloc.inference.hypotheses import Hypotheses
from partloc.inference.prediction_files import HYPOTHESES_FILE, read_attention
from partloc.pose import RIGHT_TOLERANCE
from partloc.report_page.case import Case, Truth, kind_of_model, select_cases
from partloc.report_page.page import Content, Figure
from partloc.system.files import nested_value

SCALE_EDGES = (0.1, 0.2, 0.3, 0.5)  # between the groups of parts by labelled scale
VISIBLE_EDGES = (0.25, 0.5, 0.75)  # by visible share
# Optional, in the data folder: which share of each part is visible in the image of the whole.
VISIBLE_FILE, VISIBLE_COLUMNS = "visible.csv", ("model", "part", "visible_share")
MAX_GROUPS = 24  # bars of a chart; of more groups those with the largest errors
DIGITS = 4  # after the decimal point, of the charts
SHOWN_ERRORS = (
    *("translation_error", "labelled_error", "relative_scale_error"),
    *("across_image", "along_view"),  # if the camera is known
)
NUMBER, PERCENT = "{:.3f}", "{:.0%}"
# Label, path in the report, format, and goal of each headline figure.
HEADLINES = (
    ("translation error, mean", "translation_error/mean", NUMBER, f"{RIGHT_TOLERANCE:g}"),
    ("translation error, median", "translation_error/median", NUMBER, ""),
    (f"parts within {RIGHT_TOLERANCE:g}", "translation_error/within_0.05", PERCENT, ""),
    ("assigned error, mean", "assigned_error/mean", NUMBER, ""),
    (
        "relative scale error, mean",
        "relative_scale_error/mean",
        PERCENT,
        f"{RELATIVE_SCALE_TOLERANCE:.0%}",
    ),
    ("relative scale error, median", "relative_scale_error/median", PERCENT, ""),
)


def make_content(
    split: str,
    samples: pd.DataFrame,
    accumulator: ErrorAccumulator,
    report: dict[str, Any],
    predictions: Path,
    loss_file: Path | None,
    seed: int,
) -> Content:
    """The content of the page of an evaluation.

    samples: the data frame of the accumulator's table. report: of `compute_metrics`. predictions:
    the folder that `infer` wrote. loss_file: loss.json of the training of the same model.
    """
    hypotheses = np.load(predictions / HYPOTHESES_FILE, mmap_mode="r")  # (N, K, F)
    error = accumulator.errors["translation_error"].numpy()
    names = samples["part"].tolist()
    attention = read_attention(predictions, len(samples))
    cases = [
        _make_case(accumulator, int(row), names[row], np.array(hypotheses[row]))._replace(
            attention=None if attention is None else attention[row]
        )
        for row in select_cases(error, seed)
    ]
    title = f"partloc: {len(samples)} parts of {report['n_models']} models, {split} split"
    charts = _make_charts(accumulator, report)
    charts["visible"] = _group_by_visible_share(accumulator, samples)
    if loss_file is not None and loss_file.is_file():
        charts["loss"] = json.loads(loss_file.read_text(encoding="utf-8"))["loss"]
    return Content(title, cases, len(samples), make_figures(report), charts)


def make_figures(report: dict[str, Any]) -> list[Figure]:
    """The headline figures beside those of the constant prediction and the goals."""
    figures = []
    for label, path, form, goal in HEADLINES:
        interval = nested_value(report["interval_95"], path)
        figures.append(
            Figure(
                label,
                form.format(nested_value(report, path)),
                form.format(nested_value(report["baseline"], path)),
                f"{form} to {form}".format(*interval.values()) if interval else "",
                goal,
            )
        )
    calibration = report["confidence"]["expected_calibration_error"]
    return [*figures, Figure("expected calibration error", NUMBER.format(calibration))]


def _make_case(accumulator: ErrorAccumulator, row: int, part: str, hypotheses: np.ndarray) -> Case:
    """hypotheses: (K, F), of this part."""
    table = accumulator.table
    pose = torch.cat(Hypotheses.from_tensor(torch.from_numpy(hypotheses[None])).best_pose, 1)
    twins = torch.cat([field[0] for field in table.twin_poses([row])], 1)  # (T + 1, 4), itself too
    labelled = torch.cat([table.translation[row], table.scale[row]])
    others = twins[(twins != labelled).any(1)]
    errors = {
        name: accumulator.errors[name][row].item()
        for name in SHOWN_ERRORS
        if name in accumulator.errors
    }
    return Case(
        table.models[row],
        part,
        table.whole_paths[row],
        table.part_paths[row],
        pose[0].numpy(),
        accumulator.confidence[row].item(),
        hypotheses,
        Truth(labelled.numpy(), others.numpy(), errors),
    )


# -- charts ------------------------------------------------------------------------------------


def _make_charts(accumulator: ErrorAccumulator, report: dict[str, Any]) -> dict[str, Any]:
    """Name of a chart -> its records. A chart whose records are empty is not drawn."""
    table = accumulator.table
    twins = np.where(table.twin_group_sizes > 1, "with twins", "without twins")
    kinds = _group_means(accumulator, [kind_of_model(name) for name in table.models])
    return {
        "kind": sorted(kinds, key=lambda group: -group["model"])[:MAX_GROUPS],
        "scale": _group_means(accumulator, _name_ranges(table.scale[:, 0].numpy(), SCALE_EDGES)),
        "twins": _group_means(accumulator, list(twins)),
        "reliability": [
            {name: round(value, DIGITS) for name, value in group.items()}
            for group in report["confidence"]["bins"]
        ],
        "sources": [
            {"source": name.replace("_", " "), "measure": measure, "share": round(share, DIGITS)}
            for name, values in report["translation_error"].get("sources", {}).items()
            for measure, share in (
                ("of the parts", values["fraction"]),
                (
                    "of the error",
                    values["mean_contribution"] / max(report["translation_error"]["mean"], 1e-12),
                ),
            )
        ],
    }


def _group_by_visible_share(
    accumulator: ErrorAccumulator, samples: pd.DataFrame
) -> list[dict[str, Any]]:
    """Groups of the parts that VISIBLE_FILE lists; none if there is no such file."""
    path = accumulator.table.data_dir / VISIBLE_FILE
    if not path.is_file():
        return []
    names = list(VISIBLE_COLUMNS[:2])
    listed = _read_visible_shares(path).drop_duplicates(names)
    share = samples[names].merge(listed, "left", names)["visible_share"].to_numpy()  # (N,)
    rows = np.flatnonzero(~np.isnan(share))
    return _group_means(accumulator, _name_ranges(share[rows], VISIBLE_EDGES), rows)


def _read_visible_shares(path: Path) -> pd.DataFrame:
    """Raises: ValueError if a column of VISIBLE_COLUMNS is missing, or a share not in 0 to 1."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in VISIBLE_COLUMNS if name not in table]:
        raise ValueError(f"{path}: no column {', '.join(missing)}; found {', '.join(table)}")
    shares = pd.to_numeric(table["visible_share"], errors="coerce")
    if (wrong := ~shares.between(0, 1)).any():
        row = table[wrong].iloc[0]
        found = f"visible_share {row.visible_share!r}, expected 0 to 1"
        raise ValueError(f"{path}: model {row.model}, part {row.part}: {found}")
    return table[list(VISIBLE_COLUMNS[:2])].assign(visible_share=shares)


def _name_ranges(values: np.ndarray, edges: tuple[float, ...]) -> list[str]:
    """The range of each value, like "0.1 to 0.2"; all values are in 0 to 1."""
    names = ["0", *(f"{edge:g}" for edge in edges), "1"]
    return [f"{names[i]} to {names[i + 1]}" for i in np.digitize(values, edges)]


def _group_means(
    accumulator: ErrorAccumulator, groups: list[str], rows: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Mean translation errors of the model and of the baseline by group, sorted by name.

    groups: the name of the group of each row. rows: of the table; all if None.
    """
    selected = np.arange(len(accumulator.table)) if rows is None else rows
    names, number = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(number)
    model, baseline = (
        np.bincount(number, errors["translation_error"].numpy()[selected]) / counts
        for errors in (accumulator.errors, accumulator.baseline_errors)
    )
    return [
        {
            "group": str(name),
            "count": int(counts[i]),
            "model": round(float(model[i]), DIGITS),
            "constant": round(float(baseline[i]), DIGITS),
        }
        for i, name in enumerate(names)
    ]
