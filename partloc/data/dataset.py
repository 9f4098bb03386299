"""From planned rows to batches of pictures: one preprocessing, colour-only augmentation.

Shapes: N samples of a table; W wholes, U different parts and P pairs of a batch; K largest twin
group; H W pixels.
"""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from partloc.data.images import load_rgb
from partloc.data.sampler import Draw
from partloc.data.table import PairTable
from partloc.data.transforms import Augmentation, Preprocessing, jitter_of
from partloc.pose import PartPose

if TYPE_CHECKING:  # any object with the fields will do, also where pydantic is not installed
    pass

AUGMENT_STREAM, JITTER_STREAM = 2, 12  # of chance, as in plan


class Batch(NamedTuple):
    """wholes (W, 3, H, W); parts (U, 3, H, W); whole_of_part (U,) index into wholes.

    Of a frozen encoder, wholes and parts may be their tokens instead of images, W and U of them.
    jitter: (W + U, 3), of the crops of wholes and parts, see `jitter_of`.
    Of equal pictures in one whole there is one: part_of_pair (P,) index into parts, pair_of_part
    (U,) the first pair of each.
    pose: the truth, (P, 3) and (P, 1); twins: (P, K, 3) and (P, K, 1); rows: (P,) of the table.
    """

    wholes: Tensor | tuple[Tensor, ...]
    parts: Tensor | tuple[Tensor, ...]
    jitter: Tensor
    whole_of_part: Tensor
    part_of_pair: Tensor
    pair_of_part: Tensor
    pose: PartPose
    twins: PartPose
    rows: Tensor

    def to(self, device: torch.device) -> "Batch":
        return _mapped(self, lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Called by the loader, so that copies to a GPU need not wait."""
        return _mapped(self, Tensor.pin_memory)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same named tuple of tensors and of named tuples, each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(*(_mapped(field, change) for field in value))


class Shot(NamedTuple):
    """A picture as it is shown: the file, the SHA-256 that it has in the table, and the seeds of
    its augmentation, light and camera, or None."""

    path: str
    sha256: str
    light: int | None = None
    camera: int | None = None


class Drawn(NamedTuple):
    """images: (1 + U, 3, H, W), the whole, then its parts, and the jitter of their crops,
    (1 + U, 3); rows: P of the table.

    picture_of_row: P numbers of parts, from 0; equal pictures are one part.
    """

    images: Tensor
    jitter: Tensor
    rows: tuple[int, ...]
    picture_of_row: list[int]


class PairDataset(Dataset):
    """One item = one whole and some of its parts.

    variants: how often each picture is augmented anew, in turns, epoch by epoch; None: always.
        What a variant looks like depends on the pictures alone, not on the table or the plan.
    jitter: strength of that of the crops, drawn anew in each epoch.
    """

    def __init__(
        self,
        table: PairTable,
        preprocessing: Preprocessing,
        max_pixels: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        variants: int | None = None,
        jitter: float = 0.0,
    ) -> None:
        self.table, self.preprocessing, self.max_pixels = table, preprocessing, max_pixels
        self.augmentation, self.seed, self.variants = augmentation, seed, variants
        self.jitter = jitter

    def __getitem__(self, draw: Draw) -> Drawn:
        pictures = self._pictures(draw)
        of_rows = [pictures.index(self.table.pictures[row]) for row in draw.rows]
        return Drawn(self.show(self.shots(draw)), self._jitter(draw, pictures), draw.rows, of_rows)

    def shots(self, draw: Draw) -> list[Shot]:
        """Of the whole, then of each different part."""
        table, pictures, first = self.table, self._pictures(draw), draw.rows[0]
        paths = [table.whole_paths[first], *table.part_paths[pictures]]
        hashes = [table.whole_hashes[first], *table.part_hashes[pictures]]
        hashes = [value.decode() for value in hashes]
        if self.augmentation is None:
            return list(map(Shot, paths, hashes))
        if self.variants is None:
            light, *cameras = (
                self._seed(draw.epoch, draw.light, use)
                for use in (0, 1, *(2 + row for row in pictures))
            )
        else:
            variant = draw.epoch % self.variants
            light = self._seed(variant, 0, int(hashes[0], 16))
            cameras = [self._seed(variant, 1, int(value, 16)) for value in hashes]
        return [Shot(*file, light, c) for *file, c in zip(paths, hashes, cameras, strict=True)]

    def all_shots(self) -> Iterator[Shot]:
        """Whatever it may be asked for, of each variant; some come several times."""
        for variant in range(self.variants or 1):
            for rows in self.table.rows_of_models():
                yield from self.shots(Draw(variant, 0, tuple(rows.tolist())))

    def show(self, shots: list[Shot]) -> Tensor:
        """Shots in one light -> (len(shots), 3, H, W) as the encoder expects them."""
        images = torch.stack([self._read(shot.path) for shot in shots])
        if self.augmentation is not None:
            cameras = [shot.camera for shot in shots]
            images = self.augmentation(images, [shot.light for shot in shots], cameras)
        return self.preprocessing.normalize(images)

    def _jitter(self, draw: Draw, pictures: list[int]) -> Tensor:
        if not self.jitter:
            return torch.zeros(1 + len(pictures), 3)
        group = [self.seed, JITTER_STREAM, draw.epoch, draw.light]
        each = (np.random.default_rng([*group, use]) for use in (0, *(1 + row for row in pictures)))
        chance = np.stack([generator.random(4, np.float32) for generator in each])
        return jitter_of(torch.from_numpy(chance), self.jitter)

    def _pictures(self, draw: Draw) -> list[int]:
        return list(dict.fromkeys(self.table.pictures[list(draw.rows)].tolist()))

    def _seed(self, *key: int) -> int:
        chance = np.random.SeedSequence([self.seed, AUGMENT_STREAM, *key])
        return int(chance.generate_state(1, np.uint64)[0] >> 1)

    def _read(self, path: str) -> Tensor:
        return self.preprocessing.resize(load_rgb(self.table.data_dir / path, self.max_pixels))

    def collate(self, items: list[Drawn]) -> Batch:
        rows = [row for item in items for row in item.rows]
        counts = torch.tensor([len(item.images) - 1 for item in items])
        before = (counts.cumsum(0) - counts).tolist()
        parts = [n + i for item, n in zip(items, before, strict=True) for i in item.picture_of_row]
        return Batch(
            wholes=torch.stack([item.images[0] for item in items]),
            parts=torch.cat([item.images[1:] for item in items]),
            jitter=torch.cat(
                [*(item.jitter[:1] for item in items), *(i.jitter[1:] for i in items)]
            ),
            whole_of_part=torch.repeat_interleave(torch.arange(len(items)), counts),
            part_of_pair=torch.tensor(parts),
            pair_of_part=torch.tensor([parts.index(part) for part in range(int(counts.sum()))]),
            pose=PartPose(self.table.translation[rows], self.table.scale[rows]),
            twins=self.table.twins(rows),
            rows=torch.tensor(rows),
        )


def make_loader(
    dataset: Dataset, batches: Iterable[list], num_workers: int, device: torch.device
) -> DataLoader:
    """A loader over `batches`, joined by dataset.collate; its workers leave signals to the process
    that owns them."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=_init_worker,
        # Else each start of the workers would take a number from torch's global generator, and a
        # resumed training, which starts them once more, would see other dropout.
        generator=torch.Generator(),
    )


def _init_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.excepthook = _tell_unless_left


def _tell_unless_left(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """When training stops, a batch may be on its way; that nobody takes it is no error."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
