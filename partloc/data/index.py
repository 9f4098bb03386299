"""The index: every usable sample of an image folder, and why the others are not usable.

    {data_dir}/{model}/{model}-whole.png     the whole
    {data_dir}/{model}/{model}-{part}.png    one part
    {data_dir}/{model}/{model}-{part}.json   its label

A model is called what its folder is called, a part what stands between "{model}-" and the
extension; both compare in Unicode's NFC form, paths keep the form that the disk has. The
extensions may be in capitals. Symbolic links are followed. Names that start with a dot, and
files beside the model folders that are neither image nor JSON, are ignored without a word.
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
from partloc.data.labels import LABEL_FAULTS, LABEL_REMARKS, LabelError, nfc, read_label
from partloc.data.twins import group_twins, thumbnail

MANIFEST_COLUMNS = (
    *("model", "part", "whole_path", "part_path", "whole_sha256", "part_sha256"),
    *("whole_width", "whole_height", "part_width", "part_height"),  # pixels, upright
    *("tx", "ty", "tz", "scale"),  # whole-model units
    "twin_group",
)
REPORT_COLUMNS = ("severity", "reason", "model", "file", "detail")

# A sample is lost. Each lost sample is counted once, under the first reason met.
SKIPPED = (
    *("part without JSON", "JSON without part", "duplicate name", "unusable name"),
    *("whole missing", "whole unusable", UNREADABLE, TRUNCATED, OVERSIZED),
    *LABEL_FAULTS,
)
# Nothing is lost, or nobody can tell how much: the sample is kept, the file is passed over.
WARNINGS = (
    *LABEL_REMARKS,
    *("label of the whole", "foreign file", "image outside a model folder"),
    *("empty model folder", "broken link", "unreadable folder"),
)

LAYOUT = """expected one folder a model, for example
  {root}/
    chair/
      chair-whole.png     the whole chair
      chair-leg.png       one part, normalised on its own
      chair-leg.json      {{"translation": [x, y, z], "rotation": [1, 0, 0, 0],
                           "scale": [s, s, s]}}"""


class LayoutError(ValueError):
    """The folder holds no usable sample; the message says what was found and expected."""


class Index(NamedTuple):
    manifest: pd.DataFrame  # MANIFEST_COLUMNS, one row a sample, sorted by (model, part)
    report: pd.DataFrame  # REPORT_COLUMNS, one row a finding, sorted


class Finding(NamedTuple):
    reason: str
    model: str
    file: str  # relative to data_dir
    detail: str

    def row(self) -> tuple[str, ...]:
        return ("skipped" if self.reason in SKIPPED else "warning", *self)


class Picture(NamedTuple):
    """What is kept of an image after its one decode."""

    path: str
    sha256: str  # of the file's bytes
    width: int
    height: int
    small: np.ndarray  # (T, T, 3) uint8


def build_index(settings: DataConfig, workers: int = 0) -> Index:
    """Scan `settings.data_dir`; the result does not depend on `workers`.

    Args:
        workers: processes that decode; 0 decodes here. One unit of work is one model.
    Raises: LayoutError if there is no such folder, or no usable sample in it.
    """
    root = Path(settings.data_dir)
    folders, findings = find_models(root)
    job = partial(_scan_model, root, settings)
    samples = []
    for rows, found in tqdm(
        _spread(job, folders, workers), "index", len(folders), unit="model", disable=None
    ):
        samples += rows
        findings += found
    manifest = pd.DataFrame(sorted(samples), columns=list(MANIFEST_COLUMNS))
    report = pd.DataFrame(sorted(f.row() for f in findings), columns=list(REPORT_COLUMNS))
    index = Index(manifest, report)
    if manifest.empty:
        table = f"\n{summary(index)}" if len(report) else ""
        layout = LAYOUT.format(root=root)
        raise LayoutError(f"{root}: no usable sample in this folder{table}\n{layout}")
    return index


def _spread(job: partial, folders: list[str], workers: int) -> Iterator:
    """Run the job on each folder, results in the folders' order."""
    workers = min(workers, len(folders))
    if workers < 2:
        yield from map(job, folders)
        return
    # Spawned, not forked: a fork of a process that has threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(job, folders, chunksize=4)


def find_models(root: Path) -> tuple[list[str], list[Finding]]:
    """The model folders' names as the disk has them, and what else lies beside them."""
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise LayoutError(f"{root}: {what}\n{LAYOUT.format(root=root)}")
    folders, findings = [], []
    for name in sorted(os.listdir(root)):
        if name.startswith("."):
            continue
        path, add = root / name, partial(_note, findings, name, name)
        if not path.exists():
            add("broken link", f"leads to {os.readlink(path)!r}, which is not there")
        elif path.is_dir() and root.resolve().is_relative_to(path.resolve()):
            add("broken link", f"leads back to {path.resolve()}, which holds the data folder")
        elif path.is_dir() and not _is_plain(name):
            add("unusable name", "not UTF-8, or with control characters")
        elif path.is_dir():
            folders.append(name)
        elif path.suffix.lower() in (*EXTENSIONS, ".json"):
            add("image outside a model folder", f"expected {path.stem}/{path.stem}-whole.png")
    counts = Counter(map(nfc, folders))
    for name in [name for name in folders if counts[nfc(name)] > 1]:
        folders.remove(name)
        _note(findings, name, name, "duplicate name", "two folders differ in Unicode form only")
    return folders, findings


def _scan_model(root: Path, settings: DataConfig, folder: str) -> tuple[list, list[Finding]]:
    """One model: its manifest rows and findings. Holds the thumbnails of this model only."""
    model = nfc(folder)
    findings: list[Finding] = []
    pictures, labels = pair_files(root, folder, findings)
    whole_files = pictures.pop("whole", [])
    for name in labels.pop("whole", []):
        _note(findings, model, f"{folder}/{name}", "label of the whole", "ignored")
    parts = sorted(pictures.keys() | labels.keys())
    if not parts:
        if not any(finding.reason == "unreadable folder" for finding in findings):
            _note(findings, model, folder, "empty model folder", "no part in it")
        return [], findings

    whole, whole_trouble = _read_whole(root, folder, whole_files, settings)
    usable = {}
    for part in parts:
        files = pictures.get(part, []), labels.get(part, [])
        file = f"{folder}/{(files[0] or files[1])[0]}"
        try:
            _check_pair(*files)
            if whole_trouble:
                raise whole_trouble
            label_file = f"{folder}/{files[1][0]}"
            label, remarks = read_label(root / label_file, model, part, settings)
            usable[part] = _read_picture(root, file, settings), label
            findings += [Finding(reason, model, label_file, detail) for reason, detail in remarks]
        except (LabelError, ImageError) as error:
            _note(findings, model, file, error.reason, str(error).removeprefix(f"{root / file}: "))
    twins = group_twins(
        {p: picture.small for p, (picture, _) in usable.items()}, settings.twin_tolerance
    )
    rows = []
    for part, (picture, label) in usable.items():
        hashes = whole.sha256, picture.sha256
        sizes = whole.width, whole.height, picture.width, picture.height
        rows.append((model, part, whole.path, picture.path, *hashes, *sizes, *label, twins[part]))
    return rows, findings


def pair_files(
    root: Path, folder: str, findings: list[Finding]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The images' and the labels' file names by part; more than one name is a duplicate."""
    model, prefix = nfc(folder), f"{nfc(folder)}-"
    pictures: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(root / folder))
    except OSError as error:
        _note(findings, model, folder, "unreadable folder", error.strerror or str(error))
        names = []
    for name in names:
        if name.startswith("."):
            continue
        stem, extension = os.path.splitext(name)
        part = nfc(stem).removeprefix(prefix)
        kind = {".png": pictures, ".json": labels}.get(extension.lower())
        add = partial(_note, findings, model, f"{folder}/{name}")
        if (root / folder / name).is_dir():
            add("foreign file", "a folder; expected files only")
        elif not nfc(stem).startswith(prefix) or not part:
            add("foreign file", f"expected a name that starts with {prefix!r} and goes on")
        elif kind is None:
            add("foreign file", f"extension {extension!r}, expected .png or .json")
        elif not _is_plain(name):
            add("unusable name", "not UTF-8, or with control characters")
        else:
            kind.setdefault(part, []).append(name)
    return pictures, labels


def _check_pair(images: list[str], labels: list[str]) -> None:
    if not labels:
        raise LabelError("part without JSON", "no label of the same name beside it")
    if not images:
        raise LabelError("JSON without part", "no image of the same name beside it")
    for names in (images, labels):
        only(names)


def only(names: list[str]) -> str:
    """The one file of a part. Raises: LabelError where there are several."""
    if len(names) > 1:
        raise LabelError("duplicate name", f"{' and '.join(names)} name the same part")
    return names[0]


def only_whole(folder: str, names: list[str]) -> str:
    """The one picture of the whole. Raises: LabelError where there is none, or several."""
    if not names:
        raise LabelError("whole missing", f"{folder}-whole.png is not there")
    if len(names) > 1:
        raise LabelError("whole unusable", f"{' and '.join(names)} are both the whole")
    return names[0]


def _read_whole(
    root: Path, folder: str, files: list[str], settings: DataConfig
) -> tuple[Picture | None, LabelError | None]:
    """The whole's picture, or the reason why none of the model's samples can be used."""
    try:
        return _read_picture(root, f"{folder}/{only_whole(folder, files)}", settings), None
    except LabelError as error:
        return None, error
    except ImageError as error:
        return None, LabelError("whole unusable", f"{error.reason}: {error}")


def _read_picture(root: Path, file: str, settings: DataConfig) -> Picture:
    """Read once, hash and decode from the same bytes."""
    path = root / file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    image = open_rgb(data, path, settings.max_image_pixels)
    return Picture(file, hashlib.sha256(data).hexdigest(), *image.size, thumbnail(image))


def _is_plain(name: str) -> bool:
    """Can stand in a UTF-8 table: no control character, no undecodable byte."""
    return not any(category(letter) in ("Cc", "Cs") for letter in name)


def _note(findings: list[Finding], model: str, file: str, reason: str, detail: str) -> None:
    texts = (model, file, " ".join(detail.split()))
    clean = (text.encode("utf-8", "backslashreplace").decode() for text in texts)
    findings.append(Finding(reason, *clean))


def count_findings(index: Index) -> dict:
    """The counts for metrics/index.json; of the reasons, those that were met."""
    reasons = Counter(index.report.reason)
    manifest = index.manifest
    members = manifest.groupby(["model", "twin_group"]).part.transform("size")
    return {
        "models": int(manifest.model.nunique()),
        "samples": len(manifest),
        "samples_with_twin": int((members > 1).sum()),
        "skipped": _met(SKIPPED, reasons),
        "warnings": _met(WARNINGS, reasons),
    }


def _met(known: tuple[str, ...], reasons: Counter[str]) -> dict[str, int]:
    counts = {reason: reasons[reason] for reason in known if reasons[reason]}
    return {"total": sum(counts.values()), **counts}


def summary(index: Index) -> str:
    """The table for the terminal: what was found, then a line for each reason with an example."""
    counts = count_findings(index)
    lines = [f"{counts[key]:7d}  {key.replace('_', ' ')}" for key in list(counts)[:3]]
    for (severity, reason), rows in index.report.groupby(["severity", "reason"]):
        first = rows.iloc[0]
        example = " ".join(f"{first.file}: {first.detail}".split())  # a name may hold a newline
        lines.append(f"{len(rows):7d}  {severity}: {reason}; e.g. {example}")
    return "\n".join(lines)
