"""Training of the depth network: its rendered samples, losses, schedule and resumption."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from toys import SINGLE_PROCESS, tiny_config

from partloc.data.transforms import Preprocessing
from partloc.model.crop import content_crops, resample_crops
from partloc.model.depth_net import MAP_SIDE, DepthNet, load_depth_net
from partloc.pretraining import depth, depth_samples
from partloc.pretraining.depth import DepthTrainer, depth_map_losses, train_depth
from partloc.pretraining.depth_samples import (
    DEPTH_OBJECTS,
    VARIANTS_PER_MODEL,
    crop_depth_maps,
    read_samples,
    render_samples,
)
from partloc.pretraining.settings import PretrainingConfig, PretrainSettings
from partloc.synthetic.camera import FIELD_OF_VIEW_DEG
from partloc.synthetic.dataset import sample_model
from partloc.synthetic.families import DEMO_OBJECTS, PRETRAINING_OBJECTS
from partloc.synthetic.render import render_depth_map, render_image
from partloc.synthetic.scene import scene_geometry


def depth_config(models: int = 50, steps: int = 6, **groups: dict) -> PretrainingConfig:
    config = tiny_config(**{"demo": {"image_size": 64}, **groups})
    settings = PretrainSettings(depth_models=models, depth_steps=steps)
    return PretrainingConfig(**dict(config), pretrain=settings)


@pytest.fixture(scope="module")
def samples_dir(tmp_path_factory) -> Path:
    """The samples of 50 models."""
    folder = tmp_path_factory.mktemp("samples")
    render_samples(folder, depth_config(), workers=0)
    return folder


def demo_samples(numbers: range) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whole models of the demo: images (N, 3, 2 S, 2 S), crops and true depth maps."""
    scenes = [scene_geometry(sample_model(0, number).parts)[:2] for number in numbers]
    preprocessing = Preprocessing(160)
    images = torch.stack([preprocessing(Image.fromarray(render_image(*s, 192))) for s in scenes])
    crops = content_crops(images)
    maps = torch.from_numpy(np.stack([render_depth_map(triangles, 128) for triangles, _ in scenes]))
    return resample_crops(images, crops, 2 * MAP_SIDE), crops, crop_depth_maps(maps, crops)


def test_the_shipped_network_predicts_depth_and_its_error_on_demo_models():
    images, crops, depths = demo_samples(range(26))  # two of each family
    with torch.inference_mode():
        prediction = load_depth_net().eval()(images, crops)
    _, errors = depth_map_losses(prediction, depths)
    _, constant_errors = depth_map_losses(torch.zeros_like(prediction), depths)
    assert errors.mean() < 0.5 * constant_errors.mean()
    # Where the predicted error is small, the true error is smaller.
    foreground = ~depths.isnan()
    error, log_error = (prediction[:, :1] - depths)[foreground].abs(), prediction[:, 1:][foreground]
    confident = log_error < log_error.median()
    assert error[confident].mean() < 0.7 * error[~confident].mean()


def test_the_depths_of_a_crop_are_in_its_half_sides():
    # Half the image side in model units, at the depth of the origin.
    half_image = 3**0.5 / 2 / np.cos(np.radians(FIELD_OF_VIEW_DEG / 2))
    crops = torch.tensor([[0.5, -0.5, np.log(0.25)]], dtype=torch.float32)
    maps = torch.full((1, 128, 128), float("nan"))
    maps[:, 16:48, 80:112] = 0.1
    expected = torch.full((1, 1, MAP_SIDE, MAP_SIDE), 0.1 / 0.25 / half_image)
    assert_close(crop_depth_maps(maps, crops), expected)


def test_the_depth_network_has_other_training_models_than_the_encoder():
    streams = {DEPTH_OBJECTS.stream, PRETRAINING_OBJECTS.stream, DEMO_OBJECTS.stream}
    assert len(streams) == 3
    assert DEPTH_OBJECTS.families == PRETRAINING_OBJECTS.families


def test_samples_show_variants_of_each_whole_and_one_part_of_each(samples_dir):
    samples = read_samples(samples_dir, depth_config())
    assert samples.is_whole.sum() == 50 * VARIANTS_PER_MODEL
    assert len(samples.models) == 2 * 50 * VARIANTS_PER_MODEL
    first = samples.images[samples.is_whole][:VARIANTS_PER_MODEL].astype(int)
    assert all(np.abs(first[i] - first[i - 1]).mean() > 2 for i in range(VARIANTS_PER_MODEL))
    assert samples.images.shape[1:] == (3, 2 * MAP_SIDE, 2 * MAP_SIDE)
    foreground = ~np.isnan(samples.depths)
    assert 0.1 < foreground.mean() < 0.9
    background = np.repeat(np.repeat(~foreground, 2, 2), 2, 3)
    assert np.median(samples.images.mean(1, keepdims=True)[background]) > 250  # white


def test_existing_sample_files_are_kept(samples_dir):
    (file,) = samples_dir.rglob("*.npz")
    mtime = file.stat().st_mtime_ns
    render_samples(samples_dir, depth_config(), workers=0)
    assert file.stat().st_mtime_ns == mtime


def test_samples_of_another_seed_size_or_count_are_rendered_separately(tmp_path, monkeypatch):
    monkeypatch.setattr(depth_samples, "MODELS_PER_FILE", 40)
    config, larger = depth_config(), depth_config(models=51)
    render_samples(tmp_path, config, workers=0)
    expected = read_samples(tmp_path, config)
    assert expected.models.max() == 49
    render_samples(tmp_path, larger, workers=0)  # the last file was shorter
    assert read_samples(tmp_path, larger).models.max() == 50
    assert read_samples(tmp_path, config).models.max() == 49
    other_read_size = config.data.model_copy(update={"read_size": 72})
    other_image_size = config.demo.model_copy(update={"image_size": 72})
    for update in ({"data": other_read_size}, {"demo": other_image_size}, {"seed": 1}):
        other = config.model_copy(update=update)
        render_samples(tmp_path, other, workers=0)
        assert not np.array_equal(read_samples(tmp_path, other).images, expected.images)
    assert np.array_equal(read_samples(tmp_path, config).images, expected.images)


def test_an_interrupted_training_resumes_to_the_same_weights(samples_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(depth, "STEPS_PER_EPOCH", 2)
    monkeypatch.setattr(depth, "BATCH_SIZE", 8)
    reference, resumed = tmp_path / "reference" / "depth.pth", tmp_path / "resumed" / "depth.pth"

    def train(out: Path) -> None:
        train_depth(depth_config(), samples_dir, out.parent / "runs", SINGLE_PROCESS, out)

    def update_or_interrupt(self: DepthTrainer) -> torch.Tensor:
        if self.step == 4:
            raise KeyboardInterrupt
        return update_weights(self)

    train(reference)
    update_weights = DepthTrainer.update_weights
    with monkeypatch.context() as patch:
        patch.setattr(DepthTrainer, "update_weights", update_or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(resumed)
    train(resumed)
    assert resumed.read_bytes() == reference.read_bytes()
    history, expected = (path.with_suffix(".json").read_text() for path in (resumed, reference))
    assert history == expected


@pytest.mark.parametrize(("steps", "peak"), [(2, 1), (20, 1), (59, 2)])
def test_the_learning_rate_rises_to_its_peak_and_falls(samples_dir, steps, peak):
    config = depth_config(steps=steps)
    samples = read_samples(samples_dir, config)
    depth_trainer = DepthTrainer(config, DepthNet(), samples, SINGLE_PROCESS)
    rates = []
    for _ in range(steps):
        rates += depth_trainer.schedule.get_last_lr()[:1]
        depth_trainer.optimizer.step()
        depth_trainer.schedule.step()
    assert rates[peak] == pytest.approx(depth.LEARNING_RATE)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
