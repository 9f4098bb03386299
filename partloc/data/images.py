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
