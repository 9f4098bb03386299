"""The command `partloc pretrain` at a small size, from rendering to weights."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

import pytest
import torch
from toys import TORCHRUN, run_python, tiny_config, write_params

from partloc.data.transforms import Preprocessing
from partloc.files import matches_checksum
from partloc.model.build import build_locator
from partloc.model.model_file import load_model, start_from

CONFIG = tiny_config(demo={"image_size": 64}, model={"match_size": 8})
OVERRIDES = ("--set", "num_models=50", "--set", "num_epochs=1", "--set", "batch_size=16")


def pretrain(
    root: Path, *arguments: str | Path, launcher: tuple[str, ...] = ()
) -> CompletedProcess:
    return run_python(root, *launcher, "-m", "partloc", "pretrain", *arguments, *OVERRIDES)


class Pretraining(NamedTuple):
    """A project folder, the weights of an encoder trained there, and the output of the command."""

    root: Path
    weights: Path
    stderr: str

    @property
    def summary(self) -> dict:
        return json.loads(self.weights.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Pretraining:
    root = tmp_path_factory.mktemp("project")
    write_params(root, CONFIG)
    result = pretrain(root, "encoder")
    assert result.returncode == 0, result.stderr
    weights = root / "partloc/weights" / f"{CONFIG.model.backbone_name}.pth"
    return Pretraining(root, weights, result.stderr)


def test_the_encoder_is_written_with_checksum_and_history(encoder):
    assert matches_checksum(encoder.weights)
    summary = encoder.summary
    assert summary["models"] == 50 and len(summary["history"]) == 1
    assert summary["pairs"]["train"] > 100 and summary["pairs"]["val"] > 0
    assert "starting weights" not in encoder.stderr
    assert "kept epoch 1: validation pose loss" in encoder.stderr


def test_the_encoder_initialises_a_model_with_its_camera(encoder):
    model = build_locator(CONFIG.model, Preprocessing.from_config(CONFIG.data))
    start_from(model, encoder.weights)
    expected = load_model(encoder.weights).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert model.position_decoder.camera.slope.any()


def test_a_repeated_call_renders_missing_models_and_gives_the_same_weights(encoder, tmp_path):
    images = sorted(encoder.root.glob("data/pretrain/*/*-whole.png"))
    assert len(images) == 50
    mtime, expected = images[0].stat().st_mtime_ns, load_model(encoder.weights).state_dict()
    images[-1].parent.rename(tmp_path / "removed")
    result = pretrain(encoder.root, "encoder")
    assert result.returncode == 0, result.stderr
    assert images[0].stat().st_mtime_ns == mtime and images[-1].exists()
    weights = load_model(encoder.weights).state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in weights.items())


def test_a_training_in_two_processes_continues_from_a_model_file(encoder):
    arguments = ("encoder", "--start-from", encoder.weights, "--out", "continued.pth")
    result = pretrain(encoder.root, *arguments, launcher=TORCHRUN)
    assert result.returncode == 0, result.stderr
    assert "starting weights" in result.stderr
    history = json.loads((encoder.root / "continued.json").read_text())["history"]
    assert history[0]["train_loss"] < encoder.summary["history"][0]["train_loss"]


def test_a_missing_model_file_is_reported_before_anything_is_rendered(tmp_path):
    write_params(tmp_path, CONFIG)
    result = pretrain(tmp_path, "encoder", "--start-from", "nope.pth")
    assert result.returncode == 2 and "--start-from nope.pth: no such file" in result.stderr
    assert not (tmp_path / "data").exists()


def test_start_from_is_rejected_for_other_networks(tmp_path):
    result = pretrain(tmp_path, "depth", "--start-from", "nope.pth")
    assert result.returncode == 2 and "--start-from is only for encoder" in result.stderr
