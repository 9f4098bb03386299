"""Which of the places proposed for equal parts hold them? A small network judges all together.

By its own evidence, each place is as good as the part's picture fits there. But four legs stand on
a rectangle, bolts on a ring, planks in a row: a place that completes what the others begin is more
likely, and one that fits in with none of them is less. The network has learned that from
procedural objects; it sees where the places are and how well each fits, but no picture.

Shapes: B groups of equal parts, n parts, C places, N heads.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.files import hash_file, is_whole

MOST_PLACES, MOST_PARTS = 40, 12  # that it has learned to judge together
WIDTH, HEADS, LAYERS = 96, 6, 4
WAVES = (4.0, 8.0, 16.0, 32.0)  # of positions and offsets, radians a model unit
NEXT = 4  # places that just would and just would not be taken, told apart by their rank
CLEAR = 20.0  # a lead of so much is as good as any longer one
ARRANGEMENT_WEIGHTS = Path(__file__).parents[1] / "weights" / "arrangement.pth"


class Offer(NamedTuple):
    """What is known of C places for the equal parts of B groups.

    position: (B, C, 3) model units right, down, and away from the camera; log_size: (B, C), of a
    part there; support: (B, C), log density of the parts' own hypotheses, up to a constant;
    log_odds: (B, C), that the hypothesis there is right; proposed: (B, C) bool, whether one is
    there; there: (B, C) bool, False for padding; count: (B,), of equal parts.
    """

    position: Tensor
    log_size: Tensor
    support: Tensor
    log_odds: Tensor
    proposed: Tensor
    there: Tensor
    count: Tensor


class ArrangementNet(nn.Module):
    """Log odds that a place holds one of the parts, (B, C).

    Untaught it goes by the support alone. The order of places does not matter.
    Source: self-attention over a set (Set Transformer, arXiv:1810.00825), with a bias for how
    two places lie to each other as in Graphormer (arXiv:2106.05234).
    """

    def __init__(self) -> None:
        super().__init__()
        features = 3 * (1 + 2 * len(WAVES))
        self.begin = nn.Linear(features + 5 + 2 * NEXT, WIDTH)
        self.counts = nn.Embedding(MOST_PARTS, WIDTH)
        self.bias = nn.Sequential(
            nn.Linear(features + 1, 32), nn.GELU(), nn.Linear(32, LAYERS * HEADS)
        )
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.end = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1))
        nn.init.zeros_(self.end[1].weight)
        nn.init.zeros_(self.end[1].bias)
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, offer: Offer) -> Tensor:
        from_best, lead, rank = _standing(offer)
        proposed = offer.proposed.to(lead.dtype)
        told = [offer.log_size, from_best / 5, offer.log_odds / 3, lead / 5, proposed]
        rank = F.one_hot(rank, 2 * NEXT).to(lead.dtype)
        seen = torch.cat([_waves(offer.position), torch.stack(told, -1), rank], -1)
        seen = self.begin(seen) + self.counts(offer.count - 1)[:, None]
        offset = offer.position[:, :, None] - offer.position[:, None]  # (B, C, C, 3)
        distance = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
        bias = self.bias(torch.cat([_waves(offset), 3 * distance], -1)).permute(0, 3, 1, 2)
        bias = bias.masked_fill(~offer.there[:, None, None], -1e4)  # (B, LAYERS * N, C, C)
        for layer, preferred in zip(self.layers, bias.chunk(LAYERS, 1), strict=True):
            seen = layer(seen, preferred)
        return self.end(seen).squeeze(-1) + self.gain * lead


class _Layer(nn.Module):
    """Self-attention and what follows it, (B, C, WIDTH) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mixed = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.out, self.dropout = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(2 * WIDTH, WIDTH),
            nn.Dropout(0.1),
        )

    def forward(self, seen: Tensor, bias: Tensor) -> Tensor:
        """bias: (B, N, C, C), added to the attention."""
        mixed = self.mixed(self.norm(seen)).unflatten(-1, (3, HEADS, -1))
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # (B, N, C, WIDTH / N) each
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        seen = seen + self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        return seen + self.mlp(seen)


def _standing(offer: Offer) -> tuple[Tensor, Tensor, Tensor]:
    """(B, C) each: the support less that of the best place, less that of the last one that would
    be taken by support alone, and the place's rank round that one, from 0 to 2 * NEXT - 1."""
    support = offer.support.masked_fill(~offer.there, -torch.inf)
    order = support.argsort(dim=1, descending=True, stable=True)
    ordered = support.gather(1, order)
    last = torch.minimum(offer.count, offer.there.sum(1)) - 1
    from_best, lead = (
        torch.where(offer.there, support - other, 0.0).clamp(-CLEAR, CLEAR)
        for other in (ordered[:, :1], ordered.gather(1, last[:, None]))
    )
    rank = order.argsort(dim=1) - offer.count[:, None] + NEXT
    return from_best, lead, rank.clamp(0, 2 * NEXT - 1)


def _waves(lengths: Tensor) -> Tensor:
    """(..., 3) -> (..., 3 + 6 * waves): themselves, and their sines and cosines."""
    angles = (lengths[..., None] * lengths.new_tensor(WAVES)).flatten(-2)
    return torch.cat([3 * lengths, angles.sin(), angles.cos()], -1)


@cache
def taught() -> ArrangementNet:
    """The network with the weights that come with the code, on the CPU.

    Raises: ValueError when they are not the file that the checksum beside them was written for.
    """
    if not is_whole(ARRANGEMENT_WEIGHTS):
        raise ValueError(
            f"{ARRANGEMENT_WEIGHTS}: missing, or not the file that "
            f"{hash_file(ARRANGEMENT_WEIGHTS).name} was written for; get both again"
        )
    net = ArrangementNet()
    weights = torch.load(ARRANGEMENT_WEIGHTS, weights_only=True)
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net.eval()
