"""Where in the whole does the part look like itself? Pooling, cross-attention, template matching.

Shapes: B pairs, G patches a side of the encoder's grid, S tokens a side after pooling, M = S * S
tokens, D encoder width, C fusion width, A attention heads, L template sizes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def pooling_matrix(source: int, target: int) -> Tensor:
    """(target, source): row i averages the bin of 1-D adaptive average pooling.

    Bins overlap when source is no multiple of target: 73 -> 32 has bins of 3 and of 4.
    A matrix product is deterministic on every device, the pooling kernel's gradient is not.
    """
    weights = torch.zeros(target, source)
    for i in range(target):
        start, end = i * source // target, -(-(i + 1) * source // target)
        weights[i, start:end] = 1 / (end - start)
    return weights


def bin_centres(source: int, target: int) -> Tensor:
    """(target,) true centres of the bins, in [-1, 1] across the grid."""
    cells = torch.arange(source) + 0.5
    return pooling_matrix(source, target) @ cells * (2 / source) - 1


def position_code(centres: Tensor, width: int) -> Tensor:
    """(S * S, width) sines and cosines of the 2-D place of each token, row by row.

    Source: Attention Is All You Need, section 3.5, a half of the width for each axis.
    """
    count = width // 4
    waves = math.pi * 2.0 ** torch.linspace(-1, math.log2(len(centres)) - 1, count)
    angles = centres[:, None] * waves  # (S, count)
    code = torch.cat([angles.sin(), angles.cos()], 1)  # (S, width / 2)
    down = code[:, None].expand(-1, len(centres), -1)  # (S, S, width / 2)
    right = code[None].expand(len(centres), -1, -1)
    return torch.cat([right, down], -1).flatten(0, 1)  # (S * S, width)


class TokenPool(nn.Module):
    """2-D adaptive average pooling of the patch grid, (B, G * G, D) -> (B, S * S, D)."""

    def __init__(self, grid: int, size: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("weights", pooling_matrix(grid, size), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        rows = patches.unflatten(1, (self.grid, self.grid))  # (B, G, G, D)
        weights = self.weights.to(patches.dtype)
        pooled = torch.einsum("ig,jh,bghd->bijd", weights, weights, rows)  # (B, S, S, D)
        return pooled.flatten(1, 2)


class CrossAttention(nn.Module):
    """Part tokens ask, whole tokens answer; the answer says where it comes from.

    Queries and keys start as one orthogonal map (`similar_start`), so attention starts as feature
    similarity; positions are added to the values only, so they cannot disturb that similarity.
    """

    def __init__(self, width: int, heads: int, dropout: float, similar_start: bool = True) -> None:
        super().__init__()
        self.heads = heads
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
        if similar_start:
            nn.init.orthogonal_(self.query.weight)
            with torch.no_grad():
                self.key.weight.copy_(self.query.weight)
            for linear in (self.query, self.key):
                nn.init.zeros_(linear.bias)

    def forward(self, part: Tensor, whole: Tensor, position: Tensor) -> Tensor:
        """part (B, M, C), whole (B, M, C), position (M, C) -> (B, M, C)."""

        def split(tokens: Tensor) -> Tensor:
            return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, A, M, C / A)

        whole = self.norm_whole(whole)
        query, key = self.query(self.norm_part(part)), self.key(whole)
        found = F.scaled_dot_product_attention(
            split(query), split(key), split(self.value(whole + position))
        )
        part = part + self.out(found.transpose(1, 2).flatten(2))
        return part + self.mlp(part)


class AttentionPool(nn.Module):
    """One learned query over the part's tokens, so that its background can be left out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.score = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, M, C) -> (B, C)."""
        tokens = self.norm(tokens)
        return (self.score(tokens).softmax(1) * tokens).sum(1)
