"""On-disk cache of a frozen encoder's outputs: each image is encoded once, for all trainings.

There is one file per encoder, image size and precision, with one row per image, memory-mapped.
Opening it reads the key of each row; the checksum of a row is compared when the row is first used,
so that a large cache opens at once. Several processes may fill
the same file: each computes and appends the rows that are missing, and checks before each one
which rows the others have appended meanwhile.

Shapes: B images, N rows of the file, D backbone width, M tokens of an image.
"""

import hashlib
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import SystemRandom

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from partloc.config import digest
from partloc.data.background import load_image
from partloc.data.dataset import Batch, BatchDataset, ImageRequest, PairDataset, Sample, make_loader
from partloc.data.table import IndexedFile, PairTable
from partloc.data.transforms import Preprocessing
from partloc.model.encoder import EncodedImages
from partloc.model.locator import PartLocator
from partloc.model.proposals import ProposalLocator

# Increase it when the content of a row changes.
CACHE_FORMAT = 5
# Dtypes of the fields of EncodedImages.compact(). numpy has no bfloat16: the file's dtype is int16.
FIELD_DTYPES = (torch.bfloat16, *[torch.float16] * 3)


class TokenCache:
    """The cached outputs of one encoder: `fill` the file, then `read` rows of it.

    row_dtype: of a row, see `make_row_dtype`. row_numbers: from an image's SHA-256 to its row.
    """

    def __init__(self, folder: Path, model: PartLocator, dtype: torch.dtype | None) -> None:
        """dtype: of the encoder's autocast, None for full precision."""
        self.model, self.dtype = model, dtype
        self.path = folder / f"{token_cache_digest(model, dtype)[:16]}.tokens"
        self.row_dtype = make_row_dtype(model)
        self.row_numbers: dict[str, int] = {}
        self._num_rows = 0  # whose keys have been read
        self._verified: set[int] = set()  # rows whose checksum has been compared
        self._rows = np.empty((0, self.row_dtype.itemsize), np.uint8)

    def fill(
        self, tables: list[PairTable], max_pixels: int, num_workers: int, verbose: bool
    ) -> None:
        """Compute and append the rows of all images of the tables that are missing.

        Args:
            max_pixels: limit of `load_image`.
            num_workers: processes that read images.
            verbose: whether to report the progress.
        Raises: OSError if the disk space is not sufficient, ImageError for an image that is
            unreadable or has changed since it was indexed.
        """
        images = {image.sha256: image for table in tables for image in _image_files(table)}
        with self._locked():
            self._read_new_rows()
        missing = [image for key, image in images.items() if key not in self.row_numbers]
        if verbose:
            self._report(len(images), len(missing))
        self._require_disk_space(len(missing))
        self.model.eval()
        total, num_before = len(missing), len(self.row_numbers)
        disable = None if verbose else True
        with tqdm(desc="tokens", total=total, unit="image", disable=disable) as progress:
            for key, image in self._load_missing(missing, max_pixels, num_workers):
                self._append(key, self._encode(image))
                progress.update(min(len(self.row_numbers) - num_before, total) - progress.n)
        shape = (self._num_rows, self.row_dtype.itemsize)
        self._rows = np.memmap(self.path, np.uint8, "r", shape=shape)

    def find(self, hashes: list[str]) -> Tensor:
        """Return the row numbers (B,) of images, given by their SHA-256."""
        return torch.tensor([self.row_numbers[sha256] for sha256 in hashes])

    def read(self, rows: Tensor) -> EncodedImages:
        """Return rows (B,) as compact EncodedImages of B images.

        Raises: OSError for a damaged row, which the next `fill` computes again.
        """
        data = self._rows[rows.numpy()]  # (B, bytes)
        for number, row in zip(rows.tolist(), data, strict=True):
            if number not in self._verified:
                self._verify(number, row)
        records = data.view(self.row_dtype)[:, 0]
        fields = (
            torch.from_numpy(np.ascontiguousarray(records[name])) for name in EncodedImages._fields
        )
        return EncodedImages(
            *(f.view(dtype) for f, dtype in zip(fields, FIELD_DTYPES, strict=True))
        )

    @property
    def _device(self) -> torch.device:
        return self.model.device

    def _load_missing(
        self, missing: list[IndexedFile], max_pixels: int, num_workers: int
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (SHA-256, image) of the images that are still missing when it is their turn."""
        missing = list(missing)
        # In random order, so that concurrent processes seldom compute the same row.
        SystemRandom().shuffle(missing)
        batches = ([i] for i, image in enumerate(missing) if not self._contains(image.sha256))
        dataset = ImageDataset(missing, self.model.preprocessing, max_pixels)
        for index, image in make_loader(dataset, batches, num_workers, self._device):
            yield missing[index].sha256, image

    @torch.inference_mode()
    def _encode(self, image: Tensor) -> EncodedImages:
        """Encode (3, H, W) alone: its row must not depend on other images of a batch."""
        return self.model.encode(image[None].to(self._device), self.dtype).compact()

    def _contains(self, key: str) -> bool:
        with self._locked():
            self._read_new_rows()
        return key in self.row_numbers

    def _append(self, key: str, tokens: EncodedImages) -> None:
        """Append a row, unless another process has appended it meanwhile."""
        row = np.zeros((), self.row_dtype)
        row["key"] = np.frombuffer(bytes.fromhex(key), np.uint8)
        for name, value in zip(EncodedImages._fields, tokens, strict=True):
            row[name] = value[0].cpu().view(torch.int16).numpy()
        row["checksum"] = _checksum(row.tobytes())
        with self._locked():
            self._read_new_rows()
            if key in self.row_numbers:
                return
            try:
                with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
                    # Behind the last complete row: a partial one is overwritten.
                    file.seek(self._num_rows * self.row_dtype.itemsize)
                    file.write(row.tobytes())
            except OSError as error:
                raise OSError(f"{self.path}: cannot be written: {error.strerror}") from error
            self.row_numbers[key] = self._num_rows
            self._num_rows += 1

    def _read_new_rows(self) -> None:
        """Register the complete rows that were appended since the last call."""
        size = self.path.stat().st_size if self.path.exists() else 0
        count = size // self.row_dtype.itemsize
        if count < self._num_rows:
            raise OSError(f"{self.path}: was shortened or deleted during the run; run again")
        if count == self._num_rows:
            return
        keys = np.memmap(self.path, self.row_dtype, "r", shape=(count,))["key"]
        for number in range(self._num_rows, count):
            self.row_numbers[keys[number].tobytes().hex()] = number
        self._num_rows = count

    def _verify(self, number: int, row: np.ndarray) -> None:
        """Compare the checksum of a row (bytes,); a damaged row loses its key in the file."""
        data = row.tobytes()
        if np.frombuffer(data, self.row_dtype)[0]["checksum"] == _checksum(data):
            self._verified.add(number)
            return
        with self._locked(), self.path.open("r+b") as file:
            start = number * self.row_dtype.itemsize
            file.seek(start + self.row_dtype["checksum"].itemsize)  # the key follows
            file.write(bytes(self.row_dtype["key"].itemsize))
        raise OSError(
            f"{self.path}: the tokens of an image (row {number}) are damaged; run again, and they "
            "are computed again"
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other processes while rows are read or written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            yield

    def _report(self, num_images: int, num_missing: int) -> None:
        print(
            f"frozen encoder: tokens of {num_images - num_missing} of {num_images} images are in "
            f"{self.path}; {num_missing} to compute, {self._size_gb(num_missing):.2f} GB",
            file=sys.stderr,
        )

    def _require_disk_space(self, num_rows: int) -> None:
        needed_gb = self._size_gb(num_rows)
        free_gb = shutil.disk_usage(self.path.parent).free / 1e9
        if needed_gb > free_gb:
            raise OSError(
                f"{self.path.parent}: the tokens of {num_rows} images need {needed_gb:.2f} GB, "
                f"{free_gb:.2f} GB are free. Free disk space (other files of that folder may be "
                "deleted), lower model.downsample_size, or set train.freeze_backbone: false"
            )

    def _size_gb(self, num_rows: int) -> float:
        return num_rows * self.row_dtype.itemsize / 1e9


class CachedPairDataset(PairDataset):
    """The items and batches of a dataset, with tokens from the cache instead of images."""

    def __init__(self, pairs: PairDataset, cache: TokenCache) -> None:
        self.__dict__ |= vars(pairs)
        self.cache = cache

    def load_images(self, requests: list[ImageRequest]) -> Tensor:
        """Return the row numbers of the cache, (len(requests),), in the place of images."""
        return self.cache.find([request.sha256 for request in requests])

    def collate(self, items: list[Sample]) -> Batch:
        """Join items as `PairDataset` does, then replace the row numbers by tokens."""
        batch = super().collate(items)
        assert isinstance(batch.wholes, Tensor) and isinstance(batch.parts, Tensor)
        wholes, parts = self.cache.read(batch.wholes), self.cache.read(batch.parts)
        return batch._replace(wholes=wholes, parts=parts)


class ImageDataset(BatchDataset):
    """Single images: each item is its index and the preprocessed image (3, H, W)."""

    def __init__(
        self, images: list[IndexedFile], preprocessing: Preprocessing, max_pixels: int
    ) -> None:
        self.images, self.preprocessing, self.max_pixels = images, preprocessing, max_pixels

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        """Raises: ImageError, also if the file is not the one that was indexed."""
        path, sha256 = self.images[index]
        return index, self.preprocessing(load_image(path, self.max_pixels, sha256))

    @staticmethod
    def collate(items: list[tuple[int, Tensor]]) -> tuple[int, Tensor]:
        """Return the only item of a batch."""
        (item,) = items
        return item


def token_cache_digest(model: PartLocator, dtype: torch.dtype | None) -> str:
    """Return a SHA-256 of everything that the tokens of a given image depend on."""
    weights = hashlib.sha256()
    frozen = model.encoder.backbone.state_dict()
    if isinstance(model, ProposalLocator) and model.depth_net is not None:
        frozen |= model.depth_net.state_dict(prefix="depth_net.")
        frozen |= model.position_decoder.camera.state_dict(prefix="camera.")
    for name, value in frozen.items():
        weights.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        weights.update(value.cpu().numpy().tobytes())
    sizes = [model.encoder.tokens_per_side, model.config.match_size]
    preprocessing = asdict(model.preprocessing)
    return digest([CACHE_FORMAT, weights.hexdigest(), preprocessing, sizes, str(dtype)])


def make_row_dtype(model: PartLocator) -> np.dtype:
    """Return the structured dtype of a row: checksum, key (SHA-256), fields of EncodedImages."""
    shapes = zip(EncodedImages._fields, model.encoded_shapes, strict=True)
    fields = [(name, np.int16, shape) for name, shape in shapes]
    return np.dtype([("checksum", np.uint32), ("key", np.uint8, 32), *fields])


def _image_files(table: PairTable) -> Iterator[IndexedFile]:
    """Yield all images of a table; a whole once per row."""
    for row in range(len(table)):
        yield table.whole_image(row)
        yield table.part_image(row)


def _checksum(row: bytes) -> int:
    """Return the CRC-32 of a row without its checksum field, the first 4 bytes."""
    return zlib.crc32(memoryview(row)[4:])
