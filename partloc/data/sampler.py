"""Plan which samples form a batch, and divide each batch among processes.

Parts of one model stay together in a batch, so that their whole is encoded once.

Shapes: P samples of a batch.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from partloc.data.table import PairTable

if TYPE_CHECKING:  # the network imports this package, and prediction needs no pydantic
    from partloc.config import TrainConfig

ORDER_STREAM = 1  # part of the seed; no other use of random numbers has the same value
PAIRS_PER_WHOLE = 4  # maximum number of consecutive parts of one model in a plan


class SampleKey(NamedTuple):
    """Rows of one model that the dataset loads as one item.

    group_seed: position in the epoch's plan of the first row of their group. It seeds the colour
        augmentation, and is equal in all processes that load rows of the group.
    """

    epoch: int
    group_seed: int
    rows: tuple[int, ...]


def plan_epoch(
    table: PairTable,
    config: "TrainConfig",
    seed: int,
    epoch: int,
    pairs_per_whole: int = PAIRS_PER_WHOLE,
) -> list[list[int]]:
    """The batches of one training epoch, as rows of the table; a pure function of its arguments.

    Sampling `uniform` takes every sample once. `balanced` takes the same total number, and every
    model equally often. Up to `pairs_per_whole` parts of a model stay together, and equal
    images if possible.
    """
    rng = np.random.default_rng([seed, ORDER_STREAM, epoch])
    rows_by_model = table.rows_by_model()
    if config.sampling == "balanced":
        num_models = len(rows_by_model)
        counts = np.full(num_models, len(table) // num_models)
        counts[rng.permutation(num_models)[: len(table) % num_models]] += 1
    else:
        counts = np.array([len(rows) for rows in rows_by_model])
    groups = []
    for rows, count in zip(rows_by_model, counts, strict=True):
        repetitions = -(-int(count) // len(rows))
        sampled = np.concatenate(
            [np.empty(0, int), *(_shuffle(table, rows, rng) for _ in range(repetitions))]
        )
        groups += np.split(sampled[:count], range(pairs_per_whole, count, pairs_per_whole))
    order = rng.permutation(len(groups))
    return _cut([int(row) for group in order for row in groups[group]], config.batch_size)


def plan_sequential(table: PairTable, batch_size: int) -> list[list[int]]:
    """Batches with every sample once, model by model, for validation and evaluation."""
    return _cut([int(row) for rows in table.rows_by_model() for row in rows], batch_size)


def _cut(rows: list[int], batch_size: int) -> list[list[int]]:
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def _shuffle(table: PairTable, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows in random order, but rows with the same image next to each other."""
    rows = rng.permutation(rows)
    images = table.image_ids[rows]
    first = {image: position for position, image in reversed(list(enumerate(images)))}
    return rows[np.argsort([first[image] for image in images], kind="stable")]


class PlannedBatchSampler(Sampler):
    """Batch sampler of a plan; each of `world_size` processes receives its part of each batch.

    A batch is cut into consecutive parts of equal size, so that N processes together load the
    batches of a single one. A process whose part is empty loads the first sample of the batch,
    because every process must join each reduction; the training loop gives it weight 0.
    """

    def __init__(self, table: PairTable, rank: int = 0, world_size: int = 1) -> None:
        self.table, self.rank, self.world_size = table, rank, world_size
        self.epoch, self.plan, self.first = 0, [], 0

    def set_plan(self, epoch: int, plan: list[list[int]], first: int = 0) -> None:
        """Set the batches of the next iterations, as rows of the table.

        first: number of the batch with which they begin; the keys of a batch do not depend on it.
        """
        self.epoch, self.plan, self.first = epoch, plan, first

    def local_share(self, batch: list[int]) -> list[int]:
        """The part of a batch that belongs to this process; may be empty."""
        return [int(row) for row in np.array_split(batch, self.world_size)[self.rank]]

    def __len__(self) -> int:
        return len(self.plan) - self.first

    def __iter__(self) -> Iterator[list[SampleKey]]:
        group_seeds = iter(self._group_seeds())
        for number, batch in enumerate(self.plan):
            batch_seeds = list(islice(group_seeds, len(batch)))
            if number >= self.first:
                yield self._sample_keys(batch, batch_seeds)

    def _group_seeds(self) -> list[int]:
        """For each sample of the plan, the position at which its group starts.

        A group is a run of samples of one model without repeated rows, since a key contains a row
        once. It may continue in the next batch, so the seeds do not depend on the batch size.
        """
        models, seeds = self.table.models, []
        start, model, group = 0, None, set()
        for position, row in enumerate(row for batch in self.plan for row in batch):
            if row in group or models[row] != model:
                start, model, group = position, models[row], set()
            group.add(row)
            seeds.append(start)
        return seeds

    def _sample_keys(self, batch: list[int], group_seeds: list[int]) -> list[SampleKey]:
        """The local share of a batch, one key per group."""
        rows_by_seed: dict[int, list[int]] = {}
        for position in self.local_share(list(range(len(batch)))) or [0]:
            rows_by_seed.setdefault(group_seeds[position], []).append(batch[position])
        return [SampleKey(self.epoch, seed, tuple(rows)) for seed, rows in rows_by_seed.items()]
