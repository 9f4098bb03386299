"""Equal parts on distinct places: each of four legs its own corner.

Parts that look the same get the same answer when they are asked about one by one. Asked about
together, each takes another of the places that were proposed for them.

Shapes: n equal parts of one model, K hypotheses of each, C places to be had.
"""

import torch
from torch import Tensor

from partloc.depth import weighted_median
from partloc.pose import PartPose

# Two places nearer than this share of the parts' own size are one place, unless they are further
# apart than that in model units: long things lie side by side.
APART, WELL_APART = 0.3, 0.1
# Width of a part's density round each hypothesis, model units and steps of log size alike. A third
# of the loss's, which would let a place be taken for its likely neighbours' sake.
SPREAD = 0.05
# Step of log size that makes a place e times less likely, and the most that size counts.
UNEQUAL, MOST = 0.125, 4.0


def assign(hypotheses: PartPose, log_share: Tensor) -> Tensor:
    """Distinct places for n equal parts: for each the number, (n,), of one of all n * K hypotheses.

    Every hypothesis is a place to be had, but of those that are nearly the same only the most
    probable. What a part gives for a place is the logarithm of its mixture density there, less
    what speaks against the size; the assignment with the highest sum is taken. Parts for which no
    place is left keep the answer that they would have alone.
    Args:
        hypotheses: (n, K, 3) and (n, K, 1). log_share: (n, K).
    Returns: numbers that count row by row, as in `hypotheses.translation.flatten(0, 1)`.
    Source: the assignment problem (Kuhn, 1955), solved by scipy; matching within groups of equal
        parts as in Img-PartAssembly (arXiv:2003.09754).
    """
    count = log_share.shape[1]
    chosen = torch.arange(len(log_share)) * count + log_share.argmax(1)  # (n,)
    if len(chosen) == 1:
        return chosen
    # Half a second to load, which a part that is asked about alone need not wait for.
    from scipy.optimize import linear_sum_assignment

    offered = PartPose(*(field.flatten(0, 1) for field in hypotheses))  # (n * K, .)
    density = _log_density(hypotheses, log_share, offered)  # (n, n * K)
    density = density - _odd_size(offered, log_share.flatten().exp())
    order = density.logsumexp(0).argsort(dim=0, descending=True, stable=True)
    places = _distinct(offered, order)  # (C,)
    parts, taken = linear_sum_assignment(density[:, places].double().numpy(), maximize=True)
    chosen[parts] = places[taken]
    return chosen


def _log_density(hypotheses: PartPose, log_share: Tensor, offered: PartPose) -> Tensor:
    """(n, C): each part's mixture of Laplace densities, up to a constant, at each place."""
    own = torch.cat([hypotheses.translation, hypotheses.scale.log()], -1)  # (n, K, 4)
    other = torch.cat([offered.translation, offered.scale.log()], -1)  # (C, 4)
    densities = []
    for each, share in zip(own, log_share, strict=True):  # a thousand at once would fill memory
        cost = (each[:, None] - other).abs().sum(-1)  # (K, C)
        densities.append((share[:, None] - cost / SPREAD).logsumexp(0))
    return torch.stack(densities)


def _odd_size(offered: PartPose, share: Tensor) -> Tensor:
    """(C,): what the size of each place counts against it. Pictures of parts tell nothing of their
    size, but parts that look the same nearly always have the same, as most of the places have."""
    size = offered.scale.log().squeeze(1)  # (C,)
    middle = weighted_median(size[None], share[None]).squeeze(0)  # (1,)
    return ((size - middle).abs() / UNEQUAL).clamp(max=MOST)


def _distinct(offered: PartPose, order: Tensor) -> Tensor:
    """The numbers of the places in `order` that are not nearly the same as an earlier one."""
    apart = (APART * offered.scale).clamp(max=WELL_APART)  # (n * K, 1)
    kept: list[int] = []
    for place in order.tolist():
        others = offered.translation[kept]  # (., 3)
        distance = torch.linalg.vector_norm(others - offered.translation[place], dim=-1)
        if bool((distance > apart[place]).all()):
            kept.append(place)
    return torch.tensor(kept)
