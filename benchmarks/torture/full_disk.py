"""A disk that is full at any write: the message names the file, and the next run works.

From the n-th write on, a command cannot write into the project; n goes from 1 to beyond its last.
"""

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.torture.commands import (
    one_block,
    read_files,
    run_in,
    small_config,
    write_project,
)
from benchmarks.torture.runner import Property, prepared, scratch_folder

COMMANDS: dict[str, tuple[str, ...]] = {
    "index": ("index",),
    "split": ("split",),
    "train": ("train",),
    "store": ("train", "--config", "frozen.yaml"),
    "infer": ("infer", "--split", "test", "--all"),
    "folder": ("infer", "--data-dir", "images", "--output", "predictions", "--report"),
    "evaluate": ("evaluate",),
}
CASES_PER_COMMAND = 24
FROZEN = '"freeze_backbone": true'
OUTPUTS = ("outputs", "models", "predictions", "metrics.json")


class FullDisk:
    """Files under `folder` whose writes are counted; from number `failing` on there is no space."""

    def __init__(self, folder: Path, failing: int | None) -> None:
        self.folder, self.failing, self.writes = str(folder), failing, 0
        self.failed_file: str | None = None

    def write(self, name: str) -> None:
        self.writes += 1
        if self.failing and self.writes >= self.failing:
            self.failed_file = self.failed_file or name
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_on(disk: FullDisk, real_open: Any) -> Any:
    """A replacement of `open`; the buffers of Python are kept, so errors come at a flush, too."""

    class File(io.FileIO):
        path = ""

        def write(self, data: Any) -> int:
            disk.write(self.path)
            return super().write(data)

    def open_file(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kw: Any) -> Any:
        path = path_of(file)
        is_ours = path and Path(path).absolute().is_relative_to(disk.folder)
        if not is_ours or not set(mode) & set("wax+"):
            return real_open(file, mode, buffering, *args, **kw)
        raw = File(file, mode.replace("b", "").replace("t", ""))
        raw.path = path
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, *args, **kw)

    return open_file


def path_of(file: Any) -> str:
    """The path of what is opened: a path, or the number of an open file."""
    if isinstance(file, int):
        return os.readlink(f"/proc/self/fd/{file}")
    return os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else ""


@contextmanager
def full_disk(folder: Path, failing: int | None) -> Iterator[FullDisk]:
    """failing: number of the first write that fails, from 1; None for none."""
    disk = FullDisk(folder, failing)
    real_open = open
    with (
        patch("builtins.open", open_on(disk, real_open)),
        patch("io.open", open_on(disk, real_open)),
    ):
        yield disk


def make_project(name: str, folder: Path) -> None:
    """`folder`/before: a project before a command; `folder`/after: when it has run again.

    Before it there are the outputs of an earlier run, of this command and the previous ones, but no
    state of a training.
    """
    project = write_project(folder / "before", small_config(num_epochs=1))
    (project / "frozen.yaml").write_text(
        (project / "params.yaml").read_text().replace('"freeze_backbone": false', FROZEN)
    )
    names = [*COMMANDS]
    with one_block():
        for previous in names[: names.index(name) + 1]:
            run_in(project, *COMMANDS[previous]).require_success()
        shutil.rmtree(project / "runs", ignore_errors=True)
        shutil.copytree(project, folder / "after")
        with full_disk(folder / "after", None) as disk:
            run_in(folder / "after", *COMMANDS[name]).require_success()
    (folder / "writes").write_text(str(disk.writes))


def choose_write(number: int, writes: int) -> int:
    """The failing write in the case `number` of a command: each of few, or a spread of many."""
    if writes < CASES_PER_COMMAND:
        return number + 1
    return 1 + round(number * writes / (CASES_PER_COMMAND - 1))


def check(seed: int, folder: Path) -> None:
    name = [*COMMANDS][seed % len(COMMANDS)]
    projects = prepared(folder, name, partial(make_project, name))
    writes = int((projects / "writes").read_text())
    failing = choose_write(seed // len(COMMANDS) % CASES_PER_COMMAND, writes)
    before, expected = (read_files(projects / end, *OUTPUTS) for end in ("before", "after"))
    with scratch_folder(folder) as scratch, one_block():
        project = Path(shutil.copytree(projects / "before", scratch / "project"))
        with full_disk(project, failing) as disk:
            answer = run_in(project, *COMMANDS[name])
        if disk.failed_file is None:
            answer.require_success()
        else:
            require_named(answer, disk.failed_file, project)
            require_whole(read_files(project, *OUTPUTS), before, expected)
            run_in(project, *COMMANDS[name]).require_success()
        assert read_files(project, *OUTPUTS) == expected, "other outputs after the next run"


def require_named(answer: Any, failed_file: str, project: Path) -> None:
    """The message names the file, or its folder where a library chose the name."""
    text = answer.errors
    assert answer.status, f"a failed write of {failed_file} is not told: {text[-300:]}"
    answer.require_refusal("No space left on device")
    line = next(line for line in text.splitlines() if line.startswith("error: "))
    folder = Path(failed_file).parent
    names = {str(folder), str(folder.relative_to(project)) if folder.is_absolute() else ""}
    assert any(name and name in line for name in names), f"{failed_file} is not named: {line}"


def require_whole(
    found: dict[str, bytes], before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    """Every file has its content of before or after the command; none is lost, none is a draft."""
    lost = before.keys() - found.keys()
    assert not lost, f"lost: {sorted(lost)[:3]}"
    for name, content in found.items():
        assert content in (before.get(name), after.get(name)), f"{name} is not whole"


PROPERTY = Property(
    "full-disk",
    "the message names the file, nothing that was good is lost, and the next run works",
    check,
    cases=CASES_PER_COMMAND * len(COMMANDS),
    group=4,
)
