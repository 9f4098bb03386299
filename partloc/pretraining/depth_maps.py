"""True depth maps in the unit of the depth network, and its loss on them.

Shapes: B images, S = MAP_SIDE pixels per side of a predicted map, s of a rendered one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from partloc.model.crop import pixel_centers
from partloc.model.depth_net import MAP_SIDE


def crop_depth_maps(maps: Tensor, crops: Tensor, image_scale: Tensor) -> Tensor:
    """Crop depth maps and convert them to the unit of `DepthNet`.

    Args:
        maps: (B, s, s), of the full image, model units, NaN on the background.
        crops: (B, 3).
        image_scale: (), half image sides per model unit, see `PinholeCamera.image_scale`.
    Returns: (B, 1, S, S), in half sides of the crop.
    """
    half = crops[:, 2:].exp()  # (B, 1)
    centers = pixel_centers(MAP_SIDE, crops.device)
    right, down = (crops[:, i : i + 1] + half * centers for i in (0, 1))  # (B, S)
    size = (-1, MAP_SIDE, MAP_SIDE)
    grid = torch.stack([right[:, None].expand(size), down[..., None].expand(size)], -1)
    cropped = F.grid_sample(maps[:, None], grid, mode="nearest", align_corners=False)
    return cropped * (image_scale / half)[..., None, None]


def depth_map_losses(prediction: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood and absolute error, means over the foreground, (B,) each.

    Args:
        prediction: (B, 2, S, S), depth and log error of the network.
        depths: (B, 1, S, S), NaN on the background.
    Source: the negative log-likelihood of a Laplace density, as in Kendall and Gal
        (arXiv:1703.04977).
    """
    foreground = ~depths.isnan()
    depth, log_error = prediction.split(1, 1)
    error = (depth - depths.nan_to_num()).abs() * foreground
    nll = error * (-log_error).exp() + log_error * foreground
    count = foreground.sum((1, 2, 3)).clamp(min=1)
    return nll.sum((1, 2, 3)) / count, error.sum((1, 2, 3)) / count
