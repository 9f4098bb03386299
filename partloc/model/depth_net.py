"""How far from the camera is each surface that a picture shows? And so, how deep is a part?

A small network that has learned it from renders whose depth is known tells it for whole and part
alike. Where the part is proposed its depth map is laid over that of the whole: they differ by the
part's own depth, which its place in the image alone does not tell. A label does, so that poses
teach the network more.

Shapes: B pictures, Q proposed places, S = SIDE pixels a side of a depth map, n of another frame.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.files import hash_file, is_whole
from partloc.model.crop import pixel_centres

SIDE = 48  # of a depth map, pixels
WIDTHS = (48, 96, 160, 224)  # channels at SIDE, SIDE / 2 and so on
ATTENTION = (0, 2, 2)  # layers of it at SIDE / 2 and so on
HEAD = 32  # channels of one of its heads
LOG_ERRORS = (-5.0, 3.0)  # smallest and largest log of an expected error
DEPTH_WEIGHTS = Path(__file__).parents[1] / "weights" / "depth.pth"
# Squared difference of colour, in units of normalised pixels, at which whole and part hardly show
# the same surface.
UNLIKE = 0.3


class DepthNet(nn.Module):
    """A picture's depth map, and how sure that is.

    Depth runs away from the camera, from the middle of the thing shown, in half sides of the crop,
    as long as they are in the middle. Beside it stands the log of the error to expect.
    Source: U-Net (arXiv:1505.04597), its skips added instead of stacked, with self-attention
    (arXiv:1706.03762) where it is coarse; the expected error as in Kendall and Gal
    (arXiv:1703.04977).
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin = _block(3 * 4 + 3, WIDTHS[0])
        pairs = list(zip(WIDTHS, WIDTHS[1:], strict=False))
        self.down = nn.ModuleList(
            nn.Sequential(_block(fine, coarse, 2), _block(coarse, coarse)) for fine, coarse in pairs
        )
        # With it each pixel sees the whole picture, and so where the thing's middle is.
        self.attention = nn.ModuleList(
            SelfAttention(*each) for each in zip(WIDTHS[1:], ATTENTION, strict=True)
        )
        self.across = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(_block(width, width) for width in WIDTHS[:-1])
        self.end = nn.Conv2d(WIDTHS[0], 2, 1)
        centres = pixel_centres(SIDE)
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))  # (2, S, S)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, pictures: Tensor, crops: Tensor) -> Tensor:
        """(B, 3, 2 S, 2 S), normalised, and the crops (B, 3) that they show -> (B, 2, S, S)."""
        centre, log_half = crops[:, :2, None, None], crops[:, 2:, None, None]
        where = self.grid + centre / log_half.exp()  # from the middle of the frame
        size = log_half.expand(-1, 1, SIDE, SIDE)
        seen = self.begin(torch.cat([F.pixel_unshuffle(pictures, 2), where, size], 1))
        finer = []
        for down, attention in zip(self.down, self.attention, strict=True):
            finer.append(seen)
            seen = attention(down(seen))
        for across, up in zip(reversed(self.across), reversed(self.up), strict=True):
            seen = F.interpolate(across(seen), scale_factor=2, mode="bilinear", align_corners=False)
            seen = up(seen + finer.pop())
        depth, log_error = self.end(seen).split(1, 1)
        return torch.cat([depth, log_error.clamp(*LOG_ERRORS)], 1)


class SelfAttention(nn.Module):
    """From each place of a map (B, C, h, w) to all of them, in `layers` layers; none: the map."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    *(width, width // HEAD, 2 * width),
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(layers)
            )
        )

    def forward(self, seen: Tensor) -> Tensor:
        return self.layers(seen.flatten(2).mT).mT.reshape(seen.shape)


def _block(seen: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(seen, out, 3, stride, 1), nn.GroupNorm(8, out), nn.GELU())


def load_depth_net(blank: bool = False) -> DepthNet:
    """The network with the weights that come with the code, from which a training goes on.

    blank: without weights, for a model whose own are loaded later.
    Raises: ValueError when they are not the file that the checksum beside them was written for.
    """
    net = DepthNet()
    if not blank:
        if not is_whole(DEPTH_WEIGHTS):
            raise ValueError(
                f"{DEPTH_WEIGHTS}: missing, or not the file that "
                f"{hash_file(DEPTH_WEIGHTS).name} was written for; get both again"
            )
        weights = torch.load(DEPTH_WEIGHTS, weights_only=True)
        net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net


class DepthReading(NamedTuple):
    """What the depth maps of whole and part, laid over each other at Q places, say of the part's
    depth, pixel by pixel, (Q, n * n) each.

    depth: of the part's middle behind the whole's, in half sides of the whole's crop; expected:
    the error to expect of it, in the same unit; trust: how much of the part seems to be in sight
    there, 0..1.
    """

    depth: Tensor
    expected: Tensor
    trust: Tensor


def read_depth(
    whole: Tensor, part: Tensor, unlike: Tensor, mask: Tensor, size: Tensor
) -> DepthReading:
    """whole, part: (Q, 2, n, n), depth maps in one frame, each in its own half sides; unlike:
    (Q, 1, n, n), squared difference of colour; mask: (Q, 1, n, n), where the part is; size: (Q, 1),
    half side of the part's crop in half sides of the whole's."""
    size = size[..., None, None]
    depth = whole[:, :1] - size * part[:, :1]
    expected = whole[:, 1:].exp() + size * part[:, 1:].exp()
    trust = mask * (-unlike / UNLIKE).exp()
    return DepthReading(*(each.flatten(1) for each in (depth, expected, trust)))


class DepthFit(NamedTuple):
    """How deep Q parts are in their wholes, (Q, 1) each.

    depth: of the part's middle behind the whole's, in half sides of the whole's crop; residual:
    mean difference that is left between the depth maps, in the same unit; shown: share of the
    part's picture that seems to be in sight.
    """

    depth: Tensor
    residual: Tensor
    shown: Tensor


def fit_depth(reading: DepthReading, mask: Tensor) -> DepthFit:
    """The depth at which the part's depth map agrees with most of the whole's.

    mask: (Q, 1, n, n), where the part is.
    The weighted median: whatever covers less than half of the part does not count.
    """
    left, mask = reading.depth, mask.flatten(1)  # (Q, n * n)
    trust = reading.trust + 1e-4 * mask + 1e-8
    weight = trust / reading.expected
    depth = weighted_median(left, weight)  # (Q, 1)
    residual = (weight * (left - depth).abs()).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    shown = trust.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1e-3)
    return DepthFit(depth, residual, shown)


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """(Q, N), (Q, N) -> (Q, 1): of each row the smallest value up to which half the weight lies."""
    order = values.argsort(dim=1, stable=True)
    below = weights.gather(1, order).cumsum(1)
    middle = (below >= below[:, -1:] / 2).int().argmax(1, keepdim=True)  # the first such
    return values.gather(1, order.gather(1, middle))
