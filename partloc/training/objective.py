"""Forward pass and loss terms of a batch; the same in training and in validation.

Shapes: U distinct parts and P pairs of a batch.
"""

import torch
from torch import Tensor, nn

from partloc.config import TrainConfig
from partloc.data.dataset import Batch
from partloc.model.encoder import EncodedImages
from partloc.model.locator import PartLocator
from partloc.model.prediction import Prediction
from partloc.training.losses import LossTerms, loss_targets, training_loss


class Objective:
    """Predicts the pairs of a batch and compares the predictions with their labels."""

    def __init__(self, config: TrainConfig, model: PartLocator, dtype: torch.dtype | None) -> None:
        """dtype: of the encoder's autocast, None for full precision."""
        self.config, self.model, self.dtype = config, model, dtype
        self.has_camera = model.has_camera

    def predict(self, network: nn.Module, batch: Batch) -> Prediction:
        """Predict all P pairs of a batch.

        network: the model, or its DistributedDataParallel wrapper in training.
        """
        gt_pose = None
        if self.has_camera:
            gt_pose = batch.pose
        wholes, parts = batch.wholes, batch.parts
        if self.config.freeze_backbone:
            wholes, parts = self._encode_frozen(wholes), self._encode_frozen(parts)
        options = (gt_pose, self.dtype, batch.jitter, batch.part_of_pair)
        return network(wholes, parts, batch.whole_of_part, *options)

    def loss_terms(self, prediction: Prediction, batch: Batch) -> LossTerms:
        """Compute the loss terms of all P pairs."""
        targets = loss_targets(batch.pose, batch.twin_poses, self.config.twin_aware)
        positions = self.model.project(targets) if self.has_camera else None
        return training_loss(prediction, targets, positions, self.config)

    @torch.no_grad()
    def _encode_frozen(self, images: Tensor | tuple[Tensor, ...]) -> EncodedImages:
        """Encode images, or take tokens from the cache; both are rounded to its precision."""
        if isinstance(images, Tensor):
            images = self.model.encode(images, self.dtype).compact()
        return EncodedImages(*images).float()
