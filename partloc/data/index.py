"""Scan an image folder: find every usable sample, and report why others are not usable.

Shapes: T = THUMBNAIL_PX.
"""

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from partloc.config import DataConfig
from partloc.data.background import prepare_image
from partloc.data.images import (
    NOT_REGULAR,
    OVERSIZED,
    TRUNCATED,
    UNREADABLE,
    ImageError,
    open_rgb,
    read_image_bytes,
)
from partloc.data.labels import LABEL_ERRORS, LABEL_WARNINGS, Label, read_label
from partloc.data.layout import (
    LAYOUT_HELP,
    UNREADABLE_FOLDER,
    VANISHED,
    Finding,
    LayoutError,
    SampleError,
    add_finding,
    find_model_folders,
    normalize_name,
    pair_files,
    single_file,
    whole_file,
)
from partloc.data.twins import group_twins, make_thumbnail
from partloc.system.processes import map_in_processes

MANIFEST_COLUMNS = (
    *("model", "part", "whole_path", "part_path", "whole_sha256", "part_sha256"),
    *("whole_width", "whole_height", "part_width", "part_height"),  # pixels, upright
    *("tx", "ty", "tz", "scale"),  # whole-model units
    "twin_group",
)
REPORT_COLUMNS = ("severity", "reason", "model", "file", "detail")

NO_PLAIN_BACKGROUND = "no plain background"

# Reasons to skip a sample. Each skipped sample is counted once, with the first reason that applies.
SKIPPED = (
    *("part without label", "label without part", "duplicate name", "unusable name"),
    *("whole missing", "whole unusable", NOT_REGULAR),
    *(UNREADABLE, TRUNCATED, OVERSIZED),
    *LABEL_ERRORS,
)
# Reasons for a warning: the sample is kept, or the file belongs to no known sample.
WARNINGS = (
    *LABEL_WARNINGS,
    NO_PLAIN_BACKGROUND,
    *("label of the whole", "unexpected file", "image outside a model folder"),
    *("empty model folder", "broken link", UNREADABLE_FOLDER, VANISHED),
)


class Index(NamedTuple):
    """The result of a scan.

    manifest: MANIFEST_COLUMNS, one row per sample, sorted by (model, part).
    report: REPORT_COLUMNS, one row per finding, sorted.
    """

    manifest: pd.DataFrame
    report: pd.DataFrame


class IndexedImage(NamedTuple):
    """Properties of an image; the pixels are discarded after decoding.

    path: relative to data_dir; sha256: of the file; thumbnail: (T, T, 3) uint8.
    """

    path: str
    sha256: str
    width: int
    height: int
    thumbnail: np.ndarray


def build_index(settings: DataConfig, workers: int = 0) -> Index:
    """Scan `settings.data_dir`; the result does not depend on `workers`.

    Args:
        workers: number of processes, each of which decodes whole models; 0 decodes in this process.
    Raises: LayoutError if the folder does not exist or contains no usable sample.
    """
    root = Path(settings.data_dir)
    folders, findings = find_model_folders(root)
    scans = map_in_processes(partial(_scan_model, root, settings), folders, workers)
    rows = []
    for model_rows, model_findings in tqdm(
        scans, "index", len(folders), unit="model", disable=None
    ):
        rows += model_rows
        findings += model_findings
    manifest = pd.DataFrame(sorted(rows), columns=list(MANIFEST_COLUMNS))
    report_rows = sorted(map(_report_row, findings))
    index = Index(manifest, pd.DataFrame(report_rows, columns=list(REPORT_COLUMNS)))
    if manifest.empty:
        table = f"\n{format_summary(index)}" if findings else ""
        layout = LAYOUT_HELP.format(root=root)
        raise LayoutError(f"{root}: no usable sample in this folder{table}\n{layout}")
    return index


def _report_row(finding: Finding) -> tuple[str, ...]:
    return ("skipped" if finding.reason in SKIPPED else "warning", *finding)


def _scan_model(root: Path, settings: DataConfig, folder: str) -> tuple[list, list[Finding]]:
    """Return the manifest rows and the findings of one model."""
    model = normalize_name(folder)
    findings: list[Finding] = []
    images, labels = pair_files(root, folder, findings)
    whole_names = images.pop("whole", [])
    for name in labels.pop("whole", []):
        add_finding(findings, model, f"{folder}/{name}", "label of the whole", "ignored")
    parts = sorted(images.keys() | labels.keys())
    if not parts:
        if not any(finding.reason in (UNREADABLE_FOLDER, VANISHED) for finding in findings):
            add_finding(findings, model, folder, "empty model folder", "contains no part")
        return [], findings

    whole, whole_error = _read_whole(root, folder, whole_names, settings, findings)
    samples = {}
    for part in parts:
        image_names, label_names = images.get(part, []), labels.get(part, [])
        file = f"{folder}/{(image_names or label_names)[0]}"
        try:
            _check_pair(image_names, label_names)
            if whole_error:
                raise whole_error
            label_file = f"{folder}/{label_names[0]}"
            label, warnings = read_label(root / label_file, model, part)
            samples[part] = _read_image(root, file, settings, findings), label
            findings += [Finding(reason, model, label_file, detail) for reason, detail in warnings]
        except (SampleError, ImageError) as error:
            detail = str(error).removeprefix(f"{root / file}: ")
            add_finding(findings, model, file, error.reason, detail)
    rows = [] if whole is None else _manifest_rows(model, whole, samples)
    return rows, findings


def _manifest_rows(
    model: str, whole: IndexedImage, samples: dict[str, tuple[IndexedImage, Label]]
) -> list[tuple]:
    if whole is None:  # then there are no samples either
        return []
    twin_groups = group_twins({part: image.thumbnail for part, (image, _) in samples.items()})
    rows = []
    for part, (image, label) in samples.items():
        hashes = whole.sha256, image.sha256
        sizes = whole.width, whole.height, image.width, image.height
        paths = whole.path, image.path
        rows.append((model, part, *paths, *hashes, *sizes, *label, twin_groups[part]))
    return rows


def _check_pair(images: list[str], labels: list[str]) -> None:
    """Raises: SampleError unless a part has exactly one image and one label."""
    if not labels:
        raise SampleError("part without label", "there is no .json file of the same name")
    if not images:
        raise SampleError("label without part", "there is no image of the same name")
    for names in (images, labels):
        single_file(names)


def _read_whole(
    root: Path, folder: str, names: list[str], settings: DataConfig, findings: list[Finding]
) -> tuple[IndexedImage | None, SampleError | None]:
    """Return the image of the whole, or the error that makes all samples of the model unusable."""
    try:
        file = f"{folder}/{whole_file(folder, names)}"
    except SampleError as error:
        return None, error
    try:
        return _read_image(root, file, settings, findings), None
    except ImageError as error:
        detail = str(error).removeprefix(f"{root / file}: ")
        return None, SampleError("whole unusable", f"{error.reason}: {detail}")


def _read_image(
    root: Path, file: str, settings: DataConfig, findings: list[Finding]
) -> IndexedImage:
    """Read the file once; hash and decode the same bytes. Raises: ImageError."""
    path = root / file
    data = read_image_bytes(path, settings.max_image_pixels)
    image = open_rgb(data, path, settings.max_image_pixels)
    prepared, background = prepare_image(image)
    if not background.is_plain:
        model = normalize_name(file.partition("/")[0])
        detail = f"{background.border_fraction:.0%} of the border has one smooth colour"
        add_finding(findings, model, file, NO_PLAIN_BACKGROUND, detail)
    sha256 = hashlib.sha256(data).hexdigest()
    return IndexedImage(file, sha256, *image.size, make_thumbnail(prepared))


def count_findings(index: Index) -> dict:
    """The counts for index_counts.json; only reasons that occur are listed."""
    counts = Counter(index.report.reason)
    manifest = index.manifest
    group_sizes = manifest.groupby(["model", "twin_group"]).part.transform("size")
    return {
        "models": int(manifest.model.nunique()),
        "samples": len(manifest),
        "samples_with_twin": int((group_sizes > 1).sum()),
        "skipped": _select_counts(counts, SKIPPED),
        "warnings": _select_counts(counts, WARNINGS),
    }


def _select_counts(counts: Counter[str], reasons: tuple[str, ...]) -> dict[str, int]:
    selected = {reason: counts[reason] for reason in reasons if counts[reason]}
    return {"total": sum(selected.values()), **selected}


def format_summary(index: Index) -> str:
    """A table for the terminal: the totals, then one line with an example per reason."""
    counts = count_findings(index)
    totals = ("models", "samples", "samples_with_twin")
    lines = [f"{counts[key]:7d}  {key.replace('_', ' ')}" for key in totals]
    for (severity, reason), rows in index.report.groupby(["severity", "reason"]):
        first = rows.iloc[0]
        example = " ".join(f"{first.file}: {first.detail}".split())  # a name may contain a newline
        lines.append(f"{len(rows):7d}  {severity}: {reason}; e.g. {example}")
    return "\n".join(lines)
