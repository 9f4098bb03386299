"""Crops: every picture is seen without the empty ground around what it shows.

The camera frames the unit cube, so that most things fill a third of their picture. Cropped, the
same number of pixels and patches shows them half as large again, wholes and parts alike.

Shapes: B pictures, of a whole or of a part; K places a part; S T pixels a side.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Squared difference from the corners' colour, in units of normalised pixels, that counts half as
# the thing shown.
GROUND = 0.03
MARGIN = 1.06  # of a crop, in half sides of what it shows
SMALLEST = 0.1  # half side of a crop: what is tinier is mostly noise


def pixel_centres(side: int, device: torch.device | None = None) -> Tensor:
    """(side,) of a row of so many pixels, in [-1, 1] across it."""
    return (torch.arange(side, device=device) + 0.5) * (2 / side) - 1


def foreground(pictures: Tensor) -> Tensor:
    """(B, 1, h, w), 0..1: what differs from the corners, which seldom show the thing."""
    last = pictures.shape[-1] - 1
    corners = pictures[:, :, ::last, ::last].mean((2, 3), keepdim=True)
    distance = (pictures - corners).square().sum(1, keepdim=True).square()
    return distance / (distance + GROUND**2)


@torch.no_grad()
def content_crops(pictures: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, 3): right and down of each crop's centre, in [-1, 1] across the picture,
    and the log of its half side, 0 for the whole picture. A crop is square and inside the picture.

    Where nothing stands out from the corners it is the whole picture.
    """
    smooth = _smoothed(pictures)  # against noise
    shown = foreground(smooth)[:, 0] > 0.5  # (B, S, S)
    side = pictures.shape[-1]
    edges = torch.arange(side + 1, device=pictures.device) * (2 / side) - 1  # (S + 1,)
    low, high = [], []
    for seen in (shown.any(1), shown.any(2)):  # (B, S): columns, rows
        first, last = seen.int().argmax(1), side - seen.flip(1).int().argmax(1)
        low.append(edges[first])
        high.append(edges[last])
    low, high = torch.stack(low, 1), torch.stack(high, 1)  # (B, 2)
    half = ((high - low).amax(1, keepdim=True) / 2 * MARGIN).clamp(SMALLEST, 1)
    half = torch.where(shown.flatten(1).any(1, keepdim=True), half, 1.0)  # (B, 1)
    centre = ((low + high) / 2).clamp(half - 1, 1 - half)
    return torch.cat([centre, half.log()], 1)


def _smoothed(pictures: Tensor) -> Tensor:
    """(B, 3, S, S), the mean over 3 x 3 pixels; on a processor sums of slices are faster than
    pooling."""
    framed = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    rows = framed[:, :, :-2] + framed[:, :, 1:-1] + framed[:, :, 2:]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


@torch.no_grad()
def jittered(crops: Tensor, jitter: Tensor) -> Tensor:
    """Crops (B, 3) wider and moved as `data.jitter_of` says, (B, 3): they still show what they
    showed, and nothing outside the picture."""
    half = crops[:, 2:].exp()  # (B, 1)
    wide = (half * (1 + jitter[:, :1])).clamp(max=1)
    moved = crops[:, :2] + (wide - half) * jitter[:, 1:]
    other = torch.cat([moved.clamp(wide - 1, 1 - wide), wide.log()], 1)
    return torch.where(jitter.any(1, keepdim=True), other, crops)


@torch.no_grad()
def resample(pictures: Tensor, crops: Tensor, side: int) -> Tensor:
    """What the crops (B, 3) show of pictures (B, 3, S, S), at (B, 3, T, T), T = side.

    Interpolated linearly and, where pixels become fewer, averaged; two matrix products, which are
    deterministic on every device.
    """
    half = crops[:, 2].exp()
    across, along = (_filter(crops[:, i], half, pictures.shape[-1], side) for i in (0, 1))
    return along[:, None] @ pictures @ across[:, None].transpose(-1, -2)


def _filter(centre: Tensor, half: Tensor, source: int, target: int) -> Tensor:
    """(B, T, S) weights of the source's pixels for each of the crop's, rows of sum 1."""
    place = pixel_centres(target, centre.device)  # (T,)
    place = (centre[:, None] + half[:, None] * place + 1) * (source / 2) - 0.5  # (B, T), in pixels
    width = (half * (source / target)).clamp(min=1)[:, None, None]
    pixels = torch.arange(source, device=centre.device)
    weights = (1 - (pixels - place[..., None]).abs() / width).clamp(min=0)  # (B, T, S)
    return weights / weights.sum(-1, keepdim=True)


def into_crops(places: Tensor, wholes: Tensor, parts: Tensor) -> Tensor:
    """Where a part's picture lies in its whole's -> where the part's crop lies in the whole's.

    places: (B, K, 3), right and down of the centre in [-1, 1], log size. wholes, parts: (B, 3),
    the crops of each place's two pictures.
    """
    wholes, parts = wholes[:, None], parts[:, None]
    centre = places[..., :2] + places[..., 2:].exp() * parts[..., :2]
    centre = (centre - wholes[..., :2]) / wholes[..., 2:].exp()
    return torch.cat([centre, places[..., 2:] + parts[..., 2:] - wholes[..., 2:]], -1)


def out_of_crops(places: Tensor, wholes: Tensor, parts: Tensor) -> Tensor:
    """The inverse of `into_crops`."""
    wholes, parts = wholes[:, None], parts[:, None]
    size = places[..., 2:] + wholes[..., 2:] - parts[..., 2:]
    centre = places[..., :2] * wholes[..., 2:].exp() + wholes[..., :2]
    return torch.cat([centre - size.exp() * parts[..., :2], size], -1)
