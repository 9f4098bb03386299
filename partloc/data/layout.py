"""The layout of an image folder: which files belong to which model and part.

    {data_dir}/{model}/{model}-whole.png     the whole model
    {data_dir}/{model}/{model}-{part}.png    one part
    {data_dir}/{model}/{model}-{part}.json   its label

The name of a model is that of its folder; the name of a part is the text between "{model}-" and
the extension. Names are compared in Unicode NFC; paths keep the form of the file system. Extensions
may be upper case. Symbolic links are followed. Hidden files are ignored, as are files outside the
model folders that are neither images nor JSON.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unicodedata import category, normalize

from partloc.data.images import EXTENSIONS

SPLITS = ("train", "val", "test")
MAX_DETAIL_CHARS = 300
UNREADABLE_FOLDER, VANISHED = "unreadable folder", "vanished folder"

LAYOUT_HELP = """expected one folder per model, for example
  {root}/
    chair/
      chair-whole.png     the whole chair
      chair-leg.png       one part, normalised by itself
      chair-leg.json      {{"translation": [x, y, z], "rotation": [1, 0, 0, 0],
                           "scale": [s, s, s]}}"""


class LayoutError(ValueError):
    """The folder contains no usable sample; the message describes the expected layout."""


class SampleError(ValueError):
    """A sample cannot be used; the index counts samples by `reason`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


class Finding(NamedTuple):
    """A skipped sample or a warning; `file` is relative to data_dir."""

    reason: str
    model: str
    file: str
    detail: str


def normalize_name(name: str) -> str:
    """Convert to Unicode NFC, the form in which names are compared; some file systems use NFD."""
    return normalize("NFC", name)


def find_model_folders(root: Path) -> tuple[list[str], list[Finding]]:
    """List the model folders, in the file system's form of their names, and the findings in `root`.

    Raises: LayoutError if `root` is not a folder.
    """
    if not root.is_dir():
        problem = "not a folder" if root.exists() else "no such folder"
        raise LayoutError(f"{root}: {problem}\n{LAYOUT_HELP.format(root=root)}")
    try:
        names = sorted(os.listdir(root))
        real_root = root.resolve()
    except OSError as error:
        raise LayoutError(f"{root}: cannot be read: {error.strerror or error}") from None
    folders: list[str] = []
    findings: list[Finding] = []
    for name in names:
        if name.startswith("."):
            continue
        report = partial(add_finding, findings, name, name)
        try:
            if _is_usable_folder(root / name, real_root, report):
                folders.append(name)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            report(UNREADABLE_FOLDER, getattr(error, "strerror", None) or str(error))
    counts = Counter(map(normalize_name, folders))
    for name in [name for name in folders if counts[normalize_name(name)] > 1]:
        folders.remove(name)
        detail = "two folder names differ only in their Unicode form"
        add_finding(findings, name, name, "duplicate name", detail)
    return folders, findings


def _is_usable_folder(path: Path, real_root: Path, report: Callable[[str, str], None]) -> bool:
    """Whether an entry of the data folder is the folder of a model; otherwise a finding.

    Raises: OSError, RuntimeError if that cannot be determined.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            report("broken link", f"points to {os.readlink(path)!r}: {error.strerror}")
        elif isinstance(error, FileNotFoundError):
            report(VANISHED, "removed while the data folder was listed")
        else:
            raise
        return False
    if stat.S_ISDIR(mode) and real_root.is_relative_to(path.resolve()):
        report("broken link", f"points to {path.resolve()}, which contains the data folder")
    elif stat.S_ISDIR(mode) and not _is_printable(path.name):
        report("unusable name", "not UTF-8, or contains control characters")
    elif not stat.S_ISDIR(mode) and path.suffix.lower() in (*EXTENSIONS, ".json"):
        report("image outside a model folder", f"expected {path.stem}/{path.stem}-whole.png")
    else:
        return stat.S_ISDIR(mode)
    return False


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
    except FileNotFoundError:
        detail = "removed while the data folder was listed"
        add_finding(findings, model, folder, VANISHED, detail)
        names = []
    except OSError as error:
        detail = error.strerror or str(error)
        add_finding(findings, model, folder, UNREADABLE_FOLDER, detail)
        names = []
    for name in names:
        if name.startswith("."):
            continue
        stem, extension = os.path.splitext(name)
        part = normalize_name(stem).removeprefix(prefix)
        is_image, is_label = extension.lower() in EXTENSIONS, extension.lower() == ".json"
        report = partial(add_finding, findings, model, f"{folder}/{name}")
        if _is_folder(root / folder / name):
            report("unexpected file", "a folder; expected only files")
        elif not normalize_name(stem).startswith(prefix) or not part:
            report("unexpected file", f"expected a name of the form {prefix}PART")
        elif not (is_image or is_label):
            expected = f"expected .json or one of {', '.join(EXTENSIONS)}"
            report("unexpected file", f"extension {extension!r}, {expected}")
        elif not _is_printable(name):
            report("unusable name", "not UTF-8, or contains control characters")
        else:
            (images if is_image else labels).setdefault(part, []).append(name)
    return images, labels


def single_file(names: list[str]) -> str:
    """The only file of a part. Raises: SampleError if there are several."""
    if len(names) > 1:
        raise SampleError("duplicate name", f"{' and '.join(names)} name the same part")
    return names[0]


def whole_file(folder: str, names: list[str]) -> str:
    """The only image of the whole. Raises: SampleError if there is none or several."""
    if not names:
        raise SampleError("whole missing", f"there is no {folder}-whole.png")
    if len(names) > 1:
        raise SampleError("whole unusable", f"{' and '.join(names)} are both images of the whole")
    return names[0]


def _is_folder(path: Path) -> bool:
    """Like `Path.is_dir`, which raises an error e.g. for a link to a folder without permission."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_printable(name: str) -> bool:
    """Whether a UTF-8 table can hold the name: no control character, no undecodable byte."""
    return not any(category(character) in ("Cc", "Cs") for character in name)


def add_finding(findings: list[Finding], model: str, file: str, reason: str, detail: str) -> None:
    """Append a finding: whitespace collapsed, undecodable bytes escaped, a long detail cut."""
    detail = " ".join(detail.split())
    if len(detail) > MAX_DETAIL_CHARS:
        detail = f"{detail[:MAX_DETAIL_CHARS]}..."
    texts = (model, file, detail)
    encodable = (text.encode("utf-8", "backslashreplace").decode() for text in texts)
    findings.append(Finding(reason, *encodable))
