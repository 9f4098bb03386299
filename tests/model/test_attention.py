"""Pooling of tokens, position encodings, and cross-attention that starts as similarity."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from partloc.model.attention import (
    AttentionPool,
    CrossAttention,
    CrossAttentionLayer,
    TokenPool,
    bin_centers,
    pooling_matrix,
    position_encoding,
)


def test_pooling_73_to_32_equals_adaptive_average_pooling_with_overlapping_bins():
    patches = torch.randn(2, 73 * 73, 3)
    expected = F.adaptive_avg_pool2d(patches.transpose(1, 2).unflatten(2, (73, 73)), 32)
    assert_close(TokenPool(73, 32)(patches), expected.flatten(2).transpose(1, 2))
    weights = pooling_matrix(73, 32)
    assert {int(row.count_nonzero()) for row in weights} == {3, 4}
    assert_close(weights.sum(1), torch.ones(32))


def test_position_encodings_are_at_the_true_bin_centers():
    centers = bin_centers(73, 32)
    assert_close(centers, -centers.flip(0))
    assert centers[0].item() == pytest.approx(3 / 73 - 1)  # the first bin holds patches 0 to 2
    encoding = position_encoding(centers, 16)
    assert encoding.shape == (1024, 16)
    assert len(encoding.unique(dim=0)) == 1024


def test_attention_starts_as_similarity_and_positions_change_only_the_values():
    torch.manual_seed(0)
    layer = CrossAttentionLayer(48, 0.0)
    assert_close(layer.query.weight, layer.key.weight)
    assert_close(layer.query.weight @ layer.query.weight.T, torch.eye(48), atol=1e-5, rtol=0)
    tokens, similarities = torch.randn(1, 9, 48), []
    attend = F.scaled_dot_product_attention

    def spy(query, key, value):
        similarities.append((query @ key.transpose(-2, -1)).mean(1))
        return attend(query, key, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        at_origin = layer(tokens, tokens, torch.zeros(9, 48))
        elsewhere = layer(tokens, tokens, torch.randn(9, 48))
    assert (similarities[0].argmax(-1) == torch.arange(9)).all()
    assert_close(similarities[0], similarities[1])
    assert not torch.allclose(at_origin, elsewhere)


def test_the_weights_of_the_attention_pool_sum_to_one():
    torch.manual_seed(0)
    pool = AttentionPool(8)
    tokens = torch.randn(2, 5, 8)
    same = tokens[:, :1].expand(-1, 5, -1)
    assert_close(pool(same), pool.norm(same)[:, 0])
    assert not torch.allclose(pool(tokens), pool.norm(tokens).mean(1))


def test_cross_attention_depends_on_the_whole():
    torch.manual_seed(0)
    attention = CrossAttention(8, layers=1, dropout=0.0, centers=bin_centers(3, 2))
    part, whole = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    summary = attention(part, whole)
    assert summary.shape == (3, 8)
    assert_close(summary[:1], attention(part[:1], whole[:1]), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(summary, attention(part, whole.flip(0)))
