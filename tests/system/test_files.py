"""Atomic files whose bytes do not depend on the run, damaged checkpoints, and nested dicts."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from checkout import ROOT

from partloc.system.files import (
    CheckpointError,
    FileTooLargeError,
    load_tensors,
    locked_folder,
    nested_value,
    read_regular_file,
    save_tensors,
    write_json,
    write_table,
    write_table_chunks,
)


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


@pytest.mark.parametrize("limit", [1, 100, 4_000, 8_191, 8_192, 12_000, 40_000])
def test_a_disk_that_is_full_at_any_byte_of_a_table_is_an_error_that_names_it(tmp_path, limit):
    """Also where a buffer is written only when the file is closed."""
    path, table = tmp_path / "rows.csv", pd.DataFrame({"a": range(1000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OSError, match=r"rows\.csv: cannot be written: File too large$"):
            write_table_chunks(path, [table] * 12)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*tmp_path.iterdir()]


def test_a_file_may_have_the_longest_name_that_the_file_system_allows(tmp_path):
    for name in ("a" * 255, "ä" * 127):
        write_json(tmp_path / name, {"a": 1})
        assert json.loads((tmp_path / name).read_text()) == {"a": 1}


def test_a_file_is_replaced_and_not_changed_in_place(tmp_path):
    """A hard link to the old file, as in the cache of DVC, keeps the old content."""
    path, link = tmp_path / "file.json", tmp_path / "link"
    for write in (lambda n: write_json(path, {"n": n}), lambda n: write_table(path, frame(n))):
        write(1)
        os.link(path, link)
        before = link.read_bytes()
        write(2)
        assert link.read_bytes() == before != path.read_bytes()
        link.unlink()


def frame(number: int) -> pd.DataFrame:
    return pd.DataFrame({"n": [number]})


def test_a_regular_file_is_read_up_to_a_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular_file(path, 5) == b"12345"
    with pytest.raises(FileTooLargeError, match="^file of 5 bytes, the limit is 4$"):
        read_regular_file(path, 4)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="a file of Linux")
def test_a_file_with_more_content_than_its_size_says_is_read_up_to_the_limit():
    assert Path("/proc/self/maps").stat().st_size == 0
    with pytest.raises(FileTooLargeError, match="^file of more bytes, the limit is 10$"):
        read_regular_file("/proc/self/maps", 10)


# -- locks -------------------------------------------------------------------------------------


def test_a_second_writer_of_a_folder_is_refused_until_the_first_ends(tmp_path):
    folder = tmp_path / "out"
    code = f"""
import time
from pathlib import Path
from partloc.system.files import locked_folder
with locked_folder(Path({str(folder)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(OSError, match=f"^{folder}: another process is writing into"):
            with locked_folder(folder):
                pass
        holder.kill()
    with locked_folder(folder):  # falls with its process
        pass
    assert not [*folder.iterdir()]


# -- checkpoints -------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip_bit, lambda path: path.write_bytes(b"")])
def test_the_error_for_a_damaged_checkpoint_names_it(tmp_path, damage):
    path = tmp_path / "file.pth"
    save_tensors(path, {"weights": torch.randn(1000)})
    damage(path)
    with pytest.raises(CheckpointError, match="file.pth: not a readable checkpoint"):
        load_tensors(path)


def test_the_error_for_a_missing_checkpoint_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.pth: no such file; train it \(dvc repro\)"):
        load_tensors(tmp_path / "none.pth")


def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.pth"
    save_tensors(path, {"value": 1})

    def interrupted(*_args):
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                save_tensors(path, {"value": 2})
        assert load_tensors(path) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.pth"]


def test_a_full_disk_leaves_the_old_file_and_names_the_new_one(tmp_path):
    path = tmp_path / "file.pth"
    save_tensors(path, {"value": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="file.pth: cannot be written: .*File too large"):
            save_tensors(path, {"value": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_tensors(path) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.pth"]
