"""Part tokens at a proposal attend to the whole's tokens around them."""

import math

import pytest
import torch
from torch.testing import assert_close

from partloc.model.attention import bin_centers
from partloc.model.proposal_attention import (
    CONTEXT_WIDTH,
    Placement,
    ProposalAttention,
    ProposalAttentionLayer,
)

SIDE, WIDTH = 6, 32  # tokens per side, channels
POSITIONS = torch.tensor([[[0.0, 0.0, 0.0], [0.3, -0.4, math.log(0.3)]]])  # two proposals


@pytest.fixture
def attention() -> ProposalAttention:
    torch.manual_seed(0)
    attention = ProposalAttention(WIDTH, layers=1, centers=bin_centers(SIDE, SIDE))
    torch.nn.init.normal_(attention.output[-1].weight)
    return attention


def random_tokens(count: int = 1) -> torch.Tensor:
    return torch.randn(count, SIDE**2, WIDTH)


def test_the_features_are_a_constant_before_training():
    attention = ProposalAttention(WIDTH, layers=1, centers=bin_centers(SIDE, SIDE))
    mask = torch.ones(1, SIDE**2)
    features = attention(random_tokens(), random_tokens(), mask, POSITIONS)
    assert features.shape == (1, 2, CONTEXT_WIDTH)
    assert_close(features, attention.output[-1].bias.expand(1, 2, -1))


def test_the_logits_are_similarity_minus_half_the_squared_distance_in_windows(attention):
    """The three extra channels of queries and keys give the same as a table of distances."""
    layer = attention.layers[0]
    part, whole = torch.randn(2, 1, SIDE**2, WIDTH), random_tokens(2)
    placement = attention._place(POSITIONS.repeat(2, 1, 1))
    window = layer.log_window.exp() * placement.spacing[..., None]  # (2, 2, 1), one head
    attended, position = layer._attend(part, whole, attention.centers, placement.target, window)
    query, key, value = layer.query(part), layer.key(whole), layer.value(whole)
    distance = torch.cdist(placement.target, attention.centers.expand(2, 2, -1, -1))
    logits = query @ key[:, None].mT / WIDTH**0.5 - (distance / window[..., None]) ** 2 / 2
    weights = logits.softmax(-1)  # (2, 2, M, M)
    assert_close(attended, weights @ value[:, None], atol=1e-5, rtol=1e-4)
    assert_close(position[..., 0, :], weights @ attention.centers, atol=1e-5, rtol=1e-4)


def test_a_narrow_window_finds_the_token_at_the_target():
    """A part that is the whole, at the centre and in full size, attends to itself."""
    layer = ProposalAttentionLayer(WIDTH)
    torch.nn.init.zeros_(layer.query.weight)  # no content
    centers = torch.stack(torch.meshgrid(*[bin_centers(SIDE, SIDE)] * 2, indexing="xy"), -1)
    centers = centers.flatten(0, 1)
    whole = random_tokens()
    placement = Placement(centers[None, None], torch.full((1, 1), 2 / SIDE))
    window = torch.full((1, 1, 1), 0.1 * 2 / SIDE)
    attended, position = layer._attend(whole[:, None], whole, centers, placement.target, window)
    assert_close(attended[0, 0], layer.value(whole)[0], atol=1e-5, rtol=1e-4)
    assert_close(position[0, 0, :, 0], centers, atol=1e-5, rtol=1e-4)


def test_each_proposal_sees_the_whole_around_its_own_position(attention):
    """A change of the whole at the first proposal does not change the second one's features."""
    torch.nn.init.zeros_(attention.layers[0].query.weight)
    with torch.no_grad():
        attention.layers[0].log_window.fill_(math.log(0.3))
    part, whole, mask = random_tokens(), random_tokens(), torch.ones(1, SIDE**2)
    positions = torch.tensor([[[-0.6, -0.6, math.log(0.2)], [0.6, 0.6, math.log(0.2)]]])
    before = attention(part, whole, mask, positions)
    changed = whole.clone()
    changed[:, attention.centers.amax(1) < 0] += 1.0
    after = attention(part, changed, mask, positions)
    assert (after - before)[0, 0].abs().max() > 0.1
    assert_close(after[0, 1], before[0, 1], atol=1e-4, rtol=1e-4)


def test_tokens_outside_the_part_do_not_count(attention):
    part, whole = random_tokens(), random_tokens()
    mask = torch.zeros(1, SIDE**2)
    mask[:, :5] = 1.0
    changed = part.clone()
    changed[:, 5:] = 0.0
    expected = attention(part, whole, mask, POSITIONS)
    assert_close(attention(changed, whole, mask, POSITIONS), expected)
    assert not torch.allclose(attention(changed, whole, 1 - mask, POSITIONS), expected)


def test_the_map_shows_where_the_part_is_put():
    """Without content, a narrow window attends to the tokens below the part's own."""
    torch.manual_seed(0)
    attention = ProposalAttention(WIDTH, layers=2, centers=bin_centers(SIDE, SIDE))
    with torch.no_grad():
        for layer in attention.layers:
            torch.nn.init.zeros_(layer.query.weight)
            layer.log_window.fill_(math.log(0.2))
    # The part is a quarter of the whole, at the top left; its tokens lie in 3 x 3 of the 6 x 6.
    positions = torch.tensor([[[-0.5, -0.5, math.log(0.5)]]])
    maps = attention.attended(
        random_tokens(), random_tokens(), torch.ones(1, SIDE**2), positions
    ).unflatten(-1, (SIDE, SIDE))
    assert_close(maps.sum((2, 3)), torch.ones(1, 1))
    assert maps[0, 0, :3, :3].sum() > 0.95


def test_the_map_is_the_mean_of_the_weights_that_the_features_are_made_with(attention):
    part, whole, mask = random_tokens(), random_tokens(), torch.zeros(1, SIDE**2)
    mask[:, 7] = 1.0  # one token of the part
    layer = attention.layers[0]
    torch.nn.init.eye_(layer.value.weight)
    attended, _ = layer._attend(
        part[:, None],
        whole,
        attention.centers,
        (placement := attention._place(POSITIONS)).target,
        layer.log_window.exp() * placement.spacing[..., None],
    )
    maps = attention.attended(part, whole, mask, POSITIONS)  # (1, 2, M)
    assert_close(maps @ layer.value(whole), attended[:, :, 7], atol=1e-5, rtol=1e-4)
