"""Render and compare: the part's picture, pasted where it was proposed, is looked at in the whole.

Only with both in one frame is it plain what covers what, what stands on the ground, and thereby
how deep in the scene the part lies, which the place in the image alone does not tell. A second
look, close up, tells whether it is the part at all, and by how much the place is off.

Source of the idea: DeepIM, arXiv:1804.00175.

Shapes: B pairs, K proposals a pair, Q = B * K, S pixels a side of the frame looked at.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.crop import foreground

SIDE = 48  # of the frame that shows the whole, pixels
REACH = 3.0  # coordinates in the part's frame are followed so far, in its half sides
NEAR_SIDE = 32  # of the frame of the close-up, pixels
MARGIN = 1.6  # what the close-up shows, in the part's half sides


class Overlay(nn.Module):
    """Features of each proposed place, (B, K, width), seen in the frame of the whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        blocks = [(16, 2), (32, 2), (32, 1), (64, 2), (64, 1), (192, 2), (192, 1)]
        self.layers = _network(11 + 2, blocks, SIDE, width)
        self.register_buffer("pixels", _centres(SIDE), persistent=False)

    def forward(self, wholes: Tensor, parts: Tensor, places: Tensor) -> Tensor:
        """wholes, parts (B, 3, SIDE, SIDE); places (B, K, 3), right, down, log size."""
        count = places.shape[1]
        right, down, size = _unpacked(places)
        # Of each pixel of the whole: where it is in the part's own picture, [-1, 1] inside.
        frame = _grid((self.pixels - right) / size, (self.pixels - down) / size)
        cut_out = torch.cat([parts, foreground(parts)], 1).repeat_interleave(count, 0)
        pasted = _sample(cut_out, frame)
        where = frame.clamp(-REACH, REACH).permute(0, 3, 1, 2)
        both = _compared(wholes.repeat_interleave(count, 0), pasted, _inside(frame))
        return self.layers(torch.cat([both, where], 1)).unflatten(0, (-1, count))


class CloseUp(nn.Module):
    """Features of each proposed place, (B, K, width), seen in the frame of the part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2)]
        self.layers = _network(11, blocks, NEAR_SIDE, width)
        self.register_buffer("pixels", MARGIN * _centres(NEAR_SIDE), persistent=False)

    def forward(self, wholes: Tensor, parts: Tensor, places: Tensor) -> Tensor:
        """wholes (B, 3, h, w); parts (B, 3, SIDE, SIDE); places (B, K, 3)."""
        count = places.shape[1]
        right, down, size = _unpacked(places)
        beside = _grid(self.pixels * size + right, self.pixels * size + down)
        whole = _sample(wholes.repeat_interleave(count, 0), beside)
        frame = _grid(self.pixels[None], self.pixels[None]).expand(len(parts), -1, -1, -1)
        part = _sample(torch.cat([parts, foreground(parts)], 1), frame)
        part, inside = (each.repeat_interleave(count, 0) for each in (part, _inside(frame)))
        return self.layers(_compared(whole, part, inside)).unflatten(0, (-1, count))


def _network(seen: int, blocks: list[tuple[int, int]], side: int, width: int) -> nn.Sequential:
    """Convolutions of (channels, stride), then one layer that keeps where things are."""
    layers: list[nn.Module] = []
    for out, stride in blocks:
        layers += [nn.Conv2d(seen, out, 3, stride, padding=1), nn.GroupNorm(8, out), nn.GELU()]
        seen, side = out, side // stride
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(seen * side**2, width))


def _centres(side: int) -> Tensor:
    """(side,) of a row's pixels, [-1, 1] across it."""
    return (torch.arange(side) + 0.5) * (2 / side) - 1


def _unpacked(places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, K, 3) -> right, down and size, (Q, 1) each."""
    right, down, log_size = places.flatten(0, 1).T[:, :, None]
    return right, down, log_size.exp()


def _grid(x: Tensor, y: Tensor) -> Tensor:
    """(Q, S), (Q, S) -> (Q, S, S, 2)."""
    size = (len(x), y.shape[1], x.shape[1])
    return torch.stack([x[:, None].expand(size), y[:, :, None].expand(size)], -1)


def _sample(pictures: Tensor, frame: Tensor) -> Tensor:
    """(Q, 3, h, w) looked up at (Q, S, S, 2); beyond its edge a picture goes on as it ends."""
    return F.grid_sample(pictures, frame, padding_mode="border", align_corners=False)


def _compared(wholes: Tensor, cut_out: Tensor, inside: Tensor) -> Tensor:
    """(Q, 11, S, S): the whole, the part, how they differ where the part is, and where it is.

    cut_out: (Q, 4, S, S), the part's picture and its foreground; inside: (Q, 1, S, S).
    """
    part, mask = cut_out.split([3, 1], 1)
    mask = mask * inside
    return torch.cat([wholes, part, (wholes - part).abs() * mask, mask, inside], 1)


def _inside(frame: Tensor) -> Tensor:
    """(Q, 1, S, S): whether a pixel lies in the part's picture."""
    return (frame.abs() < 1).all(-1).to(frame.dtype)[:, None]
