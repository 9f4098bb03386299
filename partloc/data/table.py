"""The samples of one split in memory.

Shapes: N samples of the table; P requested rows; K size of the largest twin group among them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from partloc.pose import PartPose

if TYPE_CHECKING:  # the network imports this module, and prediction needs no tables
    import pandas as pd


class IndexedFile(NamedTuple):
    """An image and the SHA-256 that it had when it was indexed, 64 hexadecimal digits."""

    path: Path
    sha256: str


class PairTable:
    """Samples as arrays of length N.

    translation (N, 3), scale (N, 1): float32, whole-model units.
    whole_hashes, part_hashes: SHA-256 of the image files, 64 hexadecimal digits as bytes.
    image_ids: first row with the same model and part image; equal images have equal ids.
    twin_group_sizes: number of parts in the row's twin group, the row included.
    """

    def __init__(self, table: "pd.DataFrame", data_dir: Path) -> None:
        self.data_dir = data_dir
        self.models = table["model"].to_numpy()
        self.whole_paths = table["whole_path"].to_numpy()
        self.part_paths = table["part_path"].to_numpy()
        # Bytes take half the memory of text.
        self.whole_hashes = table["whole_sha256"].to_numpy(dtype="S64")
        self.part_hashes = table["part_sha256"].to_numpy(dtype="S64")
        self.image_ids = _first_equal_row(table, "model", "part_sha256")
        translation = table[["tx", "ty", "tz"]].to_numpy(dtype=np.float32).reshape(-1, 3)
        scale = table[["scale"]].to_numpy(dtype=np.float32).reshape(-1, 1)
        self.translation, self.scale = torch.tensor(translation), torch.tensor(scale)
        self._model_ids = _first_equal_row(table, "model")
        self._twin_ids = _first_equal_row(table, "model", "twin_group")
        sizes = np.bincount(self._twin_ids, minlength=len(table))
        self.twin_group_sizes = sizes[self._twin_ids]
        # All rows sorted by group, and the start of each row's group in them: one array per group
        # would be too slow for millions of groups.
        self._grouped_rows = np.argsort(self._twin_ids, kind="stable")
        self._group_starts = (sizes.cumsum() - sizes)[self._twin_ids]

    def __len__(self) -> int:
        return len(self.models)

    def whole_image(self, row: int) -> IndexedFile:
        return IndexedFile(self.data_dir / self.whole_paths[row], self.whole_hashes[row].decode())

    def part_image(self, row: int) -> IndexedFile:
        return IndexedFile(self.data_dir / self.part_paths[row], self.part_hashes[row].decode())

    def rows_by_model(self) -> list[np.ndarray]:
        """The rows of each model; models in the order of their first rows."""
        return _positions_by_value(self._model_ids)

    def twin_groups(self, rows: np.ndarray) -> list[np.ndarray]:
        """Positions in `rows` (P,) of each twin group; a part without twins is a group of one."""
        return _positions_by_value(self._twin_ids[rows])

    def twin_poses(self, rows: Sequence[int] | np.ndarray) -> PartPose:
        """The poses of all twins of each row, itself included: (P, K, 3) and (P, K, 1).

        Groups smaller than K are padded with the row's own pose, so a minimum over K is unchanged.
        """
        row = np.asarray(rows)[:, None]  # (P, 1)
        sizes = self.twin_group_sizes[row]  # (P, 1)
        member = np.arange(sizes.max())  # (K,)
        starts = self._group_starts[row]  # (P, 1)
        twins = self._grouped_rows[starts + np.minimum(member, sizes - 1)]  # (P, K)
        index = np.where(member < sizes, twins, row)
        return PartPose(self.translation[index], self.scale[index])


def _first_equal_row(table: "pd.DataFrame", *columns: str) -> np.ndarray:
    """For each row, the first row with the same values in the columns, (N,)."""
    first = np.flatnonzero(~table.duplicated(columns).to_numpy())
    return first[table.groupby(list(columns), sort=False).ngroup().to_numpy()]


def _positions_by_value(values: np.ndarray) -> list[np.ndarray]:
    """The positions of each distinct value, in ascending order of the values (integers >= 0)."""
    positions = np.argsort(values, kind="stable")
    return np.split(positions, np.flatnonzero(np.diff(values[positions], prepend=-1)))[1:]
