"""The fast part of `make torture`, and its checks: each fails when what it checks is broken."""

import errno
import os
from pathlib import Path

import pytest
import torch
from processes import Command

from benchmarks.torture import (
    concurrency,
    damaged_states,
    full_disk,
    hostile_files,
    kills,
    long_runs,
    mutations,
)
from benchmarks.torture.properties import PROPERTIES
from benchmarks.torture.runner import Property, run_case, run_property
from partloc.system import files
from partloc.training import run, run_folder

KINDS = {kind.name: number for number, kind in enumerate(damaged_states.KINDS)}
SOME_KINDS = ("checksums exchanged", "NaN in a weight")
DISK_CASES = {name: [*full_disk.COMMANDS].index(name) for name in ("index", "split")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("torture").resolve()


def case_folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    return folder / name


# -- a few cases of each property --------------------------------------------------------------


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_a_training_survives_damaged_states(folder, kind):
    damaged_states.check(KINDS[kind], case_folder(folder, "states"))


@pytest.mark.parametrize("name", DISK_CASES)
def test_a_command_survives_a_full_disk(folder, name):
    disk = case_folder(folder, "disk")
    for write in (0, 3):
        full_disk.check(DISK_CASES[name] + write * len(full_disk.COMMANDS), disk)


def test_hostile_files_are_passed_over(folder):
    for seed in (3, 399):
        hostile_files.check_alone(seed, case_folder(folder, "hostile"))


@pytest.mark.parametrize("name", mutations.COUNTS)
def test_mutations_are_used_or_refused(folder, name):
    check, count = mutations.COUNTS[name]
    for seed in range(max(2, count // 1000)):
        check(seed, case_folder(folder, name))


def test_answers_take_no_memory(folder):
    long_runs.check_answers(0, case_folder(folder, "answers"), answers=10)


def test_readers_get_whole_files(folder):
    seed = concurrency.KINDS.index((concurrency.check_changing, "index"))
    concurrency.check(seed, case_folder(folder, "concurrency"))


# -- each check fails when something is broken -------------------------------------------------


def test_a_state_that_is_not_verified_fails(folder, monkeypatch):
    monkeypatch.setattr(run_folder, "matches_checksum", lambda _path: True)
    monkeypatch.setattr(run, "_find_problem", lambda _config, _state: None)
    states = case_folder(folder, "states")
    assert run_case(damaged_states.PROPERTY, states, KINDS["NaN in a weight"])


def test_a_full_disk_that_is_not_told_fails(folder, monkeypatch):
    def write_in_place(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")

    monkeypatch.setattr(files, "_open_temporary", write_in_place)
    failure = run_case(full_disk.PROPERTY, case_folder(folder, "disk"), DISK_CASES["index"])
    assert failure and "outputs/manifest.csv is not " in failure.message


def test_an_answer_that_depends_on_other_files_fails(folder, monkeypatch):
    write_hostile = hostile_files.write_hostile

    def remove_good(root: Path, number: int) -> None:
        write_hostile(root, number)
        (root / "good" / "good-leg.png").unlink()

    monkeypatch.setattr(hostile_files, "write_hostile", remove_good)
    assert run_case(hostile_files.PROPERTIES[1], case_folder(folder, "hostile"), 0)


def test_another_exception_for_a_mutation_fails(folder, monkeypatch):
    def fail(*_args, **_options):
        raise KeyError("chunk")

    monkeypatch.setattr(mutations, "open_rgb", fail)
    failure = run_case(mutations.PROPERTIES[0], case_folder(folder, "pictures"), 5)
    assert failure == (5, failure.message) and "KeyError" in failure.message


def test_growing_memory_fails():
    usage = long_runs.Usage()
    usage.memory_mb, usage.files = [float(n) for n in range(100)], [7] * 100
    with pytest.raises(AssertionError, match=r"memory grows by \d+"):
        usage.require_flat(100)
    usage.memory_mb, usage.files = [1.0] * 100, [*range(100)]
    with pytest.raises(AssertionError, match="more open files"):
        usage.require_flat(100)


def test_two_writers_without_a_lock_fail(folder, tmp_path):
    """Their outputs are then those of both."""
    done = tmp_path / "done" / "outputs"
    done.mkdir(parents=True)
    (done / "manifest.csv").write_text("a")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "manifest.csv").write_text("ab")
    with pytest.raises(AssertionError, match="other outputs"):
        concurrency.require_outputs("index", tmp_path, tmp_path / "done")


def test_a_training_that_starts_from_the_beginning_fails():
    kills.require_resumed("resuming after epoch 1", "epoch")
    with pytest.raises(AssertionError, match="not resumed"):
        kills.require_resumed("starting a new training", "epoch")


def test_a_command_that_ends_before_its_kill_fails(tmp_path):
    with Command(["true"], tmp_path, tmp_path / "log", dict(os.environ)) as command:
        command.process.wait()
        with pytest.raises(AssertionError, match="ended before its kill"):
            kills.wait_for_moment(command, lambda _command: False)


# -- the runner --------------------------------------------------------------------------------


def fail_at_three(seed: int, _folder: Path) -> None:
    if seed == 3:
        raise OSError(errno.ENOSPC, "full")


def test_a_failure_has_its_seed(tmp_path):
    threads = torch.get_num_threads()
    prop = Property("p", "holds", fail_at_three, cases=5, group=2)
    outcome = run_property(prop, range(5), tmp_path / "p", processes=1)
    assert [failure.seed for failure in outcome.failures] == [3] and outcome.cases == 5
    assert outcome.as_json()["failures"][0]["message"].startswith("OSError in test_torture.py")
    assert torch.get_num_threads() == threads


def test_the_properties_have_the_promised_sizes():
    counts = {prop.name: prop.cases * prop.weight for prop in PROPERTIES}
    assert counts["kills"] >= 40 and counts["damaged-states"] >= 60
    assert counts["hostile-folder"] == counts["hostile-files"] == 400
    assert sum(mutations.COUNTS[name][1] for name in mutations.COUNTS) >= 50_000
    assert counts["answers"] == 500 and counts["epochs"] == 100
