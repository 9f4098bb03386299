"""Whole and part are aligned at a proposed position, with their depth maps."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from partloc.model.depth_net import MAP_SIDE
from partloc.model.refinement import CloseUpNet, OverlayNet


def test_the_overlay_shows_the_part_at_its_proposed_position():
    torch.manual_seed(0)
    overlay = OverlayNet(8)
    inputs_seen = []
    overlay.layers.register_forward_pre_hook(lambda _, inputs: inputs_seen.append(inputs[0]))
    wholes, parts = torch.rand(1, 5, MAP_SIDE, MAP_SIDE), torch.rand(1, 5, MAP_SIDE, MAP_SIDE)
    same, half = [0.0, 0.0, 0.0], [0.5, -0.5, math.log(0.5)]  # whole frame; its upper right quarter
    depth = torch.tensor([[0.0], [0.25]])
    assert overlay(wholes, parts, torch.tensor([[same, half]]), depth).shape == (1, 2, 8)
    assert_close(inputs_seen[0][:, :3], wholes[:, :3].expand(2, -1, -1, -1))
    assert_close(inputs_seen[0][0, 3:6], parts[0, :3], atol=1e-5, rtol=0)
    quarter = F.avg_pool2d(parts[:, :3], 2)[0]
    middle = MAP_SIDE // 2
    assert_close(inputs_seen[0][1, 3:6, :middle, middle:], quarter, atol=1e-5, rtol=0)
    inside = torch.zeros(MAP_SIDE, MAP_SIDE)
    inside[:middle, middle:] = 1
    assert_close(inputs_seen[0][1, 10], inside)
    differ = (inputs_seen[0][1, :3] - inputs_seen[0][1, 3:6]).abs() * inputs_seen[0][1, 9]
    assert_close(inputs_seen[0][1, 6:9], differ)
    assert inputs_seen[0][1, 9, middle:].max() == 0  # outside its own image nothing is the part
    # The depth maps: the whole's from the part's middle, the part's as large as it is, and how
    # they differ.
    mask, around, own, beyond = inputs_seen[0][1, [9, 11, 12, 13]]
    assert_close(around, wholes[0, 3] - 0.25)
    rise = 0.5 * F.avg_pool2d(parts[:, 3:4], 2)[0, 0]
    assert_close(own[:middle, middle:], rise * mask[:middle, middle:], atol=1e-5, rtol=0)
    assert_close(beyond, around * mask - own)


def test_the_close_up_shows_the_part_with_a_margin():
    torch.manual_seed(0)
    close_up = CloseUpNet(8)
    inputs_seen = []
    close_up.layers.register_forward_pre_hook(lambda _, inputs: inputs_seen.append(inputs[0]))
    whole = torch.zeros(1, 3, 64, 64)
    whole[:, :, 16:32, 32:48] = 1  # centre at 0.25 right, -0.25 down; half side 0.25
    depths = torch.full((1, 2, MAP_SIDE, MAP_SIDE), 0.4)
    part, part_depths = torch.rand(1, 3, 64, 64), torch.rand(1, 2, MAP_SIDE, MAP_SIDE)
    positions = torch.tensor([[[0.25, -0.25, math.log(0.25)], [0.25, -0.25, math.log(0.5)]]])
    pair = close_up.align(whole, depths, part, part_depths, positions)
    assert close_up(pair, positions, torch.tensor([[0.3], [0.3]])).shape == (1, 2, 8)
    # At its own size it fills the inside, 40 of 64 pixels; at twice the size half of it.
    for looked, side in zip(inputs_seen[0], (40, 20), strict=True):
        assert looked[0].sum().item() == pytest.approx(side**2, rel=0.05)
        assert looked[10].sum() == 40**2
    assert_close(inputs_seen[0][0, 3:6], inputs_seen[0][1, 3:6])
    # Depth counts in half sides of the part.
    assert_close(inputs_seen[0][:, 11, 0, 0], torch.tensor([0.1 / 0.25, 0.1 / 0.5]))


def test_the_close_up_samples_the_level_of_its_resolution():
    """Stripes a pixel wide are seen where a small part is proposed, and are grey round a large one,
    as they are on the part, whose image fills the frame."""
    stripes = (torch.arange(256) % 2).float().expand(1, 3, 256, 256)
    flat = torch.zeros(1, 2, MAP_SIDE, MAP_SIDE)
    positions = torch.tensor([[[0.0, 0.0, math.log(size)] for size in (0.05, 0.25, 0.7)]])
    pair = CloseUpNet(8).align(stripes, flat, stripes, flat, positions)
    small, middling, large = pair.whole
    assert small.max() - small.min() > 0.9 and middling.max() - middling.min() > 0.5
    assert_close(large, torch.full_like(large, 0.5), atol=1e-3, rtol=0)
    assert_close(pair.part, torch.full_like(pair.part, 0.5), atol=1e-3, rtol=0)
