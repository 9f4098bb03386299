"""Images for prediction: threads decode the next ones, and equal images of a model are found.

Shapes: P readable parts of one model; S side of the images, `Preprocessing.read_size`, pixels;
T = `twins.THUMBNAIL_PX`.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from partloc.data.images import ImageError
from partloc.data.twins import group_twins

READER_THREADS = 2  # decoding releases Python's global lock
IMAGES_AHEAD = 16  # the most images that are read before they are used

Source = TypeVar("Source")
Result = TypeVar("Result")


class LoadedImage(NamedTuple):
    """A decoded image. pixels: (3, S, S) uint8, on white. thumbnail: (T, T, 3) uint8. digest: equal
    for equal images. on_plain: whether it had a plain background."""

    pixels: Tensor
    thumbnail: np.ndarray
    digest: bytes
    on_plain: bool = True


def read_ahead(
    read: Callable[[Source], Result], sources: Iterable[Source]
) -> Generator[tuple[Source, Result]]:
    """Yield each source with what `read` returns for it, in order; threads read the next ones.

    Errors of `read` are raised when their turn comes.
    """
    pool = ThreadPoolExecutor(READER_THREADS)
    pending: deque[tuple[Source, Future[Result]]] = deque()
    try:
        for source in sources:
            pending.append((source, pool.submit(read, source)))
            if len(pending) > IMAGES_AHEAD:
                source, future = pending.popleft()
                yield source, future.result()
        while pending:
            source, future = pending.popleft()
            yield source, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


class PartDeduplicator:
    """The parts of one model in the order in which they were read.

    errors: for each part why it cannot be read, or None.
    image_index: (P,), for each readable part the number of its image; equal images have one number.
    on_plain: (P,), whether the readable parts have a plain background.
    """

    def __init__(self) -> None:
        self.errors: list[ImageError | None] = []
        self.image_index: list[int] = []
        self.on_plain: list[bool] = []
        self._thumbnails: list[np.ndarray] = []
        self._numbers: dict[bytes, int] = {}

    def add(self, part: LoadedImage | ImageError) -> bool:
        """Add the next part. Returns: whether it has an image that no earlier part has."""
        if isinstance(part, ImageError):
            self.errors.append(part)
            return False
        is_new = part.digest not in self._numbers
        self.errors.append(None)
        self.image_index.append(self._numbers.setdefault(part.digest, len(self._numbers)))
        self.on_plain.append(part.on_plain)
        self._thumbnails.append(part.thumbnail)
        return is_new

    def twin_groups(self) -> list[list[int]]:
        """The readable parts, numbered from 0 to P - 1, in groups of twins."""
        # `group_twins` takes parts in alphabetical order, here the order of the parts.
        names = [f"{number:09d}" for number in range(len(self._thumbnails))]
        group_of_name = group_twins(dict(zip(names, self._thumbnails, strict=True)))
        groups: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            groups.setdefault(group_of_name[name], []).append(number)
        return list(groups.values())
