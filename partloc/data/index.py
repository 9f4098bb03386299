"""Scan an image folder: find every usable sample, and report why others are not usable.

    {data_dir}/{model}/{model}-whole.png     the whole model
    {data_dir}/{model}/{model}-{part}.png    one part
    {data_dir}/{model}/{model}-{part}.json   its label

The name of a model is that of its folder; the name of a part is the text between "{model}-" and
the extension. Names are compared in Unicode NFC; paths keep the form of the file system. Extensions
may be upper case. Symbolic links are followed. Hidden files are ignored, as are files outside the
model folders that are neither images nor JSON.

Shapes: T = THUMBNAIL_PX.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from unicodedata import category

import numpy as np
import pandas as pd
from tqdm import tqdm

from partloc.config import DataConfig
from partloc.data.images import EXTENSIONS, OVERSIZED, TRUNCATED, UNREADABLE, ImageError, open_rgb
from partloc.data.labels import (
    LABEL_ERRORS,
    LABEL_WARNINGS,
    Label,
    LabelError,
    normalize_name,
    read_label,
)
from partloc.data.twins import group_twins, make_thumbnail

MANIFEST_COLUMNS = (
    *("model", "part", "whole_path", "part_path", "whole_sha256", "part_sha256"),
    *("whole_width", "whole_height", "part_width", "part_height"),  # pixels, upright
    *("tx", "ty", "tz", "scale"),  # whole-model units
    "twin_group",
)
REPORT_COLUMNS = ("severity", "reason", "model", "file", "detail")

# Reasons to skip a sample. Each skipped sample is counted once, with the first reason that applies.
SKIPPED = (
    *("part without label", "label without part", "duplicate name", "unusable name"),
    *("whole missing", "whole unusable", UNREADABLE, TRUNCATED, OVERSIZED),
    *LABEL_ERRORS,
)
# Reasons for a warning: the sample is kept, or the file belongs to no known sample.
WARNINGS = (
    *LABEL_WARNINGS,
    *("label of the whole", "unexpected file", "image outside a model folder"),
    *("empty model folder", "broken link", "unreadable folder"),
)

LAYOUT_HELP = """expected one folder per model, for example
  {root}/
    chair/
      chair-whole.png     the whole chair
      chair-leg.png       one part, normalised by itself
      chair-leg.json      {{"translation": [x, y, z], "rotation": [1, 0, 0, 0],
                           "scale": [s, s, s]}}"""


class LayoutError(ValueError):
    """The folder contains no usable sample; the message describes the expected layout."""


class Index(NamedTuple):
    """The result of a scan.

    manifest: MANIFEST_COLUMNS, one row per sample, sorted by (model, part).
    report: REPORT_COLUMNS, one row per finding, sorted.
    """

    manifest: pd.DataFrame
    report: pd.DataFrame


class Finding(NamedTuple):
    """A skipped sample or a warning; `file` is relative to data_dir."""

    reason: str
    model: str
    file: str
    detail: str

    def report_row(self) -> tuple[str, ...]:
        return ("skipped" if self.reason in SKIPPED else "warning", *self)


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
    scans = _map_in_processes(partial(_scan_model, root, settings), folders, workers)
    rows = []
    for model_rows, model_findings in tqdm(
        scans, "index", len(folders), unit="model", disable=None
    ):
        rows += model_rows
        findings += model_findings
    manifest = pd.DataFrame(sorted(rows), columns=list(MANIFEST_COLUMNS))
    report_rows = sorted(finding.report_row() for finding in findings)
    index = Index(manifest, pd.DataFrame(report_rows, columns=list(REPORT_COLUMNS)))
    if manifest.empty:
        table = f"\n{format_summary(index)}" if findings else ""
        layout = LAYOUT_HELP.format(root=root)
        raise LayoutError(f"{root}: no usable sample in this folder{table}\n{layout}")
    return index


def _map_in_processes(function: partial, folders: list[str], workers: int) -> Iterator:
    """Apply the function to each folder; yield the results in the order of the folders."""
    workers = min(workers, len(folders))
    if workers < 2:
        yield from map(function, folders)
        return
    # Processes are spawned because forking a process that has threads can deadlock.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, folders, chunksize=4)


def find_model_folders(root: Path) -> tuple[list[str], list[Finding]]:
    """List the model folders, in the file system's form of their names, and the findings in `root`.

    Raises: LayoutError if `root` is not a folder.
    """
    if not root.is_dir():
        problem = "not a folder" if root.exists() else "no such folder"
        raise LayoutError(f"{root}: {problem}\n{LAYOUT_HELP.format(root=root)}")
    folders, findings = [], []
    for name in sorted(os.listdir(root)):
        if name.startswith("."):
            continue
        path, report = root / name, partial(_add_finding, findings, name, name)
        if not path.exists():
            report("broken link", f"points to {os.readlink(path)!r}, which does not exist")
        elif path.is_dir() and root.resolve().is_relative_to(path.resolve()):
            report("broken link", f"points to {path.resolve()}, which contains the data folder")
        elif path.is_dir() and not _is_printable(name):
            report("unusable name", "not UTF-8, or contains control characters")
        elif path.is_dir():
            folders.append(name)
        elif path.suffix.lower() in (*EXTENSIONS, ".json"):
            report("image outside a model folder", f"expected {path.stem}/{path.stem}-whole.png")
    counts = Counter(map(normalize_name, folders))
    for name in [name for name in folders if counts[normalize_name(name)] > 1]:
        folders.remove(name)
        detail = "two folder names differ only in their Unicode form"
        _add_finding(findings, name, name, "duplicate name", detail)
    return folders, findings


def _scan_model(root: Path, settings: DataConfig, folder: str) -> tuple[list, list[Finding]]:
    """Return the manifest rows and the findings of one model."""
    model = normalize_name(folder)
    findings: list[Finding] = []
    images, labels = pair_files(root, folder, findings)
    whole_names = images.pop("whole", [])
    for name in labels.pop("whole", []):
        _add_finding(findings, model, f"{folder}/{name}", "label of the whole", "ignored")
    parts = sorted(images.keys() | labels.keys())
    if not parts:
        if not any(finding.reason == "unreadable folder" for finding in findings):
            _add_finding(findings, model, folder, "empty model folder", "contains no part")
        return [], findings

    whole, whole_error = _read_whole(root, folder, whole_names, settings)
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
            samples[part] = _read_image(root, file, settings), label
            findings += [Finding(reason, model, label_file, detail) for reason, detail in warnings]
        except (LabelError, ImageError) as error:
            detail = str(error).removeprefix(f"{root / file}: ")
            _add_finding(findings, model, file, error.reason, detail)
    return _manifest_rows(model, whole, samples), findings


def _manifest_rows(
    model: str, whole: IndexedImage | None, samples: dict[str, tuple[IndexedImage, Label]]
) -> list[tuple]:
    twin_groups = group_twins({part: image.thumbnail for part, (image, _) in samples.items()})
    rows = []
    for part, (image, label) in samples.items():
        hashes = whole.sha256, image.sha256
        sizes = whole.width, whole.height, image.width, image.height
        paths = whole.path, image.path
        rows.append((model, part, *paths, *hashes, *sizes, *label, twin_groups[part]))
    return rows


def pair_files(
    root: Path, folder: str, findings: list[Finding]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Group the names of the images and of the labels of a model by part.

    More than one name is a duplicate. Other files are appended to `findings`.
    """
    model, prefix = normalize_name(folder), f"{normalize_name(folder)}-"
    images: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(root / folder))
    except OSError as error:
        detail = error.strerror or str(error)
        _add_finding(findings, model, folder, "unreadable folder", detail)
        names = []
    for name in names:
        if name.startswith("."):
            continue
        stem, extension = os.path.splitext(name)
        part = normalize_name(stem).removeprefix(prefix)
        names_by_part = {".png": images, ".json": labels}.get(extension.lower())
        report = partial(_add_finding, findings, model, f"{folder}/{name}")
        if (root / folder / name).is_dir():
            report("unexpected file", "a folder; expected only files")
        elif not normalize_name(stem).startswith(prefix) or not part:
            report("unexpected file", f"expected a name of the form {prefix}PART")
        elif names_by_part is None:
            report("unexpected file", f"extension {extension!r}, expected .png or .json")
        elif not _is_printable(name):
            report("unusable name", "not UTF-8, or contains control characters")
        else:
            names_by_part.setdefault(part, []).append(name)
    return images, labels


def _check_pair(images: list[str], labels: list[str]) -> None:
    """Raises: LabelError unless a part has exactly one image and one label."""
    if not labels:
        raise LabelError("part without label", "there is no .json file of the same name")
    if not images:
        raise LabelError("label without part", "there is no .png file of the same name")
    for names in (images, labels):
        single_file(names)


def single_file(names: list[str]) -> str:
    """The only file of a part. Raises: LabelError if there are several."""
    if len(names) > 1:
        raise LabelError("duplicate name", f"{' and '.join(names)} name the same part")
    return names[0]


def whole_file(folder: str, names: list[str]) -> str:
    """The only image of the whole. Raises: LabelError if there is none or several."""
    if not names:
        raise LabelError("whole missing", f"there is no {folder}-whole.png")
    if len(names) > 1:
        raise LabelError("whole unusable", f"{' and '.join(names)} are both images of the whole")
    return names[0]


def _read_whole(
    root: Path, folder: str, names: list[str], settings: DataConfig
) -> tuple[IndexedImage | None, LabelError | None]:
    """Return the image of the whole, or the error that makes all samples of the model unusable."""
    try:
        return _read_image(root, f"{folder}/{whole_file(folder, names)}", settings), None
    except LabelError as error:
        return None, error
    except ImageError as error:
        return None, LabelError("whole unusable", f"{error.reason}: {error}")


def _read_image(root: Path, file: str, settings: DataConfig) -> IndexedImage:
    """Read the file once; hash and decode the same bytes. Raises: ImageError."""
    path = root / file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    image = open_rgb(data, path, settings.max_image_pixels)
    sha256 = hashlib.sha256(data).hexdigest()
    return IndexedImage(file, sha256, *image.size, make_thumbnail(image))


def _is_printable(name: str) -> bool:
    """Whether a UTF-8 table can hold the name: no control character, no undecodable byte."""
    return not any(category(character) in ("Cc", "Cs") for character in name)


def _add_finding(findings: list[Finding], model: str, file: str, reason: str, detail: str) -> None:
    """Append a finding, with whitespace collapsed and undecodable bytes escaped."""
    texts = (model, file, " ".join(detail.split()))
    encodable = (text.encode("utf-8", "backslashreplace").decode() for text in texts)
    findings.append(Finding(reason, *encodable))


def count_findings(index: Index) -> dict:
    """The counts for metrics/index.json; only reasons that occur are listed."""
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
