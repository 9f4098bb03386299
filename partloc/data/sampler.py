"""The samples of a split, and which of them make a batch.

A batch keeps the parts of one whole together, so that the whole is encoded once for all of them.

Shapes: N samples of a table; P pairs of a batch; K largest twin group.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from partloc.data.table import PairTable

if TYPE_CHECKING:  # the network, defined behind this, needs neither tables nor pydantic to answer
    from partloc.config import TrainConfig

# One stream of chance per use: the same seed never feeds two of them.
ORDER_STREAM = 1


class Draw(NamedTuple):
    """Rows of one model, drawn together in one epoch: what the data set is asked for.

    light: the place in the epoch's plan at which their group begins. It stands for the group's
    lighting, and is the same in every process that has a share of the group.
    """

    epoch: int
    light: int
    rows: tuple[int, ...]


def plan_epoch(table: PairTable, config: "TrainConfig", seed: int, epoch: int) -> list[list[int]]:
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
        models, lights, model, group = self.table.models, [], None, set()
        for place, row in enumerate(row for batch in self.plan for row in batch):
            if row in group or models[row] != model:
                light, model, group = place, models[row], set()
            group.add(row)
            lights.append(light)
        return lights

    def _draws(self, batch: list[int], lights: list[int]) -> list[Draw]:
        """This process's share of a batch: one draw for each group."""
        draws: dict[int, list[int]] = {}
        for place in self.share_of(list(range(len(batch)))) or [0]:
            draws.setdefault(lights[place], []).append(batch[place])
        return [Draw(self.epoch, light, tuple(rows)) for light, rows in draws.items()]
