"""The answer for pictures without labels: one whole and its parts, or a folder of models.

Everything that is needed is in the checkpoint: architecture, weights and preprocessing.

Shapes: P parts of one whole.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from partloc.assign import assign
from partloc.checkpoint import load_model
from partloc.config import DataConfig
from partloc.evaluate import encode
from partloc.files import write_json, write_table
from partloc.images import (
    DEFAULT_MAX_PIXELS,
    EXTENSIONS,
    ImageError,
    group_twins,
    load_rgb,
    thumbnail,
)
from partloc.index import LAYOUT, LayoutError
from partloc.model import Prediction, Tokens
from partloc.pose import PartPose
from partloc.team import choose_device

PARTS_PER_BATCH = 8
TWIN_TOLERANCE = DataConfig().twin_tolerance
PREDICTION_COLUMNS = (
    *("model", "part", "whole_path", "part_path", "tx", "ty", "tz", "scale", "confidence"),
)
SKIPPED_COLUMNS = ("model", "file", "reason", "detail")


class Skipped(NamedTuple):
    """A file that got no answer."""

    model: str
    file: str  # relative to the data folder
    reason: str
    detail: str


class Job(NamedTuple):
    """One whole and its parts; paths are relative to the data folder."""

    model: str
    whole: str
    parts: list[tuple[str, str]]  # (part's name, path)


class Hypothesis(NamedTuple):
    """A place where a part may belong, and the probability that its translation is less than
    `metrics.NEAR` off. pose: tx, ty, tz, scale; whole-model units."""

    pose: list[float]
    confidence: float

    def as_json(self) -> dict[str, Any]:
        return {
            "translation": self.pose[:3],
            "scale": self.pose[3],
            "confidence": self.confidence,
        }


class Found(NamedTuple):
    """What is answered for a part, and all that was considered, the most probable first."""

    best: Hypothesis
    hypotheses: list[Hypothesis]

    def as_json(self, everything: bool) -> dict[str, Any]:
        """What is printed; `everything` adds all hypotheses."""
        others = {"hypotheses": [item.as_json() for item in self.hypotheses]}
        return self.best.as_json() | (others if everything else {})


class Answer(NamedTuple):
    model: str
    part: str
    whole: str
    path: str
    found: Found


class Predictor:
    """A trained model, ready to be asked.

    Raises: CheckpointError for a missing or foreign checkpoint, ValueError for an absent device.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        device: str = "auto",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        twin_tolerance: float = TWIN_TOLERANCE,
    ) -> None:
        self.device, self.max_pixels = choose_device(device), max_pixels
        self.twin_tolerance = twin_tolerance
        self.model = load_model(Path(checkpoint)).to(self.device)

    def predict(self, whole: Path | str, parts: Sequence[Path | str]) -> list[Found | ImageError]:
        """Where the parts of one whole belong; an error stands for a part that cannot be read.

        The whole is encoded once, and so is each of several equal pictures. Parts that look the
        same are several of a kind, and are given distinct places.
        Raises: ImageError for a whole that cannot be read.
        """
        tokens = self._encode([self.model.preprocessing(load_rgb(whole, self.max_pixels))])
        outcomes: list[ImageError | None] = []
        smalls: dict[str, np.ndarray] = {}  # by place in `parts`
        numbers: dict[bytes, int] = {}  # of different pictures
        picture_of: list[int] = []
        waiting: list[Tensor] = []
        answers: list[Prediction] = []
        for place, path in enumerate(parts):
            try:
                image = load_rgb(path, self.max_pixels)
            except ImageError as error:
                outcomes.append(error)
                continue
            outcomes.append(None)
            smalls[f"{place:09d}"] = thumbnail(image)
            digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
            if digest not in numbers:
                numbers[digest] = len(numbers)
                waiting.append(self.model.preprocessing(image))
            picture_of.append(numbers[digest])
            if len(waiting) == PARTS_PER_BATCH:
                answers.append(self._locate(tokens, waiting))
                waiting = []
        if waiting:
            answers.append(self._locate(tokens, waiting))
        found = iter(self._found(answers, picture_of, smalls))
        return [error or next(found) for error in outcomes]

    @torch.inference_mode()
    def _encode(self, images: Sequence[Tensor]) -> Tokens:
        return encode(self.model, torch.stack(list(images)).to(self.device))

    @torch.inference_mode()
    def _locate(self, whole: Tokens, parts: Sequence[Tensor]) -> Prediction:
        """Hypotheses for pictures of parts of one encoded whole, on the CPU."""
        index = torch.zeros(len(parts), dtype=torch.long, device=self.device)
        found = self.model.locate(whole, self._encode(parts), index)
        poses = PartPose(*(field.cpu() for field in found.hypotheses))
        return Prediction(poses, found.log_confidence.cpu())

    def _found(
        self, answers: list[Prediction], picture_of: list[int], smalls: dict[str, np.ndarray]
    ) -> list[Found]:
        """One answer for each picture that could be read, in their order."""
        if not picture_of:
            return []
        poses, log_confidence = zip(*(answer[:2] for answer in answers), strict=True)
        poses = PartPose(*(torch.cat(field)[picture_of] for field in zip(*poses, strict=True)))
        log_confidence = torch.cat(log_confidence)[picture_of]  # (P, K)
        confidence = self.model.confidence(log_confidence.to(self.device)).cpu()
        rows = torch.cat(poses, 2)  # (P, K, 4)
        twins = group_twins(smalls, self.twin_tolerance)
        members: dict[str, list[int]] = {}
        for row, name in enumerate(smalls):
            members.setdefault(twins[name], []).append(row)
        best: dict[int, Hypothesis] = {}
        for group in members.values():
            hypotheses = PartPose(*(field[group] for field in poses))
            for row, chosen in zip(group, assign(hypotheses, log_confidence[group]), strict=True):
                of, number = divmod(int(chosen), rows.shape[1])
                best[row] = _hypothesis(rows[group[of], number], confidence[group[of], number])
        order = log_confidence.argsort(dim=1, descending=True, stable=True)
        return [
            Found(best[row], [_hypothesis(rows[row, k], confidence[row, k]) for k in order[row]])
            for row in range(len(rows))
        ]


def _hypothesis(pose: Tensor, confidence: Tensor) -> Hypothesis:
    """Rounded to 6 decimals; the scale stays above 0."""
    *place, scale = (round(v, 6) + 0.0 for v in pose.tolist())
    return Hypothesis([*place, max(scale, 1e-6)], round(confidence.item(), 6))


def find_jobs(data_dir: Path) -> tuple[list[Job], list[Skipped]]:
    """The models of a folder in the layout that `index` reads; labels are not looked at.

    Raises: LayoutError if there is no such folder or no model in it.
    """
    if not data_dir.is_dir():
        raise LayoutError(f"{data_dir}: no such folder; {LAYOUT.format(root=data_dir)}")
    jobs, skipped = [], []
    for folder in sorted(data_dir.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            job, found = _find_parts(folder)
            skipped += found
            jobs += [job] if job else []
    if not jobs and not skipped:
        raise LayoutError(f"{data_dir}: no model in this folder; {LAYOUT.format(root=data_dir)}")
    return jobs, skipped


def _find_parts(folder: Path) -> tuple[Job | None, list[Skipped]]:
    """One model's job, or None if nothing can be asked about it; and what is passed over."""
    model = normalize("NFC", folder.name)
    files: dict[str, str] = {}
    skipped = []
    for name in sorted(os.listdir(folder)):
        stem, extension = os.path.splitext(name)
        if name.startswith(".") or extension.lower() not in EXTENSIONS:
            continue
        path, part = f"{folder.name}/{name}", normalize("NFC", stem).removeprefix(f"{model}-")
        if not normalize("NFC", stem).startswith(f"{model}-") or not part:
            rule = f"expected a name that starts with {model + '-'!r} and goes on"
            skipped.append(Skipped(model, path, "foreign file", rule))
        elif extension.lower() != ".png":
            detail = f"extension {extension!r}, expected .png"
            skipped.append(Skipped(model, path, "foreign file", detail))
        elif part in files:
            skipped.append(Skipped(model, path, "duplicate name", f"{files[part]} is used"))
        else:
            files[part] = path
    whole = files.pop("whole", None)
    if whole is None:
        detail = f"{folder.name}/{folder.name}-whole.png is not there"
        skipped += [Skipped(model, path, "whole missing", detail) for path in files.values()]
    return (Job(model, whole, sorted(files.items())) if whole and files else None), skipped


def refuse_overwriting(output: Path, data_dir: Path) -> None:
    """Answers are named like labels: in the data folder they would replace the labels.

    Raises: ValueError if `output` is the data folder or lies in it.
    """
    if output.resolve().is_relative_to(data_dir.resolve()):
        raise ValueError(
            f"--output {output}: lies in the data folder {data_dir}, where the answers would "
            "replace the labels; give a folder outside it"
        )


def jobs_of_table(table: pd.DataFrame) -> list[Job]:
    """The models of a split table. Raises: ValueError if it has no rows."""
    if table.empty:
        raise ValueError("the split table has no samples; raise its ratio in params.yaml")
    return [
        Job(str(model), str(whole), list(zip(rows.part, rows.part_path, strict=True)))
        for (model, whole), rows in table.groupby(["model", "whole_path"])
    ]


def predict_jobs(
    predictor: Predictor, jobs: Iterable[Job], data_dir: Path
) -> tuple[list[Answer], list[Skipped]]:
    """Answer every part that can be read; each whole is encoded once."""
    jobs = list(jobs)
    answers, skipped = [], []
    total = sum(len(job.parts) for job in jobs)
    with tqdm(desc="infer", total=total, unit="part", disable=None) as bar:
        for job in jobs:
            found, lost = _predict_job(predictor, job, data_dir)
            answers += found
            skipped += lost
            bar.update(len(job.parts))
    return sorted(answers), skipped


def _predict_job(
    predictor: Predictor, job: Job, data_dir: Path
) -> tuple[list[Answer], list[Skipped]]:
    try:
        outcomes = predictor.predict(
            data_dir / job.whole, [data_dir / path for _, path in job.parts]
        )
    except ImageError as error:
        detail = f"{error.reason}: {_without(error, data_dir / job.whole)}"
        lost = [Skipped(job.model, path, "whole unusable", detail) for _, path in job.parts]
        return [], lost
    answers, skipped = [], []
    for (part, path), outcome in zip(job.parts, outcomes, strict=True):
        if isinstance(outcome, ImageError):
            detail = _without(outcome, data_dir / path)
            skipped.append(Skipped(job.model, path, outcome.reason, detail))
        else:
            answers.append(Answer(job.model, part, job.whole, path, outcome))
    return answers, skipped


def _without(error: ImageError, path: Path) -> str:
    """The message without the file's name, which stands in a column of its own."""
    return " ".join(str(error).removeprefix(f"{path}: ").split())


def write_answers(
    output: Path, answers: list[Answer], skipped: list[Skipped], everything: bool = False
) -> None:
    """One label file for each part, predictions.csv and skipped.csv, all under `output`.

    everything: with all hypotheses in the label files.
    """
    for answer in tqdm(answers, desc="write", unit="file", disable=None, leave=False):
        label = {"model_name": answer.model, "part_name": answer.part}
        label |= answer.found.as_json(everything)
        # In the layout of the labels that are given to train on.
        label |= {"rotation": [1.0, 0.0, 0.0, 0.0], "scale": [label["scale"]] * 3}
        write_json(output / Path(answer.path).with_suffix(".json"), label)
    rows = [(*answer[:4], *answer.found.best.pose, answer.found.best.confidence)
            for answer in answers]  # fmt: skip
    write_table(output / "predictions.csv", pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS)))
    table = pd.DataFrame(sorted(skipped), columns=list(SKIPPED_COLUMNS))
    write_table(output / "skipped.csv", table)


def summary(answers: list[Answer], skipped: list[Skipped]) -> str:
    """For the terminal: how many parts were answered, and why the others were not."""
    models = len({answer.model for answer in answers})
    lines = [f"{len(answers):7d} parts of {models} models answered"]
    for reason, count in sorted(Counter(item.reason for item in skipped).items()):
        first = min(item for item in skipped if item.reason == reason)
        lines.append(f"{count:7d} skipped: {reason}; e.g. {first.file}: {first.detail}")
    return "\n".join(lines)
