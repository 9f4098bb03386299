"""Whole and part are aligned at a proposed position, with their depth maps."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from partloc.model.depth_net import MAP_SIDE
from partloc.model.refinement import FEATURE_CHANNELS, CloseUpNet, OverlayNet


def test_the_overlay_shows_the_part_at_its_proposed_position():
    torch.manual_seed(0)
    overlay = OverlayNet(8, tokens_per_side=4)
    inputs = []
    overlay.layers.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    wholes, parts = torch.rand(1, 5, MAP_SIDE, MAP_SIDE), torch.rand(1, 5, MAP_SIDE, MAP_SIDE)
    same, half = [0.0, 0.0, 0.0], [0.5, -0.5, math.log(0.5)]  # whole frame; its upper right quarter
    depth = torch.tensor([[0.0], [0.25]])
    positions = torch.tensor([[same, half]])
    features = torch.rand(2, 1, FEATURE_CHANNELS, 4, 4)
    assert overlay(wholes, parts, features, positions, depth).shape == (1, 2, 8)
    assert_close(inputs[0][:, :3], wholes[:, :3].expand(2, -1, -1, -1))
    assert_close(inputs[0][0, 3:6], parts[0, :3], atol=1e-5, rtol=0)
    quarter = F.avg_pool2d(parts[:, :3], 2)[0]
    middle = MAP_SIDE // 2
    assert_close(inputs[0][1, 3:6, :middle, middle:], quarter, atol=1e-5, rtol=0)
    inside = torch.zeros(MAP_SIDE, MAP_SIDE)
    inside[:middle, middle:] = 1
    assert_close(inputs[0][1, 10], inside)
    color_difference = (inputs[0][1, :3] - inputs[0][1, 3:6]).abs() * inputs[0][1, 9]
    assert_close(inputs[0][1, 6:9], color_difference)
    assert inputs[0][1, 9, middle:].max() == 0  # no mask outside the part's image
    # The depth maps: of the whole around the part's centre, of the part, and their difference.
    mask, around, own, difference = inputs[0][1, [9, 11, 12, 13]]
    assert_close(around, wholes[0, 3] - 0.25)
    part_depth = 0.5 * F.avg_pool2d(parts[:, 3:4], 2)[0, 0]
    assert_close(own[:middle, middle:], part_depth * mask[:middle, middle:], atol=1e-5, rtol=0)
    assert_close(difference, around * mask - own)


def test_the_close_up_shows_the_part_with_a_margin():
    torch.manual_seed(0)
    close_up = CloseUpNet(8)
    inputs = []
    close_up.layers.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    whole = torch.zeros(1, 3, 64, 64)
    whole[:, :, 16:32, 32:48] = 1  # centre at 0.25 right, -0.25 down; half side 0.25
    depths = torch.full((1, 2, MAP_SIDE, MAP_SIDE), 0.4)
    part, part_depths = torch.rand(1, 3, 64, 64), torch.rand(1, 2, MAP_SIDE, MAP_SIDE)
    positions = torch.tensor([[[0.25, -0.25, math.log(0.25)], [0.25, -0.25, math.log(0.5)]]])
    pair = close_up.align(whole, depths, part, part_depths, positions)
    features = torch.rand(2, 1, FEATURE_CHANNELS, 4, 4)
    assert close_up(pair, features, positions, torch.tensor([[0.3], [0.3]])).shape == (1, 2, 8)
    # At its own size the part fills the inner 40 of 64 pixels; at twice the size half of them.
    for compared, side in zip(inputs[0], (40, 20), strict=True):
        assert compared[0].sum().item() == pytest.approx(side**2, rel=0.05)
        assert compared[10].sum() == 40**2
    assert_close(inputs[0][0, 3:6], inputs[0][1, 3:6])
    # Depths are in half sides of the part.
    assert_close(inputs[0][:, 11, 0, 0], torch.tensor([0.1 / 0.25, 0.1 / 0.5]))


def test_the_close_up_samples_the_level_of_its_resolution():
    """Stripes of one pixel are visible around a small proposed part, and grey around a large one;
    they are grey on the part, too, whose image fills the frame."""
    stripes = (torch.arange(256) % 2).float().expand(1, 3, 256, 256)
    flat = torch.zeros(1, 2, MAP_SIDE, MAP_SIDE)
    positions = torch.tensor([[[0.0, 0.0, math.log(size)] for size in (0.05, 0.25, 0.7)]])
    pair = CloseUpNet(8).align(stripes, flat, stripes, flat, positions)
    small, medium, large = pair.whole
    assert small.max() - small.min() > 0.9 and medium.max() - medium.min() > 0.5
    assert_close(large, torch.full_like(large, 0.5), atol=1e-3, rtol=0)
    assert_close(pair.part, torch.full_like(pair.part, 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("net", [OverlayNet(8, tokens_per_side=8), CloseUpNet(8)])
def test_features_are_aligned_with_the_images_and_have_no_effect_before_training(net):
    """Features that are an image of the part: where the images agree, so do the features."""
    torch.manual_seed(0)
    inputs = []
    net.layers.features.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    positions, depth = torch.tensor([[[0.0, 0.0, math.log(0.5)]]]), torch.zeros(1, 1)
    ramp = torch.linspace(-1, 1, 9)[1:] - 1 / 8  # centres of 8 tokens
    part_features = ramp.expand(1, FEATURE_CHANNELS, 8, 8)
    # The part fills the middle of the whole.
    whole_features = (ramp / 0.5).expand(1, FEATURE_CHANNELS, 8, 8)
    if isinstance(net, OverlayNet):
        images = torch.ones(2, 1, 5, MAP_SIDE, MAP_SIDE)
        images[1, :, :, 1:-1, 1:-1] = 0.0  # the part covers its image but for the border
        arguments = *images, (whole_features, part_features), positions, depth
    else:
        images = torch.ones(2, 1, 3, 64, 64)
        images[1, :, :, 1:-1, 1:-1] = 0.0
        maps = torch.zeros(2, 1, 2, MAP_SIDE, MAP_SIDE)
        pair = net.align(images[0], maps[0], images[1], maps[1], positions)
        arguments = pair, (whole_features, part_features), positions, depth
    before = net(*arguments)
    middle = slice(inputs[0].shape[-1] // 2 - 4, inputs[0].shape[-1] // 2 + 4)  # inside the part
    whole, part = inputs[0][..., middle, middle].chunk(2, 1)
    assert part.std() > 0.2
    assert_close(whole, part, atol=0.05, rtol=0)
    torch.nn.init.ones_(net.layers.features.weight)
    assert not torch.allclose(net(*arguments), before)
    torch.nn.init.zeros_(net.layers.features.weight)
    assert_close(net(*arguments), before)
