"""The answer's one type: order, units and sign are fixed here and nowhere else.

Shapes: B batch, K twins of a part.
"""

from typing import NamedTuple

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
