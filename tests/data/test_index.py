"""The index lists every usable sample, reports the others with a reason, and never aborts."""

import json
import warnings
from collections import Counter
from pathlib import Path

import pytest
from folders import DAMAGES, MODELS, damage_everything, write_folder, write_model
from PIL import Image
from programs import FinishedRun

from partloc.commands import index as index_command
from partloc.config import DataConfig
from partloc.data.index import (
    MANIFEST_COLUMNS,
    SKIPPED,
    WARNINGS,
    Index,
    build_index,
    count_findings,
    format_summary,
)
from partloc.data.layout import UNREADABLE_FOLDER, VANISHED, LayoutError
from partloc.data.split import read_manifest
from partloc.system.files import write_table

ALL_SAMPLES = sorted((model, part) for model, parts in MODELS.items() for part in parts)


def index_folder(root: Path, workers: int = 0, **settings) -> Index:
    return build_index(DataConfig(data_dir=str(root), **settings), workers)


def sample_names(index: Index) -> list[tuple[str, str]]:
    return list(zip(index.manifest.model, index.manifest.part, strict=True))


def count_reasons(index: Index) -> dict[str, int]:
    """The counts of all reasons; asserts that the totals are their sums."""
    counts = count_findings(index)
    for severity in ("skipped", "warnings"):
        assert counts[severity].pop("total") == sum(counts[severity].values())
    return counts["skipped"] | counts["warnings"]


def manifest_bytes(index: Index, folder: Path) -> bytes:
    """Write the manifest to `folder`/table.csv and return the content of the file."""
    write_table(folder / "table.csv", index.manifest)
    return (folder / "table.csv").read_bytes()


# -- valid folders -----------------------------------------------------------------------------


def test_a_valid_folder_gives_every_part_and_no_finding(tmp_path):
    index = index_folder(write_folder(tmp_path / "images"))
    assert sample_names(index) == ALL_SAMPLES
    assert tuple(index.manifest.columns) == MANIFEST_COLUMNS
    assert index.report.empty and count_reasons(index) == {}
    row = index.manifest.iloc[2]
    assert (row.model, row.part, row.twin_group) == ("chair", "leg-2", "leg-1")
    assert row.whole_path == "chair/chair-whole.png"
    assert row.part_path == "chair/chair-leg-2.png"
    assert (row.part_width, row.whole_height) == (48, 48)
    assert (row.tx, row.ty, row.tz, row.scale) == (0.1, 0.0, -0.1, 0.35)


def test_the_manifest_is_read_as_it_was_written(tmp_path):
    index = index_folder(
        write_folder(tmp_path / "images", {"m": ["01", "NA", "nan", "1e5", "a,b"]})
    )
    manifest_bytes(index, tmp_path)
    manifest = read_manifest(tmp_path / "table.csv")
    assert list(manifest.part) == ["01", "1e5", "NA", "a,b", "nan"]
    assert manifest.to_dict("records") == index.manifest.to_dict("records")


def test_the_hash_depends_on_the_bytes_of_the_file(tmp_path):
    root = write_folder(tmp_path)
    before = index_folder(root).manifest
    Image.open(root / "lamp/lamp-foot.png").save(root / "lamp/lamp-foot.png", compress_level=0)
    after = index_folder(root).manifest
    changed = before.part[before.part_sha256 != after.part_sha256]
    assert list(changed) == ["foot"]
    assert before.drop(columns="part_sha256").equals(after.drop(columns="part_sha256"))


# -- damaged folders ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_reported_with_its_reason_and_other_samples_are_kept(tmp_path, name):
    root, damage = write_folder(tmp_path), DAMAGES[name]
    damage.apply(write_model(root, name, ["seat", "back"]))
    index = index_folder(root)

    assert count_reasons(index) == {damage.reason: damage.count}
    kept = [(name, part) for part in ("back", "seat") if part not in damage.skipped]
    assert sample_names(index) == sorted(ALL_SAMPLES + kept)
    severity = "skipped" if damage.reason in SKIPPED else "warning"
    assert set(index.report.severity) == {severity}
    assert name in index.report.file[0] and 0 < len(index.report.detail[0]) < 310
    assert f"{damage.count:7d}  {severity}: {damage.reason}; e.g. " in format_summary(index)


def test_every_reason_is_tested():
    # Two are not: a test that runs as root can read every folder, and none vanishes by itself.
    reasons = {damage.reason for damage in DAMAGES.values()}
    assert reasons == {*SKIPPED, *WARNINGS} - {UNREADABLE_FOLDER, VANISHED}


def test_the_findings_of_several_damages_add_up(tmp_path):
    root = write_folder(tmp_path)
    damages = damage_everything(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = index_folder(root)
    expected = Counter()
    for damage in damages.values():
        expected[damage.reason] += damage.count
    assert count_reasons(index) == expected
    assert set(expected) <= {*SKIPPED, *WARNINGS}
    num_kept = sum(2 - len(damage.skipped) for damage in damages.values())
    assert count_findings(index)["samples"] == len(ALL_SAMPLES) + num_kept


def test_the_result_is_reproducible_with_any_number_of_workers(tmp_path):
    root = write_folder(tmp_path / "images")
    damage_everything(root)
    first, second, parallel = index_folder(root), index_folder(root), index_folder(root, workers=2)
    expected = manifest_bytes(first, tmp_path)
    assert expected == manifest_bytes(second, tmp_path) == manifest_bytes(parallel, tmp_path)
    assert first.report.equals(parallel.report)
    assert list(first.report.reason) and b"\r" not in expected


# -- twins -------------------------------------------------------------------------------------


def test_twins_are_parts_of_one_model(tmp_path):
    root = write_folder(tmp_path, {"m": ["a-1", "a-2", "b"], "n": ["c"]})
    (root / "n" / "n-c.png").write_bytes((root / "m" / "m-a-1.png").read_bytes())
    index = index_folder(root)
    assert list(index.manifest.twin_group) == ["a-1", "a-1", "b", "c"]
    assert count_findings(index)["samples_with_twin"] == 2


def test_only_usable_parts_are_twins(tmp_path):
    root = write_folder(tmp_path, {"m": ["a-1", "a-2", "a-3"]})
    (root / "m" / "m-a-1.json").unlink()
    assert list(index_folder(root).manifest.twin_group) == ["a-2", "a-2"]


# -- no usable sample, and the stage -----------------------------------------------------------


def test_without_a_usable_sample_the_error_contains_the_summary_and_the_layout(tmp_path):
    write_folder(tmp_path, {"m": ["a", "b"]})
    (tmp_path / "m" / "m-whole.png").unlink()
    with pytest.raises(LayoutError) as caught:
        index_folder(tmp_path)
    message = str(caught.value)
    assert "no usable sample" in message and "2  skipped: whole missing" in message
    assert "chair-whole.png" in message


@pytest.fixture
def run_stage(run_command, tmp_path):
    """Runs the stage on the folder `data_dir`, with the outputs in `out`."""

    def run(data_dir: str) -> FinishedRun:
        (tmp_path / "p.yaml").write_text(
            f"data:\n  data_dir: {data_dir}\n  output_dir: out\nmachine:\n  num_processes: 1\n"
        )
        return run_command(index_command, "--config", "p.yaml")

    return run


@pytest.mark.parametrize("data_dir", ["empty", "none", "p.yaml"])
def test_the_stage_explains_the_layout_if_the_folder_has_no_sample(run_stage, tmp_path, data_dir):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitkeep").touch()
    done = run_stage(data_dir)
    assert done.status == 2
    assert done.err.startswith(f"error: {data_dir}: no") and "Traceback" not in done.err
    for line in ("chair/", "chair-whole.png", "chair-leg.png", "chair-leg.json"):
        assert line in done.err
    assert not (tmp_path / "out").exists()


def test_the_stage_writes_manifest_report_and_counts(run_stage, tmp_path):
    root = write_folder(tmp_path / "images")
    DAMAGES["no-label"].apply(write_model(root, "no-label", ["seat", "back"]))
    done = run_stage("images")
    assert done.status == 0, done.err
    assert "1  skipped: part without label" in done.err
    counts = json.loads((tmp_path / "out" / "index_counts.json").read_text())
    assert (counts["models"], counts["samples"], counts["samples_with_twin"]) == (4, 11, 5)
    assert counts["skipped"] == {"total": 1, "part without label": 1}
    assert counts["warnings"] == {"total": 0}
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == 11
    report = (tmp_path / "out" / "index_report.csv").read_text()
    assert "no-label/no-label-seat.png" in report
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["index_counts.json", "index_report.csv", "manifest.csv"]


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "webp", "bmp", "tiff"])
def test_other_formats_are_read_as_png_is(tmp_path, extension):
    root = write_folder(tmp_path, {"chair": ["leg"]})
    image = root / "chair" / "chair-leg.png"
    Image.open(image).save(image.with_suffix(f".{extension}"))
    image.unlink()
    index = index_folder(root)
    assert index.manifest.part_path.tolist() == [f"chair/chair-leg.{extension}"]
    assert index.report.empty
