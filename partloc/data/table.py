"""The samples of one split table, ready to be drawn.

Shapes: N samples of a table; P pairs of a batch; K largest twin group.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from partloc.pose import PartPose

if TYPE_CHECKING:  # the network, defined behind this, needs neither tables nor pydantic to answer
    import pandas as pd


class PairTable:
    """The samples of one split table, ready to be drawn.

    translation (N, 3), scale (N, 1). whole_hashes, part_hashes (N,): the SHA-256 of the files, 64
    hexadecimal digits. pictures (N,): a number for each different picture of a model, the first
    row that shows it. twin_counts (N,): parts in the row's twin group, itself
    among them. Groups are kept as arrays of rows, not as one array a group: there may be millions.
    """

    def __init__(self, table: "pd.DataFrame", data_dir: Path) -> None:
        self.data_dir = data_dir
        self.models = table["model"].to_numpy()
        self.whole_paths = table["whole_path"].to_numpy()
        self.part_paths = table["part_path"].to_numpy()
        # Bytes, as text takes twice the memory.
        self.whole_hashes = table["whole_sha256"].to_numpy(dtype="S64")
        self.part_hashes = table["part_sha256"].to_numpy(dtype="S64")
        self._first_of_model = _first_alike(table, "model")
        self.pictures = _first_alike(table, "model", "part_sha256")
        self.translation = torch.tensor(
            table[["tx", "ty", "tz"]].to_numpy(dtype=np.float32).reshape(-1, 3)
        )
        self.scale = torch.tensor(table[["scale"]].to_numpy(dtype=np.float32).reshape(-1, 1))
        self._first_twin = _first_alike(table, "model", "twin_group")
        sizes = np.bincount(self._first_twin, minlength=len(table))
        self.twin_counts = sizes[self._first_twin]
        # The rows group by group, and where in them each row's group begins.
        self._twins = np.argsort(self._first_twin, kind="stable")
        self._twins_begin = (sizes.cumsum() - sizes)[self._first_twin]

    def __len__(self) -> int:
        return len(self.models)

    def twin_groups(self, rows: np.ndarray) -> list[np.ndarray]:
        """Where in `rows` (P,) each group of twins is, a part without any being a group of one."""
        return _alike(self._first_twin[rows])

    def rows_of_models(self) -> list[np.ndarray]:
        """The rows of each model, models in order of their first row."""
        return _alike(self._first_of_model)

    def twins(self, rows: Sequence[int]) -> PartPose:
        """(P, K, 3) and (P, K, 1): every place that would be right for each row.

        Groups smaller than K repeat the row's own place, which leaves a minimum unchanged.
        """
        rows = np.asarray(rows)
        counts = self.twin_counts[rows, None]  # (P, 1)
        place = np.arange(counts.max())  # (K,)
        begin = self._twins_begin[rows, None]
        twins = self._twins[begin + np.minimum(place, counts - 1)]  # (P, K)
        index = np.where(place < counts, twins, rows[:, None])
        return PartPose(self.translation[index], self.scale[index])


def _first_alike(table: "pd.DataFrame", *columns: str) -> np.ndarray:
    """(N,) for each row the first one with the same values in the columns."""
    first = np.flatnonzero(~table.duplicated(columns).to_numpy())
    return first[table.groupby(list(columns), sort=False).ngroup().to_numpy()]


def _alike(numbers: np.ndarray) -> list[np.ndarray]:
    """Where each number, 0 or more, is found, from the smallest number to the largest."""
    places = np.argsort(numbers, kind="stable")
    return np.split(places, np.flatnonzero(np.diff(numbers[places], prepend=-1)))[1:]
