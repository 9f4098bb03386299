"""The training loss: weighted L1 on translation and on scale, blind to which twin is which.

Shapes: B batch, K twins of a part.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from partloc.config import TrainConfig
from partloc.model import Prediction
from partloc.pose import PartPose


class LossParts(NamedTuple):
    """Per-sample losses, each (B,): the weighted sum, and its terms before weighting."""

    loss: Tensor
    translation_loss: Tensor
    scale_loss: Tensor
    match_loss: Tensor


def training_loss(
    prediction: Prediction, targets: PartPose, target_places: Tensor | None, config: TrainConfig
) -> LossParts:
    """loss = w_trans * translation + w_scale * scale + w_match * match.

    Args:
        targets: the places that would be right, (B, K, 3) and (B, K, 1).
        target_places: where they appear in the image, (B, K, 3); None leaves matching out.
    """
    translation, scale = pose_loss(prediction.pose, targets, config)
    match = torch.zeros_like(scale)
    if target_places is not None:
        match = match_loss(prediction.places, prediction.log_probability, target_places)
    total = config.w_trans * translation + config.w_scale * scale + config.w_match * match
    return LossParts(total, translation, scale, match)


def pose_loss(predicted: PartPose, targets: PartPose, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """L1 distances in translation and scale to the nearest of the places that would be right.

    Args:
        predicted: translation (B, 3), whole-model units; scale (B, 1), > 0.
        targets: translation (B, K, 3), scale (B, K, 1). K = 1 without twins.
        config: weights, and whether the scale is compared by its logarithm (relative error:
            twice too big costs the same as twice too small) or as it is.
    Returns: translation, summed over the three axes, and scale, each (B,).
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
    return tuple(term.gather(1, nearest).squeeze(1) for term in (translation, scale))


def targets_of(pose: PartPose, twins: PartPose, twin_aware: bool) -> PartPose:
    """The places a prediction is compared with: (B, K, .) with twins, (B, 1, .) without."""
    if twin_aware:
        return twins
    return PartPose(*(torch.unsqueeze(field, 1) for field in pose))


# How near to the truth a place has to be, one standard deviation: right, down, log size.
TOLERANCE = (0.08, 0.08, 0.25)


def match_loss(places: Tensor, log_probability: Tensor, targets: Tensor) -> Tensor:
    """Surprise at the truth: -log of the probability near any place that would be right, (B,).

    Unlike the error of the mean place, it never rewards the middle between two candidates, and of
    equal parts it accepts any one place.
    Args:
        places: (H, 3), right and down in half image sides, log size. log_probability: (B, H).
        targets: (B, K, 3), where the places that would be right appear.
    Source: the negative log-likelihood of a mixture density (Bishop, 1994), components fixed.
    """
    offset = (places[:, None] - targets[:, None]) / places.new_tensor(TOLERANCE)  # (B, H, K, 3)
    nearness = -offset.square().sum(-1).amin(-1) / 2  # (B, H)
    return -(log_probability + nearness).logsumexp(1)
