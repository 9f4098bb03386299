"""The answers for a folder of models, or a split table: written as they come.

Nothing but names is held of the models that are not being answered. The distributed processes each
take a run of the models, and write their rows beside the tables; the leading one joins them.
"""

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from partloc.data.images import EXTENSIONS, ImageError
from partloc.data.index import (
    LAYOUT_HELP,
    Finding,
    LayoutError,
    find_model_folders,
    pair_files,
    single_file,
    whole_file,
)
from partloc.data.labels import LabelError, normalize_name
from partloc.data.split import read_manifest
from partloc.distributed import DistributedContext
from partloc.files import name_file_in_errors, open_atomic, write_json
from partloc.inference.predictor import Found, Predictor, Question

PREDICTION_COLUMNS = (
    *("model", "part", "whole_path", "part_path", "tx", "ty", "tz", "scale", "confidence"),
)
SKIPPED_COLUMNS = ("model", "file", "reason", "detail")


class Skipped(NamedTuple):
    """A file that gets no answer."""

    model: str
    file: str  # relative to the data folder
    reason: str
    detail: str


class Job(NamedTuple):
    """One whole and its parts, by name; paths are relative to the data folder.

    skipped: files of the model that are passed over; where nothing can be asked, parts is empty.
    """

    model: str
    whole: str
    parts: Sequence[tuple[str, str]]  # (part's name, path), sorted
    skipped: Sequence[Skipped] = ()


class Answer(NamedTuple):
    model: str
    part: str
    whole: str
    path: str
    found: Found


class Outcome(NamedTuple):
    """What has become of a job; both lists are sorted."""

    answers: list[Answer]
    skipped: list[Skipped]


@dataclass
class Tally:
    """How many parts were answered, and why the others were not. first: an example of each."""

    models: int = 0
    answers: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[str, Skipped] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> None:
        self.models += bool(outcome.answers)
        self.answers += len(outcome.answers)
        for item in outcome.skipped:
            self.reasons[item.reason] += 1
            self.first.setdefault(item.reason, item)

    def __add__(self, later: "Tally") -> "Tally":
        counts = (self.models + later.models, self.answers + later.answers)
        return Tally(*counts, self.reasons + later.reasons, later.first | self.first)

    def __str__(self) -> str:
        lines = [f"{self.answers:7d} parts of {self.models} models answered"]
        for reason, count in sorted(self.reasons.items()):
            first = self.first[reason]
            lines.append(f"{count:7d} skipped: {reason}; e.g. {first.file}: {first.detail}")
        return "\n".join(lines)


def find_jobs(data_dir: Path) -> list[Job]:
    """The models of a folder in the layout that `index` reads, sorted; labels are not looked at.

    Raises: LayoutError if there is no such folder or no model in it.
    """
    folders, findings = find_model_folders(data_dir)
    jobs = [_find_parts(data_dir, folder) for folder in folders]
    jobs = [job for job in jobs if job.parts or job.skipped]
    if not jobs:
        raise LayoutError(
            f"{data_dir}: no model in this folder; {LAYOUT_HELP.format(root=data_dir)}"
        )
    return sorted(jobs + [Job(each.model, "", [], [_skipped(each)]) for each in findings])


def _find_parts(data_dir: Path, folder: str) -> Job:
    model = normalize_name(folder)
    findings: list[Finding] = []
    pictures, _ = pair_files(data_dir, folder, findings)
    # Of what is odd, labels and texts are nobody's loss here.
    lost = (
        each
        for each in findings
        if each.reason == "unreadable folder" or Path(each.file).suffix.lower() in EXTENSIONS
    )
    skipped = [_skipped(each) for each in lost]
    try:
        whole = whole_file(folder, pictures.pop("whole", []))
    except LabelError as error:
        paths = (f"{folder}/{name}" for names in pictures.values() for name in names)
        skipped += [Skipped(model, path, error.reason, str(error)) for path in paths]
        return Job(model, "", [], skipped)
    parts = []
    for part, names in sorted(pictures.items()):
        try:
            parts.append((part, f"{folder}/{single_file(names)}"))
        except LabelError as error:
            skipped.append(Skipped(model, f"{folder}/{names[0]}", error.reason, str(error)))
    return Job(model, f"{folder}/{whole}", parts, skipped)


def _skipped(finding: Finding) -> Skipped:
    return Skipped(finding.model, finding.file, finding.reason, finding.detail)


def refuse_overwriting(output: Path, data_dir: Path) -> None:
    """Answers are named like labels: in the data folder they would replace the labels.

    Raises: ValueError if `output` is the data folder or lies in it.
    """
    if output.resolve().is_relative_to(data_dir.resolve()):
        raise ValueError(
            f"--output {output}: lies in the data folder {data_dir}, where the answers would "
            "replace the labels; give a folder outside it"
        )


def jobs_of_table(path: Path) -> list[Job]:
    """The models of a split table, sorted. Raises: ValueError if it is none or has no rows."""
    table = read_manifest(path)
    if table.empty:
        raise ValueError(f"{path}: no samples; raise the ratio of this set in params.yaml")
    return [
        Job(str(model), str(whole), sorted(zip(rows.part, rows.part_path, strict=True)))
        for (model, whole), rows in table.groupby(["model", "whole_path"])
    ]


def share_of(jobs: Sequence[Job], context: DistributedContext) -> list[Job]:
    """The run of jobs that this process answers: about as many parts as every other's."""
    counts = np.array([len(job.parts) for job in jobs])
    middles = counts.cumsum() - counts / 2  # of each job's parts, in the row of all parts
    owners = np.minimum(
        middles * context.world_size // max(1, counts.sum()), context.world_size - 1
    )
    return [job for job, owner in zip(jobs, owners, strict=True) if owner == context.rank]


def predict_jobs(
    predictor: Predictor, jobs: Sequence[Job], data_dir: Path, bar: bool = True
) -> Iterator[Outcome]:
    """Answer every part that can be read, job by job; each whole is encoded once."""
    questions = (
        Question(data_dir / job.whole, [data_dir / path for _, path in job.parts])
        for job in jobs
        if job.parts
    )
    found = predictor.predict_all(questions)
    total = sum(len(job.parts) for job in jobs)
    with tqdm(desc="infer", total=total, unit="part", disable=None if bar else True) as progress:
        for job in jobs:
            yield _outcome(job, next(found) if job.parts else [], data_dir)
            progress.update(len(job.parts))


def _outcome(job: Job, found: list[Found | ImageError] | ImageError, data_dir: Path) -> Outcome:
    if isinstance(found, ImageError):
        detail = f"{found.reason}: {_without(found, data_dir / job.whole)}"
        lost = [Skipped(job.model, path, "whole unusable", detail) for _, path in job.parts]
        return Outcome([], sorted([*job.skipped, *lost]))
    answers, skipped = [], list(job.skipped)
    for (part, path), item in zip(job.parts, found, strict=True):
        if isinstance(item, ImageError):
            detail = _without(item, data_dir / path)
            skipped.append(Skipped(job.model, path, item.reason, detail))
        else:
            answers.append(Answer(job.model, part, job.whole, path, item))
    return Outcome(answers, sorted(skipped))


def _without(error: ImageError, path: Path) -> str:
    """The message without the file's name, which stands in a column of its own."""
    return " ".join(str(error).removeprefix(f"{path}: ").split())


def write_answers(
    output: Path, outcomes: Iterable[Outcome], context: DistributedContext, everything: bool = False
) -> Tally:
    """One label file for each part, predictions.csv and skipped.csv, all under `output`.

    everything: with all hypotheses in the label files. Returns what this process has answered.
    """
    tally = Tally()
    with (
        joint_table(output / "predictions.csv", PREDICTION_COLUMNS, context) as predictions,
        joint_table(output / "skipped.csv", SKIPPED_COLUMNS, context) as passed_over,
    ):
        for outcome in outcomes:
            for answer in outcome.answers:
                best = answer.found.best
                predictions([[*answer[:4], *best.pose, best.confidence]])
                write_json(
                    output / Path(answer.path).with_suffix(".json"), _label(answer, everything)
                )
            passed_over(outcome.skipped)
            tally.count(outcome)
    return tally


def _label(answer: Answer, everything: bool) -> dict[str, Any]:
    """In the layout of the labels that are given to train on."""
    label = {"model_name": answer.model, "part_name": answer.part}
    label |= answer.found.as_json(everything)
    return label | {"rotation": [1.0, 0.0, 0.0, 0.0], "scale": [label["scale"]] * 3}


@contextmanager
def joint_table(
    path: Path, columns: Sequence[str], context: DistributedContext
) -> Iterator[Callable[[Iterable[Iterable]], None]]:
    """A CSV table to which each distributed process writes a run of rows, those of rank 0 first.

    The table is replaced, whole, when all have ended well; folders are made. Yields what writes
    rows; it raises OSError naming the table where it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    runs = [path.with_name(f"{path.name}.{rank}") for rank in range(context.world_size)]
    own = runs[context.rank]

    def write(rows: Iterable[Iterable]) -> None:
        with name_file_in_errors(path), own.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    try:
        own.unlink(missing_ok=True)  # of a call that was killed
        write([])
        yield write
        context.barrier()  # until every run is complete
        if context.is_main:
            with open_atomic(path) as table:
                table.write((",".join(columns) + "\n").encode())
                for run in runs:
                    with run.open("rb") as rows:
                        shutil.copyfileobj(rows, table)
        context.barrier()  # until they are joined
    finally:
        own.unlink(missing_ok=True)
