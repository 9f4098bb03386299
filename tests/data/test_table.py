"""A table finds the twins and the equal images of its rows."""

from pathlib import Path

import numpy as np
import pandas as pd
from toys import make_table

from partloc.data.sampler import plan_sequential
from partloc.data.table import PairTable


def table_of_twins() -> PairTable:
    """Two models whose rows alternate: twins are rows 0 and 3 of a, 1 and 5 of b."""
    table = pd.DataFrame({"model": list("abaabb"), "twin_group": list("xxyxyx")})
    table = table.assign(whole_path="w", part_path="p", part_sha256=table.twin_group)
    table = table.assign(whole_sha256=table.model, tx=range(6), ty=0, tz=0, scale=0.5)
    return PairTable(table, Path("data"))


def test_rows_are_grouped_by_model():
    assert [rows.tolist() for rows in table_of_twins().rows_by_model()] == [[0, 2, 3], [1, 4, 5]]


def test_twins_are_found_in_any_order_of_the_rows():
    table = table_of_twins()
    groups = table.twin_groups(np.arange(6))
    assert [positions.tolist() for positions in groups] == [[0, 3], [1, 5], [2], [4]]
    assert table.twin_group_sizes.tolist() == [2, 2, 1, 2, 1, 2]


def test_twin_groups_are_positions_in_the_requested_rows():
    groups = table_of_twins().twin_groups(np.array([5, 2, 1]))
    assert [positions.tolist() for positions in groups] == [[0, 2], [1]]


def test_equal_images_of_a_model_have_equal_ids():
    assert table_of_twins().image_ids.tolist() == [0, 1, 2, 0, 4, 1]


def test_twin_poses_are_padded_with_the_own_pose():
    poses = table_of_twins().twin_poses([2, 3, 5])
    assert poses.translation[..., 0].tolist() == [[2, 2], [0, 3], [1, 5]]
    assert poses.scale.shape == (3, 2, 1)


def test_twin_poses_of_indexed_images_are_those_of_all_members(tables):
    table = tables[0]
    rows = [row for row, path in enumerate(table.part_paths) if path.startswith("desk/")]
    poses = table.twin_poses(rows)
    assert poses.translation.shape == (5, 3, 3) and poses.scale.shape == (5, 3, 1)
    legs = [row for row in rows if "leg" in table.part_paths[row]]
    for position, row in enumerate(rows):
        found = {tuple(translation) for translation in poses.translation[position].tolist()}
        members = legs if row in legs else [row]
        assert found == {tuple(table.translation[member].tolist()) for member in members}


def test_an_empty_table_is_allowed():
    """The validation split may be empty."""
    table = make_table({})
    assert len(table) == 0 and plan_sequential(table, 4) == []
