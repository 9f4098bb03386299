"""All hypotheses of predicted parts, in memory and as one array.

Shapes: P parts; K hypotheses per part; F = NUM_FIELDS.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from partloc.pose import PartPose

HYPOTHESIS_FIELDS = ("tx", "ty", "tz", "scale", "log_weight", "confidence_logit")
NUM_FIELDS = len(HYPOTHESIS_FIELDS)


class Hypotheses(NamedTuple):
    """K hypotheses for each of P parts, or, without the dimension P, for one part.

    poses: (P, K, 3) and (P, K, 1), whole-model units. log_weight: (P, K), of the mixture.
    confidence_logit: (P, K), before the calibration.
    """

    poses: PartPose
    log_weight: Tensor
    confidence_logit: Tensor

    @classmethod
    def from_tensor(cls, values: Tensor) -> "Hypotheses":
        """values: (P, K, F)."""
        translation, scale, log_weight, confidence_logit = (
            field.contiguous() for field in values.split([3, 1, 1, 1], dim=-1)
        )
        return cls(PartPose(translation, scale), log_weight[..., 0], confidence_logit[..., 0])

    def to_tensor(self) -> Tensor:
        """(P, K, F)."""
        fields = (*self.poses, self.log_weight[..., None], self.confidence_logit[..., None])
        return torch.cat(fields, -1)

    def select(self, parts: Tensor | list[int] | int) -> "Hypotheses":
        """Hypotheses of the parts with these numbers."""
        poses = PartPose(*(field[parts] for field in self.poses))
        return Hypotheses(poses, self.log_weight[parts], self.confidence_logit[parts])

    @property
    def best_pose(self) -> PartPose:
        """(P, 3) and (P, 1): the most probable hypotheses."""
        return PartPose(*(self._best(field) for field in self.poses))

    @property
    def best_confidence_logit(self) -> Tensor:
        """(P,), of the most probable hypotheses."""
        return self._best(self.confidence_logit)

    def _best(self, field: Tensor) -> Tensor:
        return field[torch.arange(len(field)), self.log_weight.argmax(1)]
