"""Render and compare: the part's picture, pasted where it was proposed, is looked at in the whole.

Only with both in one frame is it plain what covers what, what stands on the ground, and thereby
how deep in the scene the part lies, which the place in the image alone does not tell. A second
look, close up, tells whether it is the part at all, and by how much the place is off. Both see the
depth maps of whole and part too.

Source of the idea: DeepIM, arXiv:1804.00175.

Shapes: B pairs, K proposals a pair, Q = B * K, S pixels a side of the frame looked at, SIDE of a
depth map and of the picture above it.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.model.crop import foreground, pixel_centres
from partloc.model.depth_net import SIDE, DepthReading, read_depth

REACH = 3.0  # coordinates in the part's frame are followed so far, in its half sides
NEAR_SIDE = 64  # of the frame of the close-up, pixels
FINER = 2  # pixels, a side, of the picture that it is cut from, for one of the matching's
LEVELS = 4  # of such a picture, each half as large as the one before
MARGIN = 1.6  # what the close-up shows, in the part's half sides
DEEP = 2.0  # depth is followed so far from the part's middle, in the frame's half sides
CHANNELS = 3 + 3 + 3 + 1 + 1 + 3  # of `_compared`


class Look(NamedTuple):
    """Whole and part in one frame, S pixels a side, for Q proposals.

    whole, part: (Q, 3, S, S); whole_depths, part_depths: (Q, 2, S, S), each in its own half sides;
    mask: (Q, 1, S, S), how much of a pixel the part fills; inside: (Q, 1, S, S), whether it lies
    in the part's picture.
    """

    whole: Tensor
    whole_depths: Tensor
    part: Tensor
    part_depths: Tensor
    mask: Tensor
    inside: Tensor

    def detach(self) -> "Look":
        return Look(*(field.detach() for field in self))

    @property
    def coarse(self) -> "Look":
        """Every second pixel."""
        return Look(*(field[..., ::2, ::2] for field in self))

    @property
    def unlike(self) -> Tensor:
        """(Q, 1, S, S) squared difference of colour."""
        return (self.whole - self.part).square().sum(1, keepdim=True)

    def read_depth(self, size: Tensor) -> DepthReading:
        """size: as `depth.read_depth` takes it, (Q, 1)."""
        return read_depth(self.whole_depths, self.part_depths, self.unlike, self.mask, size)


class Overlay(nn.Module):
    """Features of each proposed place, (B, K, width), seen in the frame of the whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        blocks = [(32, 2), (64, 2), (64, 1), (96, 2), (96, 1), (192, 2), (192, 1)]
        self.layers = _network(CHANNELS + 2, blocks, SIDE, width)
        self.register_buffer("pixels", pixel_centres(SIDE), persistent=False)

    def forward(self, wholes: Tensor, parts: Tensor, places: Tensor, depth: Tensor) -> Tensor:
        """wholes, parts (B, 5, SIDE, SIDE), pictures above depth maps; places (B, K, 3), right,
        down, log size; depth (Q, 1), in the whole's half sides."""
        count = places.shape[1]
        wholes = wholes.repeat_interleave(count, 0).split([3, 2], 1)
        right, down, size = _unpacked(places)
        # Of each pixel of the whole: where it is in the part's own picture, [-1, 1] inside.
        frame = _grid((self.pixels - right) / size, (self.pixels - down) / size)
        look = _look(*wholes, *parts.split([3, 2], 1), frame)
        where = frame.clamp(-REACH, REACH).permute(0, 3, 1, 2)
        both = _compared(look, depth, size, torch.ones_like(size))
        return self.layers(torch.cat([both, where], 1)).unflatten(0, (-1, count))


class CloseUp(nn.Module):
    """Features of each proposed place, (B, K, width), seen in the frame of the part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        blocks = [(32, 2), (64, 2), (64, 1), (128, 2), (128, 1), (128, 2)]
        self.layers = _network(CHANNELS, blocks, NEAR_SIDE, width)
        self.register_buffer("pixels", MARGIN * pixel_centres(NEAR_SIDE), persistent=False)

    def look(
        self, wholes: Tensor, depths: Tensor, parts: Tensor, part_depths: Tensor, places: Tensor
    ) -> Look:
        """wholes, parts (B, 3, h, h), and their depth maps, (B, 2, SIDE, SIDE) each; places
        (B, K, 3)."""
        right, down, size = _unpacked(places)
        beside = _grid(self.pixels * size + right, self.pixels * size + down)
        # How many of the whole's pixels one of the frame's is wide, so which level is not coarser
        # than the frame, and hardly finer.
        wide = MARGIN * wholes.shape[-1] / NEAR_SIDE  # for a part as large as the whole
        level = (wide * size).log2().floor().clamp(0, LEVELS - 1)[..., None, None]  # (Q, 1, 1, 1)
        whole = sum(
            torch.where(level == i, _sample(picture, beside), 0.0)
            for i, picture in enumerate(_levels(wholes))
        )
        frame = _grid(self.pixels[None], self.pixels[None]).expand(len(parts), -1, -1, -1)
        part = F.avg_pool2d(parts, 2 ** min(max(0, math.floor(math.log2(wide))), LEVELS - 1))
        return _look(whole, _sample(depths, beside), part, part_depths, frame)

    def forward(self, look: Look, places: Tensor, depth: Tensor) -> Tensor:
        """places (B, K, 3), depth (Q, 1), in the whole's half sides."""
        size = _unpacked(places)[2]
        return self.layers(_compared(look, depth, size, size)).unflatten(0, (-1, places.shape[1]))


def _network(seen: int, blocks: list[tuple[int, int]], side: int, width: int) -> nn.Sequential:
    """Convolutions of (channels, stride), then one layer that keeps where things are."""
    layers: list[nn.Module] = []
    for out, stride in blocks:
        layers += [nn.Conv2d(seen, out, 3, stride, padding=1), nn.GroupNorm(8, out), nn.GELU()]
        seen, side = out, side // stride
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(seen * side**2, width))


def _unpacked(places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, K, 3) -> right, down and size, (Q, 1) each."""
    right, down, log_size = places.flatten(0, 1).T[:, :, None]
    return right, down, log_size.exp()


def _grid(x: Tensor, y: Tensor) -> Tensor:
    """(Q, S), (Q, S) -> (Q, S, S, 2)."""
    size = (len(x), y.shape[1], x.shape[1])
    return torch.stack([x[:, None].expand(size), y[:, :, None].expand(size)], -1)


def _sample(pictures: Tensor, frame: Tensor) -> Tensor:
    """(B, C, h, w) looked up at (Q, S, S, 2), Q // B frames a picture -> (Q, C, S, S); beyond its
    edge a picture goes on as it ends."""
    count = len(frame) // len(pictures)
    below = frame.unflatten(0, (-1, count)).flatten(1, 2)  # (B, Q // B * S, S, 2)
    seen = F.grid_sample(pictures, below, padding_mode="border", align_corners=False)
    return seen.unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1)


def _levels(pictures: Tensor) -> list[Tensor]:
    """(B, 3, h, h) -> (B, 3, h, h), (B, 3, h / 2, h / 2) and so on.

    Source: the mipmaps of Williams (1983).
    """
    levels = [pictures]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _look(
    whole: Tensor, whole_depths: Tensor, parts: Tensor, part_depths: Tensor, frame: Tensor
) -> Look:
    """whole (Q, 3, S, S), whole_depths (Q, 2, S, S), as the frame shows them; parts (B, 3, h, h),
    part_depths (B, 2, SIDE, SIDE), of which it shows what is at (Q, S, S, 2), or for all K
    proposals of a part the same, at (B, S, S, 2)."""
    cut_out = _sample(torch.cat([parts, foreground(parts)], 1), frame)  # (., 4, S, S)
    shown = torch.cat([cut_out, _sample(part_depths, frame), _inside(frame)], 1)
    shown = shown.repeat_interleave(len(whole) // len(frame), 0)  # (Q, 7, S, S)
    part, mask, part_depths, inside = shown.split([3, 1, 2, 1], 1)
    return Look(whole, whole_depths, part, part_depths, mask * inside, inside)


def _compared(look: Look, depth: Tensor, size: Tensor, unit: Tensor) -> Tensor:
    """(Q, CHANNELS, S, S): the whole, the part, how they differ where the part is, and where it
    is; and the depth maps of both, from the part's middle at `depth` on, in units of `unit`."""
    depth, size, unit = (each[..., None, None] for each in (depth, size, unit))
    around = ((look.whole_depths[:, :1] - depth) / unit).clamp(-DEEP, DEEP)
    own = (look.part_depths[:, :1] * size / unit).clamp(-DEEP, DEEP) * look.mask
    unlike = (look.whole - look.part).abs() * look.mask
    depths = [around, own, around * look.mask - own]
    return torch.cat([look.whole, look.part, unlike, look.mask, look.inside, *depths], 1)


def _inside(frame: Tensor) -> Tensor:
    """(Q, 1, S, S): whether a pixel lies in the part's picture."""
    return (frame.abs() < 1).all(-1).to(frame.dtype)[:, None]
