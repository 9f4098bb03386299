"""Images as a caller of the library has them: paths, Pillow images, arrays or open files."""

import os
from pathlib import Path
from typing import BinaryIO, TypeGuard

import numpy as np
from PIL import Image

from partloc.data.images import convert_to_rgb, open_rgb

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray | BinaryIO

EXPECTED = (
    "a path, a Pillow image, an array of (H, W), (H, W, 3) or (H, W, 4) uint8, or an open binary "
    "file"
)


def is_image_input(value: object) -> TypeGuard[ImageInput]:
    """Whether `value` is one image. A string is a path; an open file is not its lines."""
    return isinstance(value, str | os.PathLike | Image.Image | np.ndarray) or hasattr(value, "read")


def read_image_input(value: ImageInput, name: str, max_pixels: int) -> Path | Image.Image:
    """A path unread; anything else as an upright RGB image that shares no memory with `value`.

    The caller may therefore close a file, or overwrite an array, as soon as this returns.
    name: of the image in messages.
    Raises: ImageError as `open_rgb`; TypeError or ValueError for something else than an image.
    """
    if isinstance(value, str | os.PathLike):
        return Path(value)
    if isinstance(value, Image.Image):
        return convert_to_rgb(value, name, max_pixels)
    if isinstance(value, np.ndarray):
        return convert_to_rgb(_image_of_array(value, name), name, max_pixels)
    if hasattr(value, "read"):
        data = value.read()
        if not isinstance(data, bytes):
            found = f"read() returned {type(data).__name__}"
            raise TypeError(f"{name}: expected a file opened in mode 'rb', {found}")
        file_name = getattr(value, "name", None)
        return open_rgb(data, file_name if isinstance(file_name, str) else name, max_pixels)
    raise TypeError(f"{name}: expected {EXPECTED}, found {type(value).__name__}")


def _image_of_array(array: np.ndarray, name: str) -> Image.Image:
    """Grey, RGB or RGBA of 8 bits, or grey of 16 bits."""
    is_gray16 = array.dtype == np.uint16 and array.ndim == 2
    if array.dtype != np.uint8 and not is_gray16:
        raise TypeError(f"{name}: expected pixels of uint8 from 0 to 255, found {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    is_color = array.ndim == 3 and array.shape[2] in (3, 4)
    if not (array.ndim == 2 or is_color) or not array.size:
        raise ValueError(
            f"{name}: expected an array of (H, W), (H, W, 3) or (H, W, 4), found {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array))
