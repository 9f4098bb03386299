"""Decode image files to 8-bit RGB.

Shapes: H W image in pixels.
"""

import io
import struct
import zlib
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # detected from the content, not the file name
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # lower case
DEFAULT_MAX_PIXELS = 64_000_000
MAX_UINT16 = 65535

UNREADABLE, TRUNCATED, OVERSIZED = "unreadable image", "truncated image", "oversized image"

# Exceptions of Pillow's decoders on damaged files.
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
_pixel_limit_lock = Lock()


class ImageError(ValueError):
    """An image file cannot be used; the message names the file and the problem.

    reason: UNREADABLE, TRUNCATED or OVERSIZED.
    """

    def __init__(self, message: str, reason: str = UNREADABLE):
        super().__init__(message)
        self.reason = reason


def load_rgb(path: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode a file completely to upright 8-bit RGB; transparency is composited on white.

    Raises: ImageError if the file is missing, damaged, or has more than `max_pixels` pixels.
    """
    return open_rgb(read_image_bytes(path), path, max_pixels)


def read_image_bytes(path: Path | str) -> bytes:
    """The bytes of a file. Raises: ImageError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None


def open_rgb(data: bytes, name: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Like `load_rgb`, from the bytes of a file; error messages start with `name`.

    Only the first frame of an animation, or page of a document, is decoded.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    try:
        image = _open(data)
        _require_size(image, name, max_pixels)
        if image.format == "PNG":
            _open(data).verify()  # decoding does not verify the checksum of every chunk
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        truncated = _is_truncated_png(data)
        detail = "truncated PNG file" if truncated else f"not an image of {', '.join(FORMATS)}"
        raise ImageError(f"{name}: {detail}", TRUNCATED if truncated else UNREADABLE) from None
    except _DECODER_ERRORS as error:
        truncated = (
            _is_truncated_png(data) or isinstance(error, EOFError) or "truncated" in str(error)
        )
        reason = TRUNCATED if truncated else UNREADABLE
        raise ImageError(f"{name}: {_one_line(error)}", reason) from None


def convert_to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Like `load_rgb`, from an image in memory, which is left as it is."""
    _require_size(image, name, max_pixels)
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except _DECODER_ERRORS as error:  # also of a file that Pillow has opened but not read
        raise ImageError(f"{name}: {_one_line(error)}") from None


def _require_size(image: Image.Image, name: Path | str, max_pixels: int) -> None:
    """Raises: ImageError if an image is too large."""
    width, height = image.size
    if width * height > max_pixels:
        pixels = f"{width} x {height} = {width * height:,} pixels"
        raise ImageError(f"{name}: {pixels}, the limit is {max_pixels:,}", OVERSIZED)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _open(data: bytes) -> Image.Image:
    """Read the header only. Pillow's pixel limit is disabled; the caller checks `max_pixels`."""
    with _pixel_limit_lock:
        pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = pillow_limit


def _is_truncated_png(data: bytes) -> bool:
    start = data[: len(_PNG_SIGNATURE)]
    return _PNG_SIGNATURE.startswith(start) and _PNG_END not in data


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _gray16_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; expected 8 or 16 bit")
    if image.has_transparency_data:
        image = _convert(image, "RGBA")
        background = Image.new("RGB", image.size, "white")
        background.paste(image, mask=image)
        return background
    return _convert(image, "RGB")


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert to a mode, without Pillow's copy if the image has it already."""
    return image if image.mode == mode else image.convert(mode)


def _gray16_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits. Pillow's conversion would clip all values above 255 to white."""
    values = np.asarray(image).astype(np.int64)  # (H, W)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MAX_UINT16:
        raise ValueError(f"grey values from {low} to {high}, expected 0 to {MAX_UINT16} (16 bit)")
    if isinstance(image.info.get("transparency"), int):
        values = np.where(values == image.info["transparency"], MAX_UINT16, values)
    gray = ((values + 128) // 257).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")
