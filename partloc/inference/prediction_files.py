"""The folder of predictions that the command `infer` writes and `evaluate` reads.

predictions.csv  PREDICTION_COLUMNS, one row per part, sorted by (model, part)
hypotheses.npy   (N, K, F) float32, all hypotheses, in the order of predictions.csv
attention.npy    (N,) of `attention_dtype`, what each part attended to, in the same order; only of a
                 model that matches templates
skipped.csv      SKIPPED_COLUMNS, the images without a prediction
model.json       what `ModelInfo` holds; written last
{model}/         a JSON file per part, see answer.schema.json

Shapes: N parts; S tokens per side; n parts of a chunk; K hypotheses per part;
F = hypotheses.NUM_FIELDS.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from partloc.data.table import PairTable
from partloc.files import open_atomic
from partloc.inference.hypotheses import Hypotheses
from partloc.model.camera import CAMERA_TENSORS, PinholeCamera
from partloc.pose import POSE_COLUMNS, PartPose

PREDICTIONS_FILE, HYPOTHESES_FILE = "predictions.csv", "hypotheses.npy"
ATTENTION_FILE = "attention.npy"
SKIPPED_FILE, MODEL_INFO_FILE = "skipped.csv", "model.json"
PREDICTION_COLUMNS = ("model", "part", "whole_path", "part_path", *POSE_COLUMNS, "confidence")
SKIPPED_COLUMNS = ("model", "file", "reason", "detail")
# Rows that are evaluated together, at least; a chunk ends with a model.
MIN_CHUNK_ROWS = 4096


def attention_dtype(side: int) -> np.dtype:
    """Of the fields of `predictor.AttentionMap`; side: S."""
    return np.dtype([("crop", "<f4", (3,)), ("weight", "u1", (side, side))])


class TablePredictions(NamedTuple):
    """Predictions for rows of a `PairTable`.

    rows: (n,). hypotheses: of each part when it is queried alone. confidence: (n,), calibrated, of
    the most probable hypothesis. assigned: poses (n, 3) and (n, 1), where equal parts of a model
    have distinct positions.
    """

    rows: np.ndarray
    hypotheses: Hypotheses
    confidence: Tensor
    assigned: PartPose


class ModelInfo(NamedTuple):
    """What the evaluation needs to know about the model of the predictions.

    camera: None if none was fitted. confidence_slope, confidence_offset: the calibration, see
    `calibrate`. checkpoint_sha256: of the model file.
    """

    camera: PinholeCamera | None
    confidence_slope: float
    confidence_offset: float
    checkpoint_sha256: str

    def calibrate(self, logit: Tensor) -> Tensor:
        """Probability of a translation error below `pose.RIGHT_TOLERANCE`, of any shape."""
        return (self.confidence_slope * logit + self.confidence_offset).sigmoid()


def write_model_info(folder: Path, info: ModelInfo) -> None:
    """Write the numbers with all digits, unlike `files.write_json`: they are inputs."""
    values = info._asdict()
    if info.camera is not None:
        camera = info.camera
        values["camera"] = {name: getattr(camera, name).tolist() for name in CAMERA_TENSORS}
    with open_atomic(folder / MODEL_INFO_FILE) as file:
        file.write((json.dumps(values, indent=2, sort_keys=True) + "\n").encode())


def read_attention(folder: Path, num_parts: int) -> np.ndarray | None:
    """(N,) of `attention_dtype`, mapped into memory; None if the model has no such maps."""
    path = folder / ATTENTION_FILE
    if not (path.is_file() and num_parts):  # an empty array cannot be mapped
        return None
    return np.load(path, mmap_mode="r")


def has_predictions(folder: Path) -> bool:
    """Whether the command `infer` has finished once."""
    return (folder / MODEL_INFO_FILE).is_file()


def read_model_info(folder: Path) -> ModelInfo:
    values = json.loads((folder / MODEL_INFO_FILE).read_text(encoding="utf-8"))
    if values["camera"] is not None:
        fields = {name: torch.tensor(value) for name, value in values["camera"].items()}
        values["camera"] = PinholeCamera(**fields, inlier_fraction=float("nan"))
    return ModelInfo(**values)


def read_predictions(folder: Path, table: PairTable, info: ModelInfo) -> Iterator[TablePredictions]:
    """Read the predictions for all rows of a table in chunks of whole models.

    table: sorted by (model, part), as the predictions are.
    Raises: ValueError if the predictions are for other parts than those of the table.
    """
    start = 0
    for poses in _read_poses(folder, table):
        rows = np.arange(start, start + len(poses))
        # Opened for each chunk, so that the pages of earlier ones leave the memory.
        values = np.load(folder / HYPOTHESES_FILE, mmap_mode="r")[rows]  # (n, K, F)
        hypotheses = Hypotheses.from_tensor(torch.from_numpy(values))
        confidence = info.calibrate(hypotheses.best_confidence_logit)
        assigned = PartPose(*torch.from_numpy(poses).split([3, 1], 1))
        yield TablePredictions(rows, hypotheses, confidence, assigned)
        start += len(poses)


def _read_poses(folder: Path, table: PairTable) -> Iterator[np.ndarray]:
    """Poses (n, 4) float32 of the chunks, from predictions.csv."""
    start = 0
    with (folder / PREDICTIONS_FILE).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for size in chunk_sizes(table):
            rows = list(islice(reader, size))
            _require_parts(
                [row["part_path"] for row in rows], table.part_paths[start:][:size], folder
            )
            yield np.array([[row[name] for name in POSE_COLUMNS] for row in rows], np.float32)
            start += size
        _require_parts([row["part_path"] for row in islice(reader, 1)], [], folder)


def chunk_sizes(table: PairTable) -> Iterator[int]:
    """Numbers of rows of the chunks."""
    size = 0
    for rows in table.rows_by_model():
        size += len(rows)
        if size >= MIN_CHUNK_ROWS:
            yield size
            size = 0
    if size:
        yield size


def _require_parts(found: Sequence[str], expected: Sequence[str], folder: Path) -> None:
    """Raises: ValueError that names the first part without a prediction, and the reason."""
    for path, expected_path in zip_longest(found, expected):
        if path == expected_path:
            continue
        if expected_path is None:
            raise ValueError(f"{folder}: the prediction for {path} has no row in the split table")
        reason = _skip_reason(folder, expected_path) or "predict this split again"
        raise ValueError(f"{folder}: no prediction for {expected_path}: {reason}")


def _skip_reason(folder: Path, path: str) -> str | None:
    with (folder / SKIPPED_FILE).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["file"] == path:
                return f"{row['reason']}: {row['detail']}"
    return None
