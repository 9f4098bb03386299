"""From features to poses and confidences.

Shapes: B pairs, K hypotheses per pair, F features, C hidden width.
"""

import torch
from torch import Tensor, nn

from partloc.data.table import PairTable
from partloc.model.camera import FittedCamera, PinholeCamera
from partloc.model.crop import from_crop_frame
from partloc.pose import PartPose

MAX_DEPTH = 3**0.5 / 2  # of anything in the unit cube, from its centre, model units
LOG_SCALE_RANGE = (-7.0, 2.0)  # keeps the scale and its gradient finite


class PosePrior(nn.Module):
    """Predicts poses relative to the training labels: raw 0 is their median, 1 their spread."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(4))
        self.register_buffer("spread", torch.ones(4))

    @torch.no_grad()
    def fit(self, table: PairTable) -> None:
        """Set the median and the mean absolute deviation of translation and log scale."""
        poses = torch.cat([table.translation, table.scale.log()], 1)  # (N, 4)
        self.center.copy_(poses.quantile(0.5, dim=0))
        self.spread.copy_((poses - self.center).abs().mean(0).clamp(min=1e-3))

    def forward(self, raw: Tensor) -> PartPose:
        """Raw predictions (..., 4) -> poses (..., 3) and (..., 1).

        In evaluation mode poses are clamped to the whole's bounding box. In training, a clamped
        pose would have no gradient.
        """
        values = self.center + self.spread * raw
        translation, log_scale = values[..., :3], values[..., 3:].clamp(*LOG_SCALE_RANGE)
        if not self.training:
            translation, log_scale = translation.clamp(-0.5, 0.5), log_scale.clamp(max=0)
        return PartPose(translation, log_scale.exp())

    def inverse(self, pose: PartPose) -> Tensor:
        """Poses (..., 3), (..., 1) -> raw predictions (..., 4)."""
        values = torch.cat([pose.translation, pose.scale.log()], -1)
        return (values - self.center) / self.spread


class PositionDecoder(nn.Module):
    """Converts an image position and a depth to a raw pose prediction.

    With a fitted camera it is the pose that the camera sees there. A trained affine map is added;
    without a camera it is the only term. Positions and depths (right, down, log size, depth) are
    normalised by their spread over the training labels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(4, 4)
        nn.init.zeros_(self.lift.weight)
        nn.init.zeros_(self.lift.bias)
        self.camera = FittedCamera()
        self.register_buffer("center", torch.zeros(4))
        self.register_buffer("spread", torch.ones(4))

    @torch.no_grad()
    def set_camera(self, camera: PinholeCamera, prior: PosePrior) -> None:
        """Use a camera, and normalise by the positions of the prior's poses in its images."""
        self.camera.set(camera)
        median = PartPose(prior.center[:3], prior.center[3:].exp())
        depth = camera.depth(median.translation)
        self.center.copy_(torch.cat([camera.project(median), depth]))
        across = (camera.slope.square() @ prior.spread[:3].square()).sqrt()
        along = (camera.forward * prior.spread[:3]).norm(dim=0, keepdim=True)
        self.spread.copy_(torch.cat([across, prior.spread[3:], along]).clamp(min=1e-3))

    def normalize(self, positions: Tensor, depth: Tensor, whole: Tensor, part: Tensor) -> Tensor:
        """Positions (B, K, 3) and depths (B, K, 1) in the crops (B, 3) of whole and part ->
        normalised positions and depths in the full image, (B, K, 4)."""
        depth = depth * whole[:, None, 2:].exp() / self.camera.image_scale
        values = torch.cat([from_crop_frame(positions, whole, part), depth], -1)
        return (values - self.center) / self.spread

    def forward(self, normalized: Tensor, prior: PosePrior) -> Tensor:
        """(B, K, 4) -> raw pose predictions (B, K, 4)."""
        return self.lift(normalized) + self._from_camera(normalized, prior)

    def _from_camera(self, normalized: Tensor, prior: PosePrior) -> Tensor:
        """Raw predictions (B, K, 4) of what the camera sees there; zeros without a camera."""
        values = self.center + self.spread * normalized
        camera = self.camera.pinhole
        pose = camera.unproject(values[..., :3], values[..., 3:].clamp(-MAX_DEPTH, MAX_DEPTH))
        return torch.where(camera.image_scale > 0, prior.inverse(pose), 0.0)


class PoseHead(nn.Module):
    """An MLP whose last layer starts at zero."""

    def __init__(self, features: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.output = nn.Linear(width, outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, F) -> outputs (B, K, .) and hidden features (B, K, C)."""
        hidden = self.hidden(features)
        return self.output(hidden), hidden


class ConfidenceHead(nn.Module):
    """Log odds that a hypothesis is within RIGHT_TOLERANCE of a valid target.

    The input is the hidden features of the pose head, which receive no gradient from it.
    Calibration on validation models turns the log odds into probabilities. Source: Platt (1999).
    """

    slope: Tensor
    offset: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width + 1, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, hidden: Tensor, log_weight: Tensor) -> Tensor:
        """(B, K, C), (B, K) -> uncalibrated logits (B, K)."""
        features = torch.cat([hidden, log_weight[..., None]], -1).detach()
        return self.linear(features).squeeze(-1)

    def calibrated(self, logit: Tensor) -> Tensor:
        """Logits -> probabilities."""
        return (self.slope * logit + self.offset).sigmoid()
