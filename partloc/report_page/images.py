"""Images of the page: WebP in data URIs, each distinct one once, as large as the page allows."""

import io
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from partloc.data.background import load_image
from partloc.drawing import with_transparent_background

WHOLE_PX, PART_PX = 448, 224  # largest sides
FACTORS = (1, 0.7, 0.5, 0.35, 0.25, 0.15)  # of the sides; the first whose images fit
QUALITY = 70  # of WebP, 0 to 100
QUOTE_BYTES = 3  # of an image in the page: two quotes and a comma
URI_START = "data:image/webp;base64,"


class PageImages:
    """uris: of the distinct images. index: of the image of each path in `uris`."""

    def __init__(
        self, wholes: Iterable[str], parts: Iterable[str], data_dir: Path, max_pixels: int
    ) -> None:
        """wholes, parts: paths in the data folder. Raises: ImageError as `load_image`."""
        self.index: dict[str, int] = {}
        encoded: dict[bytes, int] = {}
        for paths, side in ((wholes, WHOLE_PX), (parts, PART_PX)):
            for path in dict.fromkeys(paths):
                image = with_transparent_background(load_image(data_dir / path, max_pixels))
                data = _to_webp(image, side)
                self.index[path] = encoded.setdefault(data, len(encoded))
        self._encoded = list(encoded)

    def uris(self, max_bytes: int) -> list[str]:
        """All images, smaller if they need more than `max_bytes` otherwise."""
        for factor in FACTORS:
            smaller = self._encoded if factor == 1 else [_reduce(d, factor) for d in self._encoded]
            uris = [URI_START + b64encode(data).decode() for data in smaller]
            if sum(len(uri) + QUOTE_BYTES for uri in uris) <= max_bytes:
                break
        return uris


def _reduce(data: bytes, factor: float) -> bytes:
    image = Image.open(io.BytesIO(data))
    return _to_webp(image, round(image.width * factor))


def _to_webp(image: Image.Image, side: int) -> bytes:
    if image.width > side:
        image = image.resize((side, side), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITY, method=4)
    return stream.getvalue()
