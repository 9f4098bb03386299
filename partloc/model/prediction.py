"""The prediction of the network for pairs of whole and part.

Shapes: B pairs, K hypotheses per pair, H positions of template matching.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from partloc.model.depth_net import DepthReading
from partloc.pose import PartPose


class Prediction(NamedTuple):
    """K pose hypotheses for each pair, with weights and confidences.

    hypotheses: poses (B, K, 3) and (B, K, 1). log_weight: (B, K), log of the mixture weights,
    which sum to 1; the hypothesis of the highest weight is the answer. confidence_logit: (B, K),
    uncalibrated log odds that a hypothesis is within RIGHT_TOLERANCE of a valid target.

    With template matching also: positions (H, 3) (right, down, log size) and log_probability
    (B, H) of the matching; proposals (B, K, 3), the positions of the hypotheses; crops (B, 6), of
    whole and part. All these positions are in the frame of the crops.

    If true poses are given also: gt_prediction, (B, 3) and (B, 1), the pose predicted at the true
    position; depth_error, the difference of the depth maps there minus the true depth.
    """

    hypotheses: PartPose
    log_weight: Tensor
    confidence_logit: Tensor
    positions: Tensor | None = None
    log_probability: Tensor | None = None
    proposals: Tensor | None = None
    crops: Tensor | None = None
    gt_prediction: PartPose | None = None
    depth_error: DepthReading | None = None

    @property
    def pose(self) -> PartPose:
        """(B, 3) and (B, 1): the hypothesis of the highest weight."""
        return PartPose(*(self._best(field) for field in self.hypotheses))

    @property
    def best_confidence_logit(self) -> Tensor:
        """(B,), of the hypothesis of the highest weight."""
        return self._best(self.confidence_logit)

    @property
    def best_proposal(self) -> Tensor | None:
        """(B, 3), the position of the hypothesis of the highest weight."""
        return None if self.proposals is None else self._best(self.proposals)

    def _best(self, field: Tensor) -> Tensor:
        best = self.log_weight.argmax(1)
        return field[torch.arange(len(best), device=best.device), best]

    def select(self, index: Tensor) -> "Prediction":
        """The predictions of the pairs in `index`, in its order."""
        selected = {}
        for name, value in self._asdict().items():
            if name == "positions" or value is None:  # positions are those of every pair
                selected[name] = value
            elif isinstance(value, Tensor):
                selected[name] = value[index]
            else:
                selected[name] = type(value)(*(field[index] for field in value))
        return Prediction(**selected)
