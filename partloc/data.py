"""From the split tables to batches: one preprocessing, colour-only augmentation, batch plans.

A batch keeps the parts of one whole together, so that the whole is encoded once for all of them.

Shapes: N samples of a table; W wholes, U different parts and P pairs of a batch; K largest twin
group; H W pixels.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
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

    Brightness, contrast, saturation, hue and grey are light: shared by a whole and its parts, and
    each pixel for itself, so that what has one colour in both keeps one colour. Blur and noise
    are the camera's and differ from image to image.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        blur = v2.GaussianBlur(kernel_size=5, sigma=(0.3, 1.5))
        self.blur = v2.RandomApply([blur], config.blur_probability)

    def __call__(
        self, images: Tensor, light_seed: int, camera_seeds: Sequence[int]
    ) -> list[Tensor]:
        """uint8 images (I, 3, H, W) of one whole and its parts -> I float images in [0, 1]."""
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which seeds the GPU too and thereby its dropout.
            torch.default_generator.manual_seed(light_seed)
            lit = self._light(tvf.to_dtype(images, torch.float32, scale=True))
            return [self._camera(*shot) for shot in zip(lit, camera_seeds, strict=True)]

    def _light(self, pixels: Tensor) -> Tensor:
        config = self.config
        strength = (config.brightness, config.contrast, config.saturation, config.hue)
        steps = ((2 * torch.rand(4) - 1) * torch.tensor(strength)).tolist()
        pixels = tvf.adjust_brightness(pixels, 1 + steps[0])
        pixels = (0.5 + (1 + steps[1]) * (pixels - 0.5)).clamp(0, 1)  # about a fixed grey
        pixels = tvf.adjust_hue(tvf.adjust_saturation(pixels, 1 + steps[2]), steps[3])
        grey = torch.rand(()) < config.gray_probability
        return tvf.rgb_to_grayscale(pixels, num_output_channels=3) if grey else pixels

    def _camera(self, pixels: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)
        pixels = self.blur(pixels)
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
        # A number for each different picture in a model: the first row that shows it.
        rows = pd.Series(range(len(table)), dtype=int)
        keys = [table[column].to_numpy() for column in ("model", "part_sha256")]
        self.pictures = rows.groupby(keys).transform("min").to_numpy()
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

    def twin_groups(self) -> list[np.ndarray]:
        """The rows of each group of twins, a part without any being a group of one."""
        return [rows for row, rows in enumerate(self.twin_rows) if rows[0] == row]

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
    """wholes (W, 3, H, W); parts (U, 3, H, W); whole_of_part (U,) index into wholes.

    Of equal pictures in one whole there is one: part_of_pair (P,) index into parts, pair_of_part
    (U,) the first pair of each.
    pose: the truth, (P, 3) and (P, 1); twins: (P, K, 3) and (P, K, 1); rows: (P,) of the table.
    """

    wholes: Tensor
    parts: Tensor
    whole_of_part: Tensor
    part_of_pair: Tensor
    pair_of_part: Tensor
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
    """Rows of one model, drawn together in one epoch: what the data set is asked for.

    light: the place in the epoch's plan at which their group begins. It stands for the group's
    lighting, and is the same in every process that has a share of the group.
    """

    epoch: int
    light: int
    rows: tuple[int, ...]


class Drawn(NamedTuple):
    """images: (1 + U, 3, H, W), the whole, then its parts; rows: P of the table.

    picture_of_row: P numbers of parts, from 0; equal pictures are one part.
    """

    images: Tensor
    rows: tuple[int, ...]
    picture_of_row: list[int]


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

    def __getitem__(self, draw: Draw) -> Drawn:
        table = self.table
        pictures = list(dict.fromkeys(table.pictures[list(draw.rows)].tolist()))
        paths = [table.whole_paths[draw.rows[0]], *table.part_paths[pictures]]
        images = torch.stack([self._read(path) for path in paths])
        if self.augmentation is not None:
            seeds = [self._seed(draw, use) for use in (0, 1, *(2 + row for row in pictures))]
            images = torch.stack(self.augmentation(images, seeds[0], seeds[1:]))
        of_rows = [pictures.index(table.pictures[row]) for row in draw.rows]
        return Drawn(self.preprocessing.normalize(images), draw.rows, of_rows)

    def _seed(self, draw: Draw, use: int) -> int:
        """use: 0 for the light, 1 for the whole's camera, 2 and up for the parts'."""
        key = [self.seed, AUGMENT_STREAM, draw.epoch, draw.light, use]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)

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
            whole_of_part=torch.repeat_interleave(torch.arange(len(items)), counts),
            part_of_pair=torch.tensor(parts),
            pair_of_part=torch.tensor([parts.index(part) for part in range(int(counts.sum()))]),
            pose=PartPose(self.table.translation[rows], self.table.scale[rows]),
            twins=self.table.twins(rows),
            rows=torch.tensor(rows),
        )


def plan_epoch(table: PairTable, config: TrainConfig, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one training epoch, as rows of the table; a pure function of its arguments.

    `uniform` draws every sample once; `balanced` draws as many samples in all, every model
    equally often. Up to `pairs_per_whole` parts of a model stay together, equal ones if possible.
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
            [np.empty(0, int), *(_shuffled(table, rows, chance) for _ in range(rounds))]
        )
        groups += np.split(
            drawn[:count], range(config.pairs_per_whole, count, config.pairs_per_whole)
        )
    order = chance.permutation(len(groups))
    rows = [int(row) for group in order for row in groups[group]]
    return [rows[start : start + config.batch_size]
            for start in range(0, len(rows), config.batch_size)]  # fmt: skip


def _shuffled(table: PairTable, rows: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """The rows in an order of chance, but those of one picture side by side."""
    rows = chance.permutation(rows)
    place = {row: i for i, row in reversed(list(enumerate(table.pictures[rows])))}
    return rows[np.argsort([place[picture] for picture in table.pictures[rows]], kind="stable")]


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
        lights = iter(self._lights())
        for batch in self.plan:
            yield self._draws(batch, list(islice(lights, len(batch))))

    def _lights(self) -> list[int]:
        """For each pair of the plan the place at which its group begins.

        A group is a run of neighbours of one model, unless a row repeats (a draw holds a part
        once). It may go on in the next batch, so the light does not depend on the batch's size.
        """
        models, lights, group = self.table.models, [], []
        for place, row in enumerate(row for batch in self.plan for row in batch):
            if not group or row in group or models[row] != models[group[0]]:
                light, group = place, []
            group.append(row)
            lights.append(light)
        return lights

    def _draws(self, batch: list[int], lights: list[int]) -> list[Draw]:
        """This process's share of a batch: one draw for each group."""
        draws: dict[int, list[int]] = {}
        for place in self.share_of(list(range(len(batch)))) or [0]:
            draws.setdefault(lights[place], []).append(batch[place])
        return [Draw(self.epoch, light, tuple(rows)) for light, rows in draws.items()]


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
        # Else each start of the workers would take a number from torch's global generator, and a
        # resumed training, which starts them once more, would see other dropout.
        generator=torch.Generator(),
    )


def reason_of(error: Exception) -> str:
    """An error's message; a loader's worker hands it over as the last line of a traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


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
