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
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from partloc.config import Group, validate
from partloc.data.table import PairTable
from partloc.inference.hypotheses import NUM_FIELDS, Hypotheses
from partloc.model.camera import CAMERA_TENSORS, PinholeCamera
from partloc.pose import POSE_COLUMNS, PartPose
from partloc.system.files import open_atomic

PREDICTIONS_FILE, HYPOTHESES_FILE = "predictions.csv", "hypotheses.npy"
ATTENTION_FILE = "attention.npy"
SKIPPED_FILE, MODEL_INFO_FILE = "skipped.csv", "model.json"
PREDICTION_COLUMNS = ("model", "part", "whole_path", "part_path", *POSE_COLUMNS, "confidence")
SKIPPED_COLUMNS = ("model", "file", "reason", "detail")
PREDICT_AGAIN, MAX_ERROR_CHARS = "predict this split again", 300
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


Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
Triple = Annotated[list[Number], Field(min_length=3, max_length=3)]


class CameraValues(Group):
    """The tensors of a camera in model.json."""

    slope: Annotated[list[Triple], Field(min_length=2, max_length=2)]
    offset: Pair
    inverse_distance: Number
    handedness: Number


class ModelInfoValues(Group):
    """The content of model.json."""

    camera: CameraValues | None
    confidence_slope: Number
    confidence_offset: Number
    checkpoint_sha256: str


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
    """Raises: OSError; ValueError naming the file if it is not what `write_model_info` writes."""
    path = folder / MODEL_INFO_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}; {PREDICT_AGAIN}") from None
    values = validate(ModelInfoValues, values, str(path)).model_dump()
    if values["camera"] is not None:
        fields = {name: torch.tensor(value) for name, value in values["camera"].items()}
        values["camera"] = PinholeCamera(**fields, inlier_fraction=float("nan"))
    return ModelInfo(**values)


def read_predictions(folder: Path, table: PairTable, info: ModelInfo) -> Iterator[TablePredictions]:
    """Read the predictions for all rows of a table in chunks of whole models.

    table: sorted by (model, part), as the predictions are.
    Raises: OSError; ValueError naming the file if it is damaged, or if the predictions are for
        other parts than those of the table.
    """
    start = 0
    for poses in _read_poses(folder, table):
        rows = np.arange(start, start + len(poses))
        values = _read_hypotheses(folder, rows)
        hypotheses = Hypotheses.from_tensor(torch.from_numpy(values))
        confidence = info.calibrate(hypotheses.best_confidence_logit)
        assigned = PartPose(*torch.from_numpy(poses).split([3, 1], 1))
        yield TablePredictions(rows, hypotheses, confidence, assigned)
        start += len(poses)


def _read_hypotheses(folder: Path, rows: np.ndarray) -> np.ndarray:
    """Rows (n,) of the array, (n, K, F). Raises: ValueError if they are not there or not finite.

    The file is opened for each chunk, so that the pages of earlier ones leave the memory.
    """
    path = folder / HYPOTHESES_FILE
    try:
        values = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy parses the header as Python, and raises many types
        raise ValueError(f"{path}: not an array: {error}; {PREDICT_AGAIN}") from None
    shape = list(values.shape)
    if values.dtype != np.float32 or len(shape) != 3 or not shape[1] or shape[2] != NUM_FIELDS:
        raise ValueError(
            f"{path}: expected float32 of shape [N, K, {NUM_FIELDS}], found {values.dtype} of "
            f"shape {shape}; {PREDICT_AGAIN}"
        )
    if len(values) <= rows[-1]:
        raise ValueError(f"{path}: {len(values)} rows, fewer than predictions; {PREDICT_AGAIN}")
    chosen: np.ndarray = values[rows]
    if not np.isfinite(chosen).all():
        raise ValueError(f"{path}: a number is not finite; {PREDICT_AGAIN}")
    return chosen


def _read_poses(folder: Path, table: PairTable) -> Iterator[np.ndarray]:
    """Poses (n, 4) float32 of the chunks, from predictions.csv."""
    start = 0
    with closing(_read_rows(folder / PREDICTIONS_FILE, PREDICTION_COLUMNS)) as reader:
        for size in chunk_sizes(table):
            rows = list(islice(reader, size))
            _require_parts(
                [row["part_path"] for row in rows], table.part_paths[start:][:size], folder
            )
            yield _to_poses(folder / PREDICTIONS_FILE, rows)
            start += size
        _require_parts([row["part_path"] for row in islice(reader, 1)], [], folder)


def _read_rows(path: Path, columns: Sequence[str]) -> Generator[dict[str, str]]:
    """The rows of a CSV file. Raises: ValueError naming the file, e.g. for a missing column."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if missing := [name for name in columns if row.get(name) is None]:
                    raise ValueError(f"no {', '.join(missing)} in row {row}"[:MAX_ERROR_CHARS])
                yield row
    except (csv.Error, ValueError) as error:  # ValueError: also not UTF-8
        raise ValueError(f"{path}: not a table of predictions: {error}; {PREDICT_AGAIN}") from None


def _to_poses(path: Path, rows: list[dict[str, str]]) -> np.ndarray:
    """(n, 4) float32. Raises: ValueError naming the file for a text that is no finite number."""
    try:
        with np.errstate(over="ignore"):
            poses = np.array([[row[name] for name in POSE_COLUMNS] for row in rows], np.float32)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {PREDICT_AGAIN}") from None
    is_finite = np.isfinite(poses).all(1)
    if not is_finite.all():
        part = rows[int(is_finite.argmin())]["part_path"]
        raise ValueError(f"{path}: {part}: its pose is not finite; {PREDICT_AGAIN}")
    return poses


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
        reason = _skip_reason(folder, expected_path) or PREDICT_AGAIN
        raise ValueError(f"{folder}: no prediction for {expected_path}: {reason}")


def _skip_reason(folder: Path, path: str) -> str | None:
    with closing(_read_rows(folder / SKIPPED_FILE, SKIPPED_COLUMNS)) as reader:
        for row in reader:
            if row["file"] == path:
                return f"{row['reason']}: {row['detail']}"
    return None
