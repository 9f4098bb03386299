"""Where in the image does a translation appear? The users' camera, fitted from their labels.

The label gives a part's size in the whole, so its picture, shrunk to that size, can be slid over
the picture of the whole: mostly it fits best where the part is. A robust map from labels to such
places is the camera. It needs no learning and takes seconds.

Shapes: N samples, S side of the thumbnails, n side of a shrunk part.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from partloc.pose import PartPose


class View(NamedTuple):
    """A pinhole camera whose axis passes through the whole's centre, or nearly.

    With depth = forward @ translation, away from the camera, what is there is smaller than in the
    middle by 1 + fading * depth, fading being one over the camera's distance, and
    place = (slope @ translation + offset) / (1 + fading * depth). fading 0: no perspective.

    slope: (2, 3), offset: (2,), right and down in [-1, 1]; fading: (), 1 / model units.
    inliers: share of the matched places within INLIER of the map; under a half or so, the camera
    is not the same for all or parts are hard to see.
    """

    slope: Tensor
    offset: Tensor
    fading: Tensor
    inliers: float

    @property
    def forward(self) -> Tensor:
        """(3,) unit vector along which the camera looks: right times down."""
        return F.normalize(torch.linalg.cross(*self.slope), dim=0)

    @property
    def axes(self) -> Tensor:
        """(3, 3), unit vectors right, down, and away from the camera; each square to the others."""
        forward = self.forward
        right = F.normalize(self.slope[0] - (self.slope[0] @ forward) * forward, dim=0)
        return torch.stack([right, torch.linalg.cross(forward, right), forward])

    @property
    def unit(self) -> Tensor:
        """() half image sides that a model unit takes up in the middle of the whole."""
        return torch.linalg.vector_norm(self.slope) / 2**0.5

    @property
    def _back(self) -> Tensor:
        """(3, 2), the pseudo-inverse of slope; zero for no camera, and no wait for a GPU."""
        (xx, xy), (_, yy) = self.slope @ self.slope.T
        adjugate = torch.stack([torch.stack([yy, -xy]), torch.stack([-xy, xx])])
        return self.slope.T @ adjugate / (xx * yy - xy * xy).clamp(min=1e-12)

    def depth(self, translation: Tensor) -> Tensor:
        """(..., 3) -> (..., 1), away from the camera from the middle of the whole, model units."""
        return translation @ self.forward[:, None]

    def place(self, pose: PartPose) -> Tensor:
        """(..., 3), (..., 1) -> (..., 3): right, down, and the log of the size that appears."""
        shrink = 1 + self.fading * self.depth(pose.translation)  # (..., 1)
        plane = (pose.translation @ self.slope.T + self.offset) / shrink
        return torch.cat([plane, pose.scale.log() - shrink.log()], -1)

    def pose(self, places: Tensor, depth: Tensor) -> PartPose:
        """The inverse of `place`, for places (..., 3) whose depth (..., 1) is known."""
        shrink = 1 + self.fading * depth
        plane = places[..., :2] * shrink - self.offset
        translation = plane @ self._back.T + depth * self.forward
        return PartPose(translation, places[..., 2:].exp() * shrink)
