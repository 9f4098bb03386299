"""The answer's one type: order, units and sign are fixed here and nowhere else.

Shapes: B batch, K twins of a part.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEAR = 0.05  # translation error that counts as right, whole-model units


class PartPose(NamedTuple):
    """Where parts belong: `whole_point = scale * part_point + translation`.

    translation: (B, 3), centre of the part's bounding box in the whole's frame, in whole-model
        units (the whole's longest edge is 1, its box is centred at the origin).
    scale: (B, 1), > 0, longest edge of the part over the longest edge of the whole.
    """

    translation: Tensor
    scale: Tensor


def translation_errors(predicted: PartPose, truth: PartPose) -> Tensor:
    """Euclidean distances, (N,), whole-model units. Both translations (N, 3)."""
    return torch.linalg.vector_norm(predicted.translation - truth.translation, dim=-1)


def twin_translation_errors(predicted: PartPose, twins: PartPose) -> Tensor:
    """Distances to the nearest place of the twin group, (N,). twins.translation (N, K, 3)."""
    distances = torch.linalg.vector_norm(
        predicted.translation[:, None] - twins.translation, dim=-1
    )  # (N, K)
    return distances.amin(1)


def relative_scale_errors(predicted: PartPose, truth: PartPose) -> Tensor:
    """|s - s*| / s*, (N,), no unit."""
    return ((predicted.scale - truth.scale).abs() / truth.scale).squeeze(-1)
