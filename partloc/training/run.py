"""One training run from start to outputs: what identifies it, what may stop it, what it leaves.

DVC deletes a stage's outputs before it runs, hashes its parameters after it has run, and sends
nothing to the stage when it is killed itself. Hence the state outside the outputs, its lock, the
comparison of the parameters at the end, and the outputs written last.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from partloc.config import Config, ConfigError, digest
from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import Team, seed_everything
from partloc.files import write_json
from partloc.model.depth_net import DEPTH_WEIGHTS
from partloc.model.locator import PartLocator
from partloc.model.model_file import save_model, start_from
from partloc.training.camera_fit import fit_view
from partloc.training.history import learned
from partloc.training.run_folder import RunFolder
from partloc.training.trainer import STATE_FORMAT, Trainer

# Below this share of agreeing parts, a fitted camera is more likely chance than a camera.
MIN_INLIERS = 0.25


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
        "read_size": config.data.read_size,
        **{name: getattr(config, name).model_dump() for name in ("model", "augment", "train")},
    }


def fingerprint_of(config: Config, split_dir: Path) -> str:
    """SHA-256 over all that determines the weights: parameters, split tables, starting weights.

    Raises: FileNotFoundError naming the parameter whose file is not there.
    """
    files = [split_dir / "train.csv", split_dir / "val.csv"]
    for key in ("weights", "start_from"):
        if path := getattr(config.model, key):
            if not Path(path).is_file():
                raise FileNotFoundError(f"model.{key}: {path}: no such file")
            files.append(Path(path))
    if config.model.match_size and config.model.depth_maps:
        files.append(DEPTH_WEIGHTS)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return digest([STATE_FORMAT, training_parameters(config), hashes])


def code_hash() -> str:
    """SHA-256 over partloc's sources; told apart from the fingerprint, since most edits of the
    code need no new training."""
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in sources])


def runs_root(what: str = "train") -> Path:
    """runs/train under the project that the user works in, also from DVC's temporary copies."""
    project = os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[2]
    return Path(project) / "runs" / what


def run_training(
    config: Config,
    team: Team,
    split_dir: Path,
    root: Path,
    resume: bool,
    finish: Callable[[Trainer], None],
) -> None:
    """Train on the tables of `split_dir`, state under `root`; then finish(trainer), which has the
    best epoch's weights.

    Raises: ValueError, OSError, FloatingPointError, MemoryError for what a user can put right.
    """
    train_table, val_table = read_tables(split_dir, Path(config.data.data_dir))
    folder = RunFolder(root, fingerprint_of(config, split_dir))
    with team.led(folder.locked()):
        state = take_up(folder, team, resume)
        seed_everything(config.seed)
        model = PartLocator(config.model, Preprocessing.of(config.data))
        if state is None:
            remark = start_from_data(model, train_table, config)
            if team.leads and remark:
                print(remark, file=sys.stderr)
        else:
            model.load_state_dict(state["model"])
        seed_everything(config.seed, team.rank)
        trainer = Trainer(config, model, train_table, val_table, team)
        if state is not None:
            trainer.restore(state)
        try:
            if config.train.freeze_backbone:
                trainer.use_store(root.parent / "tokens")  # for all trainings of the project
            trainer.fit(folder)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"{str(error).splitlines()[0]} The state of the last finished epoch is kept. Try a "
                "lower train.batch_size with a higher train.accumulation_steps, or "
                "train.use_gradient_checkpointing: auto with a lower machine.memory_budget_gb"
            ) from error
        if team.leads:
            trainer.load_best(folder)
            finish(trainer)
            folder.mark_finished()


def start_from_data(model: PartLocator, table: PairTable, config: Config) -> str:
    """Give the model what is known without learning: another model's weights, the labels' spread,
    and the camera. Returns what there is to tell about the camera.

    A model to start from keeps its own spread, the unit of all its answers, and its own camera
    unless the data clearly has another.
    """
    if config.model.start_from:
        start_from(model, Path(config.model.start_from))
    else:
        model.set_prior(table)
    if not config.model.match_size:
        return ""
    view = fit_view(table, config.data.max_image_pixels, config.seed, model.view)
    if view is None or view.inliers < MIN_INLIERS:
        found = f"only {view.inliers:.0%} of them agree" if view else "too few, or all in a plane"
        so = "template matching learns from the pose alone"
        if model.knows_view:
            so = "that of the starting weights is taken"
        return f"no common camera could be fitted to the training parts ({found}); {so}"
    remark = f"camera: {view.inliers:.0%} of the matched parts agree"
    if model.knows_view and torch.equal(view.slope, model.view_slope):
        return f"{remark} with that of the starting weights, which is kept"
    model.set_view(view)
    return remark


def take_up(folder: RunFolder, team: Team, resume: bool) -> dict[str, Any] | None:
    """The unfinished state to go on from; or None, and the folder is cleared. Tells which.

    The leading process writes it, perhaps on another machine's disk, so it is the one that reads.
    """
    state = None
    if team.leads:
        state = None if folder.finished or not resume else folder.load_state()
        if state is None:
            folder.clear()
            folder.write_note("code", code_hash())
        else:
            folder.rewind(state["epoch"])
        begin = "from the start" if state is None else f"after epoch {state['epoch']}"
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
    return team.from_leader(state)


def refuse_edited_parameters(at_start: Config, at_end: Config) -> None:
    """DVC records the parameters as they are after the command.

    Raises: ConfigError if those of training were edited while it ran.
    """
    if training_parameters(at_start) != training_parameters(at_end):
        raise ConfigError(
            "the parameters of training were edited while it ran, and DVC would record the edited "
            "ones; set them back and run again (the finished training is kept), or train anew"
        )


def write_outputs(trainer: Trainer, models: Path, metrics: Path) -> None:
    """The weights and the history, last of all, without any value of a clock."""
    # DVC draws no curve of which a record lacks a point, as that before the first epoch does.
    epochs = learned(trainer.history)
    start = {} if epochs == trainer.history else {"start": trainer.history[0]}
    best = next(record for record in trainer.history if record["epoch"] == trainer.best_epoch)
    info = {"best_epoch": trainer.best_epoch, "torch": str(torch.__version__)}
    save_model(models / "best_model.pth", trainer.model, info)
    figures = {f"best_{key}": value for key, value in best.items()}
    write_json(metrics / "train.json", {**figures, **start, "history": epochs})
