"""What a frozen encoder says of each picture, computed once and kept on the disk.

One file for each encoder, size and precision holds a row for each picture, mapped into memory:
every training that would compute the same finds it there. A row counts if its checksum holds, so
whatever a crash leaves is either a row or nothing. Several processes may fill one file: whoever
needs a row that is not there computes and appends it, and looks before each one what the others
have appended meanwhile.

Shapes: B pictures, N rows of the file, D encoder width, M pooled patches of a picture.
"""

import fcntl
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
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from partloc.config import digest
from partloc.data.dataset import Batch, Drawn, PairDataset, Shot, make_loader
from partloc.model.depth_net import SIDE
from partloc.model.locator import PartLocator, Tokens
from partloc.model.refinement import FINER
from partloc.model.template_matching import PIXELS

# Raise it when the content of a row changes.
STORE_FORMAT = 3
# As of Tokens.compact; numpy has no bfloat16, so the file is seen as whole numbers.
PRECISIONS = (*[torch.bfloat16] * 2, *[torch.float16] * 3)


class TokenStore:
    """The rows of one encoder: `fill` it, then `read` from it.

    places: where in the file the row of each key is.
    """

    def __init__(self, folder: Path, model: PartLocator, precision: torch.dtype | None) -> None:
        """precision: as `PartLocator.encode` takes it."""
        self.model, self.precision = model, precision
        self.path = folder / f"{encoder_digest(model, precision)[:16]}.tokens"
        self.layout = layout_of(model)
        self.places: dict[bytes, int] = {}
        self.damaged = 0
        self.rows = np.empty((0, self.layout.itemsize), np.uint8)
        self._seen = 0

    def fill(self, datasets: list[PairDataset], workers: int, bar: bool) -> None:
        """Compute and append the row of every picture that the data sets may ask for.

        workers: processes that read pictures. bar: whether to tell how it goes.
        Raises: OSError when the disk has not enough room, ImageError for an unreadable picture,
            ValueError for one that is not the table's.
        """
        shown = {key_of(data, shot): (data, shot) for data in datasets for shot in data.all_shots()}
        with self._locked():
            self._look()
        missing = {key: item for key, item in shown.items() if key not in self.places}
        if bar:
            self._tell(len(shown), len(missing))
        self._require_room(len(missing))
        self.model.eval()
        total, before = len(missing), len(self.places)
        disable = None if bar else True
        with tqdm(desc="tokens", total=total, unit="picture", disable=disable) as progress:
            for key, image in self._open(missing, workers):
                self._append(key, self._encode(image))
                progress.update(min(len(self.places) - before, total) - progress.n)
        self.rows = np.memmap(self.path, np.uint8, "r", shape=(self._seen, self.layout.itemsize))

    def find(self, data: PairDataset, shots: list[Shot]) -> Tensor:
        """(len(shots),) the rows that hold them."""
        return torch.tensor([self.places[key_of(data, shot)] for shot in shots])

    def read(self, places: Tensor) -> Tokens:
        """Rows (B,) -> tokens, compact."""
        rows = self.rows[places.numpy()].view(self.layout)[:, 0]
        fields = (torch.from_numpy(np.ascontiguousarray(rows[name])) for name in Tokens._fields)
        return Tokens(*(field.view(to) for field, to in zip(fields, PRECISIONS, strict=True)))

    @property
    def device(self) -> torch.device:
        return self.model.center.device

    def _open(
        self, missing: dict[bytes, tuple[PairDataset, Shot]], workers: int
    ) -> Iterator[tuple[bytes, Tensor]]:
        """The pictures that are still missing when their turn comes, each with its key."""
        keys = list(missing)
        # By chance, so that processes side by side seldom compute the same.
        SystemRandom().shuffle(keys)
        turns = ([place] for place, key in enumerate(keys) if not self._has(key))
        pictures = Pictures([missing[key] for key in keys])
        for place, image in make_loader(pictures, turns, workers, self.device):
            yield keys[place], image

    @torch.inference_mode()
    def _encode(self, image: Tensor) -> Tokens:
        """Alone: what is found for a picture must not depend on what is computed beside it."""
        return self.model.encode(image[None].to(self.device), self.precision).compact()

    def _has(self, key: bytes) -> bool:
        with self._locked():
            self._look()
        return key in self.places

    def _append(self, key: bytes, tokens: Tokens) -> None:
        """Write a row behind the last whole one, unless another process has been faster."""
        row = np.zeros((), self.layout)
        row["key"] = np.frombuffer(key, np.uint8)
        for name, value in zip(Tokens._fields, tokens, strict=True):
            row[name] = value[0].cpu().view(torch.int16).numpy()
        row["checksum"] = _checksum(row.tobytes())
        with self._locked():
            self._look()
            if key in self.places:
                return
            try:
                with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
                    file.seek(self._seen * self.layout.itemsize)
                    file.write(row.tobytes())
            except OSError as error:
                raise OSError(f"{self.path}: cannot be written: {error.strerror}") from error
            self.places[key] = self._seen
            self._seen += 1

    def _look(self) -> None:
        """Take up the whole rows that have been appended since."""
        size = self.path.stat().st_size if self.path.exists() else 0
        count = size // self.layout.itemsize
        if count < self._seen:
            raise OSError(f"{self.path}: was shortened or removed meanwhile; run again")
        if count == self._seen:
            return
        with self.path.open("rb") as file:
            file.seek(self._seen * self.layout.itemsize)
            for place in range(self._seen, count):
                row = file.read(self.layout.itemsize)
                head = np.frombuffer(row, self.layout)[0]
                if head["checksum"] == _checksum(row):
                    self.places[head["key"].tobytes()] = place
                else:
                    self.damaged += 1
        self._seen = count

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """While a row is written nobody looks, and nobody else writes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A file of its own: who closes any handle of a file drops his lock on it.
        with self.path.with_suffix(".lock").open("a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def _tell(self, shown: int, missing: int) -> None:
        if self.damaged and missing:
            print(f"warning: {self.path}: {self.damaged} damaged rows are left out",
                  file=sys.stderr)  # fmt: skip
        need = f"{missing} to compute, {missing * self.layout.itemsize / 1e9:.2f} GB"
        print(f"frozen encoder: tokens of {shown - missing} of {shown} pictures are in "
              f"{self.path}; {need}", file=sys.stderr)  # fmt: skip

    def _require_room(self, missing: int) -> None:
        need, free = missing * self.layout.itemsize, shutil.disk_usage(self.path.parent).free
        if need > free:
            raise OSError(
                f"{self.path.parent}: the tokens of {missing} pictures need {need / 1e9:.2f} GB, "
                f"{free / 1e9:.2f} GB are free there. Make room (other files of that folder may "
                "be deleted), lower train.cached_variants or model.downsample_size, or set "
                "train.freeze_backbone: false"
            )


class StoredPairs(PairDataset):
    """The same items and batches, with tokens read from the store in the place of pictures."""

    def __init__(self, pairs: PairDataset, store: TokenStore) -> None:
        self.__dict__ |= vars(pairs)
        self.store = store

    def show(self, shots: list[Shot]) -> Tensor:
        """(len(shots),): the rows of the store."""
        return self.store.find(self, shots)

    def collate(self, items: list[Drawn]) -> Batch:
        batch = super().collate(items)
        wholes, parts = self.store.read(batch.wholes), self.store.read(batch.parts)
        return batch._replace(wholes=wholes, parts=parts)


class Pictures(Dataset):
    """Single pictures, each as its data set shows it: its place in the list, and (3, H, W)."""

    def __init__(self, shown: list[tuple[PairDataset, Shot]]) -> None:
        self.shown = shown

    def __getitem__(self, place: int) -> tuple[int, Tensor]:
        data, shot = self.shown[place]
        path = data.table.data_dir / shot.path
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != shot.sha256:
            raise ValueError(
                f"{path}: expected the picture that was indexed, SHA-256 {shot.sha256[:12]}..., "
                f"found {found[:12]}...; run the stages index and split again"
            )
        (image,) = data.show([shot])
        return place, image

    @staticmethod
    def collate(items: list[tuple[int, Tensor]]) -> tuple[int, Tensor]:
        (item,) = items
        return item


def key_of(data: PairDataset, shot: Shot) -> bytes:
    """32 bytes that stand for all that a picture's pixels depend on, but for its size."""
    changes = data.augmentation and data.augmentation.config.model_dump()
    return bytes.fromhex(digest([shot.sha256, shot.light, shot.camera, changes]))


def encoder_digest(model: PartLocator, precision: torch.dtype | None) -> str:
    """SHA-256 of all that the tokens of given pixels depend on."""
    weights = hashlib.sha256()
    frozen = model.backbone.state_dict()
    if model.depth_net is not None:
        frozen |= model.depth_net.state_dict(prefix="depth_net.")
    for name, value in frozen.items():
        weights.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        weights.update(value.cpu().numpy().tobytes())
    sizes = [len(model.pool.weights), model.config.match_size, model.config.crop]
    preprocessing = asdict(model.preprocessing)
    return digest([STORE_FORMAT, weights.hexdigest(), preprocessing, sizes, str(precision)])


def layout_of(model: PartLocator) -> np.dtype:
    """A row of the file: checksum, key, then the fields of Tokens."""
    width, picture, thumbnail = model.backbone.embed_dim, (0,), (0,)
    if model.match is not None:
        picture = (3, *[FINER * PIXELS * model.match.size] * 2)
        thumbnail = (5, SIDE, SIDE)
    shapes = ((width,), (len(model.pool.weights) ** 2, width), picture, thumbnail, (3,))
    fields = [(name, np.int16, shape) for name, shape in zip(Tokens._fields, shapes, strict=True)]
    return np.dtype([("checksum", np.uint32), ("key", np.uint8, 32), *fields])


def _checksum(row: bytes) -> int:
    """Of all that comes behind the checksum itself."""
    return zlib.crc32(memoryview(row)[4:])
