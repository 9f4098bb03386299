"""Cross-attention from the part's tokens to the whole's.

Shapes: B pairs, G patches per side of the encoder's grid, S tokens per side after pooling, M = S *
S tokens, D backbone width, C token width, A attention heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_DIM = 64  # channels of an attention head


def pooling_matrix(source: int, target: int) -> Tensor:
    """(target, source): row i averages the bin i of 1-D adaptive average pooling.

    Bins overlap when source is no multiple of target: 73 -> 32 has bins of 3 and of 4. A matrix
    product is deterministic on every device; the gradient of the pooling kernel is not.
    """
    weights = torch.zeros(target, source)
    for i in range(target):
        start, end = i * source // target, -(-(i + 1) * source // target)
        weights[i, start:end] = 1 / (end - start)
    return weights


def bin_centers(source: int, target: int) -> Tensor:
    """(target,) centres of the pooling bins, in [-1, 1] across the grid."""
    cells = torch.arange(source) + 0.5
    return pooling_matrix(source, target) @ cells * (2 / source) - 1


def position_encoding(centers: Tensor, width: int) -> Tensor:
    """(S * S, width) sine and cosine encoding of each token's 2-D position, row by row.

    Source: Attention Is All You Need, section 3.5 (arXiv:1706.03762), half of the width per axis.
    """
    count = width // 4
    frequencies = math.pi * 2.0 ** torch.linspace(-1, math.log2(len(centers)) - 1, count)
    angles = centers[:, None] * frequencies  # (S, count)
    encoding = torch.cat([angles.sin(), angles.cos()], 1)  # (S, width / 2)
    down = encoding[:, None].expand(-1, len(centers), -1)  # (S, S, width / 2)
    right = encoding[None].expand(len(centers), -1, -1)
    return torch.cat([right, down], -1).flatten(0, 1)  # (S * S, width)


class TokenPool(nn.Module):
    """2-D adaptive average pooling of the patch grid, (B, G * G, D) -> (B, S * S, D)."""

    weights: Tensor

    def __init__(self, grid: int, size: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("weights", pooling_matrix(grid, size), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        rows = patches.unflatten(1, (self.grid, self.grid))  # (B, G, G, D)
        weights = self.weights.to(patches.dtype)
        pooled = torch.einsum("ig,jh,bghd->bijd", weights, weights, rows)  # (B, S, S, D)
        return pooled.flatten(1, 2)


class CrossAttentionLayer(nn.Module):
    """Part tokens are queries; whole tokens are keys and values.

    Queries and keys start as the same orthogonal map, so attention starts as feature similarity.
    Positions are added to the values only: attention weights depend on features alone, and the
    output contains the positions that were attended to.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_DIM)
        self.norm_part, self.norm_whole = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )
        nn.init.orthogonal_(self.query.weight)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)
        for linear in (self.query, self.key):
            nn.init.zeros_(linear.bias)

    def forward(self, part: Tensor, whole: Tensor, position: Tensor) -> Tensor:
        """part (B, M, C), whole (B, M, C), position (M, C) -> (B, M, C)."""

        def split_heads(tokens: Tensor) -> Tensor:
            return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, A, M, C / A)

        whole = self.norm_whole(whole)
        query, key = self.query(self.norm_part(part)), self.key(whole)
        attended = F.scaled_dot_product_attention(
            split_heads(query), split_heads(key), split_heads(self.value(whole + position))
        )
        part = part + self.out(attended.transpose(1, 2).flatten(2))
        return part + self.mlp(part)


class AttentionPool(nn.Module):
    """Softmax-weighted mean of tokens with one trained query; it can ignore the background."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.score = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, M, C) -> (B, C)."""
        tokens = self.norm(tokens)
        return (self.score(tokens).softmax(1) * tokens).sum(1)


class CrossAttention(nn.Module):
    """Attends from the tokens of the part to those of the whole, and pools the part's tokens."""

    position: Tensor

    def __init__(self, width: int, layers: int, dropout: float, centers: Tensor) -> None:
        """width: C. centers: (S,), of the tokens of a row, see `bin_centers`."""
        super().__init__()
        self.register_buffer("position", position_encoding(centers, width), persistent=False)
        self.layers = nn.ModuleList(CrossAttentionLayer(width, dropout) for _ in range(layers))
        self.pool = AttentionPool(width)

    def forward(self, part: Tensor, whole: Tensor) -> Tensor:
        """part (B, M, C), whole (B, M, C) -> (B, C)."""
        for layer in self.layers:
            part = layer(part, whole, self.position)  # (B, M, C)
        return self.pool(part)
