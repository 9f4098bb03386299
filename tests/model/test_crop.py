"""Pictures are cropped to what they show, and every place can be told in either frame."""

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
    MARGIN,
    content_crops,
    from_crop_frame,
    jitter_crops,
    resample_crops,
    to_crop_frame,
)
from partloc.model.locator import PartLocator
from partloc.pose import PartPose
from partloc.training.losses import training_loss


def drawn(top: int, left: int, height: int, width: int, side: int = 64) -> torch.Tensor:
    """A picture (1, 3, side, side) of a grey box on white."""
    picture = torch.ones(1, 3, side, side)
    picture[:, :, top : top + height, left : left + width] = 0.2
    return picture


def test_a_crop_is_the_square_round_what_is_shown():
    right, down, log_half = content_crops(drawn(16, 24, 8, 16))[0].tolist()
    assert (right, down) == pytest.approx((0.0, -0.375), abs=0.01)
    # Smoothing against noise may add a pixel on each side.
    assert math.exp(log_half) == pytest.approx(0.25 * MARGIN, abs=2 * MARGIN / 64 + 1e-3)


def test_a_crop_stays_inside_the_picture():
    crops = content_crops(torch.cat([drawn(0, 30, 10, 20), drawn(2, 2, 60, 60)]))
    half = crops[:, 2:].exp()
    assert ((crops[:, :2].abs() + half) <= 1 + 1e-6).all()


def test_grain_does_not_make_a_crop_wider():
    torch.manual_seed(0)
    clean = drawn(16, 24, 8, 16)
    grain = 0.05 * torch.randn_like(clean)  # about 3 of 256 levels, in normalised pixels
    assert_close(content_crops(clean + grain), content_crops(clean), atol=0.1, rtol=0)


def test_a_picture_that_shows_nothing_or_has_no_plain_ground_is_kept_whole():
    torch.manual_seed(0)
    pictures = torch.cat([torch.ones(1, 3, 64, 64), 3 * torch.rand(1, 3, 64, 64)])
    assert_close(content_crops(pictures)[0], torch.zeros(3))
    assert content_crops(pictures)[1, 2] > -0.05


def test_a_jittered_crop_holds_what_the_crop_held_and_stays_inside_the_picture():
    torch.manual_seed(0)
    half = 0.1 + 0.9 * torch.rand(500, 1)
    crops = torch.cat([(2 * torch.rand(500, 2) - 1) * (1 - half), half.log()], 1)
    found = jitter_crops(crops, crop_jitter_from_uniform(torch.rand(500, 4), 0.3))
    wide = found[:, 2:].exp()
    assert ((found[:, :2] - crops[:, :2]).abs() <= wide - half + 1e-6).all()
    assert (found[:, :2].abs() + wide <= 1 + 1e-6).all()
    growth = (wide / half)[:, 0]
    assert (growth <= 1.3 + 1e-6).all() and growth.max() > 1.25
    same = (found == crops).all(1)
    assert 0.4 < same.float().mean() < 0.6
    moved = (found[:, :2] - crops[:, :2])[~same & (crops[:, :2].abs().amax(1) < 0.3)]
    assert moved.mean(0).abs().max() < 0.01 and moved.abs().max() > 0.03


def test_a_model_sees_jittered_crops_only_where_it_is_told_how():
    pictures = torch.cat(boxes())
    model = PartLocator(CONFIG, Preprocessing(56, 128))
    tight = model.encode(pictures).crop
    assert_close(tight, content_crops(pictures))
    torch.manual_seed(0)
    jitter = [crop_jitter_from_uniform(torch.rand(len(pictures), 4), 0.3) for _ in range(8)]
    crops = torch.stack([model.encode(pictures, jitter=each).crop for each in jitter])
    assert (crops[..., 2] >= tight[:, 2] - 1e-6).all() and (crops != tight).any((0, 2)).all()
    model.config = CONFIG.model_copy(update={"crop": False})
    assert not model.encode(pictures, jitter=jitter[0]).crop.any()


def test_seen_whole_and_in_its_own_size_a_picture_is_itself():
    picture = torch.rand(2, 3, 20, 20)
    assert_close(resample_crops(picture, torch.zeros(2, 3), 20), picture)


def test_a_crop_shows_what_torch_s_own_sampling_shows():
    torch.manual_seed(0)
    picture = F.avg_pool2d(torch.rand(1, 3, 68, 68), 5, 1)  # smooth, 64 a side
    crops = torch.tensor([[0.2, -0.1, 0.5]])
    crops[:, 2].log_()
    cells = (torch.arange(40) + 0.5) / 20 - 1
    down, right = torch.meshgrid(cells * 0.5 - 0.1, cells * 0.5 + 0.2, indexing="ij")
    expected = F.grid_sample(picture, torch.stack([right, down], -1)[None], align_corners=False)
    assert_close(resample_crops(picture, crops, 40), expected, atol=1e-5, rtol=0)


def test_fewer_pixels_are_averages_of_many():
    torch.manual_seed(0)
    grain = torch.randn(1, 1, 64, 64)
    assert resample_crops(grain, torch.zeros(1, 3), 8).std() < 0.3


def test_into_the_crops_and_out_again_is_the_same_place():
    torch.manual_seed(0)
    places, wholes, parts = torch.randn(4, 5, 3), torch.randn(4, 3), torch.randn(4, 3)
    assert_close(from_crop_frame(to_crop_frame(places, wholes, parts), wholes, parts), places)


def test_a_place_in_the_crops_is_where_the_crop_of_the_part_lies_in_that_of_the_whole():
    """A part's picture, 32 of 64 pixels large, pasted at (8, 16) of the whole."""
    part = drawn(20, 8, 16, 40)
    small = F.interpolate(part, (32, 32), mode="area")
    whole = drawn(60, 0, 2, 64)  # something else that widens the crop
    whole[:, :, 16:48, 8:40] = small
    crops = content_crops(whole), content_crops(part)
    place = torch.tensor([[[(8 + 16) / 32 - 1, (16 + 16) / 32 - 1, 0.5]]])
    place[..., 2].log_()
    right, down, log_size = to_crop_frame(place, *crops)[0, 0]
    size = log_size.exp()
    side = 128
    seen = resample_crops(whole, crops[0], side)
    # Cut the place out of the whole's crop; it must show the part's crop.
    cut = torch.tensor([[right, down, log_size]])
    assert_close(
        resample_crops(seen, cut, 24), resample_crops(part, crops[1], 24), atol=0.35, rtol=0
    )
    assert (resample_crops(seen, cut, 24) - resample_crops(part, crops[1], 24)).abs().mean() < 0.03
    assert 0 < size < 1


CONFIG = tiny_config(model={"match_size": 8}).model


def boxes() -> tuple[torch.Tensor, torch.Tensor]:
    """A whole and a part, (1, 3, 128, 128), neither in the middle of its picture."""
    torch.manual_seed(0)
    whole, part = torch.ones(1, 3, 128, 128), drawn(50, 20, 30, 48, 128)
    whole[:, :, 48:80, 32:96] = torch.rand(1, 3, 32, 64)
    return whole, part


def test_answers_are_of_the_frame_whatever_was_cropped():
    """A network that has learned nothing answers a place with the point that the camera has there:
    its proposals, told in the crops, and gt_pose, told in the frame."""
    flat = CONFIG.model_copy(update={"depth_maps": False})
    model = PartLocator(flat, Preprocessing(56, 128)).eval()
    slope = torch.tensor([[1.0, 0, 0], [0, 0, -1.0]])
    view = PinholeCamera(slope, torch.zeros(2), torch.zeros(()), 1.0)
    model.set_camera(view)
    guide = torch.tensor([[0.3, -0.2, -0.5]])  # right, down, log size
    guide = view.unproject(guide, torch.tensor([[0.1]]))
    found = model(*boxes(), torch.tensor([0]), guide)
    assert_close(found.gt_prediction.translation, torch.tensor([[0.3, 0.0, 0.2]]))
    assert_close(found.gt_prediction.scale.log(), torch.tensor([[-0.5]]))
    wholes, parts = found.crops.split(3, 1)
    assert (wholes - parts).abs().max() > 0.1
    places = from_crop_frame(found.proposals, wholes, parts)
    across = (places[..., :2] * torch.tensor([1, -1])).clamp(-0.5, 0.5)
    assert_close(found.hypotheses.translation[..., [0, 2]], across)
    assert_close(found.hypotheses.scale.log(), places[..., 2:].clamp(max=0))


def test_matching_is_charged_for_places_of_the_crops():
    crops = torch.tensor([[0.2, -0.1, -0.5, 0.1, 0.3, -0.4]])
    target = torch.tensor([[[0.25, 0.0, -1.5]]])  # in the frame
    place = to_crop_frame(target, *crops.split(3, 1))
    pose = PartPose(torch.zeros(1, 3), torch.ones(1, 1))
    sure = single_hypothesis(pose)
    sure = sure._replace(proposals=place, crops=crops, log_probability=torch.zeros(1, 1))
    targets, weights = sure.hypotheses, TrainConfig()

    def charged(places: torch.Tensor) -> float:
        found = sure._replace(places=places)
        return training_loss(found, targets, target, weights).match_loss.item()

    assert charged(place[0]) == pytest.approx(0.0, abs=1e-6)
    assert charged(target[0]) > 0.1


def test_empty_ground_round_the_whole_and_the_part_changes_no_answer():
    """The same pictures on twice the ground: only the place in the frame is another one."""
    whole, part = boxes()
    model = PartLocator(CONFIG, Preprocessing(56, 128)).eval()
    wide = [F.pad(picture, (64,) * 4, value=1.0) for picture in (whole, part)]
    found, again = (model.encode(torch.cat(pictures)) for pictures in ([whole, part], wide))
    assert_close(found.image, again.image, atol=0.05, rtol=0)
    assert_close(found.patches, again.patches, atol=0.05, rtol=0.05)
    assert_close(found.crop[:, 2].exp(), 2 * again.crop[:, 2].exp(), atol=0.01, rtol=0)

    seen_whole = PartLocator(CONFIG.model_copy(update={"crop": False}), Preprocessing(56, 128))
    assert not seen_whole.encode(whole).crop.any()
