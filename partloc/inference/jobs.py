"""Which models to predict: those of a folder of images or of a split table.

A job consists of names only; no image is read here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from partloc.data.images import EXTENSIONS
from partloc.data.layout import (
    LAYOUT_HELP,
    Finding,
    LayoutError,
    SampleError,
    find_model_folders,
    normalize_name,
    pair_files,
    single_file,
    whole_file,
)
from partloc.distributed import DistributedContext


class SkippedFile(NamedTuple):
    """An image without a prediction, and the reason."""

    model: str
    file: str  # relative to the data folder
    reason: str
    detail: str


class ModelJob(NamedTuple):
    """The images of one model; paths are relative to the data folder.

    parts: (name, path) of each, sorted; empty if nothing can be predicted. skipped: unusable files.
    """

    model: str
    whole: str
    parts: Sequence[tuple[str, str]]
    skipped: Sequence[SkippedFile] = ()


def find_jobs(data_dir: Path) -> list[ModelJob]:
    """The models of a folder in the layout of the stage `index`, sorted. Labels are ignored.

    Raises: LayoutError if the folder does not exist or contains no model.
    """
    folders, findings = find_model_folders(data_dir)
    jobs = [_find_job(data_dir, folder) for folder in folders]
    jobs = [job for job in jobs if job.parts or job.skipped]
    if not jobs:
        layout = LAYOUT_HELP.format(root=data_dir)
        raise LayoutError(f"{data_dir}: no model in this folder; {layout}")
    jobs += [ModelJob(finding.model, "", [], [_skipped_file(finding)]) for finding in findings]
    return sorted(jobs)


def _find_job(data_dir: Path, folder: str) -> ModelJob:
    model = normalize_name(folder)
    findings: list[Finding] = []
    images, _ = pair_files(data_dir, folder, findings)
    skipped = [_skipped_file(finding) for finding in findings if _concerns_images(finding)]
    try:
        whole = whole_file(folder, images.pop("whole", []))
    except SampleError as error:
        paths = (f"{folder}/{name}" for names in images.values() for name in names)
        skipped += [SkippedFile(model, path, error.reason, str(error)) for path in paths]
        return ModelJob(model, "", [], skipped)
    parts = []
    for part, names in sorted(images.items()):
        try:
            parts.append((part, f"{folder}/{single_file(names)}"))
        except SampleError as error:
            skipped.append(SkippedFile(model, f"{folder}/{names[0]}", error.reason, str(error)))
    return ModelJob(model, f"{folder}/{whole}", parts, skipped)


def _concerns_images(finding: Finding) -> bool:
    """Whether a prediction may be missing because of it; labels and other files do not matter."""
    is_image = Path(finding.file).suffix.lower() in EXTENSIONS
    return is_image or finding.reason == "unreadable folder"


def _skipped_file(finding: Finding) -> SkippedFile:
    return SkippedFile(finding.model, finding.file, finding.reason, finding.detail)


def read_jobs(split_table: Path) -> list[ModelJob]:
    """The models of a split table, sorted. Raises: ValueError if it is unusable or empty."""
    from partloc.data.split import read_manifest  # needs pandas, which a folder of images does not

    table = read_manifest(split_table)
    if table.empty:
        raise ValueError(f"{split_table}: no samples; raise the ratio of this set in params.yaml")
    return [
        ModelJob(str(model), str(whole), sorted(zip(rows.part, rows.part_path, strict=True)))
        for (model, whole), rows in table.groupby(["model", "whole_path"])
    ]


def local_jobs(jobs: Sequence[ModelJob], context: DistributedContext) -> list[ModelJob]:
    """The consecutive jobs of this process; each process has about equally many parts."""
    counts = np.array([len(job.parts) for job in jobs])
    middles = counts.cumsum() - counts / 2  # position of each job's middle among all parts
    ranks = middles * context.world_size // max(1, counts.sum())
    ranks = np.minimum(ranks, context.world_size - 1)
    return [job for job, rank in zip(jobs, ranks, strict=True) if rank == context.rank]
