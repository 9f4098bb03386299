"""The folder of a training run: its lock, and the states from which an interrupted run resumes."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from partloc.system.files import (
    CheckpointError,
    checksum_path,
    load_tensors,
    matches_checksum,
    open_atomic,
    save_tensors,
    write_checksum,
)

MAX_STATES = 2  # of different times: if the newer one is damaged, the older one is used
STATE_NAME = re.compile(r"state-(\d{9})\.pth")
# The lock of a killed trainer is free when its data-loader workers have ended, within seconds.
LOCK_TIMEOUT_S = 10.0


class RunFolder:
    """Resumable state of one training run, in a folder named after the run's fingerprint.

    Contents: `state-*.pth`, everything that the training depends on after that many optimiser steps
    (MAX_STATES of them, each with a .sha256 file beside it); `best_model.pth`, the model file of
    the best epoch so far; `tensorboard/`; `lock` and `process`, the id of the process that holds
    it; `finished`, if the outputs have been written; `code`, the source code of the training.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.path = root / fingerprint[:16]
        self.tensorboard = self.path / "tensorboard"
        self.best_model = self.path / "best_model.pth"
        self._finished = self.path / "finished"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; a second trainer on the same state would corrupt both.

        Raises: CheckpointError naming the process that holds the lock.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "lock", timeout=LOCK_TIMEOUT_S)
        try:
            lock.acquire()
        except Timeout:
            raise CheckpointError(
                f"{self.path}: another training (process {self.read_note('process') or '?'}) is "
                "running on the same configuration and data; wait for it or stop it, then run "
                "again"
            ) from None
        try:
            self.write_note("process", str(os.getpid()))
            yield
        finally:
            lock.release()

    @property
    def finished(self) -> bool:
        """Whether the run has finished and written its outputs."""
        return self._finished.exists()

    def mark_finished(self) -> None:
        """Mark the run as finished. Its states stay: DVC may not have recorded the outputs."""
        self._finished.touch()

    def write_note(self, name: str, text: str) -> None:
        """Write a short text file into the folder."""
        with open_atomic(self.path / name) as file:
            file.write(text.encode())

    def read_note(self, name: str) -> str | None:
        """Return the text of a note, or None if there is none."""
        path = self.path / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def clear(self) -> None:
        """Delete everything but the lock, so that the next training starts from the beginning."""
        for entry in self.path.iterdir():
            if entry.name not in ("lock", "process"):
                _delete(entry)

    def other_unfinished_runs(self) -> list[Path]:
        """Return the folders beside this one that hold the state of unfinished runs."""
        return sorted(
            folder
            for folder in self.path.parent.iterdir()
            if folder != self.path and any(folder.glob("state-*.pth"))
            if not (folder / self._finished.name).exists()
        )

    def save_state(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` optimiser steps and its checksum; delete the oldest one."""
        path = self.path / f"state-{step:09d}.pth"
        save_tensors(path, {"run": self.fingerprint, "step": step, "state": state})
        write_checksum(path)
        for old in self._states()[:-MAX_STATES]:
            _delete_state(old)

    def load_state(
        self, find_problem: Callable[[dict[str, Any]], str | None] = lambda _state: None
    ) -> dict[str, Any] | None:
        """Load the newest usable state, or None; others are reported, skipped and, if later,
        deleted, so that they do not displace the states that follow.

        find_problem: tells why the content of a file with the right checksum is unusable.
        """
        for path in sorted(self.path.glob("state-*.pth"), reverse=True):
            try:
                content = self._load(path)
                if problem := find_problem(content):
                    raise CheckpointError(f"{path}: damaged: {problem}")
            except (CheckpointError, OSError) as error:
                print(f"warning: {error}; an older state is used if there is one", file=sys.stderr)
                continue
            for other in self._states():
                if other > path:
                    _delete_state(other)
            return content
        return None

    def newest_state(self) -> Path:
        """The file that `load_state` has loaded."""
        return self._states()[-1]

    def _load(self, path: Path) -> dict[str, Any]:
        """Raises: CheckpointError naming the file if it is not a whole state of this run."""
        name = STATE_NAME.fullmatch(path.name)
        if name is None:
            raise CheckpointError(f"{path}: expected a name like state-000000123.pth; not used")
        if not matches_checksum(path):
            raise CheckpointError(f"{path}: damaged: it does not match its checksum")
        content = load_tensors(path)
        origin = (self.fingerprint, int(name[1]))
        if not isinstance(content, dict) or (content.get("run"), content.get("step")) != origin:
            raise CheckpointError(f"{path}: damaged: the state of another training or step")
        state = content.get("state")
        if not isinstance(state, dict):
            raise CheckpointError(
                f"{path}: damaged: expected a state, found {type(state).__name__}"
            )
        return state

    def _states(self) -> list[Path]:
        """The files of states, from old to new; also damaged ones."""
        return sorted(path for path in self.path.iterdir() if STATE_NAME.fullmatch(path.name))


def _delete_state(path: Path) -> None:
    """Delete a state and its checksum; the checksum first, so that no file has a stale one."""
    _delete(checksum_path(path))
    _delete(path)


def _delete(path: Path) -> None:
    """Delete a file of any kind, or a folder, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
