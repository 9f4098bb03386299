"""The train stage, killed and interrupted, always has the same result.

The tests start real processes, because signals, locks and exit codes are those of processes.
"""

import json
import os
import signal
from pathlib import Path

import pytest
from processes import PARENT, Stage, wait_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import assert_every_term_is_used, tiny_config, write_params, write_split

EPOCHS = 3
# Everything that uses random numbers: dropout, jitter, augmentation, workers, a shuffled plan.
CHANGES = {
    "model": {"dropout": 0.2},
    "train": {"num_epochs": EPOCHS, "batch_size": 1, "learning_rate": 1e-3, "crop_jitter": 0.3},
    "machine": {"num_workers": 1},
}
CONFIG = tiny_config(**CHANGES)
SAVES_EACH_STEP = CHANGES["train"] | {"state_every_minutes": 1e-9}
NUM_PAIRS = 13  # of the training samples, and so batches of an epoch
OUTPUTS = ("models/best_model.pth", "outputs/train/report.json", "outputs/train/loss.json")


def read_outputs(root: Path) -> list[bytes]:
    return [(root / name).read_bytes() for name in OUTPUTS]


def progress_line(epoch: int) -> str:
    """The beginning of the line that reports a finished epoch."""
    return f"epoch {epoch:>3}/{EPOCHS}"


def wait_for_state(root: Path, epochs: float) -> None:
    """Wait until a state is saved after so many epochs, or more."""
    name = f"state-{round(epochs * NUM_PAIRS):09d}.pth"
    wait_until(lambda: any(path.name >= name for path in root.glob("runs/train/*/state-*.pth")))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A project with its split; the tests of this module run in it one after the other."""
    root = tmp_path_factory.mktemp("project")
    write_split(root)
    write_params(root, CONFIG)
    return root


@pytest.fixture(scope="module")
def expected_outputs(root) -> list[bytes]:
    """The outputs of an uninterrupted run; they and its state are moved away."""
    with Stage(root) as stage:
        assert stage.finish() == 0, stage.read_log()
    assert "starting a new training" in stage.read_log()
    expected = read_outputs(root)
    for name in OUTPUTS:
        (root / name).unlink()
    (root / "runs").rename(root / "runs-uninterrupted")
    return expected


def test_sigkill_and_sigterm_do_not_change_the_result(root, expected_outputs):
    write_params(root, tiny_config(**CHANGES | {"train": SAVES_EACH_STEP}))
    with Stage(root) as stage:
        stage.wait_for(progress_line(1))
        wait_for_state(root, 1.3)
        os.kill(stage.process.pid, signal.SIGKILL)  # its worker survives
        stage.process.wait()

    write_params(root, CONFIG)
    with Stage(root, "--resume") as stage:
        stage.wait_for("resuming after epoch 1 and ")
        stage.wait_for(progress_line(2))
        os.killpg(stage.process.pid, signal.SIGTERM)  # the worker receives it too
        assert stage.finish() == 128 + signal.SIGTERM, stage.read_log()
    assert "SIGTERM: stopped; the same command resumes" in stage.read_log()

    assert not any((root / name).exists() for name in OUTPUTS)

    with Stage(root, launcher=("-c", PARENT)) as stage:
        stage.wait_for("resuming after epoch")
        os.kill(stage.process.pid, signal.SIGKILL)  # the stage goes on: its result will be used
        stage.process.wait()
        wait_until(lambda: any(root.glob("runs/train/*/finished")))
    kept, written = stage.read_log().splitlines()[-2:]
    assert kept.startswith("kept epoch ") and "validation pose loss" in kept
    assert written == "written: models/best_model.pth, outputs/train"
    assert read_outputs(root) == expected_outputs
    (best_model,) = root.glob("runs/train/*/best_model.pth")
    assert best_model.read_bytes() == expected_outputs[0]


def test_the_report_has_every_epoch_but_no_time_or_memory(root, expected_outputs):
    report = json.loads(expected_outputs[1])
    assert [record["epoch"] for record in report["history"]] == list(range(1, EPOCHS + 1))
    assert_every_term_is_used(report["history"][-1], prefix="train_")
    losses = [record["val_pose_loss"] for record in report["history"]]
    assert report["best"]["val_pose_loss"] == min(losses)
    names = {*report, *(key for record in report["history"] for key in record)}
    assert not [name for name in names if "time" in name or "per_s" in name or "memory" in name]


def test_tensorboard_has_each_epoch_once(root, expected_outputs):
    """In the resumed run: an epoch that was repeated is not shown twice."""
    folder = next(root.glob("runs/train/*/tensorboard"))
    events = EventAccumulator(str(folder)).Reload()
    for tag in ("loss/training", "loss/validation", "rate/learning_rate", "machine/pairs_per_s"):
        assert [event.step for event in events.Scalars(tag)] == list(range(1, EPOCHS + 1)), tag
