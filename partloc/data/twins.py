"""Which parts of a model look the same: thumbnails, their difference, and groups of twins.

Shapes: T = THUMBNAIL_PX.
"""

import numpy as np
from PIL import Image

THUMBNAIL_PX = 64
GROUND_MARGIN = 0.01  # a pixel this near its picture's ground is ground; intensity in [0, 1]


def thumbnail(image: Image.Image) -> np.ndarray:
    """(T, T, 3) uint8: each pixel the mean of the area that it covers."""
    small = image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return np.asarray(small)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """How unlike two thumbnails look, in [0, 1]: 0 is the same picture.

    The mean, over the pixels where either shows something other than its ground, of the
    channel that differs most. Ground does not count: a thin bar on white covers so few pixels
    that over the whole picture two different bars would be nearly the same.
    """
    return _difference(a, _shows_something(a), b, _shows_something(b))


def _difference(a: np.ndarray, shown_a: np.ndarray, b: np.ndarray, shown_b: np.ndarray) -> float:
    apart = _largest(np.maximum(a, b) - np.minimum(a, b))  # (T, T) uint8
    counted = shown_a | shown_b | (apart > 5 * 255 * GROUND_MARGIN)
    return float(apart[counted].mean() / 255) if counted.any() else 0.0


def _shows_something(small: np.ndarray) -> np.ndarray:
    """(T, T) bool: pixels unlike the ground, which is the median colour of the frame's edge."""
    edge = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])  # (4T, 3)
    ground = np.median(edge, axis=0)
    return _largest(np.abs(small - ground)) > 255 * GROUND_MARGIN


def _largest(channels: np.ndarray) -> np.ndarray:
    """(T, T, 3) -> (T, T); numpy's max over so short an axis takes ten times as long."""
    return np.maximum(np.maximum(channels[..., 0], channels[..., 1]), channels[..., 2])


def group_twins(thumbnails: dict[str, np.ndarray], tolerance: float) -> dict[str, str]:
    """Name each part's twin group after its first member in alphabetical order.

    Parts are taken in alphabetical order; each joins the first group of which EVERY member is
    within `tolerance` (complete link), so that a chain of small steps cannot join two parts
    that differ. The cost grows with parts times groups, not with parts squared.
    """
    shown = {name: _shows_something(picture) for name, picture in thumbnails.items()}

    def alike(name: str, other: str) -> bool:
        a, b = thumbnails[name], thumbnails[other]
        return _difference(a, shown[name], b, shown[other]) <= tolerance

    groups: list[list[str]] = []
    for name in sorted(thumbnails):
        home = next((g for g in groups if all(alike(name, other) for other in g)), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    return {name: group[0] for group in groups for name in group}
