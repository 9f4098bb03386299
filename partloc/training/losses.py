"""The training loss: weighted L1 on translation and on scale, blind to which twin is which.

Shapes: B batch, K twins of a part.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from partloc.model.crop import into_crops
from partloc.model.depth_net import DepthReading
from partloc.model.prediction import Prediction
from partloc.pose import NEAR, PartPose

if TYPE_CHECKING:  # any object with the fields will do, also where pydantic is not installed
    from partloc.config import TrainConfig

# Cost that makes a hypothesis e times less likely: the width of the mixture's densities.
SOFTNESS = 0.15
# What learning whether answers are right counts; it moves one layer, which nothing else does.
SURENESS = 0.1
# Pixels of a part in sight from which its place teaches as much about depth as it can.
ENOUGH = 10


class LossParts(NamedTuple):
    """Per-sample losses, each (B,): what is minimised, and what it is made of.

    translation_loss, scale_loss: of the answer, before weighting; sure_loss, match_loss,
    rank_loss, depth_loss: before weighting; guided_loss: weighted.
    """

    loss: Tensor
    translation_loss: Tensor
    scale_loss: Tensor
    sure_loss: Tensor
    match_loss: Tensor
    rank_loss: Tensor
    guided_loss: Tensor
    depth_loss: Tensor


def training_loss(
    prediction: Prediction,
    targets: PartPose,
    target_places: Tensor | None,
    config: "TrainConfig",
    guides: PartPose | None = None,
) -> LossParts:
    """The likelihood of the hypotheses, and of the places that were matched.

    A hypothesis costs w_trans * translation + w_scale * scale. Of several, each with a share p,
    the loss is -b * log(sum of p * exp(-cost / b)), that of one is its cost; w_match * match,
    w_rank * rank and w_depth * depth are added, the cost of the answer at the true place, and the
    surprise at which hypotheses are right.

    Args:
        targets: the places that would be right, (B, K, 3) and (B, K, 1).
        target_places: where they appear in the image, (B, K, 3); None leaves matching out.
        guides: as targets, of the guided answers, where others than the pair's own.
    Source: the mixture density of Bishop (1994), with Laplace components.
    """
    translation, scale = hypotheses_loss(prediction.hypotheses, targets, config)  # (B, hypotheses)
    cost = config.w_trans * translation + config.w_scale * scale
    total = -SOFTNESS * (prediction.log_share - cost / SOFTNESS).logsumexp(1)
    sure = sure_loss(prediction, targets)
    total = total + SURENESS * sure
    match = rank = guided = depth = torch.zeros_like(total)
    if target_places is not None:
        target_places = into_crops(target_places, *prediction.crops.split(3, 1))
        match = match_loss(prediction.places, prediction.log_probability, target_places)
        rank = rank_loss(prediction.proposals, prediction.log_share, target_places)
        total = total + config.w_match * match + config.w_rank * rank
    if prediction.guided is not None:
        one = PartPose(*(field[:, None] for field in prediction.guided))
        moved, sized = hypotheses_loss(one, guides or targets, config)
        guided = (config.w_trans * moved + config.w_scale * sized).squeeze(1)
        total = total + guided
    if prediction.misread is not None:
        depth = depth_loss(prediction.misread)
        total = total + config.w_depth * depth
    best = prediction.log_share.argmax(1, keepdim=True)
    translation, scale = (term.gather(1, best).squeeze(1) for term in (translation, scale))
    return LossParts(total, translation, scale, sure, match, rank, guided, depth)


def sure_loss(prediction: Prediction, targets: PartPose) -> Tensor:
    """Surprise at which hypotheses are right, (B,); each counts by its share, since the answer is
    the one of the highest. targets: as in `training_loss`."""
    distance = torch.cdist(prediction.hypotheses.translation, targets.translation)  # (B, H, K)
    right = (distance.amin(-1) < NEAR).to(distance.dtype)
    surprise = F.binary_cross_entropy_with_logits(prediction.log_odds, right, reduction="none")
    return (prediction.log_share.detach().exp() * surprise).sum(1)


def hypotheses_loss(
    predicted: PartPose, targets: PartPose, config: "TrainConfig"
) -> tuple[Tensor, Tensor]:
    """L1 distances in translation and scale to the nearest of the places that would be right.

    Args:
        predicted: H hypotheses, translation (B, H, 3), whole-model units; scale (B, H, 1), > 0.
        targets: translation (B, K, 3), scale (B, K, 1). K = 1 without twins.
        config: weights, and whether the scale is compared by its logarithm (relative error:
            twice too big costs the same as twice too small) or as it is.
    Returns: translation, summed over the three axes, and scale, each (B, H).
    Raises: ValueError if shapes do not belong together; broadcasting would hide it.
    Source: the minimum over indistinguishable answers as in CosyPose, eq. 2 (arXiv:2008.08465);
        log sizes as in R-CNN, appendix C (arXiv:1311.2524).
    """
    size, h = predicted.scale.shape[:2]
    k = targets.scale.shape[1]
    shapes = [tuple(field.shape) for field in (*predicted, *targets)]
    if shapes != [(size, h, 3), (size, h, 1), (size, k, 3), (size, k, 1)]:
        raise ValueError(f"expected (B, H, 3), (B, H, 1), (B, K, 3), (B, K, 1), found {shapes}")
    offset = predicted.translation[:, :, None] - targets.translation[:, None]  # (B, H, K, 3)
    translation = offset.abs().sum(-1)  # (B, H, K)
    ours, theirs = predicted.scale, targets.scale.transpose(1, 2)  # (B, H, 1), (B, 1, K)
    if config.scale_loss == "log":
        ours, theirs = ours.log(), theirs.log()
    scale = (ours - theirs).abs()  # (B, H, K)
    nearest = (config.w_trans * translation + config.w_scale * scale).argmin(-1, keepdim=True)
    return tuple(term.gather(-1, nearest).squeeze(-1) for term in (translation, scale))


def targets_of(pose: PartPose, twins: PartPose, twin_aware: bool) -> PartPose:
    """The places a prediction is compared with: (B, K, .) with twins, (B, 1, .) without."""
    if twin_aware:
        return twins
    return PartPose(*(torch.unsqueeze(field, 1) for field in pose))


# How near to the truth a place has to be, one standard deviation: right, down, log size; and a
# proposal, whose answer can still correct it.
TOLERANCE = (0.1, 0.1, 0.25)
VICINITY = (0.15, 0.15, 0.35)


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


def rank_loss(proposals: Tensor, log_share: Tensor, targets: Tensor) -> Tensor:
    """Surprise at which proposals are near the truth, (B,); nothing where none is.

    The mixture teaches the same, but so weakly beside the poses that the order of the proposals
    hardly improves on the matching's.
    Args:
        proposals: (B, K, 3), right and down in half image sides, log size. log_share: (B, K).
        targets: (B, T, 3), where the places that would be right appear.
    """
    offset = (proposals[:, :, None] - targets[:, None]) / proposals.new_tensor(VICINITY)
    nearness = (-offset.square().sum(-1).amin(-1) / 2).exp()  # (B, K)
    total = nearness.sum(1)
    share = nearness / total.clamp(min=1e-3)[:, None]
    return -(share * log_share).sum(1) * total.clamp(max=1)


def depth_loss(misread: DepthReading) -> Tensor:
    """Surprise at the true depth of the part, the mean over its pixels in sight, (B,); little where
    hardly one is. So poses teach the maps, of which no label tells more.

    misread: of the depth maps at the true place, the depth less the true one.
    Source: the negative log-likelihood of a Laplace density, as in Kendall and Gal
        (arXiv:1703.04977).
    """
    depth, expected, trust = misread
    surprise = trust * (depth.abs() / expected + expected.log())
    return surprise.sum(1) / (trust.sum(1) + ENOUGH)
