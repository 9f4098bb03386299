"""Direct regression: one pose from the tokens of whole and part, without template matching.

Shapes: W wholes, B parts, P pairs, C token width.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from partloc.data.transforms import Preprocessing
from partloc.model.attention import CrossAttention
from partloc.model.encoder import EncodedImages
from partloc.model.locator import CROP_FEATURES, PartLocator
from partloc.model.prediction import Prediction
from partloc.pose import PartPose

if TYPE_CHECKING:  # the network also runs where pydantic is not installed
    from partloc.config import ModelConfig


class DirectRegression(PartLocator):
    """Part tokens attend to the whole's; the pose head reads their mean and both crops.

    One hypothesis per pair.
    """

    def __init__(
        self, config: "ModelConfig", preprocessing: Preprocessing, blank: bool = False
    ) -> None:
        super().__init__(config, preprocessing, blank)
        self.cross_attention = CrossAttention(
            config.cross_attention_dim,
            config.cross_attention_layers,
            config.dropout,
            self.encoder.token_centers,
        )
        self.add_heads(config.cross_attention_dim + 2 * CROP_FEATURES, outputs=4)

    @property
    def crop_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (0,), (0,)

    def crop_images(self, images: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        empty = images.new_zeros(len(images), 0)
        return empty, empty

    def predict(
        self,
        wholes: EncodedImages,
        parts: EncodedImages,
        whole_of_part: Tensor,
        gt_pose: PartPose | None = None,
        part_of_pair: Tensor | None = None,
    ) -> Prediction:
        """Predict from encoded images, see `PartLocator.forward`; gt_pose is not used."""
        whole = wholes.select(whole_of_part)
        tokens = self.projection(parts.tokens), self.projection(whole.tokens)  # (B, M, C)
        attended = self.cross_attention(*tokens)  # (B, C)
        features = torch.cat([attended, whole.crop, parts.crop], -1)
        raw, hidden = self.pose_head(features[:, None])  # (B, 1, 4)
        log_weight = torch.zeros_like(raw[..., 0])
        logit = self.confidence_head(hidden, log_weight)
        prediction = Prediction(self.prior(raw), log_weight, logit)
        return prediction if part_of_pair is None else prediction.select(part_of_pair)
