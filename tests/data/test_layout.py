"""Names of folders and files determine the samples; unusual names are accepted."""

import os
from pathlib import Path
from unicodedata import normalize

import pytest
from folders import write_folder, write_model

from partloc.config import DataConfig
from partloc.data import layout
from partloc.data.index import Index, build_index
from partloc.data.split import read_manifest
from partloc.system.files import write_table


def index_folder(root: Path) -> Index:
    return build_index(DataConfig(data_dir=str(root)))


def sample_names(index: Index) -> list[tuple[str, str]]:
    return list(zip(index.manifest.model, index.manifest.part, strict=True))


def test_upper_case_extensions_are_accepted(tmp_path):
    folder = write_model(tmp_path, "m", ["a"])
    for path in sorted(folder.iterdir()):
        path.rename(path.with_suffix(path.suffix.upper()))
    index = index_folder(tmp_path)
    assert sample_names(index) == [("m", "a")] and index.report.empty
    assert index.manifest.part_path[0] == "m/m-a.PNG"


@pytest.mark.parametrize("model", ["a-b.c", "größe", "椅子", "with space", "-", "whole", "1e5"])
def test_unusual_names_are_accepted(tmp_path, model):
    parts = ["x", "x.y-z", "whole-2", "Füße", "a'b", "100%"]
    index = index_folder(write_folder(tmp_path / "images", {model: parts}))
    assert sorted(parts) == list(index.manifest.part) and index.report.empty
    write_table(tmp_path / "table.csv", index.manifest)
    assert list(read_manifest(tmp_path / "table.csv").part) == sorted(parts)


@pytest.mark.parametrize("folder_form, file_form", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_in_any_unicode_form_and_paths_keep_theirs(tmp_path, folder_form, file_form):
    model = normalize(folder_form, "größe")
    folder = write_model(tmp_path, model, ["Füße"])
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(normalize(file_form, path.name)))
    index = index_folder(tmp_path)
    assert sample_names(index) == [(normalize("NFC", "größe"), normalize("NFC", "Füße"))]
    assert (tmp_path / index.manifest.part_path[0]).is_file()
    assert index.report.empty


def test_the_manifest_is_sorted_by_normalized_names(tmp_path):
    write_folder(tmp_path, {normalize("NFD", "é"): ["a"], "z": ["a"]})  # in NFD, é precedes z
    assert sample_names(index_folder(tmp_path)) == [("z", "a"), (normalize("NFC", "é"), "a")]


def test_two_folders_with_the_same_normalized_name_are_both_skipped(tmp_path):
    write_folder(tmp_path, {"ok": ["a"], normalize("NFC", "ö"): ["a"], normalize("NFD", "ö"): []})
    index = index_folder(tmp_path)
    assert sample_names(index) == [("ok", "a")]
    assert list(index.report.reason) == ["duplicate name"] * 2


def test_a_folder_name_that_is_not_utf_8_is_reported(tmp_path):
    write_folder(tmp_path, {"ok": ["a"]})
    try:
        Path(tmp_path, "b\udcffd").mkdir()
    except OSError:
        pytest.skip("this file system rejects such names")
    index = index_folder(tmp_path)
    assert list(index.report.reason) == ["unusable name"]
    write_table(tmp_path / "report.csv", index.report)  # the report can be encoded


def test_symbolic_links_are_followed(tmp_path):
    write_folder(tmp_path / "elsewhere", {"m": ["a"]})
    (tmp_path / "images" / "n").mkdir(parents=True)
    (tmp_path / "images" / "m").symlink_to(tmp_path / "elsewhere" / "m")
    for suffix in ("whole.png", "a.png", "a.json"):
        target = tmp_path / "elsewhere" / "m" / f"m-{suffix}"
        (tmp_path / "images" / "n" / f"n-{suffix}").symlink_to(target)
    index = index_folder(tmp_path / "images")
    assert sample_names(index) == [("m", "a"), ("n", "a")] and index.report.empty


def test_hidden_and_unrelated_files_are_ignored(tmp_path):
    root = write_folder(tmp_path)
    (root / ".gitkeep").touch()
    (root / ".cache").mkdir()
    (root / "README.md").touch()
    (root / "lamp" / "._lamp-foot.png").touch()
    assert index_folder(root).report.empty


def test_what_vanishes_while_the_folder_is_listed_is_counted(tmp_path, monkeypatch):
    """A folder, and an image and a label of another one."""
    root = write_folder(tmp_path, {"m": ["a", "b"], "n": ["a"]})
    listdir = os.listdir
    vanished = {str(root): ["gone"], str(root / "m"): ["m-c.png", "m-c.json"]}
    monkeypatch.setattr(os, "listdir", lambda path: listdir(path) + vanished.get(str(path), []))
    index = index_folder(root)
    assert sample_names(index) == [("m", "a"), ("m", "b"), ("n", "a")]
    assert sorted(zip(index.report.reason, index.report.file, strict=True)) == [
        ("unreadable label", "m/m-c.png"),
        ("vanished folder", "gone"),
    ]
    is_usable = layout._is_usable_folder
    monkeypatch.setattr(
        layout,
        "_is_usable_folder",
        lambda path, *others: path.name == "gone" or is_usable(path, *others),
    )
    assert sorted(index_folder(root).report.reason) == ["unreadable label", "vanished folder"]


def test_an_entry_that_cannot_be_examined_is_reported(tmp_path, monkeypatch):
    """E.g. a link into a folder without permission."""
    root, stat = write_folder(tmp_path, {"m": ["a"], "n": ["a"]}), Path.stat

    def failing(path: Path, **options):
        if path.name == "n":
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", failing)
    index = index_folder(root)
    assert sample_names(index) == [("m", "a")]
    assert index.report.values.tolist() == [
        ["warning", "unreadable folder", "n", "n", "Permission denied"]
    ]


@pytest.mark.parametrize("target", ["x" * 300, "/dev/fd/999/x", "m/m-whole.png/x"])
def test_a_link_to_an_impossible_target_is_a_broken_link(tmp_path, target):
    root = write_folder(tmp_path, {"m": ["a"]})
    (root / "link").symlink_to(target)
    index = index_folder(root)
    assert sample_names(index) == [("m", "a")]
    assert list(index.report.reason) == ["broken link"]
