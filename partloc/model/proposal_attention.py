"""Cross-attention at a proposal: part tokens, put where the proposal puts the part, attend to the
whole's tokens around there.

The score of a proposal can thus compare the content at corresponding positions, and what surrounds
it, in the features of the encoder.

Shapes: B pairs, K proposals per pair, M = S * S tokens per image, C token width, A attention heads,
d = C / A channels of a head.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.model.attention import HEAD_DIM

CONTEXT_WIDTH = 576  # of the features that the pose head receives
# Standard deviation of the window of the first and of the last head before training, in distances
# between tokens.
WINDOW_RANGE = (0.7, 4.0)
POSITION_CHANNELS = 3


class Placement(NamedTuple):
    """Where K proposals put the part's tokens in the crop of the whole.

    target: (B, K, M, 2), right and down in [-1, 1].
    spacing: (B, K), the distance between tokens at which whole and part can be compared.
    """

    target: Tensor
    spacing: Tensor


class ProposalAttentionLayer(nn.Module):
    """Part tokens are queries; whole tokens are keys and values, weighted by their distance.

    The logit of a query at t and a key at w is q . k / sqrt(d) - |t - w|^2 / (2 s^2), with a
    trained window s of each head. The distance is a scalar product too, of (t, -1/2) / s^2 and
    (w, |w|^2), up to a term that all keys share, so it takes POSITION_CHANNELS more channels of
    queries and keys and no table of distances. The values contain the positions: the output tells
    where the attended content is relative to the query.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_DIM)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        first, last = (torch.tensor(std).log().item() for std in WINDOW_RANGE)
        self.log_window = nn.Parameter(torch.linspace(first, last, self.heads))
        self.compare = nn.Linear(3 * width + 2 * self.heads, width)
        self.update = nn.Linear(width, width)
        nn.init.orthogonal_(self.query.weight)
        with torch.no_grad():  # attention starts as similarity of the tokens
            self.key.weight.copy_(self.query.weight)
        for linear in (self.query, self.key):
            nn.init.zeros_(linear.bias)

    def forward(self, part: Tensor, whole: Tensor, centers: Tensor, placement: Placement) -> Tensor:
        """part (B, K, M, C), or (B, 1, M, C) if all proposals share it; whole (B, M, C);
        centers (M, 2), of the whole's tokens -> part tokens (B, K, M, C)."""
        target, spacing = placement
        window = self.log_window.exp() * spacing[..., None]  # (B, K, A)
        attended, position = self._attend(part, whole, centers, target, window)
        offset = (position - target[..., None, :]) / window[:, :, None, :, None]  # (B, K, M, A, 2)
        expected = self.value(part).expand_as(attended)
        evidence = [expected, attended, (attended - expected).abs(), offset.flatten(3)]
        return part + self.update(F.gelu(self.compare(torch.cat(evidence, -1))))

    def _attend(
        self, part: Tensor, whole: Tensor, centers: Tensor, target: Tensor, window: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attended values (B, K, M, C) and positions (B, K, M, A, 2)."""
        query, key, places = self._queries_and_keys(part, whole, centers, target, window)
        # Queries, keys and values have one width, which all kernels accept.
        values = [self._split(self.value(whole)), places, torch.zeros_like(places[..., :1])]
        value = torch.cat(values, -1).transpose(1, 2)
        output = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        output = output.transpose(1, 2).unflatten(1, target.shape[1:3])  # (B, K, M, A, d + 3)
        attended, position, _ = output.split([output.shape[-1] - POSITION_CHANNELS, 2, 1], -1)
        return attended.flatten(3), position

    def weights(self, part: Tensor, whole: Tensor, centers: Tensor, placement: Placement) -> Tensor:
        """Arguments as in `forward` -> weights of the whole's tokens, mean of the heads,
        (B, K, M, M)."""
        target, spacing = placement
        window = self.log_window.exp() * spacing[..., None]  # (B, K, A)
        query, key, _ = self._queries_and_keys(part, whole, centers, target, window)
        weights = (query @ key.mT).softmax(-1).mean(1)  # (B, K * M, M)
        return weights.unflatten(1, target.shape[1:3])

    def _queries_and_keys(
        self, part: Tensor, whole: Tensor, centers: Tensor, target: Tensor, window: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, A, K * M, d + 3), keys (B, A, M, d + 3), and the whole's positions
        (B, M, A, 2)."""
        batch, count, tokens = target.shape[:3]
        query = self._split(self.query(part)) / (part.shape[-1] / self.heads) ** 0.5
        query = query.expand(-1, count, -1, -1, -1)  # (B, K, M, A, d)
        precision = window.pow(-2)[:, :, None, :, None].expand(-1, -1, tokens, -1, -1)
        at = torch.cat([target[..., None, :] * precision, -precision / 2], -1)  # (B, K, M, A, 3)
        query = torch.cat([query, at], -1).flatten(1, 2).transpose(1, 2)  # (B, A, K * M, d + 3)
        places = centers[:, None].expand(batch, -1, self.heads, -1)  # (B, M, A, 2)
        squared = places.square().sum(-1, keepdim=True)
        key = torch.cat([self._split(self.key(whole)), places, squared], -1).transpose(1, 2)
        return query, key, places

    def _split(self, tokens: Tensor) -> Tensor:
        """(..., C) -> (..., A, d)."""
        return tokens.unflatten(-1, (self.heads, -1))


class ProposalAttention(nn.Module):
    """Features of each proposal from the tokens of whole and part, (B, K, CONTEXT_WIDTH).

    The last layer starts at zero weights, so the features start as a constant.
    """

    centers: Tensor

    def __init__(self, width: int, layers: int, centers: Tensor) -> None:
        """width: C. centers: (S,), of the tokens of a row, in [-1, 1]."""
        super().__init__()
        self.layers = nn.ModuleList(ProposalAttentionLayer(width) for _ in range(layers))
        last = nn.Linear(width, CONTEXT_WIDTH)
        nn.init.zeros_(last.weight)
        self.output = nn.Sequential(nn.Linear(width, width), nn.GELU(), last)
        grid = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), -1)  # (S, S, 2)
        self.register_buffer("centers", grid.flatten(0, 1), persistent=False)  # (M, 2)
        self.token_distance = 2 / len(centers)

    def forward(self, part: Tensor, whole: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """part, whole: (B, M, C). mask: (B, M), coverage of the part's tokens by the part.
        positions: (B, K, 3)."""
        tokens, placement = part[:, None], self._place(positions)
        for layer in self.layers:
            tokens = layer(tokens, whole, self.centers, placement)  # (B, K, M, C)
        pooled = (_shares(mask) * tokens).sum(2).expand(-1, positions.shape[1], -1)  # (B, K, C)
        return self.output(pooled)

    def attended(self, part: Tensor, whole: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Arguments as in `forward` -> how much the part attends to each token of the whole,
        (B, K, M): mean of layers, heads and the part's tokens; the sum over M is 1."""
        tokens, placement = part[:, None], self._place(positions)
        maps = []
        for layer in self.layers:
            assert isinstance(layer, ProposalAttentionLayer)
            weights = layer.weights(tokens, whole, self.centers, placement)  # (B, K, M, M)
            maps.append((_shares(mask) * weights).sum(2))
            tokens = layer(tokens, whole, self.centers, placement)
        return torch.stack(maps).mean(0)

    def _place(self, positions: Tensor) -> Placement:
        """positions: (B, K, 3)."""
        size = positions[..., 2].exp()  # (B, K)
        target = positions[..., None, :2] + size[..., None, None] * self.centers
        return Placement(target, self.token_distance * (size.square() + 1).sqrt())


def _shares(mask: Tensor) -> Tensor:
    """(B, M) -> (B, 1, M, 1): the weight of each token of the part in a mean."""
    return (mask / mask.sum(1, keepdim=True).clamp(min=1e-3))[:, None, :, None]
