"""The camera that took the images: where a pose appears in an image, and back.

Positions in an image are (right, down, log size): the centre of a part in [-1, 1] across the
image, and the log of the part's size there as a fraction of the image's side.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partloc.pose import PartPose

CAMERA_TENSORS = ("slope", "offset", "inverse_distance", "handedness")
UP_AXES = [1, 2]  # y and z, which may point upward in the frame of the labels
SLANT_WEIGHT = 2.0


class PinholeCamera(NamedTuple):
    """A pinhole camera that looks roughly at the centre of the whole.

    With depth = forward @ translation, the distance behind the whole's centre along the viewing
    direction, image coordinates are
    (slope @ translation + offset) / (1 + inverse_distance * depth).

    slope: (2, 3), offset: (2,): image coordinates right and down, in [-1, 1].
    inverse_distance: () one over the camera's distance from the whole's centre, 1 / model units;
        0 is an orthographic camera.
    handedness: () 1 if the frame of the labels is right-handed, -1 if it is left-handed.
    inlier_fraction: fraction of the parts that agree with the camera when it is fitted; NaN
        otherwise. Below about one half, the images were taken by several cameras, or most parts
        are hard to find.
    """

    slope: Tensor
    offset: Tensor
    inverse_distance: Tensor
    inlier_fraction: float
    handedness: Tensor = torch.ones(())

    @classmethod
    def from_view(cls, azimuth_deg: float, elevation_deg: float, fov_deg: float) -> "PinholeCamera":
        """A camera that looks at the centre, with z up, from where the bounding sphere of the unit
        cube just fits into the square image.

        azimuth_deg: from +x toward +y. elevation_deg: above the horizontal plane. fov_deg: full
        angle of view; 0 is an orthographic camera.
        Raises: ValueError for an angle out of range.
        """
        for name, value, low, high in (
            ("azimuth", azimuth_deg, -360, 360),
            ("elevation", elevation_deg, -90, 90),
            ("field of view", fov_deg, 0, 120),
        ):
            if not low <= value <= high:  # also if it is NaN
                raise ValueError(f"camera: {name} {value}; expected {low} to {high} degrees")
        azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
        sine, cosine = math.sin(elevation), math.cos(elevation)
        right = [-math.sin(azimuth), math.cos(azimuth), 0.0]
        down = [sine * math.cos(azimuth), sine * math.sin(azimuth), -cosine]
        half_fov = math.radians(fov_deg / 2)
        # The sphere's radius is sqrt(3) / 2. Distance times the tangent of the half angle:
        half_width = math.sqrt(3) / 2 / math.cos(half_fov)
        return cls(
            torch.tensor([right, down]) / half_width,
            torch.zeros(2),
            torch.tensor(math.sin(half_fov) / (math.sqrt(3) / 2)),
            math.nan,
        )

    @property
    def code(self) -> Tensor:
        """(4,): the direction of up along right, down and forward, and the inverse distance;
        zeros for a camera that is not known."""
        up = self.axes.T[UP_AXES]  # (2, 3), each along right, down and forward
        chosen = self._upright_scores.argmax().expand(1, 3)
        return torch.cat([up.gather(0, chosen)[0], self.inverse_distance[None]])

    @property
    def up_axis(self) -> str:
        """The axis of the labels' frame that points upward in the image, y or z."""
        return "xyz"[UP_AXES[int(self._upright_scores.argmax())]]

    def describe_frame(self) -> str:
        """The frame of the labels in words."""
        hand = "right" if self.handedness > 0 else "left"
        return f"{hand}-handed frame with {self.up_axis} upward"

    @property
    def _upright_scores(self) -> Tensor:
        """(2,), of each of UP_AXES: how far it points upward in the image, less its slant. A camera
        that is not tilted shows the true one without slant."""
        right, down, _ = self.axes[:, UP_AXES]  # (2,) each
        # Without evidence the last one, z.
        return -down - SLANT_WEIGHT * right.abs() + self.slope.new_tensor([0.0, 1e-3])

    def to(self, target: torch.device | torch.dtype) -> "PinholeCamera":
        """On another device or in another precision."""
        tensors = {name: getattr(self, name).to(target) for name in CAMERA_TENSORS}
        return self._replace(**tensors)

    @property
    def forward(self) -> Tensor:
        """(3,) unit vector of the viewing direction: right cross down, in a left-handed frame its
        opposite."""
        return self.handedness * F.normalize(torch.linalg.cross(*self.slope), dim=0)

    @property
    def axes(self) -> Tensor:
        """(3, 3), orthonormal rows: right, down and forward."""
        forward = self.forward
        right = F.normalize(self.slope[0] - (self.slope[0] @ forward) * forward, dim=0)
        return torch.stack([right, self.handedness * torch.linalg.cross(forward, right), forward])

    @property
    def image_scale(self) -> Tensor:
        """() half image sides per model unit at the whole's centre."""
        return torch.linalg.vector_norm(self.slope) / 2**0.5

    @property
    def _slope_inverse(self) -> Tensor:
        """(3, 2), the pseudo-inverse of slope, zero for a zero slope; needs no GPU sync."""
        (xx, xy), (_, yy) = self.slope @ self.slope.T
        adjugate = torch.stack([torch.stack([yy, -xy]), torch.stack([-xy, xx])])
        return self.slope.T @ adjugate / (xx * yy - xy * xy).clamp(min=1e-12)

    def depth(self, translation: Tensor) -> Tensor:
        """(..., 3) -> (..., 1), behind the whole's centre along the viewing direction."""
        return translation @ self.forward[:, None]

    def project(self, pose: PartPose) -> Tensor:
        """Poses (..., 3), (..., 1) -> image positions (..., 3): right, down, log size."""
        shrink = 1 + self.inverse_distance * self.depth(pose.translation)  # (..., 1)
        plane = (pose.translation @ self.slope.T + self.offset) / shrink
        return torch.cat([plane, pose.scale.log() - shrink.log()], -1)

    def unproject(self, positions: Tensor, depth: Tensor) -> PartPose:
        """The inverse of `project`, for positions (..., 3) of known depth (..., 1)."""
        shrink = 1 + self.inverse_distance * depth
        plane = positions[..., :2] * shrink - self.offset
        translation = plane @ self._slope_inverse.T + depth * self.forward
        return PartPose(translation, positions[..., 2:].exp() * shrink)


def describe_camera(camera: PinholeCamera | None, source: str) -> str:
    """A message: where the camera comes from, and the frame of the translations.

    camera: None if none was fitted.
    """
    if camera is None:
        return "camera: not known; translations are in the frame of the training labels"
    return f"camera: {source}; translations are in a {camera.describe_frame()}"


class FittedCamera(nn.Module):
    """A pinhole camera as buffers, which a model file stores; the slope is zero until one is
    fitted."""

    slope: Tensor
    offset: Tensor
    inverse_distance: Tensor
    handedness: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.zeros(2, 3))
        self.register_buffer("offset", torch.zeros(2))
        self.register_buffer("inverse_distance", torch.zeros(()))
        self.register_buffer("handedness", torch.ones(()))

    @torch.no_grad()
    def set(self, camera: PinholeCamera) -> None:
        for name in CAMERA_TENSORS:
            getattr(self, name).copy_(getattr(camera, name))

    @property
    def is_known(self) -> bool:
        return bool(self.slope.any())

    @property
    def pinhole(self) -> PinholeCamera:
        """On the module's device."""
        tensors = {name: getattr(self, name) for name in CAMERA_TENSORS}
        return PinholeCamera(inlier_fraction=math.nan, **tensors)

    @property
    def image_scale(self) -> Tensor:
        """() half image sides per model unit; 1 without a camera."""
        scale = self.pinhole.image_scale
        return torch.where(scale > 0, scale, 1.0)
