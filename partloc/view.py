"""Where in the image does a translation appear? The users' camera, fitted from their labels.

The label gives a part's size in the whole, so its picture, shrunk to that size, can be slid over
the picture of the whole: mostly it fits best where the part is. A robust affine map from labels
to such places is the camera, up to perspective. It needs no learning and takes seconds.

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

VIEW_STREAM = 3  # of chance, as in plan
THUMBNAIL = 48  # side, pixels
SAMPLES = 400
SCALES = (0.25, 0.8)  # smaller parts fit anywhere, larger ones nowhere else
FOREGROUND = 0.04  # difference from the corners' colour, of 1, that counts as the part
INLIER = 0.1  # residual, in half image sides
FREE = 4  # parts that a camera of eight numbers can be made to agree with


class View(NamedTuple):
    """place = slope @ translation + offset; (2, 3) and (2,); right and down in [-1, 1].

    inliers: share of the matched places within INLIER of the map; under a half or so, the camera
    is not the same for all or parts are hard to see.
    """

    slope: Tensor
    offset: Tensor
    inliers: float

    def place(self, translation: Tensor) -> Tensor:
        """(..., 3) -> (..., 2): right and down in the image."""
        return translation @ self.slope.T + self.offset


def fit_view(
    table: PairTable, max_pixels: int, seed: int, known: View | None = None
) -> View | None:
    """Fit the camera on up to SAMPLES parts without twins; None when there are too few.

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
    fitted = _robust_affine(labels, seen)

    def judged(slope: Tensor, offset: Tensor) -> View:
        residuals = (View(slope, offset, 0.0).place(labels) - seen).norm(dim=1)
        return View(slope, offset, (residuals < INLIER).float().mean().item())

    view = judged(*fitted)
    if known is not None:
        known = judged(known.slope, known.offset)
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


def _robust_affine(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Affine map (N, 3) -> (N, 2) with the least sum of distances: slope and offset.

    Source: iteratively reweighted least squares, Holland and Welsch, 1977.
    """
    design = torch.cat([source, torch.ones(len(source), 1)], 1).double()
    weights = torch.ones(len(source), 1, dtype=torch.float64)
    for _ in range(50):
        solution = torch.linalg.lstsq(design * weights, target.double() * weights).solution
        residuals = (target - design @ solution).norm(dim=1)
        weights = residuals.clamp(min=0.02)[:, None].rsqrt()
    return solution[:3].T.float(), solution[3].float()
