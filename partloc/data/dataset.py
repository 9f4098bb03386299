"""Load planned samples and join them to batches.

Shapes: W wholes, U distinct part images and P pairs (whole, part) of a batch; K size of its largest
twin group; H W image in pixels. A pair is one sample of the table; pairs with equal part images
share the image.
"""

import signal
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from partloc.data.background import load_image
from partloc.data.sampler import SampleKey
from partloc.data.table import PairTable
from partloc.data.transforms import Augmentation, Preprocessing, crop_jitter_from_uniform
from partloc.pose import PartPose

AUGMENT_STREAM, JITTER_STREAM = 2, 12  # parts of the seed, like sampler.ORDER_STREAM


class Batch(NamedTuple):
    """Images and target poses of P pairs.

    wholes: (W, 3, H, W); parts: (U, 3, H, W). With a frozen encoder they may be the tokens of the
        images instead.
    jitter: (W + U, 3), crop jitter of the wholes, then the parts; see `crop_jitter_from_uniform`.
    whole_of_part: (U,) index into wholes.
    part_of_pair: (P,) index into parts.
    pose: labelled poses, (P, 3) and (P, 1).
    twin_poses: poses of all twins, (P, K, 3) and (P, K, 1); see `PairTable.twin_poses`.
    rows: (P,) rows of the table.
    """

    wholes: Tensor | tuple[Tensor, ...]
    parts: Tensor | tuple[Tensor, ...]
    jitter: Tensor
    whole_of_part: Tensor
    part_of_pair: Tensor
    pose: PartPose
    twin_poses: PartPose
    rows: Tensor

    def to(self, device: torch.device) -> "Batch":
        return _map_tensors(lambda tensor: tensor.to(device, non_blocking=True), self)

    def pin_memory(self) -> "Batch":
        """Called by the loader; copies of pinned memory to a GPU are asynchronous."""
        return _map_tensors(Tensor.pin_memory, self)


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to each tensor in nested named tuples."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(*(_map_tensors(function, field) for field in value))


class ImageRequest(NamedTuple):
    """An image file to load: its path, its SHA-256 in the table, and its augmentation seeds.

    Without augmentation the seeds are not used.
    """

    path: str
    sha256: str
    color_seed: int = 0
    noise_seed: int = 0


class Sample(NamedTuple):
    """One whole and U distinct images of its parts, for P rows of the table.

    images: (1 + U, 3, H, W), the whole first.
    jitter: (1 + U, 3), crop jitter of the images.
    rows: P rows of the table.
    part_of_row: P indices of parts, from 0.
    """

    images: Tensor
    jitter: Tensor
    rows: tuple[int, ...]
    part_of_row: list[int]


class BatchDataset(Dataset):
    """A dataset that joins its own items to batches."""

    def collate(self, items: list) -> Any:
        """Join the items of a batch."""
        raise NotImplementedError


class PairDataset(BatchDataset):
    """Dataset whose items are one whole and some of its parts; indexed by `SampleKey`.

    jitter: strength of the crop jitter, which is sampled anew in each epoch; 0 disables it.
    """

    def __init__(
        self,
        table: PairTable,
        preprocessing: Preprocessing,
        max_pixels: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        jitter: float = 0.0,
    ) -> None:
        self.table, self.preprocessing, self.max_pixels = table, preprocessing, max_pixels
        self.augmentation, self.seed, self.jitter = augmentation, seed, jitter

    def __getitem__(self, key: SampleKey) -> Sample:
        image_ids = self._image_ids(key)
        part_of_row = [image_ids.index(self.table.image_ids[row]) for row in key.rows]
        images = self.load_images(self.requests(key))
        return Sample(images, self._sample_jitter(key, image_ids), key.rows, part_of_row)

    def requests(self, key: SampleKey) -> list[ImageRequest]:
        """Requests for the whole, then for each distinct part image."""
        table, image_ids, first = self.table, self._image_ids(key), key.rows[0]
        paths = [table.whole_paths[first], *table.part_paths[image_ids]]
        hashes = [table.whole_hashes[first], *table.part_hashes[image_ids]]
        hashes = [value.decode() for value in hashes]
        if self.augmentation is None:
            return list(map(ImageRequest, paths, hashes))
        color_seed, *noise_seeds = (
            self._augmentation_seed(key.epoch, key.group_seed, use)
            for use in (0, 1, *(2 + image_id for image_id in image_ids))
        )
        return [
            ImageRequest(path, sha256, color_seed, noise_seed)
            for path, sha256, noise_seed in zip(paths, hashes, noise_seeds, strict=True)
        ]

    def load_images(self, requests: list[ImageRequest]) -> Tensor:
        """Load, augment and normalise images, (len(requests), 3, H, W)."""
        images = torch.stack([self._read(request) for request in requests])
        if self.augmentation is not None:
            color_seeds = [request.color_seed or 0 for request in requests]
            noise_seeds = [request.noise_seed or 0 for request in requests]
            images = self.augmentation(images, color_seeds, noise_seeds)
        return self.preprocessing.normalize(images)

    def _image_ids(self, key: SampleKey) -> list[int]:
        """The distinct part images of the rows, in the order of their first rows."""
        return list(dict.fromkeys(self.table.image_ids[list(key.rows)].tolist()))

    def _sample_jitter(self, key: SampleKey, image_ids: list[int]) -> Tensor:
        if not self.jitter:
            return torch.zeros(1 + len(image_ids), 3)
        seed = [self.seed, JITTER_STREAM, key.epoch, key.group_seed]
        uses = (0, *(1 + image_id for image_id in image_ids))  # the whole, then the parts
        uniform = [np.random.default_rng([*seed, use]).random(4, np.float32) for use in uses]
        return crop_jitter_from_uniform(torch.from_numpy(np.stack(uniform)), self.jitter)

    def _augmentation_seed(self, epoch: int, group_seed: int, use: int) -> int:
        sequence = np.random.SeedSequence([self.seed, AUGMENT_STREAM, epoch, group_seed, use])
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)

    def _read(self, request: ImageRequest) -> Tensor:
        """Raises: ImageError, also if the file is not the one that was indexed."""
        path = self.table.data_dir / request.path
        return self.preprocessing.resize(load_image(path, self.max_pixels, request.sha256))

    def collate(self, items: list[Sample]) -> Batch:
        """Join the samples of a batch."""
        rows = [row for item in items for row in item.rows]
        part_counts = torch.tensor([len(item.images) - 1 for item in items])
        offsets = (part_counts.cumsum(0) - part_counts).tolist()
        part_of_pair = [
            offset + part
            for item, offset in zip(items, offsets, strict=True)
            for part in item.part_of_row
        ]
        whole_jitter = [item.jitter[:1] for item in items]
        part_jitter = [item.jitter[1:] for item in items]
        return Batch(
            wholes=torch.stack([item.images[0] for item in items]),
            parts=torch.cat([item.images[1:] for item in items]),
            jitter=torch.cat([*whole_jitter, *part_jitter]),
            whole_of_part=torch.repeat_interleave(torch.arange(len(items)), part_counts),
            part_of_pair=torch.tensor(part_of_pair),
            pose=PartPose(self.table.translation[rows], self.table.scale[rows]),
            twin_poses=self.table.twin_poses(rows),
            rows=torch.tensor(rows),
        )


def make_loader(
    dataset: BatchDataset, batches: Iterable[list], num_workers: int, device: torch.device
) -> DataLoader:
    """Make a loader over `batches`, lists of dataset keys that `dataset.collate` joins."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.collate,  # type: ignore[attr-defined]
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=_init_worker,
        # By default, each start of the workers takes a number from torch's global generator. A
        # resumed training starts them once more and would sample different dropout masks.
        generator=torch.Generator(),
    )


def _init_worker(_worker: int) -> None:
    """Use one thread; leave signals to the main process, which stops the workers."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.excepthook = _report_exception


def _report_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an exception of a worker, except a broken connection.

    When training stops while a worker sends a batch, the broken connection is not an error.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
