"""Find twins: parts of one model whose images look identical.

Shapes: T = THUMBNAIL_PX.
"""

import numpy as np
from PIL import Image

THUMBNAIL_PX = 64
TWIN_TOLERANCE = 0.015  # maximum `thumbnail_difference` between twins
# A pixel that differs from the background by at most this much belongs to it; intensity in [0, 1].
BACKGROUND_TOLERANCE = 0.01
# A pixel where two thumbnails differ by more than this much shows an object; intensity in [0, 1].
OBJECT_DIFFERENCE = 0.05


def make_thumbnail(image: Image.Image) -> np.ndarray:
    """Downsample to (T, T, 3) uint8; each pixel is the mean of the area it covers."""
    small = image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return np.asarray(small)


def thumbnail_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Visual difference between two thumbnails, in [0, 1]; 0 means identical.

    The largest difference of any channel, averaged over the pixels where at least one thumbnail
    shows an object. Background is ignored: a thin bar covers so few pixels that the mean over all
    of them would be nearly the same for two different bars.
    """
    return _masked_difference(a, _object_mask(a), b, _object_mask(b))


def group_twins(
    thumbnails: dict[str, np.ndarray], tolerance: float = TWIN_TOLERANCE
) -> dict[str, str]:
    """Map each part to its twin group, which is named after its alphabetically first member.

    Each part, in alphabetical order, joins the first group whose members are ALL within
    `tolerance` (complete linkage). A chain of small differences therefore cannot join two parts
    that differ visibly. The cost is O(parts x groups).
    """
    masks = {name: _object_mask(image) for name, image in thumbnails.items()}

    def are_twins(a: str, b: str) -> bool:
        return _masked_difference(thumbnails[a], masks[a], thumbnails[b], masks[b]) <= tolerance

    groups: list[list[str]] = []
    for name in sorted(thumbnails):
        matching = (group for group in groups if all(are_twins(name, other) for other in group))
        group = next(matching, None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return {name: group[0] for group in groups for name in group}


def _masked_difference(
    a: np.ndarray, mask_a: np.ndarray, b: np.ndarray, mask_b: np.ndarray
) -> float:
    distance = _channel_max(np.maximum(a, b) - np.minimum(a, b))  # (T, T) uint8
    mask = mask_a | mask_b | (distance > 255 * OBJECT_DIFFERENCE)
    return float(distance[mask].mean() / 255) if mask.any() else 0.0


def _object_mask(small: np.ndarray) -> np.ndarray:
    """(T, T) bool: pixels unlike the background, the median colour of the image border."""
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])  # (4T, 3)
    background = np.median(border, axis=0)
    return _channel_max(np.abs(small - background)) > 255 * BACKGROUND_TOLERANCE


def _channel_max(image: np.ndarray) -> np.ndarray:
    """(T, T, 3) -> (T, T). np.max over such a short axis is ten times slower."""
    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])
