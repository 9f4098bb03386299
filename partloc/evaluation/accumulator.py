"""Errors of streamed predictions: measure the errors of a chunk, keep these, discard the chunk.

Shapes: N samples of the table; n rows of a chunk; H hypotheses per part; M plotted rows.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from partloc.data.table import PairTable
from partloc.evaluation.metrics import assigned_errors, best_across_image, pose_errors
from partloc.inference.prediction_files import TablePredictions
from partloc.model.camera import PinholeCamera
from partloc.pose import POSE_COLUMNS, PartPose

MAX_PLOT_RECORDS = 500  # of a series; a plot of more looks the same
# Columns of predictions.csv.
ERROR_COLUMNS = (
    "translation_error",
    "labelled_error",
    "assigned_error",
    "relative_scale_error",
    "absolute_scale_error",
)
_SAMPLE_COLUMNS = ("model", "part", "whole_path", "part_path", *POSE_COLUMNS)


class ErrorAccumulator:
    """Errors of predictions for all rows of a table, and of the baseline.

    errors, baseline_errors: by name, (N,) each; NaN until a row is updated. confidence: (N,).
    plotted_rows: (M,), evenly spaced; plotted_poses: (M, 4), their predictions.
    """

    def __init__(self, table: PairTable) -> None:
        self.table = table
        self.errors: dict[str, Tensor] = {}
        self.baseline_errors: dict[str, Tensor] = {}
        self.confidence = torch.full((len(table),), math.nan)
        self.plotted_rows = evenly_spaced(len(table), MAX_PLOT_RECORDS // len(POSE_COLUMNS))
        self.plotted_poses = torch.full((len(self.plotted_rows), len(POSE_COLUMNS)), math.nan)

    def update(
        self, predictions: TablePredictions, baseline: PartPose, camera: PinholeCamera | None
    ) -> None:
        """Add predictions for whole models.

        baseline: (1, 3) and (1, 1), predicted for every part. camera: of the model, if it has one.
        """
        rows, best = predictions.rows, predictions.hypotheses.best_pose
        labelled, twins = labelled_poses(self.table, rows), self.table.twin_poses(rows)
        twin_groups = self.table.twin_groups(rows)
        direction = None if camera is None else camera.forward
        errors = pose_errors(best, labelled, twins, direction)
        errors["assigned_error"] = assigned_errors(predictions.assigned, labelled, twin_groups)
        if direction is not None:
            hypotheses = predictions.hypotheses.poses
            errors["best_across_image"] = best_across_image(hypotheses, twins, direction)
        self._store(self.errors, rows, errors)

        constant = PartPose(*(field.expand(len(rows), -1) for field in baseline))
        errors = pose_errors(constant, labelled, twins, direction)
        errors["assigned_error"] = assigned_errors(constant, labelled, twin_groups)
        self._store(self.baseline_errors, rows, errors)

        self.confidence[rows] = predictions.confidence
        plotted, position = np.nonzero(self.plotted_rows[:, None] == rows)
        self.plotted_poses[plotted] = torch.cat(best, 1)[position]

    def _store(
        self, stored: dict[str, Tensor], rows: np.ndarray, errors: dict[str, Tensor]
    ) -> None:
        for name, values in errors.items():
            stored.setdefault(name, torch.full((len(self.table),), math.nan))[rows] = values

    def iter_rows(
        self,
        samples: pd.DataFrame,
        predictions: Iterable[TablePredictions],
        baseline: PartPose,
        camera: PinholeCamera | None,
    ) -> Iterator[pd.DataFrame]:
        """Add all predictions, and yield the rows of predictions.csv chunk by chunk.

        samples: the data frame of the table. Other arguments as in `update`.
        """
        for chunk in predictions:
            self.update(chunk, baseline, camera)
            yield self._prediction_rows(samples, chunk)

    def _prediction_rows(self, samples: pd.DataFrame, chunk: TablePredictions) -> pd.DataFrame:
        """Labels, predictions and errors; `twins` is the number of the part's twins."""
        poses = torch.cat(chunk.hypotheses.best_pose, 1).numpy().astype(float)  # (n, 4)
        rows = samples[list(_SAMPLE_COLUMNS)].iloc[chunk.rows].copy()
        for column, name in enumerate(POSE_COLUMNS):
            rows[f"predicted_{name}"] = poses[:, column]
        for name in ERROR_COLUMNS:
            rows[name] = self.errors[name][chunk.rows].numpy().astype(float)
        rows["confidence"] = chunk.confidence.numpy().astype(float)
        rows["twin_group"] = samples["twin_group"].to_numpy()[chunk.rows]
        rows["twins"] = self.table.twin_group_sizes[chunk.rows] - 1
        return rows.round(6)


def labelled_poses(table: PairTable, rows: np.ndarray) -> PartPose:
    """(n, 3) and (n, 1)."""
    return PartPose(table.translation[rows], table.scale[rows])


def evenly_spaced(count: int, maximum: int) -> np.ndarray:
    """At most `maximum` of `count` rows, evenly spaced."""
    return np.linspace(0, count - 1, min(count, maximum)).round().astype(int)
