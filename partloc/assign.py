"""Equal parts on distinct places: each of four legs its own corner.

Parts that look the same get the same answer when they are asked about one by one. Asked about
together, each takes another of the places that were proposed for them.

Shapes: n equal parts of one model, K hypotheses of each, C places to be had.
"""

import torch
from torch import Tensor

from partloc.pose import PartPose

# Two places nearer than this share of the parts' own size are one place.
APART = 0.3
# Width of a part's density round each hypothesis, model units and steps of log size alike. A third
# of the loss's, which would let a place be taken for its likely neighbours' sake.
SPREAD = 0.05


def assign(hypotheses: PartPose, log_share: Tensor) -> Tensor:
    """Distinct places for n equal parts: for each the number, (n,), of one of all n * K hypotheses.

    Every hypothesis is a place to be had, but of those that are nearly the same only the most
    probable. What a part gives for a place is the logarithm of its mixture density there; the
    assignment with the highest sum is taken. Parts for which no place is left keep the answer
    that they would have alone.
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
    order = density.logsumexp(0).argsort(dim=0, descending=True, stable=True)
    places = _distinct(offered, order)  # (C,)
    parts, taken = linear_sum_assignment(density[:, places].double().numpy(), maximize=True)
    chosen[parts] = places[taken]
    return chosen


def _log_density(hypotheses: PartPose, log_share: Tensor, offered: PartPose) -> Tensor:
    """(n, C): each part's mixture of Laplace densities, up to a constant, at each place."""
    own = torch.cat([hypotheses.translation, hypotheses.scale.log()], -1)  # (n, K, 4)
    other = torch.cat([offered.translation, offered.scale.log()], -1)  # (C, 4)
    cost = (own[:, :, None] - other).abs().sum(-1)  # (n, K, C)
    return (log_share[:, :, None] - cost / SPREAD).logsumexp(1)


def _distinct(offered: PartPose, order: Tensor) -> Tensor:
    """The numbers of the places in `order` that are not nearly the same as an earlier one."""
    kept: list[int] = []
    for place in order.tolist():
        others = offered.translation[kept]  # (., 3)
        distance = torch.linalg.vector_norm(others - offered.translation[place], dim=-1)
        if bool((distance > APART * offered.scale[place]).all()):
            kept.append(place)
    return torch.tensor(kept)
