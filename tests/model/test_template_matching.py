"""Template matching finds a part at its position and size without any training."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from partloc.model.crop import resizing_matrix
from partloc.model.template_matching import TemplateMatching, edges

NO_FEATURES = torch.zeros(2, 1, 4, 8, 8)  # of a whole and of a part


def test_a_pasted_copy_of_the_part_is_found_at_its_position_and_size():
    torch.manual_seed(0)
    match = TemplateMatching(16, tokens_per_side=8)
    noise = torch.rand(1, 3, 24, 24)
    part = torch.ones(1, 3, 64, 64)
    part[:, :, 8:56, 8:56] = F.interpolate(noise, (48, 48))
    whole = torch.ones(1, 3, 64, 64)
    whole[:, :, 4 * 4 : 4 * 10, 4 * 8 : 4 * 14] = F.interpolate(part, (24, 24), mode="area")
    result = match(whole, part, *NO_FEATURES, torch.tensor([0]), num_proposals=3)
    assert 6 in match.sizes
    true = torch.tensor([(8 + 3) / 8 - 1, (4 + 3) / 8 - 1, math.log(6 / 16)])
    assert_close(match.positions[result.log_probability.argmax(1)][0], true)
    assert_close(result.proposals[0, 0], true, atol=0.05, rtol=0)
    assert result.log_weight[0, 0] > result.log_weight[0, 1] > result.log_weight[0, 2]
    assert result.log_weight.exp().sum() <= 1


def test_two_copies_give_two_proposals():
    torch.manual_seed(0)
    match, noise = TemplateMatching(16, tokens_per_side=8), torch.rand(1, 3, 24, 24)
    part = torch.ones(1, 3, 64, 64)
    part[:, :, 8:56, 8:56] = F.interpolate(noise, (48, 48))
    whole, copy = torch.ones(1, 3, 64, 64), F.interpolate(part, (24, 24), mode="area")
    whole[:, :, 4:28, 4:28], whole[:, :, 36:60, 36:60] = copy, copy
    result = match(whole, part, *NO_FEATURES, torch.tensor([0]), num_proposals=2)
    positions = result.proposals[0, :, :2]
    expected = torch.tensor([[-0.5, -0.5], [0.5, 0.5]])
    assert_close(positions[positions[:, 0].argsort()], expected, atol=0.05, rtol=0)


def test_features_find_a_part_that_colours_and_edges_do_not_show():
    """Whole and part are of one colour; the whole's features contain the part's at half size."""
    torch.manual_seed(0)
    match = TemplateMatching(16, tokens_per_side=16)
    torch.nn.init.constant_(match.feature_weight, 1.0)
    whole_features, part_features = torch.randn(2, 1, 4, 16, 16)
    half = resizing_matrix(16, 8)
    whole_features[..., 2:10, 6:14] = half @ part_features @ half.T
    part = torch.zeros(1, 3, 64, 64)
    part[:, :, ::63, ::63] = 1.0  # corners of another colour: everything else is the part
    whole = torch.zeros(1, 3, 64, 64)
    features = whole_features.requires_grad_(), part_features.requires_grad_()
    result = match(whole, part, *features, torch.tensor([0]), num_proposals=1)
    true = torch.tensor([(6 + 4) / 8 - 1, (2 + 4) / 8 - 1, math.log(8 / 16)])
    # The next sizes fit nearly as well.
    found = match.positions[result.log_probability.argmax(1)][0]
    assert_close(found, true, atol=0.15, rtol=0)
    # The gradient teaches the encoder.
    result.log_probability[0, 0].backward()
    assert all(field.grad.abs().sum() > 0 for field in features)


@pytest.mark.parametrize(("size", "second_is_beside"), [(0.125, True), (0.9, False)])
def test_positions_of_small_parts_may_be_close_to_each_other(size, second_is_beside):
    match = TemplateMatching(32, tokens_per_side=8)
    nearest_size = (match.positions[:, 2] - math.log(size)).abs()
    level = match.positions[nearest_size.argmin(), 2]
    places = [torch.tensor([x, 0.0, level]) for x in (0.0, 0.1875, -0.75)]
    cells = [(match.positions - place).abs().sum(1).argmin() for place in places]
    log_probability = torch.full((1, len(match.positions)), -20.0)
    log_probability[0, cells] = torch.tensor([-1.0, -1.1, -2.0])
    proposals, _ = match._peaks(log_probability, 2)
    second = places[1] if second_is_beside else places[2]
    assert_close(proposals[0, 0, :2], places[0][:2], atol=0.1, rtol=0)
    assert_close(proposals[0, 1, :2], second[:2], atol=0.1, rtol=0)


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
