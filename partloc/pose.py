"""The pose of a part: the only place that defines order, units and sign.

Shapes: B batch, K twins of a part.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Largest translation error of a prediction that counts as right, whole-model units.
RIGHT_TOLERANCE = 0.05
# The columns of a pose in tables.
POSE_COLUMNS = ("tx", "ty", "tz", "scale")


class PartPose(NamedTuple):
    """Poses of parts: `whole_point = scale * part_point + translation`.

    translation: (B, 3), centre of the part's bounding box in the frame of the whole model, in
        whole-model units: the longest edge of the whole's bounding box, centred at 0, is 1.
    scale: (B, 1), > 0, longest edge of the part over the longest edge of the whole.
    """

    translation: Tensor
    scale: Tensor


def labelled_errors(predicted: PartPose, target: PartPose) -> Tensor:
    """Euclidean distances to the labelled translations, (B,), whole-model units."""
    return torch.linalg.vector_norm(predicted.translation - target.translation, dim=-1)


def nearest_twin_errors(predicted: PartPose, twins: PartPose) -> Tensor:
    """Euclidean distances to the nearest twin, (B,), whole-model units.

    predicted: translation (B, 3). twins: translation (B, K, 3) of each part and its twins, the
    parts of the same model that look identical.
    """
    differences = predicted.translation[:, None] - twins.translation  # (B, K, 3)
    return torch.linalg.vector_norm(differences, dim=-1).amin(1)


def relative_scale_errors(predicted: PartPose, target: PartPose) -> Tensor:
    """|s - s*| / s* for scales s and labelled scales s*, (B,), no unit."""
    return ((predicted.scale - target.scale).abs() / target.scale).squeeze(-1)
