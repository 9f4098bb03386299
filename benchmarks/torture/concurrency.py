"""Commands that run at the same time: one writer of an output, and readers get whole files."""

import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from checkout import ROOT
from folders import write_model
from processes import Command
from toys import make_untrained_model

from benchmarks.torture.commands import (
    read_files,
    run_in,
    small_config,
    write_project,
)
from benchmarks.torture.runner import Property, prepared, scratch_folder
from partloc.data.split import read_manifest
from partloc.model.model_file import save_model
from partloc.system.cli import USER_ERROR_STATUS
from partloc.system.files import load_tensors

TIMEOUT_S = 900.0
INFER = ("infer", "--data-dir", "images", "--output", "predictions", "--checkpoint", "model.pth")
COMMANDS = {"index": ("index",), "infer": (*INFER, "--device", "cpu"), "train": ("train",)}
OUTPUTS = {"index": "outputs", "infer": "predictions", "train": "models"}
REFUSALS = ("another process is writing into this folder", "another training (process")
REPETITIONS = 4  # of a command while its files are read


def make_project(folder: Path) -> None:
    project = write_project(folder, small_config(num_epochs=2))
    save_model(project / "model.pth", make_untrained_model(), {})


def finished(folder: Path, name: str) -> Path:
    """The project after a command that ran alone."""

    def make(target: Path) -> None:
        shutil.copytree(prepared(folder, "project", make_project), target)
        with start(target, name, COMMANDS[name]) as command:
            assert command.process.wait(TIMEOUT_S) == 0, command.read_log()

    return prepared(folder, f"after-{name}", make)


def start(project: Path, name: str, arguments: tuple[str, ...]) -> Command:
    environment = {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(project), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "partloc", *arguments]
    return Command(command, project, project.parent / f"{name}.txt", os.environ | environment)


# -- two writers -------------------------------------------------------------------------------


def check_writers(name: str, project: Path, folder: Path, rng: random.Random) -> None:
    """Each succeeds or is refused, one at least succeeds, and the outputs are those of one."""
    with start(project, "first", COMMANDS[name]) as first:
        time.sleep(rng.choice((0, 0, 0.05, 0.3, 1)))
        with start(project, "second", COMMANDS[name]) as second:
            statuses = [writer.process.wait(TIMEOUT_S) for writer in (first, second)]
    for status, writer in zip(statuses, (first, second), strict=True):
        log = writer.read_log()
        assert "Traceback" not in log, log[-300:]
        is_refusal = status == USER_ERROR_STATUS and any(text in log for text in REFUSALS)
        assert status == 0 or is_refusal, f"status {status}: {log[-300:]}"
    assert 0 in statuses, "both are refused"
    require_outputs(name, project, finished(folder, name))


def require_outputs(name: str, project: Path, done: Path) -> None:
    found, expected = (read_outputs(folder, name) for folder in (project, done))
    assert found == expected, f"{name}: other outputs"


def read_outputs(folder: Path, name: str) -> dict[str, bytes]:
    """Without the locks, which stay behind on some systems."""
    files = read_files(folder, OUTPUTS[name])
    return {path: content for path, content in files.items() if not path.endswith(".lock")}


# -- readers -----------------------------------------------------------------------------------


@contextmanager
def in_background(action: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Repeat an action in a thread during the block; its errors are raised at the end."""
    end, errors = threading.Event(), list[BaseException]()

    def repeat() -> None:
        while not end.is_set() and not errors:
            try:
                action()
            except BaseException as error:
                errors.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield errors
    finally:
        end.set()
        thread.join()
    if errors:
        raise errors[0]


def make_reader(name: str, project: Path, done: Path) -> Callable[[], object]:
    """Reads an output while it is replaced: old or new, always whole."""
    if name == "index":
        expected = read_manifest(done / "outputs/manifest.csv")
        return lambda: _require(read_manifest(project / "outputs/manifest.csv").equals(expected))
    if name == "infer":
        path = project / "predictions/predictions.csv"
        content = (done / "predictions/predictions.csv").read_bytes()
        return lambda: _require(path.read_bytes() == content)
    # Not `load_model`: it takes numbers from the random generators of this process.
    return lambda: load_tensors(project / "models/best_model.pth")


def _require(is_whole: bool) -> None:
    assert is_whole, "a reader gets a part of a file"


def check_readers(name: str, project: Path, folder: Path, _rng: random.Random) -> None:
    done = finished(folder, name)
    shutil.copytree(done / OUTPUTS[name], project / OUTPUTS[name], dirs_exist_ok=True)
    with in_background(make_reader(name, project, done)):
        for _ in range(REPETITIONS):
            run_in(project, *COMMANDS[name]).require_success()
    require_outputs(name, project, done)


# -- a folder that changes ---------------------------------------------------------------------


def check_changing(name: str, project: Path, _folder: Path, rng: random.Random) -> None:
    """Models come and go while the command runs; those that stay are answered."""
    images = project / "images"

    def change() -> None:
        number = rng.randrange(20)
        write_model(images, f"extra-{number}", ["seat"])
        time.sleep(rng.uniform(0, 0.01))
        shutil.rmtree(images / f"extra-{number}")

    with in_background(change):
        for _ in range(REPETITIONS):
            run_in(project, *COMMANDS[name]).require_success()
    tables = {"index": "outputs/manifest.csv", "infer": "predictions/predictions.csv"}
    text = (project / tables[name]).read_text(encoding="utf-8")
    assert all(f"\n{model}," in text for model in ("chair", "desk", "lamp", "stool"))


KINDS: tuple[tuple[Callable[[str, Path, Path, random.Random], None], str], ...] = (
    *((check_writers, name) for name in COMMANDS),
    *((check_readers, name) for name in COMMANDS),
    *((check_changing, name) for name in ("index", "infer")),
)


def check(seed: int, folder: Path) -> None:
    kind, name = KINDS[seed % len(KINDS)]
    base = prepared(folder, "project", make_project)
    with scratch_folder(folder) as scratch:
        project = Path(shutil.copytree(base, scratch / "project"))
        kind(name, project, folder, random.Random(seed))


PROPERTY = Property(
    "concurrency",
    "a second writer is refused, readers get whole files, a changing folder is no error",
    check,
    cases=5 * len(KINDS),
)
