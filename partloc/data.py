"""From the split tables to batches: one preprocessing, colour-only augmentation, batch plans.

A batch keeps the parts of one whole together, so that the whole is encoded once for all of them.

Shapes: N samples of a table, W wholes and P pairs of a batch, K largest twin group, H W pixels.
"""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from partloc.config import AugmentConfig, TrainConfig
from partloc.images import load_rgb
from partloc.pose import PartPose

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# One stream of chance per use: the same seed never feeds two of them.
ORDER_STREAM, AUGMENT_STREAM = 1, 2


@dataclass(frozen=True)
class Preprocessing:
    """What every image goes through before the encoder; a checkpoint carries it."""

    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def resize(self, image: Image.Image) -> Tensor:
        """An RGB image of any size -> (3, image_size, image_size) uint8."""
        side = (self.image_size, self.image_size)
        resized = image.resize(side, Image.Resampling.BILINEAR, reducing_gap=3.0)
        return tvf.pil_to_tensor(resized)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) uint8, or float in [0, 1] -> float32 as the encoder expects."""
        return tvf.normalize(
            tvf.to_dtype(pixels, torch.float32, scale=True), list(self.mean), list(self.std)
        )

    def __call__(self, image: Image.Image) -> Tensor:
        return self.normalize(self.resize(image))


class Augmentation:
    """Colour only, since any geometry would change the answer.

    Brightness, contrast, saturation, hue and grey are light and are shared by a whole and its
    parts; blur and noise are the camera's and differ from image to image.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self.lighting = v2.Compose(
            [
                v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue),
                v2.RandomGrayscale(config.gray_probability),
            ]
        )
        self.blur = v2.RandomApply(
            [v2.GaussianBlur(kernel_size=5, sigma=(0.3, 1.5))], config.blur_probability
        )

    def __call__(self, images: list[Tensor], seed: int) -> list[Tensor]:
        """uint8 images (3, H, W) of one whole and its parts -> float images in [0, 1]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lit = self.lighting(*images) if len(images) > 1 else [self.lighting(*images)]
            return [self._camera(image) for image in lit]

    def _camera(self, image: Tensor) -> Tensor:
        pixels = tvf.to_dtype(self.blur(image), torch.float32, scale=True)
        level = self.config.noise_std * torch.rand(())
        return (pixels + level * torch.randn_like(pixels)).clamp(0, 1)


class PairTable:
    """The samples of one split table, ready to be drawn.

    translation (N, 3), scale (N, 1); twin_rows: for each row the rows of its twin group.
    """

    def __init__(self, table: pd.DataFrame, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.models = table["model"].to_numpy()
        self.whole_paths = table["whole_path"].to_numpy()
        self.part_paths = table["part_path"].to_numpy()
        self.translation = torch.tensor(
            table[["tx", "ty", "tz"]].to_numpy(dtype=np.float32).reshape(-1, 3)
        )
        self.scale = torch.tensor(table[["scale"]].to_numpy(dtype=np.float32).reshape(-1, 1))
        groups = table.reset_index(drop=True).groupby(["model", "twin_group"]).indices
        self.twin_rows: list[np.ndarray] = [np.empty(0)] * len(table)
        for rows in groups.values():
            for row in rows:
                self.twin_rows[row] = rows

    def __len__(self) -> int:
        return len(self.models)

    def rows_of_models(self) -> list[np.ndarray]:
        """The rows of each model, models in order of their first row."""
        return list(pd.Series(range(len(self))).groupby(self.models, sort=False).indices.values())

    def twins(self, rows: Sequence[int]) -> PartPose:
        """(P, K, 3) and (P, K, 1): every place that would be right for each row.

        Groups smaller than K repeat the row's own place, which leaves a minimum unchanged.
        """
        width = max(len(self.twin_rows[row]) for row in rows)
        index = np.stack(
            [np.pad(self.twin_rows[r], (0, width - len(self.twin_rows[r])), constant_values=r)
             for r in rows]
        )  # fmt: skip
        return PartPose(self.translation[index], self.scale[index])


class Batch(NamedTuple):
    """wholes (W, 3, H, W); parts (P, 3, H, W); whole_of_part (P,) index into wholes.

    pose: the truth, (P, 3) and (P, 1); twins: (P, K, 3) and (P, K, 1); rows: (P,) of the table.
    """

    wholes: Tensor
    parts: Tensor
    whole_of_part: Tensor
    pose: PartPose
    twins: PartPose
    rows: Tensor

    def to(self, device: torch.device) -> "Batch":
        def move(value: Tensor | PartPose) -> Tensor | PartPose:
            if isinstance(value, PartPose):
                return PartPose(*(move(field) for field in value))
            return value.to(device, non_blocking=True)

        return Batch(*(move(field) for field in self))

    def pin_memory(self) -> "Batch":
        """Called by the loader, so that copies to a GPU need not wait."""

        def pin(value: Tensor | PartPose) -> Tensor | PartPose:
            if isinstance(value, PartPose):
                return PartPose(*(pin(field) for field in value))
            return value.pin_memory()

        return Batch(*(pin(field) for field in self))


class Draw(NamedTuple):
    """Rows of one model, drawn together in one epoch: what the data set is asked for."""

    epoch: int
    rows: tuple[int, ...]


class PairDataset(Dataset):
    """One item = one whole and some of its parts."""

    def __init__(
        self,
        table: PairTable,
        preprocessing: Preprocessing,
        max_pixels: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.table, self.preprocessing, self.max_pixels = table, preprocessing, max_pixels
        self.augmentation, self.seed = augmentation, seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, tuple[int, ...]]:
        """(1 + P, 3, H, W) float32, the whole first; and the rows."""
        table = self.table
        paths = [table.whole_paths[draw.rows[0]], *(table.part_paths[row] for row in draw.rows)]
        images = [self._read(path) for path in paths]
        if self.augmentation is not None:
            chance = np.random.SeedSequence([self.seed, AUGMENT_STREAM, draw.epoch, *draw.rows])
            images = self.augmentation(images, int(chance.generate_state(1, np.uint64)[0] >> 1))
        return self.preprocessing.normalize(torch.stack(images)), draw.rows

    def _read(self, path: str) -> Tensor:
        return self.preprocessing.resize(load_rgb(self.table.data_dir / path, self.max_pixels))

    def collate(self, items: list[tuple[Tensor, tuple[int, ...]]]) -> Batch:
        rows = [row for _, drawn in items for row in drawn]
        counts = torch.tensor([len(drawn) for _, drawn in items])
        return Batch(
            wholes=torch.stack([images[0] for images, _ in items]),
            parts=torch.cat([images[1:] for images, _ in items]),
            whole_of_part=torch.repeat_interleave(torch.arange(len(items)), counts),
            pose=PartPose(self.table.translation[rows], self.table.scale[rows]),
            twins=self.table.twins(rows),
            rows=torch.tensor(rows),
        )


def plan_epoch(table: PairTable, config: TrainConfig, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one training epoch, as rows of the table; a pure function of its arguments.

    `uniform` draws every sample once; `balanced` draws as many samples in all, every model
    equally often. Up to `pairs_per_whole` parts of a model stay together.
    """
    chance = np.random.default_rng([seed, ORDER_STREAM, epoch])
    models = table.rows_of_models()
    if config.sampling == "balanced":
        quota = np.full(len(models), len(table) // len(models))
        quota[chance.permutation(len(models))[: len(table) % len(models)]] += 1
    else:
        quota = np.array([len(rows) for rows in models])
    groups = []
    for rows, count in zip(models, quota, strict=True):
        rounds = -(-int(count) // len(rows))
        drawn = np.concatenate(
            [np.empty(0, int), *(chance.permutation(rows) for _ in range(rounds))]
        )
        groups += np.split(
            drawn[:count], range(config.pairs_per_whole, count, config.pairs_per_whole)
        )
    order = chance.permutation(len(groups))
    rows = [int(row) for group in order for row in groups[group]]
    return [rows[start : start + config.batch_size]
            for start in range(0, len(rows), config.batch_size)]  # fmt: skip


def plan_in_order(table: PairTable, batch_size: int) -> list[list[int]]:
    """Every sample once, model by model: for validation and evaluation."""
    rows = [int(row) for model in table.rows_of_models() for row in model]
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


class PlannedBatches(Sampler):
    """Feeds the loader with planned batches; each process of `world_size` takes its share.

    A batch is cut into equal runs of pairs, so N processes see the batches that one would see.
    A process left without a pair repeats the batch's first one: `share_of` tells it by an empty
    share, and the loop gives it weight 0, because every process must join each reduction.
    """

    def __init__(self, table: PairTable, rank: int = 0, world_size: int = 1) -> None:
        self.table, self.rank, self.world_size = table, rank, world_size
        self.epoch, self.plan = 0, []

    def set_plan(self, epoch: int, plan: list[list[int]]) -> None:
        self.epoch, self.plan = epoch, plan

    def share_of(self, batch: list[int]) -> list[int]:
        return [int(row) for row in np.array_split(batch, self.world_size)[self.rank]]

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self.plan:
            yield self._draws(self.share_of(batch) or batch[:1])

    def _draws(self, rows: list[int]) -> list[Draw]:
        """Join neighbours of one model, unless a row repeats (a draw holds a part once)."""
        draws: list[list[int]] = []
        for row in rows:
            last = draws[-1] if draws else []
            if last and self.table.models[last[0]] == self.table.models[row] and row not in last:
                last.append(row)
            else:
                draws.append([row])
        return [Draw(self.epoch, tuple(drawn)) for drawn in draws]


def make_loader(
    dataset: PairDataset, batches: PlannedBatches, num_workers: int, device: torch.device
) -> DataLoader:
    """A loader over `batches`; its workers leave signals to the process that owns them."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=_init_worker,
    )


def _init_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
