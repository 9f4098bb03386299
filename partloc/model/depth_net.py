"""Depth maps of whole and part, and the depth of the part that follows from them.

A small network, trained on renders of known depth, predicts a depth map from an image of a whole
or of a part. At a proposed position the two maps are aligned: where the part is visible they differ
by the depth of the part in the whole, which its position in the image does not determine. A label
gives that depth, so poses can train the network further.

Shapes: B images, Q proposed positions, S = MAP_SIDE pixels per side of a depth map, n pixels per
side of another frame.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.model.crop import pixel_centers
from partloc.system.files import checksum_path, matches_checksum

MAP_SIDE = 48  # of a depth map, pixels
CAMERA_CHANNELS = 4  # of `PinholeCamera.code`
WIDTHS = (48, 96, 160, 224)  # channels at MAP_SIDE, MAP_SIDE / 2 and so on
ATTENTION_LAYERS = (0, 2, 2)  # at MAP_SIDE / 2 and so on
ATTENTION_HEAD_DIM = 32
LOG_ERROR_RANGE = (-5.0, 3.0)  # of the predicted log of the expected error
# Model file that comes with the package.
SHIPPED_WEIGHTS = Path(__file__).parents[1] / "weights" / "dinov2_vitt14.pth"
# Squared colour difference of whole and part, in normalised pixels, that lowers the visibility of
# the part by a factor of e.
COLOR_TOLERANCE = 0.3


class DepthNet(nn.Module):
    """Predicts a depth map and its expected error.

    The image alone leaves open from where it was taken, so the network also receives the camera.
    Depth increases away from the camera. It is 0 at the centre of the object and measured in half
    sides of the crop. The second channel is the log of the expected absolute error.
    Source: U-Net (arXiv:1505.04597) with added skip connections and self-attention
    (arXiv:1706.03762) at low resolution; the expected error as in Kendall and Gal
    (arXiv:1703.04977).
    """

    grid: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_block(3 * 4 + 3 + CAMERA_CHANNELS, WIDTHS[0])
        pairs = list(zip(WIDTHS, WIDTHS[1:], strict=False))
        self.down = nn.ModuleList(
            nn.Sequential(_conv_block(fine, coarse, 2), _conv_block(coarse, coarse))
            for fine, coarse in pairs
        )
        # Self-attention gives each pixel the context of the full image, e.g. the object's centre.
        self.attention = nn.ModuleList(
            MapSelfAttention(width, layers)
            for width, layers in zip(WIDTHS[1:], ATTENTION_LAYERS, strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(_conv_block(width, width) for width in WIDTHS[:-1])
        self.head = nn.Conv2d(WIDTHS[0], 2, 1)
        centers = pixel_centers(MAP_SIDE)
        grid = torch.stack(torch.meshgrid(centers, centers, indexing="xy"))  # (2, S, S)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, images: Tensor, crops: Tensor, camera: Tensor) -> Tensor:
        """images (B, 3, 2 S, 2 S), normalised, that show the crops (B, 3) -> (B, 2, S, S).

        camera: (B, 4), `PinholeCamera.code` of each image; zeros if it is not known.
        """
        center, log_half = crops[:, :2, None, None], crops[:, 2:, None, None]
        position = self.grid + center / log_half.exp()  # relative to the centre of the image
        size = log_half.expand(-1, 1, MAP_SIDE, MAP_SIDE)
        camera = camera[..., None, None].expand(-1, -1, MAP_SIDE, MAP_SIDE)
        inputs = [F.pixel_unshuffle(images, 2), position, size, camera]
        features = self.stem(torch.cat(inputs, 1))
        skips = []
        for down, attention in zip(self.down, self.attention, strict=True):
            skips.append(features)
            features = attention(down(features))
        for lateral, up in zip(reversed(self.lateral), reversed(self.up), strict=True):
            features = F.interpolate(
                lateral(features), scale_factor=2, mode="bilinear", align_corners=False
            )
            features = up(features + skips.pop())
        depth, log_error = self.head(features).split(1, 1)
        return torch.cat([depth, log_error.clamp(*LOG_ERROR_RANGE)], 1)


class MapSelfAttention(nn.Module):
    """Transformer layers over all positions of a map, (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    *(width, width // ATTENTION_HEAD_DIM, 2 * width),
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(layers)
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.flatten(2).mT).mT.reshape(features.shape)


def _conv_block(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1), nn.GroupNorm(8, out), nn.GELU())


def load_depth_net(blank: bool = False) -> DepthNet:
    """The depth network of the shipped weights.

    blank: without weights, for a model whose own weights are loaded later.
    Raises: ValueError if the weights do not match the checksum beside them.
    """
    net = DepthNet()
    if not blank:
        if not matches_checksum(SHIPPED_WEIGHTS):
            raise ValueError(
                f"{SHIPPED_WEIGHTS}: missing, or not the file that "
                f"{checksum_path(SHIPPED_WEIGHTS).name} was written for; get both again"
            )
        weights = torch.load(SHIPPED_WEIGHTS, weights_only=True)["weights"]
        prefix = "depth_net."
        net.load_state_dict(
            {
                name.removeprefix(prefix): value.float()
                for name, value in weights.items()
                if name.startswith(prefix)
            }
        )
    return net


class DepthReading(NamedTuple):
    """Depth of the part at Q positions, read from each pixel of the aligned depth maps.

    depth: (Q, n * n), of the part's centre behind the whole's, in half sides of the whole's crop.
    expected_error: (Q, n * n), in the same unit. visibility: (Q, n * n), 0..1, how much of the part
    is visible at the pixel.
    """

    depth: Tensor
    expected_error: Tensor
    visibility: Tensor


def read_depth(
    whole: Tensor, part: Tensor, color_difference: Tensor, mask: Tensor, size: Tensor
) -> DepthReading:
    """Subtract aligned depth maps.

    whole, part: (Q, 2, n, n), depth maps in one frame, each in half sides of its own crop.
    color_difference: (Q, 1, n, n), squared. mask: (Q, 1, n, n), coverage by the part.
    size: (Q, 1), half side of the part's crop in half sides of the whole's.
    """
    size = size[..., None, None]
    depth = whole[:, :1] - size * part[:, :1]
    expected_error = whole[:, 1:].exp() + size * part[:, 1:].exp()
    visibility = mask * (-color_difference / COLOR_TOLERANCE).exp()
    return DepthReading(*(values.flatten(1) for values in (depth, expected_error, visibility)))


class DepthFit(NamedTuple):
    """Depth of Q parts in their wholes, (Q, 1) each.

    depth: of the part's centre behind the whole's, in half sides of the whole's crop.
    residual: weighted mean difference that remains between the depth maps, in the same unit.
    visible_fraction: of the part's image.
    """

    depth: Tensor
    residual: Tensor
    visible_fraction: Tensor


def fit_depth(reading: DepthReading, mask: Tensor) -> DepthFit:
    """Weighted median of the depth, robust to an occlusion of less than half of the part.

    mask: (Q, 1, n, n), coverage by the part.
    """
    depths, mask = reading.depth, mask.flatten(1)  # (Q, n * n)
    visibility = reading.visibility + 1e-4 * mask + 1e-8
    weight = visibility / reading.expected_error
    depth = weighted_median(depths, weight)  # (Q, 1)
    residual = (weight * (depths - depth).abs()).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    visible = visibility.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1e-3)
    return DepthFit(depth, residual, visible)


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """(Q, N), (Q, N) -> (Q, 1): the smallest value at which the cumulative weight reaches half."""
    order = values.argsort(dim=1, stable=True)
    cumulative = weights.gather(1, order).cumsum(1)
    middle = (cumulative >= cumulative[:, -1:] / 2).int().argmax(1, keepdim=True)  # first True
    return values.gather(1, order.gather(1, middle))
