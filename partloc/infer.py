"""The answer for pictures without labels: one whole and its parts, or a folder of models.

Everything that is needed is in the checkpoint: architecture, weights and preprocessing.

Shapes: P parts of one whole.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from partloc.checkpoint import load_model
from partloc.evaluate import encode
from partloc.files import write_json, write_table
from partloc.images import DEFAULT_MAX_PIXELS, EXTENSIONS, ImageError, load_rgb
from partloc.index import LAYOUT, LayoutError
from partloc.model import Tokens
from partloc.pose import PartPose
from partloc.team import choose_device

PARTS_PER_BATCH = 8
PREDICTION_COLUMNS = ("model", "part", "whole_path", "part_path", "tx", "ty", "tz", "scale")
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


class Answer(NamedTuple):
    model: str
    part: str
    whole: str
    path: str
    pose: list[float]  # tx, ty, tz, scale; whole-model units


class Predictor:
    """A trained model, ready to be asked.

    Raises: CheckpointError for a missing or foreign checkpoint, ValueError for an absent device.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        device: str = "auto",
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.device, self.max_pixels = choose_device(device), max_pixels
        self.model = load_model(Path(checkpoint)).to(self.device)

    def read(self, path: Path | str) -> Tensor:
        """A picture of any size and mode -> (3, image_size, image_size). Raises: ImageError."""
        return self.model.preprocessing(load_rgb(path, self.max_pixels))

    @torch.inference_mode()
    def encode(self, images: Sequence[Tensor]) -> Tokens:
        """What the encoder says of pictures that `read` gave."""
        return encode(self.model, torch.stack(list(images)).to(self.device))

    @torch.inference_mode()
    def locate(self, whole: Tokens, parts: Sequence[Tensor]) -> PartPose:
        """Where parts belong in one encoded whole: (P, 3), (P, 1), on the CPU."""
        index = torch.zeros(len(parts), dtype=torch.long, device=self.device)
        pose = self.model.locate(whole.pick(index), self.encode(parts)).pose
        return PartPose(*(field.cpu() for field in pose))

    def predict(self, whole: Path | str, parts: Sequence[Path | str]) -> PartPose:
        """Where the parts of one whole belong: (P, 3), (P, 1); the whole is encoded once.

        Raises: ImageError naming the picture that cannot be read.
        """
        tokens = self.encode([self.read(whole)])
        poses = [
            self.locate(
                tokens, [self.read(path) for path in parts[start : start + PARTS_PER_BATCH]]
            )
            for start in range(0, len(parts), PARTS_PER_BATCH)
        ]
        return PartPose(*(torch.cat(field) for field in zip(*poses, strict=True)))


def numbers_of(pose: PartPose) -> list[list[float]]:
    """[[tx, ty, tz, scale], ...] rounded to 6 decimals; the scale stays above 0."""
    rows = torch.cat(pose, 1).tolist()
    return [[*(round(v, 6) + 0.0 for v in row[:3]), max(round(row[3], 6), 1e-6)] for row in rows]


def as_answer(pose: list[float]) -> dict[str, Any]:
    """What is printed for one part."""
    return {"translation": pose[:3], "scale": pose[3]}


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
        whole = predictor.encode([predictor.read(data_dir / job.whole)])
    except ImageError as error:
        detail = f"{error.reason}: {_without(error, data_dir / job.whole)}"
        lost = [Skipped(job.model, path, "whole unusable", detail) for _, path in job.parts]
        return [], lost
    answers, skipped = [], []
    for start in range(0, len(job.parts), PARTS_PER_BATCH):
        images, readable = [], []
        for part, path in job.parts[start : start + PARTS_PER_BATCH]:
            try:
                images.append(predictor.read(data_dir / path))
                readable.append((part, path))
            except ImageError as error:
                detail = _without(error, data_dir / path)
                skipped.append(Skipped(job.model, path, error.reason, detail))
        if images:
            poses = numbers_of(predictor.locate(whole, images))
            answers += [
                Answer(job.model, part, job.whole, path, pose)
                for (part, path), pose in zip(readable, poses, strict=True)
            ]
    return answers, skipped


def _without(error: ImageError, path: Path) -> str:
    """The message without the file's name, which stands in a column of its own."""
    return " ".join(str(error).removeprefix(f"{path}: ").split())


def write_answers(output: Path, answers: list[Answer], skipped: list[Skipped]) -> None:
    """One label file for each part, predictions.csv and skipped.csv, all under `output`."""
    for answer in tqdm(answers, desc="write", unit="file", disable=None, leave=False):
        label = {
            "model_name": answer.model,
            "part_name": answer.part,
            "translation": answer.pose[:3],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "scale": [answer.pose[3]] * 3,
        }
        write_json(output / Path(answer.path).with_suffix(".json"), label)
    rows = [(*answer[:4], *answer.pose) for answer in answers]
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
