"""The training loss: negative log-likelihood of the pose hypotheses, plus auxiliary terms.

A "twin" of a part is a part of the same model that looks identical. The poses of all twins are
valid targets.

Shapes: B batch, H hypotheses, T valid targets of a part (its twins), P grid positions of the
template matching, V pixels of a depth map.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from partloc.model.crop import to_crop_frame
from partloc.model.depth_net import DepthReading
from partloc.model.prediction import Prediction
from partloc.pose import RIGHT_TOLERANCE, PartPose

if TYPE_CHECKING:  # any object with the fields will do, also where pydantic is not installed
    from partloc.config import TrainConfig

# Scale of the mixture's exponential components, in units of the pose loss: a hypothesis whose
# pose loss is larger by this is e times less likely.
MIXTURE_SCALE = 0.15
# Standard deviations of (right, down, log size) around a target position, right and down in half
# image sides: of the matching distribution, and of the wider neighbourhood in which a proposal can
# still be refined to the target.
MATCH_STD = (0.1, 0.1, 0.25)
RANK_STD = (0.15, 0.15, 0.35)
# Added to the number of visible pixels in the depth loss, so that barely visible parts count less.
DEPTH_PIXEL_OFFSET = 10


class LossTerms(NamedTuple):
    """The loss of each sample and its terms, each (B,).

    `loss` is minimised. `translation_loss` and `scale_loss` are L1 errors of the best hypothesis
    (scale as configured); `gt_pose_loss` is the pose loss of the prediction at the ground-truth
    position. All terms are without their weights in `loss`.
    """

    loss: Tensor
    translation_loss: Tensor
    scale_loss: Tensor
    confidence_loss: Tensor
    match_loss: Tensor
    rank_loss: Tensor
    gt_pose_loss: Tensor
    depth_loss: Tensor


def training_loss(
    prediction: Prediction,
    targets: PartPose,
    target_positions: Tensor | None,
    config: "TrainConfig",
) -> LossTerms:
    """Compute the loss of each sample and its terms.

    The pose loss of a hypothesis is w_trans * translation + w_scale * scale. The hypotheses are a
    mixture with weights p and exponential components of scale b = MIXTURE_SCALE, whose negative
    log-likelihood is -b * log(sum of p * exp(-pose loss / b)). With a single hypothesis this is
    its pose loss, whatever b is. Added to it are w_confidence * confidence, w_match * match,
    w_rank * rank, w_gt_pose * gt_pose, the pose loss of the prediction at the ground-truth
    position, and w_depth * depth. Terms of weight 0 are computed too: in parallel training every
    parameter needs a gradient.

    Args:
        prediction: of B parts.
        targets: valid target poses, (B, T, 3) and (B, T, 1).
        target_positions: their image positions (right, down, log size), (B, T, 3); None leaves
            out the match and rank terms.
        config: weights of the terms.
    Source: mixture density networks (Bishop, 1994), with Laplace components.
    """
    translation, scale = hypothesis_losses(prediction.hypotheses, targets, config)  # (B, H)
    pose = config.w_trans * translation + config.w_scale * scale
    total = -MIXTURE_SCALE * (prediction.log_weight - pose / MIXTURE_SCALE).logsumexp(1)
    confidence = confidence_loss(prediction, targets)
    total = total + config.w_confidence * confidence
    match = rank = gt_pose = depth = torch.zeros_like(total)
    if target_positions is not None:
        assert prediction.positions is not None and prediction.log_probability is not None
        assert prediction.proposals is not None and prediction.crops is not None
        cropped = to_crop_frame(target_positions, *prediction.crops.split(3, 1))
        match = match_loss(prediction.positions, prediction.log_probability, cropped)
        rank = rank_loss(prediction.proposals, prediction.log_weight, cropped)
        total = total + config.w_match * match + config.w_rank * rank
    if prediction.gt_prediction is not None:
        single = PartPose(*(field[:, None] for field in prediction.gt_prediction))
        gt_translation, gt_scale = hypothesis_losses(single, targets, config)
        gt_pose = (config.w_trans * gt_translation + config.w_scale * gt_scale).squeeze(1)
        total = total + config.w_gt_pose * gt_pose
    if prediction.depth_error is not None:
        depth = depth_loss(prediction.depth_error)
        total = total + config.w_depth * depth
    best = prediction.log_weight.argmax(1, keepdim=True)
    translation, scale = (term.gather(1, best).squeeze(1) for term in (translation, scale))
    return LossTerms(total, translation, scale, confidence, match, rank, gt_pose, depth)


def confidence_loss(prediction: Prediction, targets: PartPose) -> Tensor:
    """Binary cross-entropy of "translation error below RIGHT_TOLERANCE", (B,).

    Averaged by mixture weight, which concentrates it on hypotheses that may be returned.
    targets: as in `training_loss`.
    """
    distance = torch.cdist(prediction.hypotheses.translation, targets.translation)  # (B, H, T)
    is_right = (distance.amin(-1) < RIGHT_TOLERANCE).to(distance.dtype)  # (B, H)
    nll = F.binary_cross_entropy_with_logits(
        prediction.confidence_logit, is_right, reduction="none"
    )
    return (prediction.log_weight.detach().exp() * nll).sum(1)


def hypothesis_losses(
    predicted: PartPose, targets: PartPose, config: "TrainConfig"
) -> tuple[Tensor, Tensor]:
    """L1 losses of translation and scale to the nearest valid target of each hypothesis.

    Args:
        predicted: translation (B, H, 3), whole-model units; scale (B, H, 1), > 0.
        targets: translation (B, T, 3), scale (B, T, 1). T = 1 without twins.
        config: weights that define "nearest", and `scale_loss`: `log` compares logarithms, so
            that twice too large costs the same as twice too small; `l1` compares scales.
    Returns: translation loss, summed over the three axes, and scale loss, each (B, H).
    Raises: ValueError if the shapes do not match; broadcasting would hide it.
    Source: the minimum over indistinguishable poses as in CosyPose, eq. 2 (arXiv:2008.08465);
        log sizes as in R-CNN, appendix C (arXiv:1311.2524).
    """
    batch, h = predicted.scale.shape[:2]
    t = targets.scale.shape[1]
    shapes = [tuple(field.shape) for field in (*predicted, *targets)]
    if shapes != [(batch, h, 3), (batch, h, 1), (batch, t, 3), (batch, t, 1)]:
        raise ValueError(f"expected (B, H, 3), (B, H, 1), (B, T, 3), (B, T, 1), found {shapes}")
    offset = predicted.translation[:, :, None] - targets.translation[:, None]  # (B, H, T, 3)
    translation = offset.abs().sum(-1)  # (B, H, T)
    # (B, H, 1) and (B, 1, T)
    predicted_scale, target_scale = predicted.scale, targets.scale.transpose(1, 2)
    if config.scale_loss == "log":
        predicted_scale, target_scale = predicted_scale.log(), target_scale.log()
    scale = (predicted_scale - target_scale).abs()  # (B, H, T)
    nearest = (config.w_trans * translation + config.w_scale * scale).argmin(-1, keepdim=True)
    return translation.gather(-1, nearest).squeeze(-1), scale.gather(-1, nearest).squeeze(-1)


def loss_targets(pose: PartPose, twins: PartPose, twin_aware: bool) -> PartPose:
    """Return the valid targets: all twin poses (B, T, .), or the labelled pose as (B, 1, .)."""
    if twin_aware:
        return twins
    return PartPose(*(torch.unsqueeze(field, 1) for field in pose))


def match_loss(positions: Tensor, log_probability: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of the nearest target under the matching distribution, (B,).

    The distribution is a mixture of Gaussians of standard deviation MATCH_STD at the grid
    positions. Unlike the error of the mean position, the loss never favours the middle between two
    candidates; with twins, probability at any target position lowers it.

    Args:
        positions: (P, 3), right and down in half image sides, log size.
        log_probability: (B, P).
        targets: image positions of the valid targets, (B, T, 3).
    Source: the negative log-likelihood of a mixture density (Bishop, 1994), components fixed.
    """
    log_density = -nearest_squared_distance(positions[None], targets, MATCH_STD) / 2  # (B, P)
    return -(log_probability + log_density).logsumexp(1)


def rank_loss(proposals: Tensor, log_weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy between the mixture weights and the proposals' closeness to a target, (B,).

    Nearly zero if no proposal is close. The mixture likelihood has the same optimum, but its
    gradient on the weights is so weak beside that of the poses that the order of the proposals
    hardly improves on that of the matching.

    Args:
        proposals: (B, H, 3), right and down in half image sides, log size.
        log_weight: (B, H).
        targets: image positions of the valid targets, (B, T, 3).
    """
    closeness = (-nearest_squared_distance(proposals, targets, RANK_STD) / 2).exp()  # (B, H)
    total = closeness.sum(1)
    target_weight = closeness / total.clamp(min=1e-3)[:, None]
    return -(target_weight * log_weight).sum(1) * total.clamp(max=1)


@torch.no_grad()
def nearest_squared_distance(
    positions: Tensor, targets: Tensor, std: tuple[float, float, float]
) -> Tensor:
    """Squared distance of each position to the nearest target in units of `std`, (B, P).

    Without a gradient. The loop bounds the memory: a model may have hundreds of equal screws.

    positions: (B, P, 3) or (1, P, 3). targets: (B, T, 3).
    """
    unit = positions.new_tensor(std)
    nearest = positions.new_full((len(targets), positions.shape[1]), torch.inf)
    for target in targets.split(1, dim=1):  # (B, 1, 3)
        distance = ((positions - target) / unit).square().sum(-1)
        nearest = torch.minimum(nearest, distance)
    return nearest


def depth_loss(depth_error: DepthReading) -> Tensor:
    """Negative log-likelihood of the true depth of a part, averaged over its visible pixels, (B,).

    Pose labels thereby train the depth maps, for which there is no other label.

    Args:
        depth_error: reading of the depth maps at the ground-truth position, with the true depth
            subtracted, all (B, V).
    Source: the negative log-likelihood of a Laplace density, as in Kendall and Gal
        (arXiv:1703.04977).
    """
    error, expected_error, weight = depth_error
    nll = weight * (error.abs() / expected_error + expected_error.log())
    return nll.sum(1) / (weight.sum(1) + DEPTH_PIXEL_OFFSET)
