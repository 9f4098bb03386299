"""`make pretrain` in small: the real script, from drawing to weights that training starts from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from toys import TORCHRUN, tiny_config, write_params

from partloc.data.transforms import Preprocessing
from partloc.inference.arrangement_net import ArrangementNet
from partloc.model.locator import PartLocator
from partloc.model.model_file import load_model, start_from

ROOT = Path(__file__).resolve().parents[2]
CONFIG = tiny_config(
    demo={"image_size": 64},
    model={"match_size": 8},
    pretrain={
        "num_models": 50,
        "num_epochs": 1,
        "arrangement_models": 20,
        "arrangement_steps": 4,
    },
)


def pretrain(
    root: Path, arguments: tuple = (), by: tuple = (), script: str = "pretrain.py"
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *by, str(ROOT / "stages" / script), *arguments],
        cwd=root,
        env=os.environ | {"DVC_ROOT": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_weights_are_made_with_checksum_and_figures_and_start_a_training(tmp_path):
    write_params(tmp_path, CONFIG)
    done = pretrain(tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "partloc/weights" / f"{CONFIG.model.backbone_name}.pth"
    figures = json.loads(path.with_suffix(".json").read_text())
    assert figures["models"] == 50 and len(figures["history"]) == 1
    assert figures["pairs"]["train"] > 100 and figures["pairs"]["val"] > 0

    begun = PartLocator(CONFIG.model, Preprocessing.of(CONFIG.data))
    start_from(begun, path)
    made = load_model(path).state_dict()
    assert all(torch.equal(value, made[key]) for key, value in begun.state_dict().items())
    assert begun.view_slope.any()  # the camera travels too

    drawn = sorted(tmp_path.glob("data/pretrain/*/*-whole.png"))
    assert len(drawn) == 50
    before = drawn[0].stat().st_mtime_ns
    drawn[-1].parent.rename(tmp_path / "lost")  # as if drawing had been interrupted
    again = pretrain(tmp_path)
    assert again.returncode == 0, again.stderr
    assert drawn[0].stat().st_mtime_ns == before and drawn[-1].exists()
    assert load_model(path).state_dict().keys() == made.keys()
    assert all(torch.equal(made[k], v) for k, v in load_model(path).state_dict().items())

    judging = ("--out", "judging.pth"), (), "pretrain_arrangement.py"
    taught = pretrain(tmp_path, *judging)
    assert taught.returncode == 0, taught.stderr
    judge, (groups,) = tmp_path / "judging.pth", tmp_path.glob("data/pretrain-arrangement/*/*")
    figures_of_it = json.loads(judge.with_suffix(".json").read_text())
    assert figures_of_it["groups"] > 10 and figures_of_it["history"][-1]["step"] == 4
    weights = torch.load(judge, weights_only=True)
    ArrangementNet().load_state_dict({name: value.float() for name, value in weights.items()})
    before, first = groups.stat().st_mtime_ns, judge.read_bytes()
    judge.unlink()
    assert pretrain(tmp_path, *judging).returncode == 0
    assert groups.stat().st_mtime_ns == before and judge.read_bytes() == first

    kept = path.rename(tmp_path / "kept.pth")
    further = pretrain(tmp_path, ("--start-from", str(kept)), TORCHRUN)
    assert further.returncode == 0, further.stderr
    assert "starting weights" in further.stderr and "starting weights" not in done.stderr
    later = json.loads(path.with_suffix(".json").read_text())
    assert later["history"][0]["train_loss"] < figures["history"][0]["train_loss"]


def test_weights_to_start_from_that_are_not_there_are_told_before_anything_is_drawn(tmp_path):
    write_params(tmp_path, CONFIG)
    done = pretrain(tmp_path, ("--start-from", "nope.pth"))
    assert done.returncode == 2 and "--start-from nope.pth: no such file" in done.stderr
    assert not (tmp_path / "data").exists()
