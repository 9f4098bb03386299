"""The real stage, killed, interrupted, edited and started twice: the result is always the same.

The processes are real, since signals, locks and exit codes are.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import tiny_config, write_params, write_split

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 5
# All that draws from a generator is on: dropout, jitter, augmentation, workers, a shuffled plan.
CHANGES = {
    "model": {"dropout": 0.2},
    "train": {"num_epochs": EPOCHS, "batch_size": 1, "learning_rate": 1e-3, "crop_jitter": 0.3},
    "machine": {"num_workers": 2},
}
CONFIG = tiny_config(**CHANGES)
OUTPUTS = ("models/best_model.pth", "metrics/train.json")


class Stage:
    """A running `python stages/train.py` in a process group of its own."""

    def __init__(self, root: Path, *options: str, log: str = "stderr.txt") -> None:
        self.log = root / log
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "stages" / "train.py"), *options],
                cwd=root,
                env=os.environ | {"DVC_ROOT": str(root), "OMP_NUM_THREADS": "1"},
                stderr=file,
                start_new_session=True,
            )

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def wait_for(self, text: str) -> "Stage":
        """Until it has said so."""
        end = time.monotonic() + 120
        while text not in self.said():
            code = self.process.poll()
            assert code is None and time.monotonic() < end, (code, self.said())
            time.sleep(0.01)
        return self

    def finish(self) -> int:
        """The exit code; no traceback is ever shown."""
        code = self.process.wait(timeout=120)
        assert "Traceback" not in self.said(), self.said()
        return code

    def said(self) -> str:
        return self.log.read_text()


def outputs(root: Path) -> list[bytes]:
    return [(root / name).read_bytes() for name in OUTPUTS]


def forget_outputs(root: Path) -> None:
    """As DVC does before it runs a stage."""
    for name in OUTPUTS:
        (root / name).unlink(missing_ok=True)


def finished(epoch: int) -> str:
    return f"epoch {epoch:>3}/{EPOCHS}"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A project with its split made; the tests below follow each other in it."""
    root = tmp_path_factory.mktemp("project")
    write_split(root)
    write_params(root, CONFIG)
    return root


@pytest.fixture(scope="module")
def undisturbed(root) -> list[bytes]:
    """The outputs of a run that nobody disturbs; they and its state are put aside."""
    with Stage(root) as stage:
        assert stage.finish() == 0, stage.said()
    assert "training from the start" in stage.said()
    expected = outputs(root)
    forget_outputs(root)
    (root / "runs").rename(root / "runs-undisturbed")
    return expected


def test_after_a_kill_a_sigterm_and_a_sigint_the_result_is_that_of_an_undisturbed_run(
    root, undisturbed
):
    with Stage(root) as stage:
        stage.wait_for(finished(1))
        time.sleep(0.1)
        os.kill(stage.process.pid, signal.SIGKILL)  # its workers are left behind
        stage.process.wait()

    with Stage(root, "--resume") as stage:
        stage.wait_for("training after epoch 1;")
        os.kill(stage.process.pid, signal.SIGSTOP)  # still there, and for as long as it takes
        with Stage(root, log="second.txt") as second:
            assert second.finish() == 2, second.said()
        os.kill(stage.process.pid, signal.SIGCONT)
        assert f"another training (process {stage.process.pid}) works on" in second.said()
        stage.wait_for(finished(2))
        os.killpg(stage.process.pid, signal.SIGTERM)  # the workers get it too
        assert stage.finish() == 128 + signal.SIGTERM, stage.said()
    assert "SIGTERM: stopped; the same command goes on" in stage.said()

    with Stage(root) as stage:
        stage.wait_for(finished(3))
        os.kill(stage.process.pid, signal.SIGINT)
        assert stage.finish() == 128 + signal.SIGINT, stage.said()
    assert not any((root / name).exists() for name in OUTPUTS)

    with Stage(root) as stage:
        assert stage.finish() == 0, stage.said()
    assert "training after epoch" in stage.said()
    assert outputs(root) == undisturbed


def test_the_figures_hold_every_epoch_and_no_clock(root, undisturbed):
    figures = json.loads(undisturbed[1])
    assert [record["epoch"] for record in figures["history"]] == list(range(1, EPOCHS + 1))
    losses = [record["val_pose_loss"] for record in figures["history"]]
    assert figures["best_val_pose_loss"] == min(losses)
    names = {*figures, *(key for record in figures["history"] for key in record)}
    assert not [name for name in names if "time" in name or "per_s" in name or "memory" in name]


def test_tensorboard_holds_each_epoch_once(root, undisturbed):
    """The resumed run's; an abandoned epoch is not shown twice."""
    folder = next(root.glob("runs/train/*/tensorboard"))
    events = EventAccumulator(str(folder)).Reload()
    for tag in ("train/loss", "val/loss", "run/learning_rate", "run/samples_per_s"):
        assert [event.step for event in events.Scalars(tag)] == list(range(1, EPOCHS + 1)), tag


def test_a_finished_training_starts_anew_and_edits_meanwhile_are_refused(root, undisturbed):
    forget_outputs(root)
    edited = tiny_config(**CHANGES | {"train": CHANGES["train"] | {"w_scale": 2.0}})
    with Stage(root) as stage:
        stage.wait_for("training from the start")
        write_params(root, edited)
        assert stage.finish() == 2
    assert "error: the parameters of training were edited while it ran" in stage.said()
    assert not any((root / name).exists() for name in OUTPUTS)

    with Stage(root) as stage:  # with the edited parameters
        stage.wait_for("unfinished state of another configuration or split stays in")
        assert "training from the start" in stage.said()

    write_params(root, CONFIG)  # set back: the finished training is kept
    with Stage(root) as stage:
        assert stage.finish() == 0, stage.said()
    assert f"training after epoch {EPOCHS};" in stage.said()
    assert outputs(root) == undisturbed


def test_no_resume_starts_afresh(root, undisturbed):
    with Stage(root) as stage:
        stage.wait_for(finished(1))
        os.killpg(stage.process.pid, signal.SIGKILL)
    with Stage(root, "--no-resume") as stage:
        stage.wait_for("training from the start")
