"""The folder of a training run: its lock, and the states from which an interrupted run resumes."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from partloc.files import (
    CheckpointError,
    checksum_path,
    load_tensors,
    matches_checksum,
    save_tensors,
    write_checksum,
)

MAX_STATES = 2  # files of each kind that are kept
# The lock of a killed trainer is free when its data-loader workers have ended, within seconds.
LOCK_TIMEOUT_S = 10.0


class RunFolder:
    """Resumable state of one training run, in a folder named after the run's fingerprint.

    Contents: `state-*.pth`, the state after an epoch; `best-*.pth`, the weights of the best epoch
    so far (MAX_STATES of each, with a .sha256 file beside them); `tensorboard/`; `lock` and
    `process`, the id of the process that holds it;
    `finished`, if the run is; `code`, a hash of the source code that started the run.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.path = root / fingerprint[:16]
        self.tensorboard = self.path / "tensorboard"
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
        """Mark the run as finished and delete its states; the outputs are written elsewhere."""
        self._finished.touch()
        for path in self._paths("state") + self._paths("best"):
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
        self._save("state", epoch, state)

    def save_best(self, epoch: int, weights: dict[str, Any]) -> None:
        """Write the best weights so far. As many are kept as states: each state has its best."""
        self._save("best", epoch, weights)

    def load_state(self) -> dict[str, Any] | None:
        """Load the newest undamaged state, or None; damaged states are reported and skipped."""
        for path in reversed(self._paths("state")):
            if matches_checksum(path):
                return load_tensors(path)
            print(f"warning: {path} is damaged; trying the previous state", file=sys.stderr)
        return None

    def load_best(self, epoch: int) -> dict[str, Any]:
        """Load the best weights written after `epoch`. Raises: CheckpointError if damaged."""
        path = self._path("best", epoch)
        if not matches_checksum(path):
            raise CheckpointError(f"{path}: missing or damaged; train again with --no-resume")
        return load_tensors(path)

    def truncate_after(self, epoch: int) -> None:
        """Delete everything written after `epoch`.

        That is, damaged states, and best weights whose state was never written.
        """
        for path in self._paths("state") + self._paths("best"):
            if int(path.stem[-6:]) > epoch:
                _remove(path)

    def _save(self, kind: str, epoch: int, value: dict[str, Any]) -> None:
        path = self._path(kind, epoch)
        save_tensors(path, value)
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
