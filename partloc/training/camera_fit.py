"""Estimates the camera of a data set from its labels and images, without training.

The label gives a part's size in the whole. The part's image, shrunk to that size, is slid over the
image of the whole; the offset of the best match is usually where the part appears. A camera is
then fitted robustly to the pairs of labelled translation and matched image position.

Shapes: N samples, S side of the whole's thumbnail, n side of a part's thumbnail.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from partloc.data.background import load_image
from partloc.data.table import IndexedFile, PairTable
from partloc.model.camera import PinholeCamera
from partloc.pose import PartPose

CAMERA_FIT_STREAM = 3  # of random numbers; each use of the seed has a stream of its own
MAX_SAMPLES = 400
MIN_SAMPLES = 8
# Scales of usable parts: smaller ones match anywhere, larger ones leave no room to slide.
MIN_SCALE, MAX_SCALE = 0.25, 0.8
THUMBNAIL_PX = 48  # side of the whole's thumbnail
FOREGROUND_THRESHOLD = 0.04  # difference from the corners' mean colour, intensities 0..1
MIN_FOREGROUND_PX = 4  # of a part's thumbnail
INLIER_DISTANCE = 0.1  # half image sides
# A camera has nine parameters, so it can be made to agree with about this many more parts.
OVERFITTED_PARTS = 4
# Minimum extent of the labels along their third principal axis, as a fraction of the first;
# labels in a plane do not determine a camera.
MIN_FLATNESS_RATIO = 0.05
# 1 / whole-model units; a camera closer than 1.25 would be inside the bounding sphere of a whole.
MAX_INVERSE_DISTANCE = 0.8
FIT_ITERATIONS, CONVEX_ITERATIONS = 100, 25
RESIDUAL_SCALE = 0.06  # half image sides; wrong matches, farther away, then count little
PERSPECTIVE_EVIDENCE = 0.1  # relative difference of mean distances that decides the handedness
MAX_LOOK_UP_DEG = 12.0  # a camera that looks up more steeply belongs to a left-handed frame
MIN_RESIDUAL = 0.02  # half image sides; bounds the weights of the reweighted least squares


def fit_camera(
    table: PairTable, max_pixels: int, seed: int, known: PinholeCamera | None = None
) -> PinholeCamera | None:
    """Fit the camera to up to MAX_SAMPLES parts without twins.

    Args:
        table: labelled samples.
        max_pixels: limit of `load_image`.
        seed: of the choice of samples.
        known: a camera to prefer unless the fitted one agrees with at least OVERFITTED_PARTS more
            parts; any fit gains about that many, which among few parts is a large fraction.
    Returns: the camera with its inlier fraction; None if fewer than MIN_SAMPLES parts could be
        matched, or if their labels lie almost in a plane.
    """
    rows = _choose_rows(table, seed)
    positions = {row: _match_part(table, row, max_pixels) for row in rows}
    matched = [row for row in rows if positions[row] is not None]
    if len(matched) < MIN_SAMPLES:
        return None
    translations = table.translation[matched]
    targets = torch.tensor([positions[row] for row in matched])  # (N, 2)
    extents = torch.linalg.svdvals(translations - translations.mean(0))  # (3,), descending
    if extents[2] <= MIN_FLATNESS_RATIO * extents[0]:
        return None
    poses = PartPose(translations, table.scale[matched])

    def with_inlier_fraction(camera: PinholeCamera) -> PinholeCamera:
        residuals = (camera.project(poses)[:, :2] - targets).norm(dim=1)
        return camera._replace(inlier_fraction=(residuals < INLIER_DISTANCE).float().mean().item())

    camera = with_inlier_fraction(fit_either_handedness(translations, targets))
    if known is not None:
        known = with_inlier_fraction(known)
        if known.inlier_fraction >= camera.inlier_fraction - OVERFITTED_PARTS / len(matched):
            return known
    return camera


def _choose_rows(table: PairTable, seed: int) -> list[int]:
    """Return up to MAX_SAMPLES random rows of parts of usable size without twins, sorted."""
    scale = table.scale[:, 0].numpy()
    usable = (table.twin_group_sizes == 1) & (MIN_SCALE < scale) & (scale < MAX_SCALE)
    rng = np.random.default_rng([seed, CAMERA_FIT_STREAM])
    return sorted(rng.permutation(np.flatnonzero(usable))[:MAX_SAMPLES].tolist())


def _match_part(table: PairTable, row: int, max_pixels: int) -> tuple[float, float] | None:
    """Return the image position (right, down) where a part matches its whole best.

    In half image sides from the centre; None if the part's image is empty.
    """
    side = max(2, round(THUMBNAIL_PX * table.scale[row].item()))
    whole = _load_thumbnail(table.whole_image(row), THUMBNAIL_PX, max_pixels)  # (3, S, S)
    part = _load_thumbnail(table.part_image(row), side, max_pixels)  # (3, n, n)
    background = part[:, :: side - 1, :: side - 1].mean((1, 2), keepdim=True)  # of the corners
    mask = ((part - background).abs().amax(0) > FOREGROUND_THRESHOLD).float()  # (n, n)
    if mask.sum() < MIN_FOREGROUND_PX:
        return None
    # The squared distance at each offset, up to a constant: |whole|^2 - 2 whole * part.
    padded = F.pad(whole[None], (side // 2,) * 4, mode="replicate")
    energy = F.conv2d(padded.square().sum(1, keepdim=True), mask[None, None])
    distance = (energy - 2 * F.conv2d(padded, (part * mask)[None]))[0, 0]
    distance = distance[:THUMBNAIL_PX, :THUMBNAIL_PX]  # (S, S)
    down_px, right_px = divmod(int(distance.argmin()), THUMBNAIL_PX)
    right, down = ((px + side % 2 / 2) * 2 / THUMBNAIL_PX - 1 for px in (right_px, down_px))
    return right, down


def _load_thumbnail(indexed: IndexedFile, side: int, max_pixels: int) -> Tensor:
    """Return an image as (3, side, side), 0..1."""
    image = load_image(indexed.path, max_pixels, indexed.sha256)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)


def fit_either_handedness(source: Tensor, target: Tensor) -> PinholeCamera:
    """Fit a camera that maps points (N, 3) to image positions (N, 2), in a frame of unknown
    handedness.

    A mirrored frame fits an orthographic camera as well, with the opposite viewing direction. What
    is nearer is larger, so with perspective only one of them fits well. Otherwise the camera looks
    down on the objects rather than up at them; if neither decides, the frame is right-handed.
    """
    right, left = (fit_camera_to_points(source, target, sign) for sign in (1.0, -1.0))
    costs = [_mean_distance(camera, source, target) for camera in (right, left)]
    if max(costs) > (1 + PERSPECTIVE_EVIDENCE) * min(costs):
        return right if costs[0] < costs[1] else left
    climb = right.code[2].item()  # of the viewing direction, the sine of an angle
    return left if climb > math.sin(math.radians(MAX_LOOK_UP_DEG)) else right


def _mean_distance(camera: PinholeCamera, source: Tensor, target: Tensor) -> float:
    """Robust: larger distances than INLIER_DISTANCE count as that."""
    points = PartPose(source, torch.ones_like(source[:, :1]))
    distances = (camera.project(points)[:, :2] - target).norm(dim=1)
    return distances.clamp(max=INLIER_DISTANCE).mean().item()


def fit_camera_to_points(source: Tensor, target: Tensor, handedness: float = 1.0) -> PinholeCamera:
    """Fit a camera that maps points (N, 3) to image positions (N, 2), robust to outliers.

    handedness: of the points' frame, 1 or -1.
    Approximately minimises the sum of distances, then a sum that hardly grows with larger ones, as
    half of the parts may be matched in a wrong place. Multiplied by its denominator, the projection
    is linear in all parameters except the direction of depth, which is taken from the previous
    iteration. The inlier fraction of the result is NaN.

    Source: the direct linear transform (Abdel-Aziz and Karara, 1971), by iteratively reweighted
    least squares (Holland and Welsch, 1977); the second weights of Geman and McClure (1985).
    """
    source, target = source.double(), target.double()
    homogeneous = torch.cat([source, torch.ones_like(source[:, :1])], 1)  # (N, 4)
    design = torch.block_diag(homogeneous, homogeneous)  # (2 N, 8), rows of right, then of down
    weights = torch.ones(len(source), dtype=torch.float64)
    camera, inverse_distance = None, torch.zeros((), dtype=torch.float64)
    sign = torch.tensor(handedness, dtype=torch.float64)
    for iteration in range(FIT_ITERATIONS):
        row_weights = weights.repeat(2)[:, None]  # (2 N, 1)
        values = target.T.reshape(-1, 1)  # (2 N, 1)
        if camera is not None:
            depth = camera.depth(source).repeat(2, 1)  # (2 N, 1)
            joint = torch.cat([design, -depth * values], 1)  # (2 N, 9)
            solution = torch.linalg.lstsq(row_weights * joint, row_weights * values).solution
            inverse_distance = solution[8, 0].clamp(0, MAX_INVERSE_DISTANCE)
            values = values * (1 + inverse_distance * depth)
        linear = torch.linalg.lstsq(row_weights * design, row_weights * values).solution.view(2, 4)
        camera = PinholeCamera(linear[:, :3], linear[:, 3], inverse_distance, math.nan, sign)
        points = PartPose(source, torch.ones_like(source[:, :1]))
        residuals = (camera.project(points)[:, :2] - target).norm(dim=1)  # (N,)
        if iteration < CONVEX_ITERATIONS:
            weights = residuals.clamp(min=MIN_RESIDUAL).rsqrt()
        else:
            weights = 1 / (1 + (residuals / RESIDUAL_SCALE).square())
    assert camera is not None
    return camera.to(torch.float32)
