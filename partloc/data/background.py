"""The plain background of an image: found robustly, and painted white.

Renders come on any plain background. The network sees one: white. The background is what most of
the image's border shows. A smooth model of it (constant, gradient or vignette) is fitted there, and
what is connected to the border and agrees with the model is painted white, together with enclosed
regions of exactly the background's colour. Pixels on the rim of the object, which mix both, get
their share of background replaced. A thin frame and a small patch in a corner (a logo, an axes
gizmo) count as background.

Shapes: H W image in pixels, N pixels of the border band.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from partloc.data.images import DEFAULT_MAX_PIXELS, ImageError, open_rgb, read_image_bytes

BAND_FRACTION = 0.03  # of the shorter side: width of the border band that shows the background
MIN_BAND_PX = 2
BIN_LEVELS = 16  # width of the bins in which the most frequent border colour is searched
START_LEVELS = 24  # colours this near the most frequent one start the fit
CONSTANT_LEVELS = 1  # a border that varies no more is one colour
INLIER_LEVELS = 10  # border pixels this near the fitted model count as background
MIN_INLIER_FRACTION = 0.5  # of the border band; with less there is no plain background
TOLERANCE_LEVELS = (6, 16)  # smallest and largest difference that counts as background
SHADOW_LEVELS = 4  # steps between neighbours in a soft shadow or a vignette
MIN_SHADOW_FRACTION = 0.002  # of the image: fewer pixels are no shadow
SHADOW_WINDOW_PX = 9  # the larger window in which a shadow's slope is compared
SHADOW_DEPTH = 0.55  # a soft shadow leaves at least this share of the background's intensity
CORNER_FRACTION = 0.3  # of a side: a patch that lies in such a corner may be a logo
PATCH_AREA_FRACTION = 0.03  # of the image: larger patches are objects
RIM_PX = 2  # mixed pixels between object and background
MIXTURE_LEVELS = 12  # a mixture of two colours is this near the line between them
NOISE_LEVELS = 48  # compression noise differs less from the background
MIN_REGION_PX = 12  # smaller regions are compression noise, where there is any
WHITE = 255.0
MAX_SIDE_PX = 1024  # larger images are reduced first


NO_BACKGROUND_WARNING = "no plain background was found here or in the whole; confidence is lower"


Color = tuple[float, float, float]  # RGB, levels


class Background(NamedTuple):
    """What was found: whether the background is plain, its colour in the middle of the image (RGB,
    levels), and the fraction of the border band that shows it."""

    is_plain: bool
    color: Color
    border_fraction: float


def load_image(
    path: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS, sha256: str | None = None
) -> Image.Image:
    """Decode an image file, paint its background white and make it square.

    sha256: of the file when it was indexed; None accepts any file.
    Raises: ImageError as `load_rgb`, or if it is not the file that was indexed.
    """
    data = read_image_bytes(path, max_pixels)
    if sha256 and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ImageError(
            f"{path}: expected the image that was indexed, SHA-256 {sha256[:12]}..., found "
            f"{found[:12]}...; restore it, or run the stages index and split again"
        )
    return prepare_image(open_rgb(data, path, max_pixels))[0]


def prepare_image(image: Image.Image) -> tuple[Image.Image, Background]:
    """An RGB image of any shape -> a square image on white, and the background that it had.

    The square is centred in the image, and as high as the image where that holds all content: most
    cameras have a vertical field of view, so a wide image shows an object at the same size in it
    as a square image does. Otherwise the image is padded.
    """
    if max(image.size) > MAX_SIDE_PX:
        image = image.copy()
        image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BOX, reducing_gap=3.0)
    pixels, background = paint_white(np.asarray(image))
    return _make_square(Image.fromarray(pixels), background), background


def _make_square(image: Image.Image, background: Background) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    if background.is_plain and width > height:
        left = (width - height) // 2
        content = _smallest_channel(np.asarray(image)).min(0) < WHITE  # (W,)
        if not (content[:left].any() or content[left + height :].any()):
            return image.crop((left, 0, left + height, height))
    color = "white" if background.is_plain else tuple(round(value) for value in background.color)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def paint_white(image: np.ndarray) -> tuple[np.ndarray, Background]:
    """(H, W, 3) uint8 -> the image on white, (H, W, 3) uint8, and the background that it had.

    Without a plain background, and on white already, the image is returned as it is.
    """
    if _is_on_white(image):
        return image, Background(True, (WHITE, WHITE, WHITE), 1.0)
    pixels = image.astype(np.float32)
    model, background = fit_background(pixels)
    if not background.is_plain:
        return image, background
    difference = _largest_channel(np.abs(pixels - model))  # (H, W)
    noise = np.median(difference[_border_band(*difference.shape)])
    tolerance = float(np.clip(4 * noise + 4, *TOLERANCE_LEVELS))
    mask = _background_mask(pixels, model, difference, tolerance)
    mask |= _frame_and_patches(~mask)
    painted = np.full_like(image, 255)
    window = _bounding_box(~mask, 2 * RIM_PX)
    if window is not None:  # most of an image is background: the rest is enough to look at
        pixels, model, mask, difference = (a[window] for a in (pixels, model, mask, difference))
        mask = mask | _compression_noise(mask, difference, tolerance)
        alpha = _coverage(pixels, model, mask, difference)[..., None]
        mixed = pixels + (1 - alpha) * (WHITE - model)
        painted[window] = np.where(mask[..., None], WHITE, np.rint(mixed).clip(0, WHITE))
    return painted, background


def _is_on_white(image: np.ndarray) -> bool:
    """A quick test that leaves most renders alone: a white border, nothing in a corner, and hardly
    a pixel that could be a shadow."""
    darkest, lightest = _smallest_channel(image), _largest_channel(image)  # (H, W)
    if (darkest[_border_band(*darkest.shape)] < WHITE).any():
        return False
    objects = darkest < WHITE - TOLERANCE_LEVELS[0]
    gray = objects & (lightest - darkest < SHADOW_LEVELS) & (darkest > SHADOW_DEPTH * WHITE)
    return gray.mean() < MIN_SHADOW_FRACTION and not _frame_and_patches(objects).any()


def fit_background(pixels: np.ndarray) -> tuple[np.ndarray, Background]:
    """The background's colour at every pixel, (H, W, 3), a quadratic function of the position.

    pixels: (H, W, 3) float, levels. Fitted to the border band by iterated selection of inliers.
    """
    height, width = pixels.shape[:2]
    band = _border_band(height, width)
    colors = pixels[band]  # (N, 3)
    start = _most_frequent_color(colors)
    residuals = _largest_channel(np.abs(colors - start))
    if residuals.max() <= CONSTANT_LEVELS:  # as most renderers draw it
        return np.broadcast_to(start, pixels.shape), Background(True, _to_color(start), 1.0)
    terms = _quadratic_terms(height, width)  # (H, W, 6)
    inliers = residuals < START_LEVELS
    coefficients = None
    for _ in range(8):
        design = terms[band][inliers]
        coefficients = np.linalg.lstsq(design, colors[inliers], rcond=None)[0]  # (6, 3)
        residuals = _largest_channel(np.abs(terms[band] @ coefficients - colors))
        selected = residuals < INLIER_LEVELS
        if (selected == inliers).all() or selected.sum() < 12:
            break
        inliers = selected
    model = (terms @ coefficients).clip(0, WHITE)
    fraction = float((residuals < INLIER_LEVELS).mean())
    color = _to_color(model[height // 2, width // 2])
    return model, Background(fraction >= MIN_INLIER_FRACTION, color, fraction)


def _to_color(values: np.ndarray) -> Color:
    red, green, blue = values.tolist()
    return red, green, blue


def _border_band(height: int, width: int) -> np.ndarray:
    """(H, W) bool: the pixels near the border."""
    size = max(MIN_BAND_PX, round(BAND_FRACTION * min(height, width)))
    band = np.ones((height, width), bool)
    band[size:-size, size:-size] = False
    return band


def _quadratic_terms(height: int, width: int) -> np.ndarray:
    """(H, W, 6): 1, x, y, x^2, x y, y^2, with x and y in [-1, 1]."""
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).astype(np.float32)


def _most_frequent_color(colors: np.ndarray) -> np.ndarray:
    """(N, 3) -> (3,): the median of the most frequent bin and its neighbours."""
    bins = (colors // BIN_LEVELS).astype(np.int64)
    count = 256 // BIN_LEVELS
    keys = (bins[:, 0] * count + bins[:, 1]) * count + bins[:, 2]
    best = np.bincount(keys, minlength=count**3).argmax()
    center = np.array([best // count**2, best // count % count, best % count])
    return np.median(colors[(np.abs(bins - center) <= 1).all(1)], axis=0)


def _background_mask(
    pixels: np.ndarray, model: np.ndarray, difference: np.ndarray, tolerance: float
) -> np.ndarray:
    """(H, W) bool: connected to the border and like the model, or enclosed and equal to it."""
    like = difference < tolerance
    candidates = like.copy()
    window = _bounding_box(~like, SHADOW_WINDOW_PX)  # all else is background
    if window is not None:
        candidates[window] |= _soft_shadow(pixels[window], model[window])
    labels, _ = ndimage.label(candidates)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    # A thin frame hides the border, so the labels behind it count as well.
    band = _border_band(*difference.shape)
    outside = np.unique(labels[band & like])
    outside = outside[outside > 0] if len(outside) else edge[edge > 0]
    connected = np.isin(labels, outside)
    return connected | (difference < tolerance / 3)


def _soft_shadow(pixels: np.ndarray, model: np.ndarray) -> np.ndarray:
    """(H, W) bool: the background's hue at less intensity, without an edge.

    Intensity changes slowly in a shadow, and within a pixel or two at the rim of an object.
    """
    ratio = pixels.sum(-1) / np.maximum(model.sum(-1), 1)
    hue = _largest_channel(np.abs(pixels - ratio[..., None] * model)) < SHADOW_LEVELS
    candidates = hue & (ratio > SHADOW_DEPTH) & (ratio < 1.02)
    intensity = pixels.mean(-1)
    near, far = (_local_range(intensity, size) for size in (3, SHADOW_WINDOW_PX))
    edges = (near > SHADOW_LEVELS) & (near > 0.5 * far) | (near > 4 * SHADOW_LEVELS)
    return candidates & ~edges


def _local_range(values: np.ndarray, size: int) -> np.ndarray:
    """(H, W): largest minus smallest value in a window of `size` pixels."""
    return ndimage.maximum_filter(values, size) - ndimage.minimum_filter(values, size)


def _compression_noise(mask: np.ndarray, difference: np.ndarray, tolerance: float) -> np.ndarray:
    """(H, W) bool: what lossy compression leaves around an object: faint, thin and apart from it.

    Nothing where the background is clean close to the object.
    """
    strong = difference > NOISE_LEVELS
    around = ndimage.binary_dilation(strong, iterations=8)
    around &= ~ndimage.binary_dilation(strong, iterations=2) & mask
    if not around.any() or (difference[around] > 1).mean() < 0.2:
        return np.zeros_like(mask)
    faint = ~mask & ~strong
    solid = ndimage.binary_opening(~mask, np.ones((5, 5)))
    attached = ndimage.binary_dilation(strong & (solid | _large(strong)), iterations=1)
    return faint & ~solid & ~attached


def _large(objects: np.ndarray) -> np.ndarray:
    """(H, W) bool: the connected regions of at least MIN_REGION_PX pixels."""
    labels, _ = ndimage.label(objects, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    return (areas >= MIN_REGION_PX)[labels] & objects


def _bounding_box(objects: np.ndarray, margin: int) -> tuple[slice, slice] | None:
    rows, columns = (np.flatnonzero(objects.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return _slice_with_margin(rows, margin), _slice_with_margin(columns, margin)


def _slice_with_margin(found: np.ndarray, margin: int) -> slice:
    return slice(max(0, found[0] - margin), found[-1] + 1 + margin)


def _frame_and_patches(objects: np.ndarray) -> np.ndarray:
    """(H, W) bool: of the objects' pixels, those of a thin frame and of patches in a corner."""
    height, width = objects.shape
    size = max(MIN_BAND_PX, round(BAND_FRACTION * min(height, width)))
    removed = np.zeros_like(objects)
    for depth in range(size):  # rings from the border inwards
        ring = np.zeros_like(objects)
        ring[depth : height - depth, depth : width - depth] = True
        ring[depth + 1 : height - depth - 1, depth + 1 : width - depth - 1] = False
        if objects[ring].mean() < 0.8:
            break
        removed |= ring
    labels, count = ndimage.label(objects & ~removed, np.ones((3, 3)))
    if count < 2:
        return removed & objects
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    largest = areas[1:].argmax() + 1
    for number, where in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = where
        vertical = min(rows.stop, height - rows.start) <= CORNER_FRACTION * height
        horizontal = min(columns.stop, width - columns.start) <= CORNER_FRACTION * width
        small = areas[number] < min(PATCH_AREA_FRACTION * objects.size, areas[largest])
        if number != largest and vertical and horizontal and small:
            removed |= labels == number
    return removed & objects


def _coverage(
    pixels: np.ndarray, model: np.ndarray, mask: np.ndarray, difference: np.ndarray
) -> np.ndarray:
    """(H, W), 0..1: how much of a pixel the object covers; between 0 and 1 on its rim only.

    A rim pixel mixes the background with the object, whose colour its neighbours further inside
    show. The neighbour that leaves the least of the background counts, because a dark face beside
    a bright one is no mixture of it with black. In lines so thin that no pixel is further inside,
    the neighbour that differs most from the background shows the colour.
    """
    depth = ndimage.distance_transform_cdt(~mask, "chessboard")
    rows, columns = np.nonzero((depth > 0) & (depth <= RIM_PX))
    height, width = mask.shape
    own = pixels[rows, columns] - model[rows, columns]  # (R, 3)
    purest, most = own.copy(), difference[rows, columns].copy()
    is_thin, share = np.ones(len(rows), bool), np.zeros(len(rows), np.float32)
    for down in range(-RIM_PX, RIM_PX + 1):
        for right in range(-RIM_PX, RIM_PX + 1):
            y, x = (rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)
            neighbor = pixels[y, x] - model[y, x]
            better = difference[y, x] > most
            most = np.where(better, difference[y, x], most)
            purest[better] = neighbor[better]
            inside = depth[y, x] > depth[rows, columns]
            is_thin &= ~inside
            share = np.where(inside, np.maximum(share, _share(own, neighbor)), share)
    share = np.where(is_thin, _share(own, purest), share)
    share[share == 0] = 1.0  # another colour than all neighbours is no mixture
    alpha = np.ones_like(difference)
    alpha[rows, columns] = share
    alpha[mask] = 0.0
    return alpha


def _share(mixed: np.ndarray, pure: np.ndarray) -> np.ndarray:
    """(R, 3), (R, 3), differences from the background -> (R,), 0..1: how much of a pure colour a
    mixture with the background contains; 0 if it is none."""
    share = ((mixed * pure).sum(-1) / (pure**2).sum(-1).clip(1)).clip(0, 1)
    apart = _largest_channel(np.abs(mixed - share[:, None] * pure))
    return np.where(apart < MIXTURE_LEVELS, share, 0.0)


def _largest_channel(values: np.ndarray) -> np.ndarray:
    """(..., 3) -> (...); many times faster than numpy's maximum over so short an axis."""
    return np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2])


def _smallest_channel(values: np.ndarray) -> np.ndarray:
    """(..., 3) -> (...), see `_largest_channel`."""
    return np.minimum(np.minimum(values[..., 0], values[..., 1]), values[..., 2])
