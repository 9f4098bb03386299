"""A training continues from the older state, or refuses, whatever happened to its files.

A training is stopped after two of three epochs. Its run folder is damaged in one of many ways, and
the stage starts again: its outputs are those of the uninterrupted training, or an error names the
file. It starts from the beginning only if no state is left, and says so.
"""

import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import damages
import torch

from benchmarks.torture.commands import (
    Answer,
    one_block,
    read_files,
    run_in,
    small_config,
    write_project,
)
from benchmarks.torture.runner import Property, prepared, scratch_folder
from partloc.system.files import checksum_path, load_tensors, save_tensors, write_checksum
from partloc.training.run_folder import RunFolder

OUTPUTS = ("models", "outputs/train")
RESTART = "starting a new training"


class Kind(NamedTuple):
    """damage: of the run folder; gets the newest and the older state, and a generator.

    named: whether a message has to name the newest state. restarts: whether no state is left.
    """

    name: str
    damage: Callable[[Path, Path, random.Random], object]
    named: bool = True
    restarts: bool = False


# -- damages of the bytes ----------------------------------------------------------------------


def flip_bit_of(part: float, newest: Path, _older: Path, rng: random.Random) -> None:
    """part: where in the file, from 0 to 1."""
    data = bytearray(newest.read_bytes())
    position = min(len(data) - 1, max(0, round(part * len(data)) + rng.randint(-40, 40)))
    data[position] ^= 1 << rng.randrange(8)
    newest.write_bytes(data)


def damage_newest(
    damage: Callable[[Path], object], newest: Path, _older: Path, _rng: random.Random
) -> None:
    damage(newest)


def truncate_to(part: float, newest: Path, _older: Path, rng: random.Random) -> None:
    data = newest.read_bytes()
    newest.write_bytes(
        data[: max(0, min(len(data) - 1, round(part * len(data)) - rng.randrange(9)))]
    )


def write_text(text: bytes, newest: Path, _older: Path, _rng: random.Random) -> None:
    newest.write_bytes(text)


def write_checksum_text(text: bytes, newest: Path, _older: Path, _rng: random.Random) -> None:
    checksum_path(newest).write_bytes(text)


def zero_page(newest: Path, _older: Path, rng: random.Random) -> None:
    """As after a power failure."""
    data = bytearray(newest.read_bytes())
    start = rng.randrange(max(1, len(data) - 4096))
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    newest.write_bytes(data)


def append_bytes(newest: Path, _older: Path, _rng: random.Random) -> None:
    newest.write_bytes(newest.read_bytes() + b"\0" * 17)


def exchange(newest: Path, older: Path, _rng: random.Random) -> None:
    """The states have each other's names, with their checksums."""
    for suffix in (".pth", ".sha256"):
        one, two = newest.with_suffix(suffix), older.with_suffix(suffix)
        one.rename(newest.with_suffix(".swap"))
        two.rename(one)
        newest.with_suffix(".swap").rename(two)


def exchange_checksums(newest: Path, older: Path, _rng: random.Random) -> None:
    one, two = checksum_path(newest), checksum_path(older)
    text = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(text)


def link_to_nowhere(newest: Path, _older: Path, _rng: random.Random) -> None:
    newest.unlink()
    newest.symlink_to("nowhere.pth")


def link_to_itself(newest: Path, _older: Path, _rng: random.Random) -> None:
    newest.unlink()
    newest.symlink_to(newest.name)


def both(damage: Callable[[Path], object], newest: Path, older: Path, _rng: random.Random) -> None:
    damage(newest)
    damage(older)


def stale_draft(newest: Path, _older: Path, _rng: random.Random) -> None:
    """Of a write that was killed."""
    (newest.parent / ".0123456789abcdef.tmp").write_bytes(newest.read_bytes()[:1000])


def replace_neighbour(name: str, kind: str, newest: Path, _older: Path, _rng: object) -> None:
    """Damage another file of the run folder."""
    path = newest.parent / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "bytes":
        path.write_bytes(b"\xff\x00garbage")


# -- damages of the content, with a matching checksum ------------------------------------------


def change_content(
    change: Callable[[dict[str, Any]], object], newest: Path, _older: Path, _rng: object
) -> None:
    """Change the content of a state and write it with its checksum."""
    content = load_tensors(newest)
    change(content)
    save_tensors(newest, content)
    write_checksum(newest)


def set_value(*keys: Any, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def remove_key(*keys: str) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def change_weight(group: str, value: Callable[[torch.Tensor], Any]) -> Callable[[dict], object]:
    """Change the largest tensor of a group."""

    def change(content: dict[str, Any]) -> None:
        weights = content["state"][group]
        name = max(weights, key=lambda key: weights[key].numel())
        weights[name] = value(weights[name])

    return change


def not_finite(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[-1] = number
        return changed

    return change


def nan_in_optimizer(content: dict[str, Any]) -> None:
    moments = next(iter(content["state"]["optimizer"]["state"].values()))
    moments["exp_avg"] = not_finite(float("nan"))(moments["exp_avg"])


def wrong_shape_in_optimizer(content: dict[str, Any]) -> None:
    moments = next(iter(content["state"]["optimizer"]["state"].values()))
    moments["exp_avg"] = torch.zeros(3, 5, 7)


KEYS = ("code", "model", "optimizer", "schedule", "epoch", "is_complete", "history", "rng_states")
NAN = float("nan")
CONTENTS = {
    **{f"no {key}": remove_key("state", key) for key in KEYS},
    **{f"{key} is text": set_value("state", key, value="text") for key in KEYS},
    "no state": remove_key("state"),
    "state is a list": set_value("state", value=[1, 2]),
    "best weights missing": set_value("state", "best_weights", value={}),
    "epoch is negative": set_value("state", "epoch", value=-1),
    "epoch is after the end": set_value("state", "epoch", value=99),
    "epoch is NaN": set_value("state", "epoch", value=NAN),
    "steps are negative": set_value("state", "epoch_steps", value=-3),
    "history is empty": set_value("state", "history", value=[]),
    "history of numbers": set_value("state", "history", value=[1.0, 2.0]),
    "NaN in the history": set_value("state", "history", 0, "val_pose_loss", value=NAN),
    "NaN in the loss": set_value("state", "loss_sums", 0, value=torch.full((9,), NAN)),
    "random states cut": set_value("state", "rng_states", 0, value={}),
    "random state is short": set_value("state", "rng_states", 0, "torch", value=torch.zeros(3)),
    "NaN in a weight": change_weight("model", not_finite(NAN)),
    "infinite weight": change_weight("model", not_finite(float("inf"))),
    "NaN in a best weight": change_weight("best_weights", not_finite(NAN)),
    "weight of another shape": change_weight("model", lambda tensor: torch.zeros(3)),
    "best weight of another shape": change_weight("best_weights", lambda tensor: torch.zeros(3)),
    "weight is text": change_weight("model", lambda tensor: "text"),
    "unknown weight": set_value("state", "model", "unknown", value=torch.zeros(1)),
    "NaN in the optimiser": nan_in_optimizer,
    "wrong shape in the optimiser": wrong_shape_in_optimizer,
    "optimiser without groups": set_value("state", "optimizer", "param_groups", value=[]),
}
PLACES = (0.0, 0.02, 0.2, 0.4, 0.6, 0.8, 0.98, 1.0)
KINDS = (
    *(Kind(f"bit at {place:.0%}", partial(flip_bit_of, place)) for place in PLACES),
    *(Kind(f"cut to {place:.0%}", partial(truncate_to, place)) for place in PLACES),
    *(Kind(damage.__name__, partial(damage_newest, damage)) for damage in damages.DAMAGES),
    *(
        Kind(f"content {text[:9]!r}", partial(write_text, text))
        for text in (b"PK\x03\x04", b"\0" * 5000, b"\x80\x04N.", b"version https://git-lfs\n")
    ),
    *(
        Kind(f"checksum {text[:9]!r}", partial(write_checksum_text, text))
        for text in (b"0" * 64, b"\xff" * 64, b"0" * 10**6, "ä".encode() * 32, b"\n")
    ),
    Kind("page of zeros", zero_page),
    Kind("bytes appended", append_bytes),
    Kind("states exchanged", exchange, restarts=True),
    Kind("checksums exchanged", exchange_checksums, restarts=True),
    Kind("link to nowhere", link_to_nowhere),
    Kind("link to itself", link_to_itself),
    Kind("both cut", partial(both, damages.truncate), restarts=True),
    Kind("both pipes", partial(both, damages.replace_by_pipe), restarts=True),
    Kind("draft of a killed write", stale_draft, named=False),
    *(
        Kind(f"{name} is {kind}", partial(replace_neighbour, name, kind), named=False)
        for name in ("best_model.pth", "process", "tensorboard", "code", "state-backup.pth")
        for kind in ("folder", "pipe", "bytes", "nothing")
    ),
    *(Kind(name, partial(change_content, change)) for name, change in CONTENTS.items()),
)


# -- the property ------------------------------------------------------------------------------


def make_trainings(folder: Path) -> None:
    """`folder`/stopped, a project after two epochs, and `folder`/finished, without a stop."""
    project = write_project(folder / "finished", small_config(state_every_minutes=60))
    save_state = RunFolder.save_state

    def save_and_copy(run: RunFolder, step: int, state: dict[str, Any]) -> None:
        save_state(run, step, state)
        if state["epoch"] == 2:
            shutil.copytree(project, folder / "stopped")

    with one_block(), patch.object(RunFolder, "save_state", save_and_copy):
        run_in(project, "train").require_success()


def check(seed: int, folder: Path) -> None:
    kind = KINDS[seed % len(KINDS)]
    trainings = prepared(folder, "trainings", make_trainings)
    with scratch_folder(folder) as scratch:
        project = Path(shutil.copytree(trainings / "stopped", scratch / "project"))
        older, newest = sorted(project.glob("runs/train/*/state-*.pth"))
        kind.damage(newest, older, random.Random(seed))
        with one_block():
            answer = run_in(project, "train")
        require_right_end(kind, answer, newest)
        if answer.status == 0:
            expected = read_files(trainings / "finished", *OUTPUTS)
            assert read_files(project, *OUTPUTS) == expected, f"{kind.name}: other outputs"


def require_right_end(kind: Kind, answer: Answer, newest: Path) -> None:
    if answer.status:
        answer.require_refusal()
        errors = [line for line in answer.errors.splitlines() if line.startswith("error: ")]
        assert str(newest.parent) in errors[-1], f"{kind.name}: no file named: {errors}"
        return
    if kind.named:
        assert newest.name in answer.errors or checksum_path(newest).name in answer.errors, (
            f"{kind.name}: the damage is not told: {answer.errors[:300]}"
        )
    assert (RESTART in answer.errors) == kind.restarts, f"{kind.name}: {answer.errors[:300]}"


PROPERTY = Property(
    "damaged-states",
    "resumes from the older state or refuses with a message that names the file",
    check,
    cases=len(KINDS),
    group=4,
)
