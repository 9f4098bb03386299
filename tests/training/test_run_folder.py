"""The run folder: kills, damaged states, and a second trainer."""

import os
import shutil
import signal

import pytest
import torch
from damages import DAMAGES, flip_bit, truncate
from toys import SINGLE_PROCESS

from partloc.system.files import CheckpointError
from partloc.training import run_folder
from partloc.training.run import load_or_reset
from partloc.training.run_folder import RunFolder

CODE = {"partloc/a.py": "0"}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path, "0123456789abcdef0123")
    folder.path.mkdir()
    return folder


def make_state(epoch: int, is_complete: bool = False) -> dict:
    return {"epoch": epoch, "epoch_steps": 0, "is_complete": is_complete, "code": CODE}


def state_path(folder: RunFolder, step: int):
    return folder.path / f"state-{step:09d}.pth"


# -- states ------------------------------------------------------------------------------------


def test_the_last_two_states_are_kept(folder):
    for step in (8, 9, 10, 11):
        folder.save_state(step, {"step": step})
    assert sorted(path.name for path in folder.path.iterdir()) == [
        f"state-{step}.{suffix}"
        for step in ("000000010", "000000011")
        for suffix in ("pth", "sha256")
    ]
    assert folder.load_state() == {"step": 11}


def test_an_empty_folder_has_no_state(folder):
    assert folder.load_state() is None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_state_is_named_and_the_older_one_is_used(folder, damage, capsys):
    """And the states that follow are kept as if it had never been there."""
    for step in (1, 2):
        folder.save_state(step, {"step": step, "weights": torch.zeros(100)})
    damage(state_path(folder, 2))
    assert folder.load_state()["step"] == 1
    assert f"warning: {state_path(folder, 2)}: damaged: " in capsys.readouterr().err
    folder.save_state(2, {"step": 2})
    assert folder.load_state() == {"step": 2}
    assert capsys.readouterr().err == ""
    flip_bit(state_path(folder, 2))
    assert folder.load_state()["step"] == 1
    flip_bit(state_path(folder, 1))
    assert folder.load_state() is None
    folder.clear()
    assert not list(folder.path.iterdir())


def test_a_file_of_another_name_is_left_alone_and_named(folder, capsys):
    folder.save_state(1, {"step": 1})
    backup = folder.path / "state-backup.pth"
    shutil.copy(state_path(folder, 1), backup)
    assert folder.load_state() == {"step": 1}
    assert f"warning: {backup}: expected a name like" in capsys.readouterr().err
    for step in (2, 3, 4):
        folder.save_state(step, {"step": step})
    assert folder.load_state() == {"step": 4} and backup.exists()


def test_a_run_whose_newest_state_is_damaged_resumes_from_the_older_one(folder, capsys):
    for epoch in (1, 2):
        folder.save_state(epoch, make_state(epoch))
    truncate(state_path(folder, 2))
    assert load_or_reset(folder, SINGLE_PROCESS, True, CODE)["epoch"] == 1
    assert "resuming after epoch 1;" in capsys.readouterr().err


def test_clearing_keeps_only_the_lock(folder):
    with folder.locked():
        folder.save_state(1, {})
        folder.tensorboard.mkdir()
        folder.mark_finished()
        assert folder.finished
        folder.clear()
        assert not folder.finished
        assert sorted(entry.name for entry in folder.path.iterdir()) == ["lock", "process"]


# -- finished trainings and edited code --------------------------------------------------------


def test_a_finished_run_keeps_two_states_and_is_used_again(folder, capsys):
    for epoch in (1, 2):
        folder.save_state(epoch, make_state(epoch, is_complete=epoch == 2))
    folder.mark_finished()
    assert load_or_reset(folder, SINGLE_PROCESS, True, CODE)["epoch"] == 2
    assert "already trained; the outputs are written from" in capsys.readouterr().err
    assert state_path(folder, 1).exists()


def test_a_finished_run_of_other_code_is_trained_again(folder, capsys):
    folder.save_state(1, make_state(1, is_complete=True))
    folder.mark_finished()
    assert load_or_reset(folder, SINGLE_PROCESS, True, CODE | {"partloc/a.py": "1"}) is None
    assert "starting a new training" in capsys.readouterr().err
    assert not folder.finished and not list(folder.path.glob("*.pth"))


def test_a_complete_run_without_outputs_is_not_used_with_other_code(folder):
    """DVC would record this code as the origin of the weights."""
    folder.save_state(1, make_state(1, is_complete=True))
    with pytest.raises(
        CheckpointError, match=r"has changed .* \(partloc/b\.py\), which is complete"
    ):
        load_or_reset(folder, SINGLE_PROCESS, True, CODE | {"partloc/b.py": "1"})
    assert load_or_reset(folder, SINGLE_PROCESS, True, CODE)["epoch"] == 1


def test_an_unfinished_run_of_other_code_is_resumed_with_a_warning(folder, capsys):
    folder.save_state(1, make_state(1))
    assert load_or_reset(folder, SINGLE_PROCESS, True, {})["epoch"] == 1
    assert "warning: the code has changed since this training started (partloc/a.py)" in (
        capsys.readouterr().err
    )


def test_unfinished_runs_of_other_configurations_stay_and_are_named(folder, tmp_path, capsys):
    for name in ("a" * 16, "b" * 16):
        other = RunFolder(tmp_path, name)
        other.save_state(1, {})
    other.mark_finished()
    assert load_or_reset(folder, SINGLE_PROCESS, True, CODE) is None
    message = f"unfinished state of another configuration or split stays in {tmp_path}: {'a' * 16}"
    assert message in capsys.readouterr().err.splitlines()
    assert state_path(RunFolder(tmp_path, "a" * 16), 1).exists()


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
