"""Two processes under torchrun learn what one learns, and answer what one answers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import TORCHRUN, tiny_config, write_params, write_split

from partloc.distributed import choose_device
from partloc.files import load

ROOT = Path(__file__).resolve().parents[2]
# The stage, but for the end, where a finished training drops its state; and it fails if the group
# of processes ends before what talks through it, which now and then hangs.
STAGE = f"""\
import gc, runpy
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from partloc.model.model_file import RunFolder
RunFolder.mark_finished = lambda self: None
end_group = dist.destroy_process_group
def end_alone():
    left = [each for each in gc.get_objects() if type(each) is DistributedDataParallel]
    assert not left, "a DistributedDataParallel outlives its group"
    end_group()
dist.destroy_process_group = end_alone
runpy.run_path({str(ROOT / "stages" / "train.py")!r}, run_name="__main__")
"""
# 11 samples in batches of 5: the last one has a single pair, fewer than there are processes.
# Augmentation and jitter are on; dropout, which each process draws for itself, is off.
CONFIG = tiny_config(
    train={"num_epochs": 2, "batch_size": 5, "accumulation_steps": 2, "learning_rate": 1e-4}
    | {"crop_jitter": 0.2},
)


def run(root: Path, *command: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=os.environ | {"DVC_ROOT": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def train(root: Path, *launcher: str) -> subprocess.CompletedProcess:
    write_split(root)
    write_params(root, CONFIG)
    (root / "stage.py").write_text(STAGE)
    return run(root, *launcher, "stage.py")


def newest_state(root: Path) -> dict:
    return load(max(root.glob("runs/train/*/state-*.pth")))


def test_two_processes_learn_what_one_learns(tmp_path):
    one, two = train(tmp_path / "one"), train(tmp_path / "two", *TORCHRUN)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr

    alone, together = newest_state(tmp_path / "one"), newest_state(tmp_path / "two")
    assert alone["schedule"]["last_epoch"] == together["schedule"]["last_epoch"] == 4
    for expected, found in zip(alone["history"], together["history"], strict=True):
        assert expected.keys() == found.keys()
        for key in expected:
            assert abs(expected[key] - found[key]) < 2e-4, key
    # The gradients' running means: AdamW's steps blow up rounding where a gradient is nearly none.
    for index, moments in alone["optimizer"]["state"].items():
        expected, found = moments["exp_avg"], together["optimizer"]["state"][index]["exp_avg"]
        assert (expected - found).norm() <= 0.02 * expected.norm() + 1e-6
    for key, weights in alone["model"].items():
        if weights.is_floating_point():
            assert (weights - together["model"][key]).abs().max() <= 4 * 1e-4, key

    assert len(together["generators"]) == 2
    assert not torch.equal(*(states["torch"] for states in together["generators"]))
    # Only one of them tells and writes.
    assert two.stderr.count("training from the start") == 1
    assert two.stderr.count("epoch   2/2") == 1
    for name in ("models", "metrics", "runs/train"):
        assert len(list((tmp_path / "two" / name).iterdir())) == 1, name


def test_two_processes_leave_the_bytes_that_one_leaves(data_dir, checkpoint, tmp_path):
    shutil.copytree(data_dir / "lamp", data_dir / "lampe")
    for picture in (data_dir / "lampe").iterdir():
        picture.rename(picture.with_name(picture.name.replace("lamp-", "lampe-")))
    for damaged in ("lamp/lamp-foot.png", "stühle-1.5/stühle-1.5-part-4.png"):
        (data_dir / damaged).write_bytes(b"text")
    stage = (ROOT / "stages/infer.py", "--data-dir", data_dir, "--checkpoint", checkpoint)
    one = run(tmp_path, *stage, "--output", "one")
    two = run(tmp_path, *TORCHRUN, *stage, "--output", "two")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    alone, together = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
        for out in (tmp_path / "one", tmp_path / "two")
    )
    assert len(alone) == 2 + 10 and alone == together
    assert two.stderr.count("10 parts of 2 models answered") == 1
    assert "2 skipped: unreadable image; e.g. lamp/lamp-foot.png" in two.stderr


# Each of two processes has a disk of its own, as two machines with a clone each have.
CLONES = """\
import sys
from pathlib import Path
from partloc.model.model_file import RunFolder
from partloc.training.run import take_up
from partloc.distributed import join_team
with join_team("cpu") as team:
    folder = RunFolder(Path(sys.argv[1], str(team.rank)), "0123")
    if team.leads:
        folder.path.mkdir(parents=True)
        folder.save_state(3, {"epoch": 3})
        folder.write_note("code", "other")
    state = take_up(folder, team, resume=True)
    print(f"{team.rank}:{state['epoch']}", flush=True)
"""


def test_a_process_on_another_disk_goes_on_from_the_leader_s_state(tmp_path):
    (tmp_path / "clones.py").write_text(CLONES)
    done = run(tmp_path, *TORCHRUN, "clones.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["0:3", "1:3"]


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "xpu:", "cuda:99", "mps:99"])
def test_a_device_that_is_none_is_told_in_words(name):
    with pytest.raises(ValueError, match=f"^device '{name}': (expected auto, cpu|torch finds)"):
        choose_device(name)
