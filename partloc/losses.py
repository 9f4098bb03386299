"""The training loss: weighted L1 on translation and on scale, blind to which twin is which.

Shapes: B batch, K twins of a part.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from partloc.config import TrainConfig
from partloc.pose import PartPose


class LossParts(NamedTuple):
    """Per-sample losses, each (B,); total = w_trans * translation + w_scale * scale."""

    total: Tensor
    translation: Tensor
    scale: Tensor


def pose_loss(predicted: PartPose, targets: PartPose, config: TrainConfig) -> LossParts:
    """L1 distance to the nearest of the places that would be right.

    Args:
        predicted: translation (B, 3), whole-model units; scale (B, 1), > 0.
        targets: translation (B, K, 3), scale (B, K, 1). K = 1 without twins.
        config: weights, and whether the scale is compared by its logarithm (relative error:
            twice too big costs the same as twice too small) or as it is.
    Returns: LossParts; the translation term is the sum over the three axes.
    Raises: ValueError if shapes do not belong together; broadcasting would hide it.
    Source: the minimum over indistinguishable answers as in CosyPose, eq. 2 (arXiv:2008.08465);
        log sizes as in R-CNN, appendix C (arXiv:1311.2524).
    """
    size = len(predicted.scale)
    shapes = [tuple(field.shape) for field in (*predicted, *targets)]
    k = targets.scale.shape[1]
    if shapes != [(size, 3), (size, 1), (size, k, 3), (size, k, 1)]:
        raise ValueError(f"expected (B, 3), (B, 1), (B, K, 3), (B, K, 1), found {shapes}")
    translation = (predicted.translation[:, None] - targets.translation).abs().sum(-1)  # (B, K)
    ours, theirs = predicted.scale[:, None], targets.scale
    if config.scale_loss == "log":
        ours, theirs = ours.log(), theirs.log()
    scale = (ours - theirs).abs().squeeze(-1)  # (B, K)
    total = config.w_trans * translation + config.w_scale * scale
    nearest = total.argmin(1, keepdim=True)  # (B, 1)
    return LossParts(*(term.gather(1, nearest).squeeze(1) for term in (total, translation, scale)))


def targets_of(pose: PartPose, twins: PartPose, twin_aware: bool) -> PartPose:
    """The places a prediction is compared with: (B, K, .) with twins, (B, 1, .) without."""
    if twin_aware:
        return twins
    return PartPose(*(torch.unsqueeze(field, 1) for field in pose))


def match_loss(
    places: PartPose, log_probability: Tensor, targets: PartPose, config: TrainConfig
) -> Tensor:
    """Expected cost of drawing one of the model's hypotheses, (B,).

    Unlike the error of the mean place, this rewards certainty, and of equal parts any one place.
    Args:
        places: H hypotheses, translation (H, 3), scale (H, 1). log_probability: (B, H).
        targets: translation (B, K, 3), scale (B, K, 1).
    Source: the expected task loss of DSAC, eq. 5 (arXiv:1611.05705).
    """
    offset = places.translation[:, None] - targets.translation[:, None]  # (B, H, K, 3)
    distance = (offset.square().sum(-1) + 1e-6).sqrt()  # (B, H, K), smooth at 0
    ratio = (places.scale.log()[:, None] - targets.scale.log()[:, None]).abs().squeeze(-1)
    cost = (config.w_trans * distance + config.w_scale * ratio).amin(-1)  # (B, H)
    return (log_probability.exp() * cost).sum(1)
