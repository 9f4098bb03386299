"""One training run from start to outputs: what identifies it, what may stop it, what it leaves.

DVC deletes a stage's outputs before it runs, hashes its parameters after it has run, and sends
nothing to the stage when it is killed itself. Hence the state outside the outputs, its lock, the
comparison of the parameters at the end, and the outputs written last.
"""

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from partloc.checkpoint import RunFolder, load, save_model
from partloc.config import Config, ConfigError, digest
from partloc.metrics import write_json
from partloc.train import STATE_FORMAT, Trainer


class Interrupted(BaseException):
    """SIGINT or SIGTERM; the state of the last finished epoch is on the disk."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def on_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted.

    The loader's workers get the signal too and may be seen dying first: whatever is raised after
    a signal is that signal.
    """
    received: list[int] = []

    def handle(signum: int, _frame: FrameType | None) -> None:
        if not received:
            received.append(signum)
            raise Interrupted(signum)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception:
        if received:
            raise Interrupted(received[0]) from None
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def training_parameters(config: Config) -> dict[str, Any]:
    """The parameters that the weights depend on; machine knobs and folders are not among them."""
    return {
        "seed": config.seed,
        "image_size": config.data.image_size,
        **{name: getattr(config, name).model_dump() for name in ("model", "augment", "train")},
    }


def fingerprint_of(config: Config, split_dir: Path) -> str:
    """SHA-256 over all that determines the weights: parameters, split tables, starting weights."""
    files = [split_dir / "train.csv", split_dir / "val.csv"]
    if config.model.weights:
        files.append(Path(config.model.weights))
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return digest([STATE_FORMAT, training_parameters(config), hashes])


def code_hash() -> str:
    """SHA-256 over partloc's sources; told apart from the fingerprint, since most edits of the
    code need no new training."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in sources])


def runs_root() -> Path:
    """runs/train under the project that the user works in, also from DVC's temporary copies."""
    project = os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[1]
    return Path(project) / "runs" / "train"


def resume_or_start(trainer: Trainer, folder: RunFolder, resume: bool) -> None:
    """Take up an unfinished state, else clear the folder; tell which."""
    team = trainer.team
    state = None if folder.finished or not resume else folder.load_state()
    team.wait()  # everybody has read before the leader clears
    if state is not None:
        trainer.restore(state)
    elif team.leads:
        folder.clear()
        folder.write_note("code", code_hash())
    if team.leads:
        begin = f"after epoch {trainer.epoch}" if state else "from the start"
        print(f"training {begin}; state in {folder.path}", file=sys.stderr)
        if folder.read_note("code") != code_hash():
            print(
                "warning: partloc's code has changed since this training began; with "
                "--no-resume it starts afresh",
                file=sys.stderr,
            )
    team.wait()


def refuse_edited_parameters(at_start: Config, at_end: Config) -> None:
    """DVC records the parameters as they are after the command.

    Raises: ConfigError if those of training were edited while it ran.
    """
    if training_parameters(at_start) != training_parameters(at_end):
        raise ConfigError(
            "the parameters of training were edited while it ran, and DVC would record the edited "
            "ones; set them back and run again (the finished training is kept), or train anew"
        )


def write_outputs(trainer: Trainer, folder: RunFolder, models: Path, metrics: Path) -> None:
    """The best weights and the history, last of all, without any value of a clock."""
    trainer.model.load_state_dict(load(folder.best))
    best = trainer.history[trainer.best_epoch - 1]
    info = {"best_epoch": trainer.best_epoch, "torch": torch.__version__}
    save_model(models / "best_model.pth", trainer.model, info)
    figures = {f"best_{key}": value for key, value in best.items()}
    write_json(metrics / "train.json", {**figures, "history": trainer.history})
