"""Where in the image does a translation appear? The users' camera, fitted from their labels.

The label gives a part's size in the whole, so its picture, shrunk to that size, can be slid over
the picture of the whole: mostly it fits best where the part is. A robust map from labels to such
places is the camera. It needs no learning and takes seconds.

Shapes: N samples, S side of the thumbnails, n side of a shrunk part.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from partloc.images import load_rgb
from partloc.plan import PairTable
from partloc.pose import PartPose

VIEW_STREAM = 3  # of chance, as in plan
THUMBNAIL = 48  # side, pixels
SAMPLES = 400
SCALES = (0.25, 0.8)  # smaller parts fit anywhere, larger ones nowhere else
FOREGROUND = 0.04  # difference from the corners' colour, of 1, that counts as the part
INLIER = 0.1  # residual, in half image sides
FREE = 4  # parts that a camera of nine numbers can be made to agree with
FLAT = 0.05  # labels that spread so much less across a plane than in it tell no camera
# Of `View.fading`: a camera nearer than 1.25 would be inside the sphere round some wholes.
NEAREST = 0.8


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


def fit_view(
    table: PairTable, max_pixels: int, seed: int, known: View | None = None
) -> View | None:
    """Fit the camera on up to SAMPLES parts without twins; None when there are too few, or when
    all lie about in one plane.

    known: a camera to come back to unless the fitted one agrees with more parts by FREE; so many
        agree with any fit, and of a few parts these are a large share.
    """
    scale = table.scale[:, 0].numpy()
    rows = np.flatnonzero((table.twin_counts == 1) & (SCALES[0] < scale) & (scale < SCALES[1]))
    chance = np.random.default_rng([seed, VIEW_STREAM])
    rows = sorted(chance.permutation(rows)[:SAMPLES].tolist())
    places = {row: _best_place(table, row, max_pixels) for row in rows}
    found = [row for row in rows if places[row] is not None]
    if len(found) < 8:
        return None
    labels, seen = table.translation[found], torch.tensor([places[row] for row in found])
    extents = torch.linalg.svdvals(labels - labels.mean(0))  # (3,), the largest first
    if extents[2] <= FLAT * extents[0]:
        return None
    poses = PartPose(labels, table.scale[found])

    def judged(view: View) -> View:
        residuals = (view.place(poses)[:, :2] - seen).norm(dim=1)
        return view._replace(inliers=(residuals < INLIER).float().mean().item())

    view = judged(_robust_view(labels, seen))
    if known is not None:
        known = judged(known)
        if known.inliers >= view.inliers - FREE / len(found):
            return known
    return view


def _best_place(table: PairTable, row: int, max_pixels: int) -> tuple[float, float] | None:
    """Right and down of the best fit of a part of known size; None for an empty picture."""
    side = max(2, round(THUMBNAIL * table.scale[row].item()))
    whole = _thumbnail(table, table.whole_paths[row], THUMBNAIL, max_pixels)
    part = _thumbnail(table, table.part_paths[row], side, max_pixels)  # (3, n, n)
    corners = part[:, :: side - 1, :: side - 1].mean((1, 2), keepdim=True)
    mask = ((part - corners).abs().amax(0) > FOREGROUND).float()  # (n, n)
    if mask.sum() < 4:
        return None
    padded = F.pad(whole[None], (side // 2,) * 4, mode="replicate")
    energy = F.conv2d(padded.square().sum(1, keepdim=True), mask[None, None])
    distance = (energy - 2 * F.conv2d(padded, (part * mask)[None]))[0, 0]
    distance = distance[:THUMBNAIL, :THUMBNAIL]
    down, right = divmod(int(distance.argmin()), THUMBNAIL)
    return tuple((cell + side % 2 / 2) * 2 / THUMBNAIL - 1 for cell in (right, down))


def _thumbnail(table: PairTable, path: str, side: int, max_pixels: int) -> Tensor:
    """(3, side, side), 0..1."""
    image = load_rgb(table.data_dir / path, max_pixels)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)


def _robust_view(source: Tensor, target: Tensor) -> View:
    """The camera (N, 3) -> (N, 2) with about the least sum of distances, inliers left open.

    Multiplied by its denominator the map is linear in all that is sought, but for the direction
    of depth, which is that of the round before.
    Source: the direct linear transform (Abdel-Aziz and Karara, 1971), by iteratively reweighted
    least squares (Holland and Welsch, 1977).
    """
    source, target = source.double(), target.double()
    design = torch.cat([source, torch.ones_like(source[:, :1])], 1)  # (N, 4)
    rows = torch.block_diag(design, design)  # (2 N, 8), those of right, then those of down
    weights = torch.ones(len(source), dtype=torch.float64)
    view, fading = None, torch.zeros((), dtype=torch.float64)
    for _ in range(50):
        heavy = weights.repeat(2)[:, None]
        known = target.T.reshape(-1, 1)  # (2 N, 1)
        if view is not None:
            faded = -view.depth(source).repeat(2, 1) * known
            both = torch.linalg.lstsq(heavy * torch.cat([rows, faded], 1), heavy * known).solution
            fading = both[8, 0].clamp(0, NEAREST)
            known = known * (1 + fading * view.depth(source).repeat(2, 1))
        linear = torch.linalg.lstsq(heavy * rows, heavy * known).solution.view(2, 4)
        view = View(linear[:, :3], linear[:, 3], fading, 0.0)
        one = PartPose(source, torch.ones_like(source[:, :1]))
        weights = (view.place(one)[:, :2] - target).norm(dim=1).clamp(min=0.02).rsqrt()
    return View(*(field.float() for field in view[:3]), 0.0)
