"""Two processes under torchrun train the same model as one process; `launch` ends like one."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from processes import Command
from torch.distributed.elastic.multiprocessing import SignalException
from toys import (
    TORCHRUN,
    assert_every_term_is_used,
    run_python,
    tiny_config,
    write_params,
    write_split,
)

from partloc.commands import launch, train
from partloc.system.files import load_tensors

# The train stage. Fails if the process group ends before all DistributedDataParallel models, which
# occasionally hangs.
STAGE = """\
import gc
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from partloc.commands.train import main
destroy_process_group = dist.destroy_process_group
def destroy_if_unused():
    models = [o for o in gc.get_objects() if type(o) is DistributedDataParallel]
    assert not models, "a DistributedDataParallel outlives its process group"
    destroy_process_group()
dist.destroy_process_group = destroy_if_unused
main()
"""
# 13 samples in batches of 6: the last batch has one pair, fewer than there are processes.
# Augmentation and jitter are on; dropout, which differs between processes, is off.
CONFIG = tiny_config(
    train={"num_epochs": 2, "batch_size": 6, "accumulation_steps": 2, "learning_rate": 1e-4}
    | {"crop_jitter": 0.2},
)


def make_project(root) -> Path:
    write_split(root)
    write_params(root, CONFIG)
    return root


def load_newest_state(root) -> dict:
    return load_tensors(max(root.glob("runs/train/*/state-*.pth")))["state"]


def test_two_processes_train_the_same_model_as_one(run_command, monkeypatch, tmp_path):
    (make_project(tmp_path / "two") / "stage.py").write_text(STAGE)
    two = run_python(tmp_path / "two", *TORCHRUN, "stage.py")
    assert two.returncode == 0, two.stderr
    monkeypatch.chdir(make_project(tmp_path / "one"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "one"))
    one = run_command(train)
    assert one.status == 0, one.err

    single, distributed = (load_newest_state(tmp_path / name) for name in ("one", "two"))
    assert_every_term_is_used(distributed["history"][-1], prefix="train_")
    assert single["schedule"]["last_epoch"] == distributed["schedule"]["last_epoch"] == 4
    for expected, found in zip(single["history"], distributed["history"], strict=True):
        assert expected.keys() == found.keys()
        for key in expected:
            assert abs(expected[key] - found[key]) < 2e-4, key
    # Compare AdamW's gradient averages, because its steps amplify rounding of tiny gradients.
    for index, moments in single["optimizer"]["state"].items():
        expected, found = moments["exp_avg"], distributed["optimizer"]["state"][index]["exp_avg"]
        assert (expected - found).norm() <= 0.02 * expected.norm() + 1e-6
    for key, weights in single["model"].items():
        if weights.is_floating_point():
            assert (weights - distributed["model"][key]).abs().max() <= 4 * 1e-4, key

    assert len(distributed["rng_states"]) == 2
    assert not torch.equal(*(states["torch"] for states in distributed["rng_states"]))
    # Only the main process reports and writes.
    assert two.stderr.count("starting a new training") == 1
    assert two.stderr.count("validation models: the losses of so few") == 1
    assert two.stderr.count("epoch   2/2") == 1
    for name, count in {"models": 1, "outputs/train": 2, "runs/train": 2}.items():
        assert len(list((tmp_path / "two" / name).iterdir())) == count, name


# Each of two processes has a disk of its own, as on two machines.
SEPARATE_DISKS = """\
import sys
from pathlib import Path
from partloc.distributed import distributed_context
from partloc.training.run import load_or_reset
from partloc.training.run_folder import RunFolder
with distributed_context("cpu") as context:
    folder = RunFolder(Path(sys.argv[1], str(context.rank)), "0123")
    if context.is_main:
        folder.path.mkdir(parents=True)
        state = {"epoch": 3, "epoch_steps": 0, "is_complete": False, "code": {"a.py": "other"}}
        folder.save_state(3, state)
    state = load_or_reset(folder, context, True, {"a.py": "0"})
    sys.stdout.write(f"{context.rank}:{state['epoch']} ")  # in a single write
"""


def test_a_process_on_another_disk_resumes_from_the_state_of_the_main_process(tmp_path):
    (tmp_path / "disks.py").write_text(SEPARATE_DISKS)
    done = run_python(tmp_path, *TORCHRUN, "disks.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["0:3", "1:3"]


def start_launcher(root) -> Command:
    write_params(root, tiny_config(train={"num_epochs": 100}))
    arguments = [sys.executable, "-m", "partloc", "launch", "--processes", "2", "train"]
    environment = {"DVC_ROOT": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return Command(arguments, root, root / "log", os.environ | environment, outlives_process=True)


@pytest.mark.usefixtures("default_signals")
def test_a_signal_to_the_launcher_ends_like_one_to_the_command(tmp_path):
    write_split(tmp_path)
    with start_launcher(tmp_path) as command:
        command.wait_for("epoch   1/100")
        command.process.send_signal(signal.SIGHUP)
        assert command.finish() == 128 + signal.SIGHUP
        last = "SIGHUP: stopped; the same command resumes from the last saved state"
        assert command.read_log().splitlines()[-1] == last


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_status_of_the_launcher_tells_the_signal(run_command, monkeypatch, name):
    def stop(_arguments):
        raise SignalException("", signal.Signals[name])

    monkeypatch.setattr(launch, "run", stop)
    assert run_command(launch, "train").status == 128 + signal.Signals[name]


def test_an_error_of_a_launched_command_is_its_own(tmp_path):
    with start_launcher(tmp_path) as command:
        assert command.finish() == 2
        assert "split/train.csv: no such file" in command.read_log().splitlines()[-1]
