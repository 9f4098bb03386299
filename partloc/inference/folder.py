"""Predictions for many models, streamed: predict a model, write its files, discard it.

Memory holds the names of all models and the images of one. With several processes each predicts
consecutive models; `joined_file` joins their tables.

Shapes: K hypotheses per part; F fields of a hypothesis.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from partloc.data.background import NO_BACKGROUND_WARNING
from partloc.data.images import ImageError
from partloc.distributed import DistributedContext
from partloc.inference.hypotheses import NUM_FIELDS
from partloc.inference.jobs import ModelJob, SkippedFile, prediction_path
from partloc.inference.joined_file import joined_file
from partloc.inference.prediction_files import (
    ATTENTION_FILE,
    HYPOTHESES_FILE,
    PREDICTION_COLUMNS,
    PREDICTIONS_FILE,
    SKIPPED_COLUMNS,
    SKIPPED_FILE,
    ModelInfo,
    attention_dtype,
)
from partloc.inference.predictor import (
    AttentionMap,
    ModelImages,
    ModelResult,
    PartResult,
    Predictor,
)
from partloc.model.locator import PartLocator
from partloc.system.files import file_sha256, write_json


class PartPrediction(NamedTuple):
    """A part of a job and its prediction; paths are relative to the data folder."""

    model: str
    part: str
    whole_path: str
    part_path: str
    result: PartResult


class ModelOutcome(NamedTuple):
    """What became of a job; both lists are sorted."""

    predictions: list[PartPrediction]
    skipped: list[SkippedFile]


@dataclass
class Summary:
    """Numbers of predicted and skipped images.

    without_background: predicted parts without a plain background. examples: the first skipped
    file per reason.
    """

    models: int = 0
    parts: int = 0
    without_background: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, SkippedFile] = field(default_factory=dict)

    def update(self, outcome: ModelOutcome) -> None:
        self.models += bool(outcome.predictions)
        self.parts += len(outcome.predictions)
        self.without_background += sum(not part.result.on_plain for part in outcome.predictions)
        for file in outcome.skipped:
            self.skipped[file.reason] += 1
            self.examples.setdefault(file.reason, file)

    def __add__(self, later: "Summary") -> "Summary":
        return Summary(
            self.models + later.models,
            self.parts + later.parts,
            self.without_background + later.without_background,
            self.skipped + later.skipped,
            later.examples | self.examples,
        )

    def __str__(self) -> str:
        lines = [f"{self.parts:7d} parts of {self.models} models predicted"]
        if self.without_background:
            lines.append(f"{self.without_background:7d} of them: {NO_BACKGROUND_WARNING}")
        for reason, count in sorted(self.skipped.items()):
            example = self.examples[reason]
            lines.append(f"{count:7d} skipped: {reason}; e.g. {example.file}: {example.detail}")
        return "\n".join(lines)


def require_outside(output: Path, data_dir: Path) -> None:
    """Raises: ValueError if `output` lies in the data folder, whose labels would be replaced."""
    if output.resolve().is_relative_to(data_dir.resolve()):
        raise ValueError(
            f"--output {output}: lies in the data folder {data_dir}, where the predictions would "
            "replace the labels; give a folder outside it"
        )


# -- prediction --------------------------------------------------------------------------------


def predict_jobs(
    predictor: Predictor, jobs: Sequence[ModelJob], data_dir: Path, show_progress: bool = True
) -> Iterator[ModelOutcome]:
    """Predict all parts whose images can be read, job by job."""
    models = (
        ModelImages(data_dir / job.whole, [data_dir / path for _, path in job.parts])
        for job in jobs
        if job.parts
    )
    results = predictor.predict_models(models, with_attention=True)
    num_parts, disable = sum(len(job.parts) for job in jobs), None if show_progress else True
    with tqdm(desc="infer", total=num_parts, unit="part", disable=disable) as progress:
        for job in jobs:
            yield _make_outcome(job, next(results) if job.parts else [], data_dir)
            progress.update(len(job.parts))


def _make_outcome(job: ModelJob, results: ModelResult, data_dir: Path) -> ModelOutcome:
    predictions, skipped = [], list(job.skipped)
    if isinstance(results, ImageError):
        detail = f"{results.reason}: {_message_without_path(results, data_dir / job.whole)}"
        skipped += [SkippedFile(job.model, path, "whole unusable", detail) for _, path in job.parts]
        return ModelOutcome([], sorted(skipped))
    for (part, path), result in zip(job.parts, results, strict=True):
        if isinstance(result, ImageError):
            detail = _message_without_path(result, data_dir / path)
            skipped.append(SkippedFile(job.model, path, result.reason, detail))
        else:
            predictions.append(PartPrediction(job.model, part, job.whole, path, result))
    return ModelOutcome(predictions, sorted(skipped))


def _message_without_path(error: ImageError, path: Path) -> str:
    """The table of skipped files has a column for the path."""
    return " ".join(str(error).removeprefix(f"{path}: ").split())


# -- files -------------------------------------------------------------------------------------


def write_predictions(
    output: Path,
    outcomes: Iterable[ModelOutcome],
    num_hypotheses: int,
    context: DistributedContext,
    with_hypotheses: bool = False,
    attention_side: int | None = None,
) -> Summary:
    """Write the files that `prediction_files` describes, but for model.json.

    num_hypotheses: K. with_hypotheses: list them in the JSON files, too. attention_side: S; None
        for a model without attention maps.
    Returns: what this process has predicted.
    """
    summary, real_output = Summary(), output.resolve()
    poses_header, skipped_header = (
        partial(_csv_header, columns) for columns in (PREDICTION_COLUMNS, SKIPPED_COLUMNS)
    )
    hypotheses_header = partial(_npy_header, np.dtype(("<f4", (num_hypotheses, NUM_FIELDS))))
    with (
        joined_file(output / PREDICTIONS_FILE, poses_header, context) as append_poses,
        joined_file(output / HYPOTHESES_FILE, hypotheses_header, context) as append_hypotheses,
        joined_file(output / SKIPPED_FILE, skipped_header, context) as append_skipped,
        _attention_file(output, attention_side, context) as append_attention,
    ):
        for outcome in outcomes:
            append_poses(_csv_bytes(map(_table_row, outcome.predictions)))
            append_hypotheses(b"".join(map(_hypotheses_bytes, outcome.predictions)))
            append_attention([prediction.result.attention for prediction in outcome.predictions])
            append_skipped(_csv_bytes(outcome.skipped))
            for prediction in outcome.predictions:
                path = output / prediction_path(prediction.part_path)
                _require_no_link(path.parent, real_output)
                write_json(path, _answer(prediction, with_hypotheses))
            summary.update(outcome)
    return summary


def _require_no_link(folder: Path, real_output: Path) -> None:
    """Raises: ValueError for a link in the folder of predictions that leads out of it."""
    if not folder.resolve().is_relative_to(real_output):
        raise ValueError(f"{folder}: leads out of the folder of predictions; remove this link")


def make_model_info(model: PartLocator, checkpoint: Path) -> ModelInfo:
    """The content of model.json. checkpoint: the file of the model."""
    calibration = model.confidence_head.slope.item(), model.confidence_head.offset.item()
    return ModelInfo(model.pinhole_camera, *calibration, file_sha256(checkpoint))


def _csv_bytes(rows: Iterable[Iterable]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _csv_header(columns: Sequence[str], _num_bytes: int) -> bytes:
    return _csv_bytes([columns])


def _npy_header(row: np.dtype, num_bytes: int) -> bytes:
    """Header of an array of rows whose data are `num_bytes` long."""
    shape = (num_bytes // row.itemsize, *row.shape)
    descr = np.lib.format.dtype_to_descr(row.base)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


@contextmanager
def _attention_file(
    output: Path, side: int | None, context: DistributedContext
) -> Iterator[Callable[[Sequence[AttentionMap | None]], None]]:
    """Yields: a function that appends maps. Without a side there is no file."""
    if side is None:
        if context.is_main:
            (output / ATTENTION_FILE).unlink(missing_ok=True)  # of another model
        yield lambda _maps: None
        return
    dtype = attention_dtype(side)
    with joined_file(output / ATTENTION_FILE, partial(_npy_header, dtype), context) as append:

        def append_maps(maps: Sequence[AttentionMap | None]) -> None:
            rows = np.zeros(len(maps), dtype)
            for row, attention in zip(rows, maps, strict=True):
                assert attention is not None, "the predictor was asked for it"
                row["weight"], row["crop"] = attention.weight.numpy(), attention.crop.numpy()
            append(rows.tobytes())

        yield append_maps


def _hypotheses_bytes(prediction: PartPrediction) -> bytes:
    return prediction.result.hypotheses.to_tensor().numpy().astype("<f4").tobytes()  # (K, F)


def _table_row(prediction: PartPrediction) -> list[str | float]:
    best = prediction.result.best
    return [*prediction[:4], *best.translation, best.scale, best.confidence]


def _answer(prediction: PartPrediction, with_hypotheses: bool) -> dict[str, Any]:
    """The content of a prediction file: what the command prints for one part, with its names."""
    names = {"model": prediction.model, "part": prediction.part}
    return names | prediction.result.to_estimate().to_dict(with_hypotheses)
