"""Decode image files to 8-bit RGB.

Shapes: H W image in pixels.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import ExifTags, Image, ImageFile

from partloc.system.files import FileTooLargeError, UnusualFileError, read_regular_file

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # detected from the content, not the file name
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # lower case
DEFAULT_MAX_PIXELS = 64_000_000
MAX_UINT16 = 65535

# Limit for the size of a file: that of its uncompressed pixels (four channels of 16 bits), and
# some metadata.
MAX_PIXEL_BYTES, MAX_METADATA_BYTES = 8, 1 << 26

UNREADABLE, TRUNCATED, OVERSIZED = "unreadable image", "truncated image", "oversized image"
NOT_REGULAR = "not a regular file"

_PNG_SIGNATURE, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
# Chunks of a PNG file that determine its pixels and their orientation.
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_TRANSPOSITIONS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_pixel_limit_lock = Lock()


class ImageError(ValueError):
    """An image file cannot be used; the message names the file and the problem.

    reason: UNREADABLE, TRUNCATED, OVERSIZED or NOT_REGULAR.
    """

    def __init__(self, message: str, reason: str = UNREADABLE):
        super().__init__(message)
        self.reason = reason


def load_rgb(path: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode a file completely to upright 8-bit RGB; transparency is composited on white.

    Raises: ImageError if the file is missing, damaged, or has more than `max_pixels` pixels.
    """
    return open_rgb(read_image_bytes(path, max_pixels), path, max_pixels)


def read_image_bytes(path: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """The bytes of a file.

    Raises: ImageError if it cannot be read, is no regular file, or is larger than `max_pixels`
        pixels can be.
    """
    try:
        return read_regular_file(path, MAX_PIXEL_BYTES * max_pixels + MAX_METADATA_BYTES)
    except FileTooLargeError as error:
        raise ImageError(f"{path}: {error}", OVERSIZED) from None
    except UnusualFileError as error:
        raise ImageError(f"{path}: {error}", NOT_REGULAR) from None
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None


def open_rgb(data: bytes, name: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Like `load_rgb`, from the bytes of a file; error messages start with `name`.

    Only the first frame of an animation, or page of a document, is decoded. A PNG file that cannot
    be decoded is tried again without its metadata: damaged or large metadata do not matter.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    try:
        return _decode(data, name, max_pixels)
    except ImageError as error:
        if error.reason != UNREADABLE or not data.startswith(_PNG_SIGNATURE):
            raise
        essential = _PNG_SIGNATURE + b"".join(_essential_chunks(data))
        if len(essential) == len(data):
            raise
        return _decode(essential, name, max_pixels)


def _essential_chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of a PNG file in _PNG_CHUNKS; what follows the last complete one is dropped."""
    start = len(_PNG_SIGNATURE)
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + 12 + length  # length, type, content, checksum
        kind = data[start + 4 : start + 8]
        if kind in _PNG_CHUNKS:
            yield data[start:end]
        if kind == b"IEND":
            return
        start = end


def _decode(data: bytes, name: Path | str, max_pixels: int) -> Image.Image:
    try:
        image = _open(data)
        _require_size(image, name, max_pixels)
        if image.format == "PNG":
            _open(data).verify()  # decoding does not verify the checksum of every chunk
        image.load()
        return _turn_upright(_to_rgb(image, data), image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        truncated = _is_truncated_png(data)
        detail = "truncated PNG file" if truncated else f"not an image of {', '.join(FORMATS)}"
        raise ImageError(f"{name}: {detail}", TRUNCATED if truncated else UNREADABLE) from None
    except Exception as error:  # decoders raise many types for damaged files
        truncated = (
            _is_truncated_png(data) or isinstance(error, EOFError) or "truncated" in str(error)
        )
        reason = TRUNCATED if truncated else UNREADABLE
        raise ImageError(f"{name}: {_one_line(error)}", reason) from None


def convert_to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Like `load_rgb`, from an image in memory, which is left as it is."""
    _require_size(image, name, max_pixels)
    try:
        return _turn_upright(_to_rgb(image), image)
    except Exception as error:  # decoders raise many types for a file that is not read yet
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


def _turn_upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of `image` to its pixels. Other tags do not matter."""
    try:
        transposition = _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF data that cannot be parsed contain no orientation
        return rgb
    return rgb if transposition is None else rgb.transpose(transposition)


def _to_rgb(image: Image.Image, data: bytes | None = None) -> Image.Image:
    """data: of the file, which a transparent colour depends on; None for an image in memory."""
    if image.mode.startswith("I"):
        return _gray16_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; expected 8 or 16 bit")
    is_keyed = image.mode in ("1", "L", "RGB") and "transparency" in image.info
    if image.format == "PNG" and is_keyed and data is not None:
        return _color_key_to_white(image, data)
    if image.has_transparency_data:
        image = _convert(image, "RGBA")
        background = Image.new("RGB", image.size, "white")
        background.paste(image, mask=image)
        return background
    return _convert(image, "RGB")


def _color_key_to_white(image: Image.Image, data: bytes) -> Image.Image:
    """Paint the transparent colour of a PNG file white.

    The colour has the bit depth of the file, which Pillow does not take into account.
    """
    bits = data[24]  # of the header: signature, length, type, width, height
    key = image.info["transparency"]
    if image.mode == "1":  # Pillow has converted the colour
        is_key = np.asarray(image.convert("L")) == key
    elif image.mode == "L":
        is_key = np.asarray(image) == (key % 2**bits) * 255 // (2**bits - 1)
    elif bits == 16:
        high, low = np.asarray(image), np.asarray(_low_bytes(data))
        is_key = (high * np.uint16(256) + low == np.array(key, np.uint16)).all(-1)
    else:
        is_key = (np.asarray(image) == np.array(key, np.uint16) % 256).all(-1)
    rgb = np.array(image.convert("RGB"))
    rgb[is_key] = 255
    return Image.fromarray(rgb)


def _low_bytes(data: bytes) -> Image.Image:
    """The lower bytes of a PNG file with three channels of 16 bits; Pillow reads the upper ones."""
    image = _open(data)
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


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
