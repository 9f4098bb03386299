"""The folder of a training run: its lock, and the states from which an interrupted run resumes."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from partloc.files import (
    CheckpointError,
    checksum_path,
    load_tensors,
    matches_checksum,
    open_atomic,
    save_tensors,
    write_checksum,
)

MAX_STATES = 2  # files of each kind that are kept
# The lock of a killed trainer is free when its data-loader workers have ended, within seconds.
LOCK_TIMEOUT_S = 10.0


class RunFolder:
    """Resumable state of one training run, in a folder named after the run's fingerprint.

    Contents: `best_model.pth`, the model file of the best epoch so far; `state-*.pth`, the state
    after an epoch; `best-*.pth`, the model file of an epoch that was the best one (MAX_STATES of
    each, with a .sha256 file beside them, so that each state has its best model); `tensorboard/`;
    `lock` and `process`, the id of the process that holds it; `finished`, if the run is; `code`, a
    hash of the source code that started the run.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
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
        """Mark the run as finished; keep only its last state and `best_model.pth`."""
        self._finished.touch()
        for path in self._paths("state")[:-1] + self._paths("best"):
            _remove(path)

    def write_note(self, name: str, text: str) -> None:
        """Write a short text file into the folder."""
        (self.path / name).write_text(text)

    def read_note(self, name: str) -> str | None:
        """Return the text of a note, or None if there is none."""
        path = self.path / name
        return path.read_text() if path.exists() else None

    def clear(self) -> None:
        """Delete everything but the lock, so that the next training starts from the beginning."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in ("lock", "process"):
                entry.unlink()

    def other_unfinished_runs(self) -> list[Path]:
        """Return the folders beside this one that hold the state of unfinished runs."""
        return sorted(
            folder
            for folder in self.path.parent.iterdir()
            if folder != self.path and any(folder.glob("state-*.pth"))
            if not (folder / self._finished.name).exists()
        )

    def save_state(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after `epoch` epochs and its checksum; delete the oldest state."""
        self._save("state", epoch, partial(save_tensors, value=state))

    def save_best(self, epoch: int, save: Callable[[Path], None]) -> None:
        """Write the best model so far with `save`, before its state, and its checksum.

        As many are kept as states, so that each state has its best model.
        """
        self._save("best", epoch, save)

    def publish_best(self, epoch: int) -> None:
        """Make `best_model.pth` a copy of the best model written after `epoch`.

        To be called after its state is written or resumed from, so that the two belong together.
        Raises: CheckpointError if it is damaged.
        """
        source = self._undamaged_best(epoch)
        with source.open("rb") as content, open_atomic(self.best_model) as file:
            shutil.copyfileobj(content, file)

    def load_state(self) -> dict[str, Any] | None:
        """Load the newest undamaged state, or None; damaged states are reported and skipped."""
        for path in reversed(self._paths("state")):
            if matches_checksum(path):
                return load_tensors(path)
            print(f"warning: {path} is damaged; trying the previous state", file=sys.stderr)
        return None

    def load_best(self, epoch: int) -> dict[str, Any]:
        """Load the best model file written after `epoch`. Raises: CheckpointError if damaged."""
        return load_tensors(self._undamaged_best(epoch))

    def truncate_after(self, epoch: int) -> None:
        """Delete everything written after `epoch`.

        That is, damaged states, and best models whose state was never written.
        """
        for path in self._paths("state") + self._paths("best"):
            if int(path.stem[-6:]) > epoch:
                _remove(path)

    def _undamaged_best(self, epoch: int) -> Path:
        path = self._path("best", epoch)
        if not matches_checksum(path):
            raise CheckpointError(f"{path}: missing or damaged; train again with --no-resume")
        return path

    def _save(self, kind: str, epoch: int, save: Callable[[Path], None]) -> None:
        path = self._path(kind, epoch)
        save(path)
        write_checksum(path)
        for old in self._paths(kind)[:-MAX_STATES]:
            _remove(old)

    def _path(self, kind: str, epoch: int) -> Path:
        return self.path / f"{kind}-{epoch:06d}.pth"

    def _paths(self, kind: str) -> list[Path]:
        return sorted(self.path.glob(f"{kind}-*.pth"))


def _remove(path: Path) -> None:
    """Delete a file and its checksum; the checksum first, so that no file has a stale one."""
    checksum_path(path).unlink(missing_ok=True)
    path.unlink()
