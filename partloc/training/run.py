"""One training run from start to outputs: reading, resuming, training, writing.

DVC deletes a stage's outputs before it runs, records parameters and files after it has run, and
does not signal the stage when DVC itself is killed. Hence the state is kept outside the outputs and
locked, what the weights depend on is compared at the end, and the outputs are written last. If DVC
was killed before it recorded them, the next run takes them from the state and trains nothing; so a
training whose DVC was killed does not run in vain.
"""

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from partloc.config import Config
from partloc.data.split import few_validation_models_warning, read_manifest
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import DistributedContext, seed_everything
from partloc.model.build import build_locator
from partloc.model.model_file import save_model
from partloc.system.files import CheckpointError, open_atomic, write_json
from partloc.training.fingerprint import (
    changed_names,
    read_inputs,
    require_unedited,
    shorten,
)
from partloc.training.history import loss_records
from partloc.training.initialization import initialize_model
from partloc.training.run_folder import RunFolder
from partloc.training.state_check import StateError, restoring, state_problem
from partloc.training.trainer import Trainer


def read_tables(split_dir: Path, data_dir: Path) -> tuple[PairTable, PairTable]:
    """Read the training and validation samples; there may be no validation samples.

    Raises: ValueError without training samples; FileNotFoundError without a split.
    """
    tables = []
    for name in ("train", "val"):
        path = split_dir / f"{name}.csv"
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file; run the stages index and split first")
        tables.append(PairTable(read_manifest(path), data_dir))
    if not len(tables[0]):
        raise ValueError(f"{split_dir / 'train.csv'}: no samples, expected at least one")
    return tables[0], tables[1]


def runs_root(kind: str = "train") -> Path:
    """Return runs/`kind` in the user's project, also from the temporary copies that DVC makes."""
    project = os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[2]
    return Path(project) / "runs" / kind


def run_training(
    config: Config,
    context: DistributedContext,
    split_dir: Path,
    root: Path,
    resume: bool,
    finish: Callable[[Trainer], None],
    reload_config: Callable[[], Config] | None = None,
) -> None:
    """Train on the tables of `split_dir`.

    Args:
        root: folder of the run folders, where the state is kept.
        resume: continue from a state with the same fingerprint, if there is one.
        finish: called on the main process at the end, with the best epoch's weights loaded.
        reload_config: reads the configuration again; what the weights depend on must not have been
            edited during the training. None: nobody records it afterwards.
    Raises: ValueError, OSError, FloatingPointError, MemoryError for what a user can correct.
    """
    tables = read_tables(split_dir, Path(config.data.data_dir))
    warning = few_validation_models_warning(len(set(tables[1].models)))
    if context.is_main and warning:
        print(f"warning: {warning}", file=sys.stderr)
    inputs = read_inputs(config, split_dir)
    folder = RunFolder(root, inputs.fingerprint)
    with context.on_main(folder.locked()):
        find_problem = partial(_find_problem, config)
        state = load_or_reset(folder, context, resume, inputs.code, find_problem)
        try:
            trainer = make_trainer(config, context, tables, state)
        except StateError as error:
            raise CheckpointError(f"{folder.newest_state()}: {error}") from error
        trainer.state.code = inputs.code
        if context.is_main and trainer.state.history:
            trainer.state.publish_best(folder)
        train(trainer, folder, root.parent / "tokens")  # tokens are shared by all trainings
        if context.is_main:
            trainer.state.load_best()
            if reload_config:
                require_unedited(inputs, read_inputs(reload_config(), split_dir))
            finish(trainer)
            folder.mark_finished()


def train(trainer: Trainer, folder: RunFolder, tokens: Path) -> None:
    """Train the remaining epochs. `tokens`: folder of the token cache of a frozen encoder."""
    try:
        if trainer.config.train.freeze_backbone and not trainer.state.is_complete:
            trainer.use_token_cache(tokens)
        trainer.fit(folder)
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{str(error).splitlines()[0]} The last saved state is kept. Try a lower "
            "train.batch_size with a higher train.accumulation_steps, or "
            "train.use_gradient_checkpointing: auto with a lower machine.memory_budget_gb"
        ) from error


def _find_problem(config: Config, state: dict[str, Any]) -> str | None:
    """See `state_problem`. The network to compare with lives only here: it may be large."""
    model = build_locator(config.model, Preprocessing.from_config(config.data), blank=True)
    return state_problem(state, model.state_dict(), config.train.num_epochs)


def make_trainer(
    config: Config,
    context: DistributedContext,
    tables: tuple[PairTable, PairTable],
    state: dict[str, Any] | None,
) -> Trainer:
    """Build the model and its trainer: initialised from the data, or restored from `state`.

    Raises: StateError for a state of another form.
    """
    seed_everything(config.seed)
    model = build_locator(config.model, Preprocessing.from_config(config.data))
    model.to(context.device)
    if state is None:
        message = initialize_model(model, tables[0], config)
        if context.is_main and message:
            print(message, file=sys.stderr)
    else:
        model.load_state_dict(state["model"])
    seed_everything(config.seed, context.rank)
    trainer = Trainer(config, model, *tables, context)
    if state is not None:
        with restoring(trainer.optimizer):
            trainer.state.restore(state)
    return trainer


def load_or_reset(
    folder: RunFolder,
    context: DistributedContext,
    resume: bool,
    code: dict[str, str],
    find_problem: Callable[[dict[str, Any]], str | None] = lambda _state: None,
) -> dict[str, Any] | None:
    """Load the state to continue from, or clear the folder; report which.

    Only the main process reads: it is the one that writes, and other processes may run on machines
    that do not share its disk.

    Args:
        code: the source code that runs now, see `source_hashes`.
        find_problem: see `RunFolder.load_state`.
    Returns: the state, or None to start from the beginning; the same on every process.
    Raises: CheckpointError as `_require_origin`.
    """
    state = None
    if context.is_main:
        state = folder.load_state(find_problem) if resume else None
        if state and (changed := changed_names(state["code"], code)):
            if folder.finished:  # its outputs were written
                state = None
            else:
                _require_origin(folder, state, changed)
        if state is None:
            folder.clear()
        _report_start(folder, state)
    return context.broadcast(state)


def _require_origin(folder: RunFolder, state: dict[str, Any], changed: list[str]) -> None:
    """Warn that the rest of a training runs with other code.

    Raises: CheckpointError if there is no rest: its weights are not those of the present code.
    """
    names = shorten(changed)
    if state["is_complete"]:
        raise CheckpointError(
            f"{folder.path}: the code has changed since this training ({names}), which is complete "
            "but not recorded. Undo the change and run again to use it, or delete the folder to "
            "train again"
        )
    print(
        f"warning: the code has changed since this training started ({names}); with --no-resume it "
        "starts again",
        file=sys.stderr,
    )


def _report_start(folder: RunFolder, state: dict[str, Any] | None) -> None:
    if state is None:
        print(f"starting a new training; state in {folder.path}", file=sys.stderr)
        if others := [other.name for other in folder.other_unfinished_runs()]:
            print(
                "unfinished state of another configuration or split stays in "
                f"{folder.path.parent}: {', '.join(others)}",
                file=sys.stderr,
            )
    elif state["is_complete"]:
        print(f"already trained; the outputs are written from {folder.path}", file=sys.stderr)
    else:
        steps = f" and {state['epoch_steps']} steps" if state["epoch_steps"] else ""
        print(
            f"resuming after epoch {state['epoch']}{steps}; state in {folder.path}", file=sys.stderr
        )


def keep_model(model_file: Path, root: Path) -> None:
    """Copy a finished model to `root`/best_model.pth, which stays when DVC deletes the output.

    Not from a temporary copy of the project: its model is not that of the project.
    """
    if root.parents[1].resolve() == Path.cwd().resolve():
        with model_file.open("rb") as content, open_atomic(root / model_file.name) as file:
            shutil.copyfileobj(content, file)


def write_outputs(trainer: Trainer, models: Path, reports: Path) -> Path:
    """Write `models`/best_model.pth, and `reports`/report.json and loss.json.

    The report has the records of the best epoch and of all epochs, without any time or speed;
    loss.json has the losses for DVC's chart.

    Returns: the model file.
    """
    model_file, state = models / "best_model.pth", trainer.state
    best = next(record for record in state.history if record["epoch"] == state.best_epoch)
    save_model(model_file, trainer.model, state.info)
    write_json(reports / "report.json", {"best": best, "history": state.history})
    write_json(reports / "loss.json", {"loss": loss_records(state.history)})
    return model_file
