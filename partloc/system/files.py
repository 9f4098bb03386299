"""Atomic files: a reader, also after a crash, finds the old content or the complete new one.

A `.sha256` file beside a file holds its SHA-256 checksum.
"""

import hashlib
import json
import os
import pickle
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:  # the import takes half a second, and prediction for one whole needs no tables
    import pandas as pd


READ_CHUNK_BYTES = 1 << 22
LOCK_NAME = ".lock"
SHA256_DIGITS = 64


class UnusualFileError(OSError):
    """A file that cannot be read as a whole: not a regular file, or too large."""


class UnwritableError(OSError):
    """A file that cannot be written; the message names it."""


class FileTooLargeError(UnusualFileError):
    """A file with more bytes than the limit, or one that never ends."""


def read_regular_file(path: Path | str, max_bytes: int) -> bytes:
    """The content of a regular file; symbolic links are followed.

    A pipe, a device or a socket may block for ever, and some files have no end.
    Raises: UnusualFileError; OSError if the file cannot be read. No message names the file.
    """
    try:
        _require_regular(os.stat(path))  # before it is opened: opening a device may have an effect
        flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(path, os.O_RDONLY | flags)
    except ValueError as error:  # a null character
        raise OSError(str(error)) from None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        _require_regular(status)
        if status.st_size > max_bytes:
            raise _too_large(f"{status.st_size:,}", max_bytes)
        content = bytearray()
        while chunk := file.read(READ_CHUNK_BYTES):
            content += chunk
            if len(content) > max_bytes:
                raise _too_large("more", max_bytes)
    return bytes(content)


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UnusualFileError("a directory; expected a regular file")
    if not stat.S_ISREG(status.st_mode):
        raise UnusualFileError("a pipe, device or socket; expected a regular file")


def _too_large(found: str, max_bytes: int) -> FileTooLargeError:
    return FileTooLargeError(f"file of {found} bytes, the limit is {max_bytes:,}")


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at `path`, synchronised, when the block succeeds.

    The data goes to a hidden file beside it, which is renamed at the end. The name of that file is
    short, so that names of any length can be written. Missing folders are created.
    Raises: OSError naming the file, e.g. when the disk is full. An existing file is then unchanged.
    """
    with name_file_in_errors(path), _open_temporary(path) as file:
        yield file


@contextmanager
def _open_temporary(path: Path) -> Iterator[BinaryIO]:
    """Like `open_atomic`, without a change to the errors of the block."""
    with name_file_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
        temporary = path.with_name(f".{digest[:16]}.tmp")
        temporary.unlink(missing_ok=True)  # of a process that was killed
        file = temporary.open("xb")
    try:
        yield file
        with name_file_in_errors(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # after an error, of which this would be a consequence
            file.close()
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Turn errors of writing, which do not name a file, into an OSError that names `path`."""
    try:
        yield
    except UnwritableError:
        raise
    except (OSError, RuntimeError) as error:  # torch.save wraps the disk's error in a RuntimeError
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        reason = getattr(cause, "strerror", None) or cause or error
        raise UnwritableError(f"{path}: cannot be written: {reason}") from error


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of outputs, which falls with the process. The folder is created.

    Raises: OSError if another process holds it: the two would mix their files.
    """
    from filelock import FileLock, Timeout  # not at the top: prediction for one whole needs no lock

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(
            f"{folder}: another process is writing into this folder; wait for it, or give another "
            "folder"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file
            (folder / LOCK_NAME).unlink()
        lock.release()


def _sync_folder(folder: Path) -> None:
    """Synchronise a rename to the disk."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write CSV in UTF-8. Each float has the fewest digits that read back as the same number."""
    write_table_chunks(path, [table])


def write_table_chunks(path: Path, chunks: Iterable["pd.DataFrame"]) -> None:
    """Write one CSV from chunks with the same columns, each before the next one is computed.

    Raises: OSError naming the file when it cannot be written. Errors of the iterator are unchanged.
    """
    with _open_temporary(path) as file:
        for number, chunk in enumerate(chunks):
            with name_file_in_errors(path):
                chunk.to_csv(
                    file,
                    mode="wb",
                    header=not number,
                    index=False,
                    lineterminator="\n",
                    encoding="utf-8",
                )


def checksum_path(path: Path) -> Path:
    """Path of the file that holds the SHA-256 of `path`."""
    return path.with_suffix(".sha256")


def write_checksum(path: Path) -> None:
    """Write the SHA-256 of a file beside it."""
    with open_atomic(checksum_path(path)) as file:
        file.write(file_sha256(path).encode())


def matches_checksum(path: Path) -> bool:
    """Whether a file and its checksum are regular files and agree."""
    checksum = checksum_path(path)
    if not (path.is_file() and checksum.is_file()):
        return False
    with checksum.open("rb") as file:
        return file.read(SHA256_DIGITS + 1) == file_sha256(path).encode()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON with sorted keys and six significant digits, so that equal runs give equal bytes.

    Each key, and each object in a list, has a line of its own.
    """
    with open_atomic(path) as file:
        file.write((_to_json(_round_floats(value)) + "\n").encode())


def nested_value(values: dict[str, Any], path: str) -> Any:
    """The value at a path such as "a/b/c" in nested dicts; None if there is none."""
    value: Any = values
    for key in path.split("/"):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def _to_json(value: Any, indent: str = "") -> str:
    if isinstance(value, dict) and value:
        inner = indent + "  "
        lines = [
            f"{json.dumps(key, ensure_ascii=False)}: {_to_json(value[key], inner)}"
            for key in sorted(value)
        ]
        return "{\n" + inner + f",\n{inner}".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        lines = [json.dumps(item, sort_keys=True, ensure_ascii=False) for item in value]
        return "[\n" + indent + "  " + f",\n{indent}  ".join(lines) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def _round_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round_floats(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another kind, or a run folder that is in use."""


def save_tensors(path: Path, value: Any) -> None:
    """torch.save to an atomic file. The bytes do not depend on the file's name.

    Raises: OSError like `open_atomic`.
    """
    import torch  # not at the top: commands without a network do not need it

    with open_atomic(path) as file:
        torch.save(value, file)


def load_tensors(path: Path) -> Any:
    """Load tensors and plain values, on the CPU.

    Raises: CheckpointError naming the file if it is missing, damaged or of another kind.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:  # torch does not verify the checksums
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; train it (dvc repro) or pull it") from None
    except pickle.UnpicklingError:  # torch's own text advises to load pickled code
        raise CheckpointError(
            f"{path}: not a readable checkpoint: it holds more than tensors and plain values"
        ) from None
    except Exception as error:  # torch raises many types for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason}") from None
