"""A training that is killed and started again ends with the bytes of an uninterrupted one.

Ten ways to train, killed at four kinds of moments: 40 cases. SIGKILL leaves no time to clean up.
"""

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from checkout import commit, copy_checkout, dvc, isolated_environment, run_program
from processes import Command
from toys import TORCHRUN, TRAIN_MODELS, VAL_MODELS, tiny_config, write_model_in_view, write_params

from benchmarks.torture.commands import change_params
from benchmarks.torture.runner import Property, prepared, scratch_folder

PROJECT_FILES = (
    *("partloc", "stages", ".dvc", "data", "dvc.yaml", "params.yaml"),
    *(".gitignore", ".dvcignore", "None"),  # the last is what DVC reads for missing weights
)
TRAIN_SCRIPT = "stages/train.py"
OUTPUTS = ("models/best_model.pth", "outputs/train/report.json", "outputs/train/loss.json")
EPOCHS = 3
TIMEOUT_S = 900.0  # of one command, on a loaded machine


class Configuration(NamedTuple):
    """What differs between trainings. processes: more than one under torchrun."""

    name: str
    train: dict[str, Any]
    workers: int = 0
    processes: int = 1


PLAIN = Configuration("plain", {})
STORE = Configuration("store", {"freeze_backbone": True}, workers=1)
ACCUMULATION = Configuration("accumulation", {"accumulation_steps": 2}, workers=2)
BALANCED = Configuration("balanced", {"sampling": "balanced"}, workers=3)
PARALLEL = Configuration("parallel", {"accumulation_steps": 2, "batch_size": 4}, processes=2)
PARALLEL_STORE = Configuration(
    "parallel-store",
    {"freeze_backbone": True, "batch_size": 4, "sampling": "balanced"},
    workers=1,
    processes=2,
)
HAND, REPRO, EXP, EXP_TEMP = "by hand", "dvc repro", "dvc exp run", "dvc exp run --temp"
WAYS = (
    *((PLAIN, HAND), (PLAIN, REPRO), (PLAIN, EXP), (STORE, HAND), (STORE, EXP_TEMP)),
    *((ACCUMULATION, HAND), (ACCUMULATION, REPRO), (BALANCED, EXP_TEMP)),
    *((PARALLEL, HAND), (PARALLEL_STORE, HAND)),
)
# In the middle of an epoch; while a file is written; after an epoch; at any time of the start.
MOMENTS = ("state", "draft", "epoch", "start")


# -- projects ----------------------------------------------------------------------------------


def make_base(folder: Path) -> None:
    """`folder`/project: a clone with a split, ready to train; `folder`/images: its images."""
    project = copy_checkout(folder / "project", *PROJECT_FILES)
    for model, parts in (TRAIN_MODELS | VAL_MODELS).items():
        write_model_in_view(folder / "images", model, parts)
    train = {"num_epochs": EPOCHS, "batch_size": 1, "state_every_minutes": 0.002}
    train["learning_rate"] = 1e-3
    model = {"depth_maps": False, "dropout": 0.2}
    write_params(project, tiny_config(model=model, train=train | {"crop_jitter": 0.3}))
    # With fewer training models no camera fits, and the losses hardly change.
    ratios = {"train_ratio": 0.75, "val_ratio": 0.25, "test_ratio": 0.0}
    change_params(project, "data", data_dir=str(folder / "images"), **ratios)
    for record in ("dvc.lock", "data/dvc.lock"):
        (project / record).unlink(missing_ok=True)
    run_program("git", "init", "--quiet", cwd=project)
    dvc("repro", "--quiet", "split", cwd=project)
    commit(project)


def copy_project(base: Path, target: Path, configuration: Configuration) -> Path:
    project = Path(shutil.copytree(base / "project", target, symlinks=True))
    change_params(project, "train", **configuration.train)
    change_params(project, "machine", num_workers=configuration.workers)
    return project


def training_command(configuration: Configuration, launcher: str) -> list[str]:
    if launcher == HAND:
        torchrun = TORCHRUN if configuration.processes > 1 else ()
        return [sys.executable, *torchrun, TRAIN_SCRIPT]
    options = ["--name", "killed"] if launcher.startswith(EXP) else []
    return [sys.executable, "-m", *launcher.split(), *options, "train"]


def start(project: Path, configuration: Configuration, launcher: str, log: str) -> Command:
    return Command(
        training_command(configuration, launcher),
        project,
        project.parent / log,
        isolated_environment(project),
        outlives_process=True,
    )


def finish(command: Command) -> None:
    """Wait for the end of a command that succeeds."""
    code = command.process.wait(timeout=TIMEOUT_S)
    log = command.read_log()
    assert code == 0 and "Traceback" not in log, f"status {code}: ...{log[-300:]}"


def read_outputs(project: Path) -> list[bytes]:
    return [(project / name).read_bytes() for name in OUTPUTS]


def uninterrupted(folder: Path, base: Path, configuration: Configuration) -> list[bytes]:
    """The outputs of a training that nobody kills."""

    def make(target: Path) -> None:
        project = copy_project(base, target, configuration)
        with start(project, configuration, HAND, f"{configuration.name}.txt") as command:
            finish(command)

    return read_outputs(prepared(folder, f"expected-{configuration.name}", make))


# -- moments -----------------------------------------------------------------------------------


def make_moment(name: str, project: Path, rng: random.Random) -> Callable[[Command], bool]:
    """A function that tells when to kill."""
    runs, number = project / "runs", rng.randint(1, 3)
    end, delay = time.monotonic() + rng.uniform(0.5, 8), rng.uniform(0, 0.3)
    seen: set[str] = set()

    def is_now(command: Command) -> bool:
        if name == "state":
            states = sorted(path.name for path in runs.glob("train/*/state-*.pth"))
            is_first = bool(states) and states[-1] >= f"state-{2 * number:09d}.pth"
            if is_first:
                time.sleep(delay)
            return is_first
        if name == "draft":
            drafts = {path.name for path in runs.glob("train/*/.*.tmp")}
            seen.update(drafts)
            return len(seen) >= number and bool(drafts)
        if name == "epoch":
            return f"epoch {1 + number % 2:>3}/{EPOCHS}" in command.read_log()
        return time.monotonic() > end

    return is_now


def wait_for_moment(command: Command, moment: Callable[[Command], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not moment(command):
        code = command.process.poll()
        assert code is None, f"ended before its kill, status {code}: ...{command.read_log()[-300:]}"
        assert time.monotonic() < end, f"no moment for its kill: ...{command.read_log()[-300:]}"
        time.sleep(0.001)


def wait_for_orphans(group: int) -> None:
    """Wait until no process of the group runs: those of a killed parent go on for a while."""
    end = time.monotonic() + TIMEOUT_S
    while any(_is_in_group(process, group) for process in psutil.process_iter()):
        assert time.monotonic() < end, "processes outlive the command that was killed"
        time.sleep(0.1)


def _is_in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.Error):
        return False


# -- the property ------------------------------------------------------------------------------


def check(seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    configuration, launcher = WAYS[seed % len(WAYS)]
    moment = MOMENTS[seed // len(WAYS) % len(MOMENTS)]
    # DVC alone may be killed: its trainer goes on, and its result is taken up.
    kills_group = launcher == HAND or rng.random() < 0.5
    base = prepared(folder, "base", make_base)
    expected = uninterrupted(folder, base, configuration)
    with scratch_folder(folder) as scratch:
        project = copy_project(base, scratch / "project", configuration)
        with start(project, configuration, launcher, "killed.txt") as command:
            wait_for_moment(command, make_moment(moment, project, rng))
            if kills_group:
                command.kill_group()
            else:
                command.process.kill()
                command.process.wait()
                wait_for_orphans(command.process.pid)
        with start(project, configuration, launcher, "resumed.txt") as command:
            finish(command)
            log = command.read_log()
        if launcher == EXP_TEMP:
            for name in OUTPUTS:  # the experiment has no outputs of other stages to apply
                dvc("get", "--rev", "killed", "--force", "--out", name, ".", name, cwd=project)
        require_resumed(log, moment)
        assert read_outputs(project) == expected, "the outputs are those of another training"


def require_resumed(log: str, moment: str) -> None:
    """After a state was saved, the training does not start from the beginning."""
    if moment in ("state", "epoch"):
        told = ("resuming after epoch", "already trained")
        assert any(text in log for text in told), f"not resumed: {log[-300:]}"


PROPERTY = Property(
    "kills",
    "after SIGKILL and a new start, model and history have the bytes of an uninterrupted training",
    check,
    cases=len(WAYS) * len(MOMENTS),
)
