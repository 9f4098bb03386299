"""Files whose bytes do not depend on the run, and values in nested dicts."""

import json

import pandas as pd
import pytest

from partloc.files import nested_value, write_json, write_table, write_table_chunks


def test_equal_values_give_equal_bytes_and_replace_the_whole_file(tmp_path):
    first, second = tmp_path / "deep" / "first.json", tmp_path / "second.json"
    write_json(first, {"b": 0.1 + 0.2, "a": [{"y": 2.0, "x": 1}, {"x": 3, "y": 4.0}]})
    write_json(second, {"a": [{"x": 1, "y": 2.0}, {"y": 4.0, "x": 3}], "b": 0.3})
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text()) == {"a": [{"x": 1, "y": 2}, {"x": 3, "y": 4}], "b": 0.3}
    assert first.read_text().splitlines()[2] == '    {"x": 1, "y": 2.0},'  # one line per object
    assert [path.name for path in first.parent.iterdir()] == ["first.json"]


def test_a_nested_value_is_found_by_its_path_also_if_it_is_zero():
    values = {"error": {"mean": 0.25, "within": 0.0}}
    assert nested_value(values, "error/mean") == 0.25
    assert nested_value(values, "error/within") == 0.0
    for path in ("error/median", "scale/mean", "error/mean/more"):
        assert nested_value(values, path) is None


def test_a_table_whose_chunks_fail_leaves_the_old_file(tmp_path):
    path, table = tmp_path / "rows.csv", pd.DataFrame({"a": [1, 2]})
    write_table(path, table)
    before = path.read_bytes()

    def failing():
        yield table
        raise ValueError("whole.png: not an image")

    with pytest.raises(ValueError, match="^whole.png: not an image$"):
        write_table_chunks(path, failing())
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
