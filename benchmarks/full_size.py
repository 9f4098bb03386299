"""The full-size configuration and a synthetic batch for it, for machines without pydantic."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.box_models import PARTS_PER_WHOLE
from partloc.model.locator import PartLocator
from partloc.pose import PartPose
from partloc.training.losses import training_loss

# The full-size defaults of what the network, its loss and its optimiser read. They repeat those of
# partloc.config, which needs pydantic: a machine with a GPU may lack it. A test compares the two.
MODEL = {
    "weights": None,
    "start_from": None,
    "downsample_size": 32,
    "cross_attention_layers": 1,
    "cross_attention_dim": 192,
    "mlp_hidden_dim": 256,
    "match_size": 32,
    "depth_maps": True,
    "hypotheses": 24,
}
TRAIN = {
    "use_amp": True,
    "learning_rate": 2.0e-4,
    "backbone_lr_factor": 0.1,
    "weight_decay": 0.05,
    "w_trans": 1.0,
    "w_scale": 0.8,
    "w_match": 0.2,
    "w_rank": 0.3,
    "w_depth": 0.1,
    "w_confidence": 0.1,
    "w_gt_pose": 1.0,
    "scale_loss": "log",
}


def full_size_config(backbone: str, image_size: int) -> SimpleNamespace:
    """The groups and keys of a Config that the benchmarks need; random weights, no dropout."""
    changes = {"backbone_name": backbone, "pretrained": False, "dropout": 0.0}
    return SimpleNamespace(
        data=SimpleNamespace(image_size=image_size),
        model=SimpleNamespace(**MODEL | changes),
        train=SimpleNamespace(**TRAIN),
    )


def num_wholes(num_pairs: int) -> int:
    """Number of whole images in a batch, at PARTS_PER_WHOLE parts each."""
    return -(-num_pairs // PARTS_PER_WHOLE)


class SyntheticBatch(NamedTuple):
    """Random images and poses: wholes (W, 3, H, W), parts (P, 3, H, W), whole_of_part (P,)."""

    wholes: Tensor
    parts: Tensor
    whole_of_part: Tensor
    pose: PartPose
    train_config: Any  # with the fields of partloc.config.TrainConfig

    def loss(self, model: PartLocator, precision: torch.dtype | None) -> Tensor:
        """The mean training loss of the pairs, with all of its terms."""
        positions = model.project(self.pose)
        prediction = model(self.wholes, self.parts, self.whole_of_part, self.pose, precision)
        targets = PartPose(*(field[:, None] for field in self.pose))
        losses = training_loss(prediction, targets, positions[:, None], self.train_config)
        return losses.loss.mean()


def synthetic_batch(
    config: SimpleNamespace, num_pairs: int, device: torch.device
) -> SyntheticBatch:
    side = config.data.image_size
    wholes, parts = (
        torch.rand(count, 3, side, side, device=device)
        for count in (num_wholes(num_pairs), num_pairs)
    )
    pose = PartPose(
        torch.rand(num_pairs, 3, device=device) - 0.5,
        0.2 + 0.5 * torch.rand(num_pairs, 1, device=device),
    )
    whole_of_part = torch.arange(num_pairs, device=device) // PARTS_PER_WHOLE
    return SyntheticBatch(wholes, parts, whole_of_part, pose, config.train)
