"""Template matching finds a part at its position and size without any training."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from partloc.model.template_matching import TemplateMatching, edges


def test_a_pasted_copy_of_the_part_is_found_at_its_position_and_size():
    torch.manual_seed(0)
    match = TemplateMatching(16)
    noise = torch.rand(1, 3, 24, 24)
    part = torch.ones(1, 3, 64, 64)
    part[:, :, 8:56, 8:56] = F.interpolate(noise, (48, 48))
    whole = torch.ones(1, 3, 64, 64)
    whole[:, :, 4 * 4 : 4 * 10, 4 * 8 : 4 * 14] = F.interpolate(part, (24, 24), mode="area")
    result = match(whole, part, torch.tensor([0]), num_proposals=3)
    assert 6 in match.sizes
    true = torch.tensor([(8 + 3) / 8 - 1, (4 + 3) / 8 - 1, math.log(6 / 16)])
    assert_close(match.positions[result.log_probability.argmax(1)][0], true)
    assert_close(result.proposals[0, 0], true, atol=0.05, rtol=0)
    assert result.log_weight[0, 0] > result.log_weight[0, 1] > result.log_weight[0, 2]
    assert result.log_weight.exp().sum() <= 1


def test_two_copies_give_two_proposals():
    torch.manual_seed(0)
    match, noise = TemplateMatching(16), torch.rand(1, 3, 24, 24)
    part = torch.ones(1, 3, 64, 64)
    part[:, :, 8:56, 8:56] = F.interpolate(noise, (48, 48))
    whole, copy = torch.ones(1, 3, 64, 64), F.interpolate(part, (24, 24), mode="area")
    whole[:, :, 4:28, 4:28], whole[:, :, 36:60, 36:60] = copy, copy
    positions = match(whole, part, torch.tensor([0]), num_proposals=2).proposals[0, :, :2]
    expected = torch.tensor([[-0.5, -0.5], [0.5, 0.5]])
    assert_close(positions[positions[:, 0].argsort()], expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("brightness", [-1.0, 0.5])
def test_edges_do_not_depend_on_contrast(brightness):
    image = torch.zeros(1, 3, 16, 16)
    image[:, :, :, 8:] = 1.0
    expected = edges(image)
    assert_close(expected[0, :, 8, 7], torch.tensor([1.0, 1.0, 0.0]), atol=0.02, rtol=0)  # upright
    assert_close(expected[0, :, 8, 2], torch.zeros(3))
    assert_close(edges(brightness * image), expected, atol=0.05, rtol=0)
    assert_close(edges(image.mT)[0, :, 7, 8], torch.tensor([1.0, -1.0, 0.0]), atol=0.02, rtol=0)


def test_the_two_diagonals_are_different_edges():
    falling = (torch.ones(16, 16).triu() - 0.5).expand(1, 3, -1, -1)  # along down = right
    assert_close(edges(falling)[0, :, 8, 8], torch.tensor([1.0, 0.0, -1.0]), atol=0.02, rtol=0)
    rising = falling.flip(-1)
    assert_close(edges(rising)[0, :, 8, 7], torch.tensor([1.0, 0.0, 1.0]), atol=0.02, rtol=0)
