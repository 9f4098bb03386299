"""The camera of a data set, fitted from its labels and pictures.

Shapes: N samples, S side of the thumbnails, n side of a shrunk part.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from partloc.data.images import load_rgb
from partloc.data.table import PairTable
from partloc.model.camera import View
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
