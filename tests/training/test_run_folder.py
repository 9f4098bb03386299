"""The run folder: kills, damaged states, and a second trainer."""

import os
import shutil
import signal
from functools import partial

import pytest
import torch
from toys import SINGLE_PROCESS

from partloc.files import CheckpointError, load_tensors, save_tensors
from partloc.training import run_folder
from partloc.training.run import load_or_reset
from partloc.training.run_folder import RunFolder


def save_best(folder: RunFolder, epoch: int) -> None:
    folder.save_best(epoch, partial(save_tensors, value={"epoch": epoch}))


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path, "0123456789abcdef0123")
    folder.path.mkdir()
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# -- states ------------------------------------------------------------------------------------


def test_the_last_two_states_and_best_weights_are_kept(folder):
    for epoch in (8, 9, 10, 11):
        save_best(folder, epoch)
        folder.save_state(epoch, {"epoch": epoch})
    names = sorted(path.name for path in folder.path.iterdir())
    assert names == [
        f"{kind}-{epoch}.{suffix}"
        for kind in ("best", "state")
        for epoch in ("000010", "000011")
        for suffix in ("pth", "sha256")
    ]
    assert folder.load_state() == {"epoch": 11}
    assert folder.load_best(10) == {"epoch": 10}


def test_an_empty_folder_has_no_state(folder):
    assert folder.load_state() is None


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_bit,
        lambda path: path.with_suffix(".sha256").unlink(),  # killed between the two writes
        lambda path: path.with_suffix(".sha256").write_text(""),
    ],
)
def test_a_damaged_state_is_reported_and_the_previous_one_is_loaded(folder, damage, capsys):
    for epoch in (1, 2):
        folder.save_state(epoch, {"epoch": epoch, "weights": torch.zeros(100)})
    damage(folder.path / "state-000002.pth")
    assert folder.load_state()["epoch"] == 1
    assert "state-000002.pth is damaged; trying the previous state" in capsys.readouterr().err
    damage(folder.path / "state-000001.pth")
    assert folder.load_state() is None


def test_truncating_deletes_everything_written_later(folder):
    """Best weights whose state was lost must not become the best weights of the resumed run."""
    for epoch in (1, 2):
        save_best(folder, epoch)
        folder.save_state(epoch, {"epoch": epoch})
    save_best(folder, 3)  # killed before its state was written
    folder.truncate_after(2)
    assert folder.load_best(2) == {"epoch": 2} and folder.load_state() == {"epoch": 2}
    with pytest.raises(CheckpointError, match="best-000003.pth: missing or damaged"):
        folder.load_best(3)


def test_the_published_best_model_is_an_atomic_copy(folder, monkeypatch):
    for epoch in (1, 2):
        save_best(folder, epoch)
    folder.publish_best(1)
    assert load_tensors(folder.path / "best_model.pth") == {"epoch": 1}

    def fail(*_arguments):
        raise OSError("killed while copying")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", fail)
        with pytest.raises(OSError, match="killed while copying"):
            folder.publish_best(2)
    assert load_tensors(folder.path / "best_model.pth") == {"epoch": 1}
    folder.publish_best(2)
    assert load_tensors(folder.path / "best_model.pth") == {"epoch": 2}
    flip_bit(folder.path / "best-000001.pth")
    with pytest.raises(CheckpointError, match="best-000001.pth: missing or damaged"):
        folder.publish_best(1)
    assert load_tensors(folder.path / "best_model.pth") == {"epoch": 2}


@pytest.mark.parametrize("killed_after", ["save_best", "save_state"])
def test_the_published_best_model_belongs_to_the_state_from_which_a_run_resumes(
    folder, killed_after, capsys
):
    """Epoch 2 is better than epoch 1, and the training is killed before it is published."""
    save_best(folder, 1)
    folder.save_state(1, {"epoch": 1, "best_metric": {"epoch": 1}})
    folder.publish_best(1)
    save_best(folder, 2)
    if killed_after == "save_state":
        folder.save_state(2, {"epoch": 2, "best_metric": {"epoch": 2}})
    assert load_tensors(folder.path / "best_model.pth") == {"epoch": 1}
    state = load_or_reset(folder, SINGLE_PROCESS, resume=True)
    expected = 1 if killed_after == "save_best" else 2
    assert state["epoch"] == expected
    assert f"resuming after epoch {expected};" in capsys.readouterr().err
    assert load_tensors(folder.path / "best_model.pth") == {"epoch": expected}


def test_clearing_keeps_only_the_lock(folder):
    with folder.locked():
        folder.save_state(1, {})
        folder.tensorboard.mkdir()
        folder.mark_finished()
        assert folder.finished
        folder.clear()
        assert not folder.finished
        assert sorted(entry.name for entry in folder.path.iterdir()) == ["lock", "process"]


def test_a_finished_run_keeps_its_last_state_and_its_best_model(folder):
    with folder.locked():
        for epoch in (1, 2):
            save_best(folder, epoch)
            folder.save_state(epoch, {"epoch": epoch})
        folder.publish_best(2)
        folder.mark_finished()
    files = {path.name for path in folder.path.iterdir()} - {"lock", "process"}
    assert files == {"finished", "best_model.pth", "state-000002.pth", "state-000002.sha256"}
    assert folder.load_state() == {"epoch": 2}


def test_a_finished_run_is_not_resumed_but_trained_again(folder, capsys):
    save_best(folder, 1)
    folder.save_state(1, {"epoch": 1, "best_metric": {"epoch": 1}})
    folder.publish_best(1)
    folder.mark_finished()
    assert load_or_reset(folder, SINGLE_PROCESS, resume=True) is None
    assert "starting a new training" in capsys.readouterr().err
    assert not folder.finished and not list(folder.path.glob("*.pth"))


def test_unfinished_runs_of_other_configurations_are_found(folder, tmp_path):
    for name in ("a" * 16, "b" * 16):
        other = RunFolder(tmp_path, name)
        other.save_state(1, {})
    other.mark_finished()
    assert [path.name for path in folder.other_unfinished_runs()] == ["a" * 16]


# -- the lock ----------------------------------------------------------------------------------


def in_another_process(action) -> str:
    """Return what `action` returns in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, action().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as file:
        return file.read()


def test_a_second_trainer_is_refused_with_the_process_id_of_the_first(folder, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_TIMEOUT_S", 0.5)

    def try_to_lock() -> str:
        try:
            with folder.locked():
                return "locked"
        except CheckpointError as error:
            return str(error)

    with folder.locked():
        message = in_another_process(try_to_lock)
        assert f"another training (process {os.getpid()}) is running on the same" in message
        assert in_another_process(try_to_lock) == message  # a refused attempt releases nothing
    assert in_another_process(try_to_lock) == "locked"


def test_data_loader_workers_do_not_hold_the_lock_of_a_killed_trainer(folder):
    """They outlive it by some seconds, during which a new start must not be refused."""
    reader, writer = os.pipe()
    trainer = os.fork()
    if trainer == 0:
        with folder.locked():
            if (worker := os.fork()) == 0:
                signal.pause()
            os.write(writer, str(worker).encode())
            signal.pause()
    worker = int(os.read(reader, 20))
    os.kill(trainer, signal.SIGKILL)
    os.waitpid(trainer, 0)
    try:
        with folder.locked():
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(reader)
        os.close(writer)
