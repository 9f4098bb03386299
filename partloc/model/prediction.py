"""What the network says of pairs, and what it weighed.

Shapes: B pairs, K hypotheses a pair, H places.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from partloc.model.depth_net import DepthReading
from partloc.pose import PartPose


class Prediction(NamedTuple):
    """hypotheses: poses (B, K, 3) and (B, K, 1); log_share: (B, K), by which they are chosen, as
    logarithms of shares that are together 1; log_odds: (B, K), that each is right, with which of
    its twins ever.

    With template matching also what it weighed: places (H, 3), right and down and log size, and
    log_probability (B, H); where the hypotheses were proposed, proposals (B, K, 3), and the crops
    of whole and part that all these places are of, (B, 6); and, asked with guides, the answers
    there: guided, (B, 3) and (B, 1), and by how much the depth maps are off: misread, its depth
    less the true one.
    """

    hypotheses: PartPose
    log_share: Tensor
    log_odds: Tensor
    places: Tensor | None = None
    log_probability: Tensor | None = None
    proposals: Tensor | None = None
    crops: Tensor | None = None
    guided: PartPose | None = None
    misread: DepthReading | None = None

    @property
    def pose(self) -> PartPose:
        """The answer, (B, 3) and (B, 1): the hypothesis of the highest share."""
        return PartPose(*(self._best(field) for field in self.hypotheses))

    @property
    def answer_log_odds(self) -> Tensor:
        """(B,), that the answer is right."""
        return self._best(self.log_odds)

    def _best(self, field: Tensor) -> Tensor:
        best = self.log_share.argmax(1)
        return field[torch.arange(len(best), device=best.device), best]

    def pick(self, index: Tensor) -> "Prediction":
        """Of the pairs that `index` names, in its order."""
        hypotheses = PartPose(*(field[index] for field in self.hypotheses))
        guided = self.guided and PartPose(*(field[index] for field in self.guided))
        misread = self.misread and DepthReading(*(field[index] for field in self.misread))
        found = (self.log_probability, self.proposals, self.crops)
        found = (None if field is None else field[index] for field in found)
        told = (self.log_share[index], self.log_odds[index])
        return Prediction(hypotheses, *told, self.places, *found, guided, misread)
