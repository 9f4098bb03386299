"""Render and compare: the part's image, placed at a proposed position, is compared with the whole.

In a common frame, whole and part show occlusion and support, which depend on the depth of the part.
Two small networks compare them at each proposal: one in the frame of the whole, and one close up in
the frame of the part, which also shows whether it is the part and how far the position is off. Both
also receive the depth maps, and the encoder's features at half the resolution.

Source of the idea: DeepIM (arXiv:1804.00175).

Shapes: B pairs, K proposals per pair, Q = B * K, S pixels per side of the common frame, F feature
channels, T tokens per side.
"""

import math
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.model.crop import foreground, pixel_centers, resizing_matrix
from partloc.model.depth_net import MAP_SIDE, DepthReading, read_depth

COORDINATE_RANGE = 3.0  # coordinates in the part's frame are clipped there, in its half sides
CLOSE_UP_SIDE = 64  # of the close-up's frame, pixels
CLOSE_UP_ZOOM = 2  # pixels per side of its source image for one pixel of template matching
CLOSE_UP_MARGIN = 1.6  # half side of the close-up, in half sides of the part
PYRAMID_LEVELS = 4  # of the source image, each half as large as the one before
DEPTH_RANGE = 2.0  # depth around the part's centre is clipped there, in half sides of the frame
FEATURE_CHANNELS = 16  # F, of the encoder's features in matching and comparison
COMPARED_CHANNELS = 3 + 3 + 3 + 1 + 1 + 3  # of `_compare`


class AlignedPair(NamedTuple):
    """Whole and part in one frame of S pixels per side, for Q proposals.

    whole, part: (Q, 3, S, S). whole_depth, part_depth: (Q, 2, S, S), each in half sides of its own
    crop. mask: (Q, 1, S, S), coverage by the part. inside: (Q, 1, S, S), 1 inside the part's image.
    """

    whole: Tensor
    whole_depth: Tensor
    part: Tensor
    part_depth: Tensor
    mask: Tensor
    inside: Tensor

    def detach(self) -> "AlignedPair":
        return AlignedPair(*(field.detach() for field in self))

    @property
    def half_resolution(self) -> "AlignedPair":
        """Every second pixel."""
        return AlignedPair(*(field[..., ::2, ::2] for field in self))

    def read_depth(self, size: Tensor) -> DepthReading:
        """size: (Q, 1), see `depth_net.read_depth`."""
        color_difference = (self.whole - self.part).square().sum(1, keepdim=True)
        return read_depth(self.whole_depth, self.part_depth, color_difference, self.mask, size)


class OverlayNet(nn.Module):
    """Features of each proposal in the frame of the whole, (B, K, width)."""

    pixels: Tensor
    resize: Tensor

    def __init__(self, width: int, tokens_per_side: int) -> None:
        super().__init__()
        blocks = [(32, 2), (64, 2), (64, 1), (96, 2), (96, 1), (192, 2), (192, 1)]
        self.layers = ComparisonNet(COMPARED_CHANNELS + 2, blocks, MAP_SIDE, width)
        resize = resizing_matrix(tokens_per_side, MAP_SIDE // 2)
        self.register_buffer("resize", resize, persistent=False)
        self.register_buffer("pixels", pixel_centers(MAP_SIDE), persistent=False)

    def forward(
        self,
        wholes: Tensor,
        parts: Tensor,
        features: tuple[Tensor, Tensor],
        positions: Tensor,
        depth: Tensor,
    ) -> Tensor:
        """wholes, parts: (B, 5, S, S), S = MAP_SIDE, images and depth maps. features: of wholes
        and parts, (B, F, T, T) each. positions: (B, K, 3). depth: (Q, 1), in half sides of the
        whole's crop."""
        count = positions.shape[1]
        whole, whole_depth = wholes.repeat_interleave(count, 0).split([3, 2], 1)
        part, part_depth = parts.split([3, 2], 1)
        right, down, size = _split_positions(positions)
        # Coordinates of the whole's pixels in the part's image, [-1, 1] inside it.
        grid = _meshgrid((self.pixels - right) / size, (self.pixels - down) / size)
        pair = _align(whole, whole_depth, part, part_depth, grid)
        coordinates = grid.clamp(-COORDINATE_RANGE, COORDINATE_RANGE).permute(0, 3, 1, 2)
        compared = _compare(pair, depth, size, torch.ones_like(size))
        whole_features = (self.resize @ features[0] @ self.resize.T).repeat_interleave(count, 0)
        part_features = _sample(features[1], grid[:, ::2, ::2]) * pair.mask[..., ::2, ::2]
        aligned = torch.cat([whole_features, part_features], 1)
        output = self.layers(torch.cat([compared, coordinates], 1), aligned)
        return output.unflatten(0, (-1, count))


class CloseUpNet(nn.Module):
    """Features of each proposal in the frame of the part, (B, K, width)."""

    pixels: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        blocks = [(32, 2), (64, 2), (64, 1), (128, 2), (128, 1), (128, 2)]
        self.layers = ComparisonNet(COMPARED_CHANNELS, blocks, CLOSE_UP_SIDE, width)
        pixels = CLOSE_UP_MARGIN * pixel_centers(CLOSE_UP_SIDE)
        self.register_buffer("pixels", pixels, persistent=False)

    def align(
        self, wholes: Tensor, depths: Tensor, parts: Tensor, part_depths: Tensor, positions: Tensor
    ) -> AlignedPair:
        """Sample whole and part into the frame of the close-up at each position.

        wholes, parts: (B, 3, h, h). depths, part_depths: (B, 2, MAP_SIDE, MAP_SIDE).
        positions: (B, K, 3).
        """
        right, down, size = _split_positions(positions)
        grid = _meshgrid(self.pixels * size + right, self.pixels * size + down)
        # Pixels of the whole per pixel of the frame, for a part as large as the whole: it selects
        # the level of the pyramid that is not coarser than the frame.
        ratio = CLOSE_UP_MARGIN * wholes.shape[-1] / CLOSE_UP_SIDE
        level = (ratio * size).log2().floor().clamp(0, PYRAMID_LEVELS - 1)[..., None, None]
        levels = (
            torch.where(level == i, _sample(image, grid), 0.0)
            for i, image in enumerate(_image_pyramid(wholes))
        )
        whole = reduce(torch.add, levels)
        part_grid = _meshgrid(self.pixels[None], self.pixels[None]).expand(len(parts), -1, -1, -1)
        part_level = min(max(0, math.floor(math.log2(ratio))), PYRAMID_LEVELS - 1)
        part = F.avg_pool2d(parts, 2**part_level)
        return _align(whole, _sample(depths, grid), part, part_depths, part_grid)

    def forward(
        self,
        pair: AlignedPair,
        features: tuple[Tensor, Tensor],
        positions: Tensor,
        depth: Tensor,
    ) -> Tensor:
        """features: of whole and part, (B, F, T, T) each. positions: (B, K, 3). depth: (Q, 1), in
        half sides of the whole's crop."""
        right, down, size = _split_positions(positions)
        pixels = self.pixels[::2]
        whole = _sample(features[0], _meshgrid(pixels * size + right, pixels * size + down))
        part_grid = _meshgrid(pixels[None], pixels[None]).expand(len(positions), -1, -1, -1)
        part = _sample(features[1], part_grid).repeat_interleave(positions.shape[1], 0)
        aligned = torch.cat([whole, part * pair.mask[..., ::2, ::2]], 1)
        output = self.layers(_compare(pair, depth, size, size), aligned)
        return output.unflatten(0, (-1, positions.shape[1]))


class ComparisonNet(nn.Module):
    """Convolutions (channels, stride) over a pair of aligned images, then a linear layer.

    The first one halves the resolution; the features are added behind it. Their weights start at
    zero.
    """

    def __init__(self, channels: int, blocks: list[tuple[int, int]], side: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out, stride in blocks:
            convolution = nn.Conv2d(channels, out, 3, stride, padding=1)
            layers += [convolution, nn.GroupNorm(8, out), nn.GELU()]
            channels, side = out, side // stride
        self.first = layers[0]
        self.features = nn.Conv2d(2 * FEATURE_CHANNELS, blocks[0][0], 1, bias=False)
        nn.init.zeros_(self.features.weight)
        self.rest = nn.Sequential(*layers[1:], nn.Flatten(), nn.Linear(channels * side**2, width))

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        """images (Q, channels, S, S), features (Q, 2 F, S / 2, S / 2) -> (Q, width)."""
        return self.rest(self.first(images) + self.features(features))


def _split_positions(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, K, 3) -> right, down and size, (Q, 1) each."""
    right, down, log_size = positions.flatten(0, 1).T[:, :, None]
    return right, down, log_size.exp()


def _meshgrid(x: Tensor, y: Tensor) -> Tensor:
    """(Q, S), (Q, S) -> (Q, S, S, 2)."""
    size = (len(x), y.shape[1], x.shape[1])
    return torch.stack([x[:, None].expand(size), y[:, :, None].expand(size)], -1)


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    """(B, C, h, w) sampled at (Q, S, S, 2), Q // B grids per image -> (Q, C, S, S); the border
    pixels continue beyond an image."""
    count = len(grid) // len(images)
    stacked = grid.unflatten(0, (-1, count)).flatten(1, 2)  # (B, Q // B * S, S, 2)
    # The backward pass of grid_sample writes outside its memory where a coordinate is NaN.
    stacked = stacked.nan_to_num()
    sampled = F.grid_sample(images, stacked, padding_mode="border", align_corners=False)
    return sampled.unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1)


def _image_pyramid(images: Tensor) -> list[Tensor]:
    """(B, 3, h, h) -> (B, 3, h, h), (B, 3, h / 2, h / 2) and so on.

    Source: mipmaps, Williams (1983).
    """
    levels = [images]
    for _ in range(PYRAMID_LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _align(
    whole: Tensor, whole_depth: Tensor, parts: Tensor, part_depths: Tensor, grid: Tensor
) -> AlignedPair:
    """Sample the part into the frame of the whole.

    whole (Q, 3, S, S) and whole_depth (Q, 2, S, S) are in the frame. parts (B, 3, h, h) and
    part_depths (B, 2, MAP_SIDE, MAP_SIDE) are sampled at the grid (Q, S, S, 2), or (B, S, S, 2) if
    all K proposals of a part share it.
    """
    image_and_mask = _sample(torch.cat([parts, foreground(parts)], 1), grid)  # (., 4, S, S)
    inside = (grid.abs() < 1).all(-1).to(grid.dtype)[:, None]
    sampled = torch.cat([image_and_mask, _sample(part_depths, grid), inside], 1)
    sampled = sampled.repeat_interleave(len(whole) // len(grid), 0)  # (Q, 7, S, S)
    part, mask, part_depth, inside = sampled.split([3, 1, 2, 1], 1)
    return AlignedPair(whole, whole_depth, part, part_depth, mask * inside, inside)


def _compare(pair: AlignedPair, depth: Tensor, size: Tensor, unit: Tensor) -> Tensor:
    """(Q, COMPARED_CHANNELS, S, S): whole, part, their difference, the part's mask, and both depth
    maps around the part's centre at `depth`, in multiples of `unit`."""
    depth, size, unit = (value[..., None, None] for value in (depth, size, unit))
    around = ((pair.whole_depth[:, :1] - depth) / unit).clamp(-DEPTH_RANGE, DEPTH_RANGE)
    own = (pair.part_depth[:, :1] * size / unit).clamp(-DEPTH_RANGE, DEPTH_RANGE) * pair.mask
    difference = (pair.whole - pair.part).abs() * pair.mask
    depths = [around, own, around * pair.mask - own]
    return torch.cat([pair.whole, pair.part, difference, pair.mask, pair.inside, *depths], 1)
