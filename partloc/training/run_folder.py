"""The folder of one training run: its lock, and the state to resume an interrupted run from."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from partloc.files import CheckpointError, hash_file, is_whole, load, save_atomically, write_hash

KEPT_STATES = 2


class RunFolder:
    """Resumable state of one training run, keyed by what determines its result.

    state-*.pth after an epoch and best-*.pth, the weights of the best epoch so far (the last two
    of each, with a .sha256 beside them), tensorboard/, lock, finished, code.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.path = root / fingerprint[:16]
        self.tensorboard = self.path / "tensorboard"
        self._finished = self.path / "finished"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second trainer on the same state would corrupt both.

        Raises: CheckpointError naming the process that holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as file:
            try:
                # Not flock: the loader's workers would inherit it, and outlive a killed trainer
                # by some seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                raise CheckpointError(
                    f"{self.path}: another training (process {file.read().strip() or '?'}) works "
                    "on the same configuration and data; wait for it or stop it, then run again"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    @property
    def finished(self) -> bool:
        return self._finished.exists()

    def mark_finished(self) -> None:
        """All is written elsewhere now; of the state nothing is needed any more."""
        self._finished.touch()
        for path in self._files("state") + self._files("best"):
            _remove(path)

    def write_note(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def read_note(self, name: str) -> str | None:
        path = self.path / name
        return path.read_text() if path.exists() else None

    def clear(self) -> None:
        """Drop all state but the lock: the next training starts afresh."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    def others(self) -> list[Path]:
        """The folders beside this one that hold unfinished state of other configurations."""
        return sorted(
            folder
            for folder in self.path.parent.iterdir()
            if folder != self.path and any(folder.glob("state-*.pth"))
            if not (folder / self._finished.name).exists()
        )

    def save_state(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after `epoch` finished epochs and its hash; keep the last two."""
        self._save("state", epoch, state)

    def save_best(self, epoch: int, weights: dict[str, Any]) -> None:
        """Write the best weights so far. Two are kept, since each state kept has its own best."""
        self._save("best", epoch, weights)

    def load_state(self) -> dict[str, Any] | None:
        """The newest undamaged state, or None; damaged ones are reported and passed over."""
        for path in reversed(self._files("state")):
            if is_whole(path):
                return load(path)
            print(f"warning: {path} is damaged; trying the state before", file=sys.stderr)
        return None

    def load_best(self, epoch: int) -> dict[str, Any]:
        """The weights that were the best after `epoch`. Raises: CheckpointError if damaged."""
        path = self._file("best", epoch)
        if not is_whole(path):
            raise CheckpointError(f"{path}: missing or damaged; train anew with --no-resume")
        return load(path)

    def rewind(self, epoch: int) -> None:
        """Drop what was written after `epoch`: damaged states, and a best one without its state."""
        for path in self._files("state") + self._files("best"):
            if int(path.stem[-6:]) > epoch:
                _remove(path)

    def _save(self, kind: str, epoch: int, value: dict[str, Any]) -> None:
        path = self._file(kind, epoch)
        save_atomically(path, value)
        write_hash(path)
        for old in self._files(kind)[:-KEPT_STATES]:
            _remove(old)

    def _file(self, kind: str, epoch: int) -> Path:
        return self.path / f"{kind}-{epoch:06d}.pth"

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.path.glob(f"{kind}-*.pth"))


def _remove(path: Path) -> None:
    hash_file(path).unlink(missing_ok=True)
    path.unlink()
