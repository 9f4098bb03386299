"""The shared image encoder: crop to the content, DINOv2 tokens, pooling.

Shapes: B images, G patches per side of the backbone, S tokens per side after pooling, M = S * S,
D encoder width.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from partloc.data.transforms import Preprocessing
from partloc.model.attention import TokenPool
from partloc.model.backbone import build_backbone
from partloc.model.crop import content_crops, jitter_crops, resample_crops

if TYPE_CHECKING:  # the network also runs where pydantic is not installed
    from partloc.config import ModelConfig


class EncodedImages(NamedTuple):
    """B images as the network uses them.

    cls: class tokens (B, D). patches: pooled patch tokens (B, M, D). image: (B, 3, h, h), the
    cropped image. thumbnail: (B, 5, MAP_SIDE, MAP_SIDE), the same at low resolution and its depth
    map. crop: (B, 3), see `crop.content_crops`. All other fields show the crop. Without template
    matching image and thumbnail are empty.
    """

    cls: Tensor
    patches: Tensor
    image: Tensor
    thumbnail: Tensor
    crop: Tensor

    def select(self, index: Tensor) -> "EncodedImages":
        return EncodedImages(*(field.index_select(0, index) for field in self))

    def compact(self) -> "EncodedImages":
        """In half precision. Tokens need the range of bfloat16. Images need the resolution of
        float16, which has at least sixteen steps between two of their 256 levels."""
        cls, patches = self.cls.bfloat16(), self.patches.bfloat16()
        image, thumbnail, crop = (f.half() for f in (self.image, self.thumbnail, self.crop))
        return EncodedImages(cls, patches, image, thumbnail, crop)

    def float(self) -> "EncodedImages":
        return EncodedImages(*(field.float() for field in self))


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

    def find_crops(self, images: Tensor, jitter: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, 3). jitter: (B, 3), see `crop.jitter_crops`."""
        crops = content_crops(images)
        return crops if jitter is None else jitter_crops(crops, jitter)

    def forward(
        self, images: Tensor, crops: Tensor, precision: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode the crops (B, 3) of images (B, 3, H, W), normalised.

        precision: of the backbone's arithmetic, None for that of its weights.
        Returns: class tokens (B, D) and pooled patch tokens (B, M, D), float32.
        """
        cropped = resample_crops(images, crops, self.image_size)
        with torch.autocast(images.device.type, precision, enabled=precision is not None):
            cls, patches = self.backbone(cropped)
            return cls.float(), self.pool(patches).float()
