"""Images are cropped to their content, and positions convert between both frames."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from toys import single_hypothesis

from partloc.config import TrainConfig
from partloc.data.transforms import crop_jitter_from_uniform
from partloc.model.crop import (
    CROP_MARGIN,
    content_crops,
    from_crop_frame,
    jitter_crops,
    resample_crops,
    to_crop_frame,
)
from partloc.pose import PartPose
from partloc.training.losses import training_loss


def gray_box(top: int, left: int, height: int, width: int, side: int = 64) -> torch.Tensor:
    """An image (1, 3, side, side) of a grey box on white."""
    image = torch.ones(1, 3, side, side)
    image[:, :, top : top + height, left : left + width] = 0.2
    return image


def test_a_crop_is_the_square_around_the_content():
    right, down, log_half = content_crops(gray_box(16, 24, 8, 16))[0].tolist()
    assert (right, down) == pytest.approx((0.0, -0.375), abs=0.01)
    # The blur may add a pixel on each side.
    assert math.exp(log_half) == pytest.approx(0.25 * CROP_MARGIN, abs=2 * CROP_MARGIN / 64 + 1e-3)


def test_a_crop_stays_inside_the_image():
    crops = content_crops(torch.cat([gray_box(0, 30, 10, 20), gray_box(2, 2, 60, 60)]))
    half = crops[:, 2:].exp()
    assert ((crops[:, :2].abs() + half) <= 1 + 1e-6).all()


def test_noise_does_not_enlarge_a_crop():
    torch.manual_seed(0)
    clean = gray_box(16, 24, 8, 16)
    noise = 0.05 * torch.randn_like(clean)  # about 3 of 256 levels, in normalised pixels
    assert_close(content_crops(clean + noise), content_crops(clean), atol=0.1, rtol=0)


def test_an_image_without_content_or_plain_background_is_not_cropped():
    torch.manual_seed(0)
    images = torch.cat([torch.ones(1, 3, 64, 64), 3 * torch.rand(1, 3, 64, 64)])
    assert_close(content_crops(images)[0], torch.zeros(3))
    assert content_crops(images)[1, 2] > -0.05


def test_a_jittered_crop_contains_the_crop_and_stays_inside_the_image():
    torch.manual_seed(0)
    half = 0.1 + 0.9 * torch.rand(500, 1)
    crops = torch.cat([(2 * torch.rand(500, 2) - 1) * (1 - half), half.log()], 1)
    jittered = jitter_crops(crops, crop_jitter_from_uniform(torch.rand(500, 4), 0.3))
    wide = jittered[:, 2:].exp()
    assert ((jittered[:, :2] - crops[:, :2]).abs() <= wide - half + 1e-6).all()
    assert (jittered[:, :2].abs() + wide <= 1 + 1e-6).all()
    growth = (wide / half)[:, 0]
    assert (growth <= 1.3 + 1e-6).all() and growth.max() > 1.25
    same = (jittered == crops).all(1)
    assert 0.4 < same.float().mean() < 0.6
    moved = (jittered[:, :2] - crops[:, :2])[~same & (crops[:, :2].abs().amax(1) < 0.3)]
    assert moved.mean(0).abs().max() < 0.01 and moved.abs().max() > 0.03


def test_resampling_the_full_image_at_its_size_changes_nothing():
    image = torch.rand(2, 3, 20, 20)
    assert_close(resample_crops(image, torch.zeros(2, 3), 20), image)


def test_resampling_agrees_with_grid_sample():
    torch.manual_seed(0)
    image = F.avg_pool2d(torch.rand(1, 3, 68, 68), 5, 1)  # smooth, 64 per side
    crops = torch.tensor([[0.2, -0.1, 0.5]])
    crops[:, 2].log_()
    cells = (torch.arange(40) + 0.5) / 20 - 1
    down, right = torch.meshgrid(cells * 0.5 - 0.1, cells * 0.5 + 0.2, indexing="ij")
    expected = F.grid_sample(image, torch.stack([right, down], -1)[None], align_corners=False)
    assert_close(resample_crops(image, crops, 40), expected, atol=1e-5, rtol=0)


def test_reducing_the_resolution_averages():
    torch.manual_seed(0)
    noise = torch.randn(1, 1, 64, 64)
    assert resample_crops(noise, torch.zeros(1, 3), 8).std() < 0.3


def test_crop_frame_conversion_is_invertible():
    torch.manual_seed(0)
    positions, wholes, parts = torch.randn(4, 5, 3), torch.randn(4, 3), torch.randn(4, 3)
    assert_close(from_crop_frame(to_crop_frame(positions, wholes, parts), wholes, parts), positions)


def test_a_position_in_the_crop_frame_is_that_of_the_parts_crop():
    """A part's image, 32 of 64 pixels large, pasted at (8, 16) of the whole."""
    part = gray_box(20, 8, 16, 40)
    small = F.interpolate(part, (32, 32), mode="area")
    whole = gray_box(60, 0, 2, 64)  # another object, which widens the crop
    whole[:, :, 16:48, 8:40] = small
    crops = content_crops(whole), content_crops(part)
    position = torch.tensor([[[(8 + 16) / 32 - 1, (16 + 16) / 32 - 1, 0.5]]])
    position[..., 2].log_()
    converted = to_crop_frame(position, *crops)[0]  # (1, 3)
    # The whole's crop, cropped to the position, shows the part's crop.
    found = resample_crops(resample_crops(whole, crops[0], 128), converted, 24)
    expected = resample_crops(part, crops[1], 24)
    assert_close(found, expected, atol=0.35, rtol=0)
    assert (found - expected).abs().mean() < 0.03
    assert converted[0, 2] < 0


def test_the_match_loss_compares_in_the_crop_frame():
    crops = torch.tensor([[0.2, -0.1, -0.5, 0.1, 0.3, -0.4]])
    target = torch.tensor([[[0.25, 0.0, -1.5]]])  # in the full image
    position = to_crop_frame(target, *crops.split(3, 1))
    pose = PartPose(torch.zeros(1, 3), torch.ones(1, 1))
    certain = single_hypothesis(pose)
    certain = certain._replace(proposals=position, crops=crops, log_probability=torch.zeros(1, 1))
    targets, config = certain.hypotheses, TrainConfig()

    def match_loss(positions: torch.Tensor) -> float:
        prediction = certain._replace(positions=positions)
        return training_loss(prediction, targets, target, config).match_loss.item()

    assert match_loss(position[0]) == pytest.approx(0.0, abs=1e-6)
    assert match_loss(target[0]) > 0.1
