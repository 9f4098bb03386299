"""One training run from start to outputs: what identifies it, what may stop it, what it leaves.

DVC deletes a stage's outputs before it runs, hashes its parameters after it has run, and sends
nothing to the stage when it is killed itself. Hence the state outside the outputs, its lock, the
comparison of the parameters at the end, and the outputs written last.
"""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from partloc.checkpoint import RunFolder, save_model, start_from
from partloc.config import Config, ConfigError, digest
from partloc.data import PairTable, Preprocessing
from partloc.files import write_json
from partloc.model import PartLocator
from partloc.pose import PartPose
from partloc.split import read_manifest
from partloc.team import join_team, seed_everything
from partloc.train import STATE_FORMAT, Trainer
from partloc.view import View, fit_view

# Below this share of agreeing parts, a fitted camera is more likely chance than a camera.
MIN_INLIERS = 0.25
# Two cameras that put most parts nearer than this to each other are one; half image sides.
SAME_PLACE = 0.06

# A signal to the whole process group may kill the loader's workers before it is seen here.
GRACE_S = 1.0


class Interrupted(BaseException):
    """SIGINT or SIGTERM; the state of the last finished epoch is on the disk."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def on_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted.

    The loader's workers may get the signal too and be seen dying first: whatever is raised round
    a signal is that signal.
    Raises: Interrupted; ChildProcessError when a worker died by itself.
    """
    received: list[int] = []
    owner = os.getpid()

    def handle(signum: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that has only just been forked
            os._exit(128 + signum)
        # From here on torch need not raise for workers that die of the same signal.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        received.append(signum)
        raise Interrupted(received[0])

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception as error:
        a_worker_died = "DataLoader worker" in str(error) and isinstance(error, RuntimeError)
        if a_worker_died:
            _await(received)
        if received:
            raise Interrupted(received[0]) from None
        if a_worker_died:
            raise ChildProcessError(
                f"{str(error).splitlines()[0]} The state of the last finished epoch is kept. Too "
                "little memory? Try a lower machine.num_workers"
            ) from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _await(received: list[int]) -> None:
    """Give a signal time to arrive; other workers' deaths are reported meanwhile."""
    end = time.monotonic() + GRACE_S
    while not received and time.monotonic() < end:
        try:
            time.sleep(0.05)
        except RuntimeError:
            continue


def read_tables(split_dir: Path, data_dir: Path) -> tuple[PairTable, PairTable]:
    """The samples of train and val; val may be empty.

    Raises: ValueError when there is nothing to train on; FileNotFoundError without a split.
    """
    tables = []
    for name in ("train", "val"):
        path = split_dir / f"{name}.csv"
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file; run the stages index and split first")
        tables.append(PairTable(read_manifest(path), data_dir))
    if not len(tables[0]):
        raise ValueError(f"{split_dir / 'train.csv'}: no samples, expected one at least to train")
    return tables[0], tables[1]


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
    begin = (config.model.weights, config.model.start_from)
    files += [Path(path) for path in begin if path]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return digest([STATE_FORMAT, training_parameters(config), hashes])


def code_hash() -> str:
    """SHA-256 over partloc's sources; told apart from the fingerprint, since most edits of the
    code need no new training."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in sources])


def runs_root(what: str = "train") -> Path:
    """runs/train under the project that the user works in, also from DVC's temporary copies."""
    project = os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[1]
    return Path(project) / "runs" / what


def run_training(
    config: Config, split_dir: Path, root: Path, resume: bool, finish: Callable
) -> None:
    """Train on the tables of `split_dir`, state under `root`; then finish(trainer, folder).

    Raises: ValueError, OSError, FloatingPointError for what a user can put right.
    """
    train_table, val_table = read_tables(split_dir, Path(config.data.data_dir))
    team = join_team(config.machine.device)
    seed_everything(config.seed)
    model = PartLocator(config.model, Preprocessing(config.data.image_size))
    start_from_data(model, train_table, config)
    seed_everything(config.seed, team.rank)
    trainer = Trainer(config, model, train_table, val_table, team)
    folder = RunFolder(root, fingerprint_of(config, split_dir))
    with team.led(folder.locked()):
        resume_or_start(trainer, folder, resume)
        trainer.fit(folder)
        if team.leads:
            finish(trainer, folder)
            folder.mark_finished()
    team.leave()


def start_from_data(model: PartLocator, table: PairTable, config: Config) -> None:
    """Give the model what is known without learning: another model's weights, the labels' spread,
    and the camera.

    A model to start from keeps its own spread, the unit of all its answers, and its own camera if
    the data's looks the same.
    """
    if config.model.start_from:
        start_from(model, Path(config.model.start_from))
    else:
        model.set_prior(table)
    if not config.model.match_size:
        return
    view = fit_view(table, config.data.max_image_pixels, config.seed)
    if view is None or view.inliers < MIN_INLIERS:
        found = "too few parts" if view is None else f"only {view.inliers:.0%} of them agree"
        so = "template matching learns from the pose alone"
        if model.knows_view:
            so = "that of the starting weights is taken"
        print(
            f"no common camera could be fitted to the training parts ({found}); {so}",
            file=sys.stderr,
        )
        return
    print(f"camera fitted: {view.inliers:.0%} of the matched parts agree", file=sys.stderr)
    if model.knows_view and _sees_alike(model, view, table):
        print("it is the camera of the starting weights, which is kept", file=sys.stderr)
        return
    model.set_view(view)


def _sees_alike(model: PartLocator, view: View, table: PairTable) -> bool:
    """Whether the table's parts would appear at the same places."""
    place = table.translation @ view.slope.T + view.offset  # (N, 2)
    theirs = model.place_of(PartPose(table.translation, table.scale))[:, :2]
    return bool((place - theirs).norm(dim=1).quantile(0.5) < SAME_PLACE)


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
        folder.rewind(trainer.epoch)
        begin = f"after epoch {trainer.epoch}" if state else "from the start"
        print(f"training {begin}; state in {folder.path}", file=sys.stderr)
        if others := [other.name for other in folder.others()] if state is None else []:
            print(
                "unfinished state of another configuration or split stays in "
                f"{folder.path.parent}: {', '.join(others)}",
                file=sys.stderr,
            )
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
    trainer.model.load_state_dict(folder.load_best(trainer.best_epoch))
    best = trainer.history[trainer.best_epoch - 1]
    info = {"best_epoch": trainer.best_epoch, "torch": str(torch.__version__)}
    save_model(models / "best_model.pth", trainer.model, info)
    figures = {f"best_{key}": value for key, value in best.items()}
    write_json(metrics / "train.json", {**figures, "history": trainer.history})
