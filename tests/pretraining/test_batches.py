"""Rendered batches: many cameras, lights and backgrounds, true poses, nothing stored."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from partloc.data.transforms import Preprocessing
from partloc.model.crop import content_crops
from partloc.pose import PartPose
from partloc.pretraining import batches as batches_module
from partloc.pretraining.batches import OBJECTS, RenderedBatch, RenderedBatches, random_background
from partloc.pretraining.depth_maps import crop_depth_maps, depth_map_losses
from partloc.synthetic.families import DEMO_OBJECTS


@pytest.fixture(scope="module")
def batches() -> RenderedBatches:
    return RenderedBatches(0, Preprocessing(56, 128))


@pytest.fixture(scope="module")
def batch(batches) -> RenderedBatch:
    return batches[0]


def test_a_batch_depends_on_its_number_and_the_seed_alone(batches, batch):
    again = RenderedBatches(0, batches.preprocessing)[0]
    for field, expected in zip(again[:4], batch[:4], strict=True):
        assert_close(field, expected, rtol=0, atol=0, equal_nan=True)
    assert_close(again.camera.slope, batch.camera.slope)
    other = batches[1]
    assert not torch.equal(other.camera.slope, batch.camera.slope)
    seeded = RenderedBatches(1, batches.preprocessing)[0]
    assert not torch.equal(seeded.camera.slope, batch.camera.slope)


def test_every_part_is_in_its_whole_where_the_camera_projects_its_pose(batch):
    """The centre of the part's image content is near the projection of a twin, in the image of the
    whole; the size agrees with the projected scale."""
    assert batch.num_wholes == batches_module.MODELS_PER_BATCH
    assert batch.poses.scale.shape[:2] == batch.poses.translation.shape[:2]
    crops = content_crops(batch.images)
    positions = batch.camera.project(batch.poses)  # (U, T, 3)
    for part, whole in enumerate(batch.whole_of_part):
        center, half = crops[whole][:2], crops[whole][2].exp() * 1.1
        assert ((positions[part, :, :2] - center).abs() < half).all()
    assert (batch.poses.scale > 0).all() and (batch.poses.scale <= 1).all()


def test_depth_maps_are_of_the_images(batch):
    """The foreground of a depth map is the content of its image."""
    foreground = ~batch.depths.isnan()
    small = torch.nn.functional.interpolate(batch.images, foreground.shape[-1], mode="area")
    background = small[:, :, :1, :1]
    content = (small - background).abs().amax(1) > 0.5
    overlap = (foreground & content).sum((1, 2)) / (foreground | content).sum((1, 2)).clamp(min=1)
    assert overlap.median() > 0.8


def test_the_objects_are_of_no_stream_of_the_demo():
    assert OBJECTS.stream != DEMO_OBJECTS.stream


def test_half_of_the_backgrounds_are_white_and_half_of_the_others_grey():
    rng = np.random.default_rng(0)
    colors = [random_background(rng) for _ in range(400)]
    white = sum(color == (255, 255, 255) for color in colors)
    grey = sum(len(set(color)) == 1 for color in colors) - white
    assert 160 < white < 240 and 70 < grey < 130


def test_the_depths_of_a_crop_are_in_its_half_sides():
    crops = torch.tensor([[0.5, -0.5, np.log(0.25)]], dtype=torch.float32)
    maps = torch.full((1, 128, 128), float("nan"))
    maps[:, 16:48, 80:112] = 0.1
    cropped = crop_depth_maps(maps, crops, image_scale=torch.tensor(1.2))
    assert_close(cropped, torch.full_like(cropped, 0.1 * 1.2 / 0.25))


def test_the_depth_loss_is_the_likelihood_on_the_foreground():
    prediction = torch.zeros(1, 2, 4, 4)
    prediction[:, 0], prediction[:, 1] = 0.5, np.log(0.5)
    depths = torch.full((1, 1, 4, 4), float("nan"))
    depths[..., :2] = 0.25
    nll, error = depth_map_losses(prediction, depths)
    assert_close(error, torch.tensor([0.25]))
    assert_close(nll, torch.tensor([0.25 / 0.5 + np.log(0.5)], dtype=torch.float32))


def test_smaller_groups_of_twins_repeat_their_first_pose(batch):
    poses: PartPose = batch.poses
    counts = [len({tuple(t) for t in twins.tolist()}) for twins in poses.translation]
    assert max(counts) == poses.translation.shape[1]
    part = counts.index(min(counts))
    assert_close(poses.translation[part, -1], poses.translation[part, 0])
