"""The index keeps what is usable, says what is not and why, and never stops at damage."""

import json
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import pytest
from folders import DAMAGES, MODELS, damage_everything, write_folder, write_label, write_model
from PIL import Image

from partloc.config import DataConfig
from partloc.data.index import (
    MANIFEST_COLUMNS,
    SKIPPED,
    WARNINGS,
    Index,
    LayoutError,
    build_index,
    count_findings,
    format_summary,
)
from partloc.data.split import read_manifest
from partloc.files import write_table

STAGE = Path(__file__).resolve().parents[2] / "stages" / "index.py"


def index_of(root: Path, workers: int = 0, **settings) -> Index:
    return build_index(DataConfig(data_dir=str(root), **settings), workers)


def samples(index: Index) -> list[tuple[str, str]]:
    return list(zip(index.manifest.model, index.manifest.part, strict=True))


def reasons(index: Index) -> dict[str, int]:
    """All that occur, with their counts; the totals are the sums."""
    counts = count_findings(index)
    both = [dict(counts[severity]) for severity in ("skipped", "warnings")]
    for found in both:
        assert found.pop("total") == sum(found.values())
    return both[0] | both[1]


def table(index: Index, folder: Path) -> bytes:
    write_table(folder / "table.csv", index.manifest)
    return (folder / "table.csv").read_bytes()


ALL = sorted((model, part) for model, parts in MODELS.items() for part in parts)


def test_a_healthy_folder_gives_every_part_and_no_finding(tmp_path):
    index = index_of(write_folder(tmp_path / "images"))
    assert samples(index) == ALL
    assert tuple(index.manifest.columns) == MANIFEST_COLUMNS
    assert index.report.empty and reasons(index) == {}
    row = index.manifest.iloc[2]
    assert (row.model, row.part, row.twin_group) == ("chair", "leg-2", "leg-1")
    assert row.whole_path == "chair/chair-whole.png"
    assert row.part_path == "chair/chair-leg-2.png"
    assert (row.part_width, row.whole_height) == (48, 48)
    assert (row.tx, row.ty, row.tz, row.scale) == (0.1, 0.0, -0.1, 0.35)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_counted_with_its_reason_and_the_healthy_survive(tmp_path, name):
    root, damage = write_folder(tmp_path), DAMAGES[name]
    damage.apply(write_model(root, name, ["seat", "back"]))
    index = index_of(root)

    assert reasons(index) == {damage.reason: damage.count}
    kept = [(name, part) for part in ("back", "seat") if part not in damage.lost]
    assert samples(index) == sorted(ALL + kept)
    severity = "skipped" if damage.reason in SKIPPED else "warning"
    assert set(index.report.severity) == {severity}
    assert name in index.report.file[0] and index.report.detail[0]
    assert f"{damage.count:7d}  {severity}: {damage.reason}; e.g. " in format_summary(index)


def test_every_reason_has_a_damage_that_shows_it():
    # Permissions do not bind the superuser, under whom tests may run.
    assert {d.reason for d in DAMAGES.values()} == {*SKIPPED, *WARNINGS} - {"unreadable folder"}


def test_all_damage_at_once_is_the_sum_of_each(tmp_path):
    root = write_folder(tmp_path)
    damages = damage_everything(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = index_of(root)
    expected = Counter()
    for damage in damages.values():
        expected[damage.reason] += damage.count
    assert reasons(index) == expected
    assert set(expected) <= {*SKIPPED, *WARNINGS}
    kept = sum(2 - len(damage.lost) for damage in damages.values())
    assert count_findings(index)["samples"] == len(ALL) + kept


def test_the_manifest_is_the_same_bytes_from_run_to_run_and_for_any_workers(tmp_path):
    root = write_folder(tmp_path / "images")
    damage_everything(root)
    first, second, spread = index_of(root), index_of(root), index_of(root, workers=2)
    assert table(first, tmp_path) == table(second, tmp_path) == table(spread, tmp_path)
    assert first.report.equals(spread.report)
    assert list(first.report.reason) and b"\r" not in table(first, tmp_path)


def test_the_manifest_reads_back_as_it_was_written(tmp_path):
    index = index_of(write_folder(tmp_path / "images", {"m": ["01", "NA", "nan", "1e5", "a,b"]}))
    table(index, tmp_path)
    again = read_manifest(tmp_path / "table.csv")
    assert list(again.part) == ["01", "1e5", "NA", "a,b", "nan"]
    assert again.to_dict("records") == index.manifest.to_dict("records")


def test_one_bad_byte_more_or_less_changes_the_hash(tmp_path):
    root = write_folder(tmp_path)
    before = index_of(root).manifest
    Image.open(root / "lamp/lamp-foot.png").save(root / "lamp/lamp-foot.png", compress_level=0)
    after = index_of(root).manifest
    changed = before.part[before.part_sha256 != after.part_sha256]
    assert list(changed) == ["foot"]
    assert before.drop(columns="part_sha256").equals(after.drop(columns="part_sha256"))


def test_a_label_may_exceed_its_range_by_the_tolerance(tmp_path):
    write_model(tmp_path, "m", ["far", "large", "near", "too-far", "too-large"])
    for part, translation, scale in (
        *(("far", 0.54, 0.5), ("too-far", 0.56, 0.5)),
        *(("large", 0, 1.04), ("too-large", 0, 1.06)),
    ):
        label = {"translation": [translation, 0, 0], "scale": [scale] * 3}
        write_label(tmp_path / "m", part, label)
    assert samples(index_of(tmp_path)) == [("m", "far"), ("m", "large"), ("m", "near")]


def test_a_byte_order_mark_and_whole_numbers_and_the_opposite_quaternion_are_accepted(tmp_path):
    write_model(tmp_path, "m", ["a"])
    text = '{"translation": [0, 0, 0], "rotation": [-1.0, 0, 0, 0], "scale": [1, 1, 1]}'
    (tmp_path / "m/m-a.json").write_text(text, encoding="utf-8-sig")
    index = index_of(tmp_path)
    assert samples(index) == [("m", "a")] and index.report.empty
    assert index.manifest.scale[0] == 1.0


def test_extensions_in_capitals_are_accepted(tmp_path):
    folder = write_model(tmp_path, "m", ["a"])
    for path in sorted(folder.iterdir()):
        path.rename(path.with_suffix(path.suffix.upper()))
    index = index_of(tmp_path)
    assert samples(index) == [("m", "a")] and index.report.empty
    assert index.manifest.part_path[0] == "m/m-a.PNG"


@pytest.mark.parametrize("model", ["a-b.c", "größe", "椅子", "with space", "-", "whole", "1e5"])
def test_odd_names_are_names(tmp_path, model):
    parts = ["x", "x.y-z", "whole-2", "Füße", "a'b", "100%"]
    index = index_of(write_folder(tmp_path / "images", {model: parts}))
    assert sorted(parts) == list(index.manifest.part) and index.report.empty
    table(index, tmp_path)
    assert list(read_manifest(tmp_path / "table.csv").part) == sorted(parts)


@pytest.mark.parametrize("folder_form, file_form", [("NFC", "NFD"), ("NFD", "NFC")])
def test_decomposed_letters_match_composed_ones_and_paths_keep_their_form(
    tmp_path, folder_form, file_form
):
    model = normalize(folder_form, "größe")
    folder = write_model(tmp_path, model, ["Füße"])
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(normalize(file_form, path.name)))
    index = index_of(tmp_path)
    assert samples(index) == [(normalize("NFC", "größe"), normalize("NFC", "Füße"))]
    assert (tmp_path / index.manifest.part_path[0]).is_file()
    assert index.report.empty


def test_the_manifest_is_sorted_by_the_names_it_shows_not_by_those_on_the_disk(tmp_path):
    write_folder(tmp_path, {normalize("NFD", "é"): ["a"], "z": ["a"]})  # NFD é is before z
    assert samples(index_of(tmp_path)) == [("z", "a"), (normalize("NFC", "é"), "a")]


def test_two_folders_of_one_name_in_two_unicode_forms_are_both_left_out(tmp_path):
    write_folder(tmp_path, {"ok": ["a"], normalize("NFC", "ö"): ["a"], normalize("NFD", "ö"): []})
    index = index_of(tmp_path)
    assert samples(index) == [("ok", "a")]
    assert reasons(index) == {"duplicate name": 2}


def test_a_folder_name_that_is_not_utf_8_is_reported(tmp_path):
    write_folder(tmp_path, {"ok": ["a"]})
    try:
        Path(tmp_path, "b\udcffd").mkdir()
    except OSError:
        pytest.skip("this file system refuses such names")
    index = index_of(tmp_path)
    assert reasons(index) == {"unusable name": 1}
    table(Index(index.report, index.report), tmp_path)  # can be written


def test_symbolic_links_are_followed(tmp_path):
    write_folder(tmp_path / "elsewhere", {"m": ["a"]})
    (tmp_path / "images" / "n").mkdir(parents=True)
    (tmp_path / "images" / "m").symlink_to(tmp_path / "elsewhere" / "m")
    for end in ("whole.png", "a.png", "a.json"):
        target = tmp_path / "elsewhere" / "m" / f"m-{end}"
        (tmp_path / "images" / "n" / f"n-{end}").symlink_to(target)
    index = index_of(tmp_path / "images")
    assert samples(index) == [("m", "a"), ("n", "a")] and index.report.empty


def test_hidden_and_unrelated_files_are_passed_over_in_silence(tmp_path):
    root = write_folder(tmp_path)
    (root / ".gitkeep").touch()
    (root / ".cache").mkdir()
    (root / "README.md").touch()
    (root / "lamp" / "._lamp-foot.png").touch()
    assert index_of(root).report.empty


def test_a_lone_part_has_no_twin_and_alike_parts_of_two_models_are_no_twins(tmp_path):
    root = write_folder(tmp_path, {"m": ["a-1", "a-2", "b"], "n": ["c"]})
    (root / "n" / "n-c.png").write_bytes((root / "m" / "m-a-1.png").read_bytes())
    index = index_of(root)
    assert list(index.manifest.twin_group) == ["a-1", "a-1", "b", "c"]
    assert count_findings(index)["samples_with_twin"] == 2


def test_twins_are_found_among_the_usable_only(tmp_path):
    root = write_folder(tmp_path, {"m": ["a-1", "a-2", "a-3"]})
    (root / "m" / "m-a-1.json").unlink()
    assert list(index_of(root).manifest.twin_group) == ["a-2", "a-2"]


def test_a_folder_where_nothing_is_usable_shows_the_table_and_the_layout(tmp_path):
    write_folder(tmp_path, {"m": ["a", "b"]})
    (tmp_path / "m" / "m-whole.png").unlink()
    with pytest.raises(LayoutError) as caught:
        index_of(tmp_path)
    message = str(caught.value)
    assert "no usable sample" in message and "2  skipped: whole missing" in message
    assert "chair-whole.png" in message


def run_stage(cwd: Path, data_dir: str) -> subprocess.CompletedProcess:
    (cwd / "p.yaml").write_text(
        f"data:\n  data_dir: {data_dir}\n  output_dir: out\nmachine:\n  num_workers: 0\n"
    )
    command = [sys.executable, str(STAGE), "--config", "p.yaml"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("data_dir", ["empty", "none", "p.yaml"])
def test_the_stage_explains_the_layout_when_there_is_nothing(tmp_path, data_dir):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitkeep").touch()
    done = run_stage(tmp_path, data_dir)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {data_dir}: no") and "Traceback" not in done.stderr
    for line in ("chair/", "chair-whole.png", "chair-leg.png", "chair-leg.json"):
        assert line in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_stage_writes_manifest_report_and_counts(tmp_path):
    root = write_folder(tmp_path / "images")
    DAMAGES["no-label"].apply(write_model(root, "no-label", ["seat", "back"]))
    done = run_stage(tmp_path, "images")
    assert done.returncode == 0, done.stderr
    assert "1  skipped: part without label" in done.stderr
    counts = json.loads((tmp_path / "metrics" / "index.json").read_text())
    assert (counts["models"], counts["samples"], counts["samples_with_twin"]) == (4, 11, 5)
    assert counts["skipped"] == {"total": 1, "part without label": 1}
    assert counts["warnings"] == {"total": 0}
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == 11
    report = (tmp_path / "out" / "index_report.csv").read_text()
    assert "no-label/no-label-seat.png" in report
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["index_report.csv", "manifest.csv"]
