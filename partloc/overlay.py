"""Render and compare: the part's picture, pasted where it was proposed, is looked at in the whole.

Only with both in one frame is it plain what covers what, what stands on the ground, and thereby
how deep in the scene the part lies, which the place in the image alone does not tell.

Source of the idea: DeepIM, arXiv:1804.00175.

Shapes: B pairs, K proposals a pair, Q = B * K, S = SIDE.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 48  # of the frame, pixels
REACH = 3.0  # coordinates in the part's frame are followed so far, in its half sides


class Overlay(nn.Module):
    """Features of each proposed place, (B, K, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        seen = 3 + 3 + 3
        for out, stride in [(16, 2), (32, 2), (32, 1), (64, 2), (64, 1), (192, 2), (192, 1)]:
            conv = nn.Conv2d(seen, out, 3, stride, padding=1)
            layers += [conv, nn.GroupNorm(8, out), nn.GELU()]
            seen = out
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(192 * (SIDE // 16) ** 2, width)
        )
        pixels = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
        self.register_buffer("pixels", pixels, persistent=False)

    def forward(self, wholes: Tensor, parts: Tensor, places: Tensor) -> Tensor:
        """wholes, parts (B, 3, S, S); places (B, K, 3), right, down, log size."""
        count = places.shape[1]
        frame = self._frame(places)  # (Q, S, S, 2)
        pasted = F.grid_sample(
            parts.repeat_interleave(count, 0), frame, padding_mode="border", align_corners=False
        )
        inside = (frame.abs() < 1).all(-1).to(parts.dtype)[:, None]  # (Q, 1, S, S)
        where = frame.clamp(-REACH, REACH).permute(0, 3, 1, 2)
        shown = [wholes.repeat_interleave(count, 0), pasted, inside, where]
        return self.layers(torch.cat(shown, 1)).unflatten(0, (-1, count))

    def _frame(self, places: Tensor) -> Tensor:
        """(Q, S, S, 2): each pixel's right and down in the part's own picture, [-1, 1] inside."""
        right, down, log_size = places.flatten(0, 1).T[:, :, None]  # (Q, 1) each
        x, y = (self.pixels - right) / log_size.exp(), (self.pixels - down) / log_size.exp()
        size = (len(x), SIDE, SIDE)
        return torch.stack([x[:, None].expand(size), y[:, :, None].expand(size)], -1)
