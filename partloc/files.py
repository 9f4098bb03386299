"""Files that are replaced whole: a reader, or a killed stage, finds the old one or the new one."""

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:  # a question about one whole needs no tables: half a second saved
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A handle whose content becomes the file when the block ends well, flushed to the disk.

    It is written beside the file under a fixed name and renamed; folders are made.

    Raises: OSError naming the file, when the disk is full for example; the old file stays.
    """
    with naming(path), _draft_of(path) as file:
        yield file


@contextmanager
def _draft_of(path: Path) -> Iterator[BinaryIO]:
    """As `replacing`, but the errors of the block pass as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as file:
            yield file
            with naming(path):
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the disk, which name no file, come out with this one's name."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's writer hides the disk's error in its own
        raise OSError(f"{path}: cannot be written: {error.__context__ or error}") from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """CSV in UTF-8; floats in the shortest form that reads back to the same number."""
    write_pieces(path, [table])


def write_pieces(path: Path, pieces: Iterable["pd.DataFrame"]) -> None:
    """A table that comes in pieces, of the same columns; each is written before the next is made.

    Raises: OSError naming the file when it cannot be written; what the making of a piece raises.
    """
    with _draft_of(path) as file:
        for number, piece in enumerate(pieces):
            with naming(path):
                piece.to_csv(
                    file,
                    mode="wb",
                    header=not number,
                    index=False,
                    lineterminator="\n",
                    encoding="utf-8",
                )


def hash_file(path: Path) -> Path:
    """Where the SHA-256 of a file is kept, beside it."""
    return path.with_suffix(".sha256")


def write_hash(path: Path) -> None:
    with naming(hash_file(path)):
        hash_file(path).write_text(_sha256(path))


def is_whole(path: Path) -> bool:
    """Whether a file is there, as it was when `write_hash` was called."""
    hash_of = hash_file(path)
    return path.exists() and hash_of.exists() and hash_of.read_text() == _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Sorted and rounded to six significant digits, so that equal runs give equal bytes."""
    with replacing(path) as file:
        file.write((_as_text(_rounded(value)) + "\n").encode())


def figure_at(figures: dict[str, Any], place: str) -> float | None:
    """Of nested JSON objects the number at "a/b/c"; None where there is none."""
    found: Any = figures
    for step in place.split("/"):
        if not isinstance(found, dict) or step not in found:
            return None
        found = found[step]
    return found


def _as_text(value: Any, indent: str = "") -> str:
    """JSON with one line for each key, and for each record of a list: a series stays readable."""
    if isinstance(value, dict) and value:
        deeper = indent + "  "
        lines = [
            f"{json.dumps(key, ensure_ascii=False)}: {_as_text(value[key], deeper)}"
            for key in sorted(value)
        ]
        return "{\n" + deeper + f",\n{deeper}".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        lines = [json.dumps(item, sort_keys=True, ensure_ascii=False) for item in value]
        return "[\n" + indent + "  " + f",\n{indent}  ".join(lines) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


class CheckpointError(ValueError):
    """A file that is not what it should be, or a folder that another process holds."""


def save_atomically(path: Path, value: Any) -> None:
    """torch.save through a handle: the bytes then do not depend on the file's name.

    Raises: OSError as `files.replacing`.
    """
    import torch  # here, since commands without a network have no need of it

    with replacing(path) as file:
        torch.save(value, file)


def load(path: Path) -> Any:
    """Tensors and plain values only, on the CPU.

    Raises: CheckpointError naming the file, for a missing, damaged or foreign one.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; train it (dvc repro) or pull it") from None
    except pickle.UnpicklingError:  # not torch's own text: it advises to run what is in the file
        raise CheckpointError(
            f"{path}: not a readable checkpoint: it holds more than tensors and plain values"
        ) from None
    except Exception as error:  # torch raises many types for damaged files; all of them end here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason}") from None
