"""Equal parts on distinct places: each of four legs its own corner.

Parts that look the same get the same answer when they are asked about one by one. Asked about
together, each takes another of the places that were proposed for them, or one that would go with
these.

Shapes: n equal parts of one model, K hypotheses of each, C places to be had, E beside them.
"""

from itertools import combinations_with_replacement, product
from typing import NamedTuple

import torch
from torch import Tensor

from partloc.inference.arrangement_net import MOST_PARTS, MOST_PLACES, Offer, taught
from partloc.model.depth_net import weighted_median
from partloc.pose import PartPose

# Two places nearer than this share of the parts' own size are one place, unless they are further
# apart than that in model units: long things lie side by side.
APART, WELL_APART = 0.3, 0.1
# Width of a part's density round each hypothesis, model units and steps of log size alike. A third
# of the loss's, which would let a place be taken for its likely neighbours' sake.
SPREAD = 0.05
# Step of log size that makes a place e times less likely, and the most that size counts.
UNEQUAL, MOST = 0.125, 4.0
# How many of the most probable places are completed, see `_completing`.
BEGUN = 4
MIRRORS = torch.tensor([signs for signs in product((1.0, -1.0), repeat=3) if min(signs) < 0])
# Of three corners a, b and c, a + b - c is the fourth; of two in a row, a + a - b is the next.
CORNERS = [
    (a, b, c)
    for a, b in combinations_with_replacement(range(BEGUN), 2)
    for c in range(BEGUN)
    if c not in (a, b)
]


class Places(NamedTuple):
    """C places to be had for n equal parts, the most probable first.

    pose: (C, 3) and (C, 1); density: (n, C), what each part gives for them; number: (C,), of one of
    all n * K hypotheses, -1 for a place that none of them is at.
    """

    pose: PartPose
    density: Tensor
    number: Tensor


class Placed(NamedTuple):
    """Where n equal parts are put: pose, (n, 3) and (n, 1); number: (n,), as in `Places`; log_odds:
    (n,), that the place holds one of them, where these were judged together."""

    pose: PartPose
    number: Tensor
    log_odds: Tensor


def assign(
    hypotheses: PartPose,
    log_share: Tensor,
    log_odds: Tensor | None = None,
    axes: Tensor | None = None,
) -> Placed:
    """Distinct places for n equal parts.

    Every hypothesis is a place to be had, but of those that are nearly the same only the most
    probable. What a part gives for a place is the logarithm of its mixture density there, less
    what speaks against the size; the assignment with the highest sum is taken. Where the camera is
    known, places that would complete these are to be had too, and what all parts give together is
    judged anew, by how the places lie to each other. Parts for which no place is left keep the
    answer that they would have alone.
    Args:
        hypotheses: (n, K, 3) and (n, K, 1). log_share, log_odds: (n, K).
        axes: (3, 3), see `View.axes`; None: each place is judged by itself.
    Source: the assignment problem (Kuhn, 1955), solved by scipy; matching within groups of equal
        parts as in Img-PartAssembly (arXiv:2003.09754).
    """
    count, own = log_share.shape[1], log_share.argmax(1)
    number = torch.arange(len(own)) * count + own  # (n,)
    every = PartPose(*(field.flatten(0, 1) for field in hypotheses))  # (n * K, .)
    pose = PartPose(*(field[number] for field in every))
    merit = torch.zeros(len(own))
    if len(own) == 1:
        return Placed(pose, number, merit)
    # Half a second to load, which a part that is asked about alone need not wait for.
    from scipy.optimize import linear_sum_assignment

    places = offered(hypotheses, log_share)
    density = places.density
    judged = axes is not None and len(own) <= MOST_PARTS
    if judged:
        places = with_completing(places, hypotheses, log_share)
        together = _judge(offer_of(places, log_odds, axes))  # (C,)
        density = places.density - places.density.mean(0) + together
    parts, taken = linear_sum_assignment(density.double().numpy(), maximize=True)
    number[parts] = places.number[taken]
    for field, offer in zip(pose, places.pose, strict=True):
        field[parts] = offer[taken]
    if judged:
        merit[parts] = together[taken]
    return Placed(pose, number, merit)


def offered(hypotheses: PartPose, log_share: Tensor) -> Places:
    """The hypotheses at distinct places."""
    every = PartPose(*(field.flatten(0, 1) for field in hypotheses))  # (n * K, .)
    density = _log_density(hypotheses, log_share, every)  # (n, n * K)
    density = density - _odd_size(every, log_share.flatten().exp())
    order = density.logsumexp(0).argsort(dim=0, descending=True, stable=True)
    number = _distinct(every, order)
    return Places(PartPose(*(field[number] for field in every)), density[:, number], number)


def with_completing(places: Places, hypotheses: PartPose, log_share: Tensor) -> Places:
    """The MOST_PLACES / 2 most probable ones, and up to as many that would go with these."""
    half = MOST_PLACES // 2
    pose = PartPose(*(field[:half] for field in places.pose))
    size = _usual_size(hypotheses.scale.flatten().log(), log_share.flatten().exp()).exp()
    position = _completing(pose, size, len(log_share))[:half]  # (E, 3)
    beside = PartPose(position, size.expand(len(position), 1))
    none = torch.full((len(position),), -1)
    return Places(
        PartPose(*(torch.cat(fields) for fields in zip(pose, beside, strict=True))),
        torch.cat([places.density[:, :half], _log_density(hypotheses, log_share, beside)], 1),
        torch.cat([places.number[:half], none]),
    )


def _completing(pose: PartPose, size: Tensor, parts: int) -> Tensor:
    """(E, 3): the most probable places mirrored in the planes through the middle of the whole, and
    where there are more than two parts what corners and rows they begin; distinct."""
    begun = pose.translation[:BEGUN]  # (m, 3)
    after = [(i, place) for i, place in enumerate(begun) for place in place * MIRRORS]
    for a, b, c in CORNERS if parts > 2 else ():
        if max(a, b, c) < len(begun):
            after.append((max(a, b, c), begun[a] + begun[b] - begun[c]))
    after.sort(key=lambda item: item[0])  # by the least probable one that it goes by
    after = [place for _, place in after if place.abs().max() <= 0.5]
    every = torch.stack([*pose.translation, *after])
    sizes = torch.cat([pose.scale, size.expand(len(after), 1)])
    kept = _distinct(PartPose(every, sizes), torch.arange(len(every)))
    return every[kept[kept >= len(pose.scale)]]


def offer_of(places: Places, log_odds: Tensor, axes: Tensor) -> Offer:
    """Places as they are judged together, B = 1. log_odds: (n, K), of all hypotheses."""
    proposed = places.number >= 0
    own = torch.where(proposed, log_odds.flatten()[places.number], 0.0)
    told = (places.pose.scale.log().squeeze(1), places.density.mean(0), own, proposed)
    there, parts = torch.ones_like(proposed), torch.tensor(len(log_odds))
    return Offer(
        *(field[None] for field in (places.pose.translation @ axes.T, *told, there, parts))
    )


@torch.inference_mode()
def _judge(offer: Offer) -> Tensor:
    """(C,)"""
    return taught()(offer)[0]


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
    return ((size - _usual_size(size, share)).abs() / UNEQUAL).clamp(max=MOST)


def _usual_size(size: Tensor, share: Tensor) -> Tensor:
    """(C,) log sizes and what each counts -> (1,)"""
    return weighted_median(size[None], share[None]).squeeze(0)


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
