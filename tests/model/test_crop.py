"""Images are cropped to their content, and positions convert between both frames."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from toys import single_hypothesis, tiny_config

from partloc.config import TrainConfig
from partloc.data.transforms import Preprocessing, crop_jitter_from_uniform
from partloc.model.camera import PinholeCamera
from partloc.model.crop import (
    CROP_MARGIN,
    content_crops,
    from_crop_frame,
    jitter_crops,
    resample_crops,
    to_crop_frame,
)
from partloc.model.locator import PartLocator
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
    prediction = jitter_crops(crops, crop_jitter_from_uniform(torch.rand(500, 4), 0.3))
    wide = prediction[:, 2:].exp()
    assert ((prediction[:, :2] - crops[:, :2]).abs() <= wide - half + 1e-6).all()
    assert (prediction[:, :2].abs() + wide <= 1 + 1e-6).all()
    growth = (wide / half)[:, 0]
    assert (growth <= 1.3 + 1e-6).all() and growth.max() > 1.25
    same = (prediction == crops).all(1)
    assert 0.4 < same.float().mean() < 0.6
    moved = (prediction[:, :2] - crops[:, :2])[~same & (crops[:, :2].abs().amax(1) < 0.3)]
    assert moved.mean(0).abs().max() < 0.01 and moved.abs().max() > 0.03


def test_a_model_jitters_crops_only_when_asked():
    images = torch.cat(whole_and_part())
    model = PartLocator(CONFIG, Preprocessing(56, 128))
    tight = model.encode(images).crop
    assert_close(tight, content_crops(images))
    torch.manual_seed(0)
    jitter = [crop_jitter_from_uniform(torch.rand(len(images), 4), 0.3) for _ in range(8)]
    crops = torch.stack([model.encode(images, jitter=each).crop for each in jitter])
    assert (crops[..., 2] >= tight[:, 2] - 1e-6).all() and (crops != tight).any((0, 2)).all()


def test_resampling_the_full_image_at_its_size_changes_nothing():
    image = torch.rand(2, 3, 20, 20)
    assert_close(resample_crops(image, torch.zeros(2, 3), 20), image)


def test_resampling_agrees_with_grid_sample():
    torch.manual_seed(0)
    image = F.avg_pool2d(torch.rand(1, 3, 68, 68), 5, 1)  # smooth, 64 a side
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
    whole = gray_box(60, 0, 2, 64)  # something else that widens the crop
    whole[:, :, 16:48, 8:40] = small
    crops = content_crops(whole), content_crops(part)
    position = torch.tensor([[[(8 + 16) / 32 - 1, (16 + 16) / 32 - 1, 0.5]]])
    position[..., 2].log_()
    right, down, log_size = to_crop_frame(position, *crops)[0, 0]
    size = log_size.exp()
    side = 128
    seen = resample_crops(whole, crops[0], side)
    # Cut the position out of the whole's crop; it must show the part's crop.
    cut = torch.tensor([[right, down, log_size]])
    assert_close(
        resample_crops(seen, cut, 24), resample_crops(part, crops[1], 24), atol=0.35, rtol=0
    )
    assert (resample_crops(seen, cut, 24) - resample_crops(part, crops[1], 24)).abs().mean() < 0.03
    assert 0 < size < 1


CONFIG = tiny_config(model={"match_size": 8}).model


def whole_and_part() -> tuple[torch.Tensor, torch.Tensor]:
    """A whole and a part, (1, 3, 128, 128), neither in the middle of its image."""
    torch.manual_seed(0)
    whole, part = torch.ones(1, 3, 128, 128), gray_box(50, 20, 30, 48, 128)
    whole[:, :, 48:80, 32:96] = torch.rand(1, 3, 32, 64)
    return whole, part


def test_predictions_are_in_the_full_image_frame():
    """An untrained network predicts, at each position, the point that the camera sees there:
    its proposals, told in the crops, and gt_pose, told in the frame."""
    flat = CONFIG.model_copy(update={"depth_maps": False})
    model = PartLocator(flat, Preprocessing(56, 128)).eval()
    slope = torch.tensor([[1.0, 0, 0], [0, 0, -1.0]])
    camera = PinholeCamera(slope, torch.zeros(2), torch.zeros(()), 1.0)
    model.set_camera(camera)
    gt = torch.tensor([[0.3, -0.2, -0.5]])  # right, down, log size
    gt = camera.unproject(gt, torch.tensor([[0.1]]))
    prediction = model(*whole_and_part(), torch.tensor([0]), gt)
    assert_close(prediction.gt_prediction.translation, torch.tensor([[0.3, 0.0, 0.2]]))
    assert_close(prediction.gt_prediction.scale.log(), torch.tensor([[-0.5]]))
    wholes, parts = prediction.crops.split(3, 1)
    assert (wholes - parts).abs().max() > 0.1
    positions = from_crop_frame(prediction.proposals, wholes, parts)
    across = (positions[..., :2] * torch.tensor([1, -1])).clamp(-0.5, 0.5)
    assert_close(prediction.hypotheses.translation[..., [0, 2]], across)
    assert_close(prediction.hypotheses.scale.log(), positions[..., 2:].clamp(max=0))


def test_the_match_loss_compares_in_the_crop_frame():
    crops = torch.tensor([[0.2, -0.1, -0.5, 0.1, 0.3, -0.4]])
    target = torch.tensor([[[0.25, 0.0, -1.5]]])  # in the frame
    position = to_crop_frame(target, *crops.split(3, 1))
    pose = PartPose(torch.zeros(1, 3), torch.ones(1, 1))
    sure = single_hypothesis(pose)
    sure = sure._replace(proposals=position, crops=crops, log_probability=torch.zeros(1, 1))
    targets, weights = sure.hypotheses, TrainConfig()

    def match_loss(positions: torch.Tensor) -> float:
        prediction = sure._replace(positions=positions)
        return training_loss(prediction, targets, target, weights).match_loss.item()

    assert match_loss(position[0]) == pytest.approx(0.0, abs=1e-6)
    assert match_loss(target[0]) > 0.1


def test_padding_with_background_changes_only_the_crop():
    """The same images on twice the ground: only the position in the frame is another one."""
    whole, part = whole_and_part()
    model = PartLocator(CONFIG, Preprocessing(56, 128)).eval()
    wide = [F.pad(image, (64,) * 4, value=1.0) for image in (whole, part)]
    prediction, again = (model.encode(torch.cat(images)) for images in ([whole, part], wide))
    assert_close(prediction.image, again.image, atol=0.05, rtol=0)
    assert_close(prediction.patches, again.patches, atol=0.05, rtol=0.05)
    assert_close(prediction.crop[:, 2].exp(), 2 * again.crop[:, 2].exp(), atol=0.01, rtol=0)
