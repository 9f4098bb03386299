"""The shared image encoder: crop to the content, DINOv2 tokens, pooling; their projection.

Shapes: B images, G patches per side of the backbone, S tokens per side after pooling, M = S * S,
D backbone width, C token width.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from partloc.data.transforms import Preprocessing
from partloc.model.attention import TokenPool, bin_centers
from partloc.model.backbone import build_backbone
from partloc.model.crop import content_crops, jitter_crops, resample_crops

if TYPE_CHECKING:  # the network also runs where pydantic is not installed
    from partloc.config import ModelConfig


UNIT_CHANNELS = 16  # first channels of the tokens, whose mean variance is 1


class EncodedImages(NamedTuple):
    """B images as the network uses them.

    tokens: (B, M, D), or (B, M, C) once they are projected. image: (B, 3, h, h), the cropped image.
    thumbnail: (B, 5, MAP_SIDE, MAP_SIDE), the same at low resolution and its depth map. crop:
    (B, 3), see `crop.content_crops`. All other fields show the crop. Without template matching
    image and thumbnail are empty.
    """

    tokens: Tensor
    image: Tensor
    thumbnail: Tensor
    crop: Tensor

    def select(self, index: Tensor) -> "EncodedImages":
        return EncodedImages(*(field.index_select(0, index) for field in self))

    def compact(self) -> "EncodedImages":
        """In half precision. Tokens need the range of bfloat16. Images need the resolution of
        float16, which has at least sixteen steps between two of their 256 levels."""
        images = self.image.half(), self.thumbnail.half(), self.crop.half()
        return EncodedImages(self.tokens.bfloat16(), *images)

    def float(self) -> "EncodedImages":
        return EncodedImages(*(field.float() for field in self))


class TokenProjection(nn.Linear):
    """Tokens of the backbone (..., D) -> (..., C), of zero mean; all that follows is independent of
    the backbone.

    It starts as a principal component analysis of training tokens, see `fit`. Equal content has
    thus similar tokens before any training, and the first channels show most of it.
    """

    @torch.no_grad()
    def fit(self, samples: Tensor) -> None:
        """Set the projection from tokens (N, D).

        Channels are uncorrelated, in descending order of their variance; the first UNIT_CHANNELS
        have a mean variance of 1. Channels beyond D are zero.
        """
        mean = samples.mean(0)
        variance, axes = torch.linalg.eigh((samples - mean).T.double().cov())  # ascending
        variance, axes = variance.flip(0), axes.flip(1)[:, : self.out_features]
        # The sign of an eigenvector is arbitrary: its largest component becomes positive.
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        self.weight.zero_()
        self.weight[: axes.shape[1]] = (axes.T / variance[:UNIT_CHANNELS].mean().sqrt()).float()
        self.bias.copy_(-(self.weight @ mean))


class ImageEncoder(nn.Module):
    """Crops images to their content and encodes the crops with DINOv2.

    Adaptive average pooling reduces the G x G patch tokens to S x S.
    """

    def __init__(
        self, config: "ModelConfig", preprocessing: Preprocessing, blank: bool = False
    ) -> None:
        """blank: without the backbone's weights, see `build_backbone`."""
        super().__init__()
        self.image_size = preprocessing.image_size
        self.backbone = build_backbone(
            *(config.backbone_name, self.image_size, config.pretrained, config.weights, blank)
        )
        self.tokens_per_side = min(config.downsample_size, self.backbone.grid)
        self.pool = TokenPool(self.backbone.grid, self.tokens_per_side)

    @property
    def token_centers(self) -> Tensor:
        """(S,) centres of the tokens of a row, in [-1, 1] across the crop."""
        return bin_centers(self.backbone.grid, self.tokens_per_side)

    def find_crops(self, images: Tensor, jitter: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, 3). jitter: (B, 3), see `crop.jitter_crops`."""
        crops = content_crops(images)
        return crops if jitter is None else jitter_crops(crops, jitter)

    def forward(
        self, images: Tensor, crops: Tensor, precision: torch.dtype | None = None
    ) -> Tensor:
        """Encode the crops (B, 3) of images (B, 3, H, W), normalised.

        precision: of the backbone's arithmetic, None for that of its weights.
        Returns: pooled patch tokens (B, M, D), float32.
        """
        cropped = resample_crops(images, crops, self.image_size)
        with torch.autocast(images.device.type, precision, enabled=precision is not None):
            _, patches = self.backbone(cropped)
            return self.pool(patches).float()
