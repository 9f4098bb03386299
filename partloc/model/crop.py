"""Square crops around the content of an image.

A camera that frames the unit cube leaves most of an image empty. Crops show whole and part with
more pixels and patches. Positions are converted between the frame of a crop and that of the full
image.

Shapes: B images, of wholes or parts; K positions per part; S T pixels per side.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Squared colour difference from the corners, in normalised pixels, at which `foreground` is 1/2.
BACKGROUND_DIFFERENCE = 0.03
CROP_MARGIN = 1.06  # half side of a crop, in half sides of its content
MIN_HALF_SIDE = 0.1  # of a crop, in half sides of the image: smaller content is mostly noise


def pixel_centers(side: int, device: torch.device | None = None) -> Tensor:
    """(side,) centres of a row of pixels, in [-1, 1] across the row."""
    return (torch.arange(side, device=device) + 0.5) * (2 / side) - 1


def foreground(images: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 1, h, w), 0..1: pixels that differ from the image's corners."""
    last = images.shape[-1] - 1
    corners = images[:, :, ::last, ::last].mean((2, 3), keepdim=True)
    difference = (images - corners).square().sum(1, keepdim=True).square()
    return difference / (difference + BACKGROUND_DIFFERENCE**2)


@torch.no_grad()
def content_crops(images: Tensor) -> Tensor:
    """Find the square around the content of each image.

    images: (B, 3, S, S). Returns (B, 3): right and down of the crop's centre, in [-1, 1] across the
    image, and the log of its half side; (0, 0, 0) is the full image. A crop lies inside the image.
    An image that is equal to its corners everywhere is not cropped.
    """
    smooth = _box_blur(images)  # against noise
    content = foreground(smooth)[:, 0] > 0.5  # (B, S, S)
    side = images.shape[-1]
    edges = torch.arange(side + 1, device=images.device) * (2 / side) - 1  # (S + 1,)
    occupied = torch.stack([content.any(1), content.any(2)], 1).int()  # (B, 2, S): columns, rows
    low = edges[occupied.argmax(2)]  # (B, 2)
    high = edges[side - occupied.flip(2).argmax(2)]
    half = ((high - low).amax(1, keepdim=True) / 2 * CROP_MARGIN).clamp(MIN_HALF_SIDE, 1)
    half = torch.where(content.flatten(1).any(1, keepdim=True), half, 1.0)  # (B, 1)
    center = ((low + high) / 2).clamp(half - 1, 1 - half)
    return torch.cat([center, half.log()], 1)


def _box_blur(images: Tensor) -> Tensor:
    """(B, 3, S, S), the mean over 3 x 3 pixels; sums of slices are faster than pooling on a CPU."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


@torch.no_grad()
def jitter_crops(crops: Tensor, jitter: Tensor) -> Tensor:
    """Enlarge and shift crops (B, 3); they still show their content, and only the image.

    jitter: (B, 3), growth and shift, see `crop_jitter_from_uniform`; zeros change nothing.
    """
    half = crops[:, 2:].exp()  # (B, 1)
    enlarged = (half * (1 + jitter[:, :1])).clamp(max=1)
    shifted = crops[:, :2] + (enlarged - half) * jitter[:, 1:]
    changed = torch.cat([shifted.clamp(enlarged - 1, 1 - enlarged), enlarged.log()], 1)
    return torch.where(jitter.any(1, keepdim=True), changed, crops)


@torch.no_grad()
def resample_crops(images: Tensor, crops: Tensor, side: int) -> Tensor:
    """Cut out crops (B, 3) of images (B, 3, S, S) and resize them to (B, 3, T, T), T = side.

    Linear interpolation, with averaging where the resolution is reduced. Two matrix products, which
    are deterministic on every device.
    """
    half = crops[:, 2].exp()
    across, down = (resampling_matrix(crops[:, i], half, images.shape[-1], side) for i in (0, 1))
    return down[:, None] @ images @ across[:, None].transpose(-1, -2)


def resampling_matrix(center: Tensor, half: Tensor, source: int, target: int) -> Tensor:
    """(B, T, S) weights of the source's pixels for each pixel of the crop; rows sum to 1.

    center, half: (B,), of the crop along the axis, in [-1, 1] across the source.
    """
    position = pixel_centers(target, center.device)  # (T,)
    position = (center[:, None] + half[:, None] * position + 1) * (source / 2) - 0.5  # (B, T), px
    width = (half * (source / target)).clamp(min=1)[:, None, None]
    pixels = torch.arange(source, device=center.device)
    weights = (1 - (pixels - position[..., None]).abs() / width).clamp(min=0)  # (B, T, S)
    return weights / weights.sum(-1, keepdim=True)


def to_crop_frame(positions: Tensor, wholes: Tensor, parts: Tensor) -> Tensor:
    """Position of the part's image in the whole's -> position of the part's crop in the whole's.

    positions: (B, K, 3): right and down of the centre in [-1, 1], log size.
    wholes, parts: (B, 3), the crops of the whole and of the part.
    """
    wholes, parts = wholes[:, None], parts[:, None]
    center = positions[..., :2] + positions[..., 2:].exp() * parts[..., :2]
    center = (center - wholes[..., :2]) / wholes[..., 2:].exp()
    return torch.cat([center, positions[..., 2:] + parts[..., 2:] - wholes[..., 2:]], -1)


def from_crop_frame(positions: Tensor, wholes: Tensor, parts: Tensor) -> Tensor:
    """The inverse of `to_crop_frame`."""
    wholes, parts = wholes[:, None], parts[:, None]
    size = positions[..., 2:] + wholes[..., 2:] - parts[..., 2:]
    center = positions[..., :2] * wholes[..., 2:].exp() + wholes[..., :2]
    return torch.cat([center - size.exp() * parts[..., :2], size], -1)


def resizing_matrix(source: int, target: int) -> Tensor:
    """(T, S), resizes a row of S pixels to T as `resample_crops` does."""
    return resampling_matrix(torch.zeros(1), torch.ones(1), source, target)[0]
