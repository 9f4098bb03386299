"""Distinct positions for equal parts: each of four legs gets a corner of its own.

Parts that look identical have the same hypotheses. Without an assignment all of them would be put
at the most probable one.

Shapes: n equal parts of one model; K hypotheses per part; C candidate positions.
"""

import torch
from torch import Tensor

from partloc.model.depth_net import weighted_median
from partloc.pose import PartPose

# Two positions are distinct if they are further apart than this fraction of the parts' size, or
# than this many model units: long parts may lie side by side.
MIN_DISTANCE_FRACTION, MIN_DISTANCE = 0.3, 0.1
# Scale of the Laplace density around each hypothesis, in model units and in log size. A third of
# the loss's: with a larger one, a position would gain from a probable position beside it.
DENSITY_SCALE = 0.05
# Difference in log size from the usual size that divides the density of a candidate by e, and the
# largest reduction of its log density.
SIZE_TOLERANCE, MAX_SIZE_PENALTY = 0.125, 4.0


def assign(hypotheses: PartPose, log_weight: Tensor) -> Tensor:
    """Choose a hypothesis for each of n equal parts, at distinct positions.

    Candidates are all hypotheses, without those close to a more probable one. The assignment
    maximises the sum of the log densities that the parts' own mixtures have at their candidates,
    reduced where the size of a candidate is unusual. Parts for which no candidate is left get
    their own most probable hypothesis.

    Args:
        hypotheses: (n, K, 3) and (n, K, 1). log_weight: (n, K).
    Returns: (n,), index of the chosen hypothesis among all n * K.
    Source: the assignment problem (Kuhn, 1955), solved by scipy; matching within groups of equal
        parts as in Img-PartAssembly (arXiv:2003.09754).
    """
    num_parts, num_hypotheses = log_weight.shape
    chosen = torch.arange(num_parts) * num_hypotheses + log_weight.argmax(1)  # (n,)
    if num_parts == 1:
        return chosen
    # The import takes half a second, and a single part needs no assignment.
    from scipy.optimize import linear_sum_assignment

    candidates, scores = propose(hypotheses, log_weight)
    parts, assigned = linear_sum_assignment(scores.double().numpy(), maximize=True)
    chosen[parts] = candidates[assigned]
    return chosen


def propose(hypotheses: PartPose, log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """The candidates in descending total score.

    Args: as of `assign`.
    Returns: index (C,) of the candidates among all n * K hypotheses, and the score (n, C) of each
        candidate for each part: log density up to a constant, minus the size penalty.
    """
    poses = PartPose(*(field.flatten(0, 1) for field in hypotheses))  # (n * K, .)
    scores = _log_density(hypotheses, log_weight, poses)  # (n, n * K)
    scores = scores - _size_penalty(poses, log_weight.flatten().exp())
    order = scores.logsumexp(0).argsort(dim=0, descending=True, stable=True)
    candidates = _select_distinct(poses, order)
    return candidates, scores[:, candidates]


def _log_density(hypotheses: PartPose, log_weight: Tensor, poses: PartPose) -> Tensor:
    """Log density of each part's mixture of Laplace distributions, up to a constant.

    hypotheses: (n, K, .). poses: where to evaluate it, (M, .). Returns: (n, M).
    """
    centers = torch.cat([hypotheses.translation, hypotheses.scale.log()], -1)  # (n, K, 4)
    points = torch.cat([poses.translation, poses.scale.log()], -1)  # (M, 4)
    densities = []
    # Part by part: all at once would take gigabytes for a thousand parts.
    for center, weight in zip(centers, log_weight, strict=True):
        distance = (center[:, None] - points).abs().sum(-1)  # (K, M)
        densities.append((weight[:, None] - distance / DENSITY_SCALE).logsumexp(0))
    return torch.stack(densities)


def _size_penalty(poses: PartPose, weight: Tensor) -> Tensor:
    """Penalty for an unusual size, (M,). weight: (M,), of each pose in the usual size.

    An image of a part does not show its size, but identical parts nearly always have equal sizes,
    so the size that most hypotheses have is the most probable.
    """
    size = poses.scale.log().squeeze(1)  # (M,)
    usual = weighted_median(size[None], weight[None]).squeeze(0)  # (1,)
    return ((size - usual).abs() / SIZE_TOLERANCE).clamp(max=MAX_SIZE_PENALTY)


def _select_distinct(poses: PartPose, order: Tensor) -> Tensor:
    """The elements of `order` whose pose is not close to that of an earlier one."""
    min_distance = (MIN_DISTANCE_FRACTION * poses.scale).clamp(max=MIN_DISTANCE)  # (M, 1)
    selected: list[int] = []
    for index in order.tolist():
        offsets = poses.translation[selected] - poses.translation[index]
        distance = torch.linalg.vector_norm(offsets, dim=-1)
        if bool((distance > min_distance[index]).all()):
            selected.append(index)
    return torch.tensor(selected)
