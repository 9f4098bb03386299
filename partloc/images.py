"""Pictures: from any file to 8-bit RGB, and how alike two of them are.

Shapes: H W image in pixels, T = THUMBNAIL_PX.
"""

import io
import struct
import zlib
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # told by the content, not by the name
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # in any case
DEFAULT_MAX_PIXELS = 64_000_000
THUMBNAIL_PX = 64
GROUND_MARGIN = 0.01  # a pixel this near its picture's ground is ground; intensity in [0, 1]

UNREADABLE, TRUNCATED, OVERSIZED = "unreadable image", "truncated image", "oversized image"

# What Pillow's decoders let out on damaged files, beside OSError.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
_PNG_SIGNATURE, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_limit_lock = Lock()


class ImageError(ValueError):
    """A picture that cannot be used; the message names the file and what is wrong.

    reason: UNREADABLE, TRUNCATED or OVERSIZED.
    """

    def __init__(self, message: str, reason: str = UNREADABLE):
        super().__init__(message)
        self.reason = reason


def load_rgb(path: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode a file completely: RGB, 8 bit, upright, transparency laid on white.

    Raises: ImageError if the file is missing, damaged, or larger than `max_pixels`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    return open_rgb(data, path, max_pixels)


def open_rgb(data: bytes, name: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """As `load_rgb`, from the file's bytes; `name` stands in error messages.

    Of an animation or a multi-page file the first picture counts.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    try:
        image = _open(data)
        width, height = image.size
        if width * height > max_pixels:
            pixels = f"{width} x {height} = {width * height:,} pixels"
            raise ImageError(f"{name}: {pixels}, the limit is {max_pixels:,}", OVERSIZED)
        if image.format == "PNG":
            _open(data).verify()  # every chunk's checksum; decoding alone passes over some
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        cut = _is_cut_png(data)
        what = "the PNG file is cut off" if cut else f"not an image of {', '.join(FORMATS)}"
        raise ImageError(f"{name}: {what}", TRUNCATED if cut else UNREADABLE) from None
    except _DECODER_ERRORS as error:
        cut = _is_cut_png(data) or isinstance(error, EOFError) or "truncated" in str(error)
        what = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: {what}", TRUNCATED if cut else UNREADABLE) from None


def _open(data: bytes) -> Image.Image:
    """Read the header only. Pillow's own pixel limit is put aside: ours is checked next."""
    with _limit_lock:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = theirs


def _is_cut_png(data: bytes) -> bool:
    start = data[: len(_PNG_SIGNATURE)]
    return _PNG_SIGNATURE.startswith(start) and _PNG_END not in data


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _deep_grey_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; expected 8 or 16 bit")
    if image.has_transparency_data:
        image = _in_mode("RGBA", image)
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image)
        return ground
    return _in_mode("RGB", image)


def _in_mode(mode: str, image: Image.Image) -> Image.Image:
    """A picture that is in the mode already is not copied, which of a large one takes long."""
    return image if image.mode == mode else image.convert(mode)


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit grey; Pillow's own conversion would cut everything above 255 to white."""
    values = np.asarray(image).astype(np.int64)  # (H, W)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"grey values from {low} to {high}, expected 0 to 65535 (16 bit)")
    if isinstance(image.info.get("transparency"), int):
        values = np.where(values == image.info["transparency"], 65535, values)
    grey = ((values + 128) // 257).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


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
