"""The split never divides a model, and hardly changes when models are added."""

import json
from pathlib import Path
from unicodedata import normalize

import pandas as pd
import pytest
from folders import write_folder
from programs import FinishedRun

from partloc.commands import split as split_command
from partloc.config import DataConfig
from partloc.data.index import MANIFEST_COLUMNS, build_index
from partloc.data.split import (
    MIN_VAL_MODELS,
    SPLITS,
    SplitError,
    count_split,
    few_validation_models_warning,
    find_shared_images,
    limit_training_models,
    read_manifest,
    split_models,
)
from partloc.system.files import write_table

RATIOS = (0.8, 0.1, 0.1)


def model_names(count: int) -> list[str]:
    return [f"model-{number:04d}" for number in range(count)]


def split_sizes(split_of_model: dict[str, str]) -> dict[str, int]:
    return {split: list(split_of_model.values()).count(split) for split in SPLITS}


def make_manifest(root: Path, models: dict[str, list[str]]) -> pd.DataFrame:
    """Write a data folder and index it."""
    return build_index(DataConfig(data_dir=str(write_folder(root, models)))).manifest


def copy_part(root: Path, source: str, target: str) -> None:
    (root / f"{target}.png").write_bytes((root / f"{source}.png").read_bytes())


# -- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (3, "1 1 1"),
        (4, "2 1 1"),
        (12, "10 1 1"),
        (19, "15 2 2"),
        (30, "24 3 3"),
        (2005, "1604 201 200"),
    ],
)
def test_the_sizes_are_those_of_the_ratios(count, expected):
    for seed in range(3):
        sizes = split_sizes(split_models(model_names(count), RATIOS, seed))
        assert [*sizes.values()] == [int(size) for size in expected.split()]


@pytest.mark.parametrize("count", [3, 4, 5, 10])
@pytest.mark.parametrize("ratios", [RATIOS, (0.98, 0.01, 0.01), (0.1, 0.1, 0.8)])
def test_no_split_is_empty_with_three_or_more_models(count, ratios):
    for seed in range(50):
        split_of_model = split_models(model_names(count), ratios, seed)
        assert min(split_sizes(split_of_model).values()) >= 1
        assert sorted(split_of_model) == model_names(count)


def test_a_ratio_of_zero_gives_an_empty_split():
    sizes = split_sizes(split_models(model_names(2), (0.9, 0.0, 0.1), seed=0))
    assert sizes == {"train": 1, "val": 0, "test": 1}
    assert split_sizes(split_models(["only"], (1.0, 0.0, 0.0), seed=0))["train"] == 1


def test_fewer_models_than_splits_is_an_error():
    with pytest.raises(SplitError, match=r"found 2 models .*the 3 splits .*train, val, test"):
        split_models(["a", "b"], RATIOS, seed=0)
    with pytest.raises(SplitError, match="found 0 models"):
        split_models([], (1.0, 0.0, 0.0), seed=0)


def test_a_larger_training_limit_only_adds_models():
    split_of_model = split_models(model_names(200), RATIOS, seed=0)
    previous: set[str] = set()
    for max_models in (5, 20, 100):
        limited = limit_training_models(split_of_model, max_models, seed=0)
        train = {name for name, split in limited.items() if split == "train"}
        assert len(train) == max_models and previous < train
        assert limited.items() <= split_of_model.items()
        assert split_sizes(limited)["test"] == split_sizes(split_of_model)["test"]
        assert split_sizes(limited)["val"] == split_sizes(split_of_model)["val"]
        previous = train
    for max_models in (100_000, None):
        assert limit_training_models(split_of_model, max_models, seed=0) == split_of_model


# -- stability ---------------------------------------------------------------------------------


def test_adding_a_model_moves_at_most_two():
    for seed in range(30):
        before = split_models(model_names(3), RATIOS, seed)
        for count in range(4, 60):
            after = split_models(model_names(count), RATIOS, seed)
            assert sum(after[model] != split for model, split in before.items()) <= 2
            before = after


def test_adding_a_tenth_moves_few():
    before = split_models(model_names(1000), RATIOS, seed=0)
    after = split_models(model_names(1100), RATIOS, seed=0)
    assert sum(after[model] != split for model, split in before.items()) < 30


def test_the_split_depends_on_the_seed_but_not_on_order_repetition_or_unicode_form():
    split_of_model = split_models(model_names(50), RATIOS, seed=0)
    reordered = [*reversed(model_names(50)), *model_names(9)]
    assert split_models(reordered, RATIOS, seed=0) == split_of_model
    assert split_models(model_names(50), RATIOS, seed=1) != split_of_model
    composed = [f"ö{number}" for number in range(50)]
    decomposed = [normalize("NFD", name) for name in composed]
    splits = split_models(composed, RATIOS, seed=0).values()
    assert sorted(split_models(decomposed, RATIOS, seed=0).values()) == sorted(splits)


def test_the_split_is_the_same_on_every_machine():
    # Fixed values: another hash would change the split of every existing project.
    split_of_model = split_models(model_names(12), (0.5, 0.25, 0.25), seed=0)
    assert "".join(split_of_model[name][1] for name in model_names(12)) == "arrrreearrae"


# -- few validation models ---------------------------------------------------------------------


def test_few_validation_models_are_no_good_choice_of_the_epoch():
    assert "the last epoch is saved" in few_validation_models_warning(0)
    warning = few_validation_models_warning(MIN_VAL_MODELS - 1)
    assert "only 7 validation models" in warning and "8 or more" in warning
    assert few_validation_models_warning(MIN_VAL_MODELS) is None


# -- shared images -----------------------------------------------------------------------------


def test_identical_part_images_in_two_splits_are_counted(tmp_path):
    write_folder(tmp_path, {name: ["x", "y"] for name in "abcd"})
    for target in ("b/b-x", "c/c-x"):
        copy_part(tmp_path, "a/a-x", target)
    copy_part(tmp_path, "c/c-y", "d/d-y")
    manifest = build_index(DataConfig(data_dir=str(tmp_path))).manifest

    split_of_model = {"a": "train", "b": "train", "c": "val", "d": "val"}
    shared = find_shared_images(manifest, split_of_model)
    assert shared.examples == [("a", "c"), ("b", "c")]  # a and b, c and d are in the same split
    assert (shared.images, shared.models) == (1, 3)
    counts = count_split(manifest, split_of_model, shared)
    assert counts["shared_part_images"] == {"images": 1, "models": 3, "pairs": 2}
    assert counts["samples"] == {"train": 4, "val": 4, "test": 0}
    assert find_shared_images(manifest, dict.fromkeys("abcd", "train")) == (0, 0, 0, [])


def test_pairs_are_counted_without_listing_them():
    count = 20_000  # 100 million pairs of models, which would not fit into memory
    manifest = pd.DataFrame({"model": model_names(count), "part_sha256": "screw"})
    alternating = dict(zip(model_names(count), ["train", "test"] * (count // 2), strict=True))
    shared = find_shared_images(manifest, alternating)
    assert (shared.images, shared.models, shared.pairs) == (1, count, (count // 2) ** 2)
    assert shared.examples == [("model-0000", f"model-000{other}") for other in (1, 3, 5)]


# -- the stage ---------------------------------------------------------------------------------


@pytest.fixture
def run_stage(run_command, tmp_path):
    """Runs the stage on the manifest in `out`, with more keys of the group `data`."""

    def run(settings: str = "") -> FinishedRun:
        (tmp_path / "p.yaml").write_text(f"data: {{output_dir: out{settings}}}\n")
        return run_command(split_command, "--config", "p.yaml")

    return run


def test_the_stage_writes_each_model_to_one_table_and_warns_about_shared_images(
    run_stage, tmp_path
):
    root = write_folder(tmp_path / "images", {name: ["01", "NA"] for name in "abc"})
    copy_part(root, "a/a-01", "b/b-01")
    manifest = build_index(DataConfig(data_dir=str(root))).manifest
    write_table(tmp_path / "out" / "manifest.csv", manifest)
    done = run_stage()
    assert done.status == 0, done.err
    assert "warning: 2 models share 1 identical part images" in done.err
    assert "warning: only 1 validation models" in done.err

    tables = [read_manifest(tmp_path / "out" / "split" / f"{split}.csv") for split in SPLITS]
    models = [set(table.model) for table in tables]
    assert sum(map(len, models)) == 3 == len(set.union(*models))
    joined = pd.concat(tables).sort_values(["model", "part"], ignore_index=True)
    assert joined.equals(read_manifest(tmp_path / "out" / "manifest.csv"))
    counts = json.loads((tmp_path / "out" / "split" / "counts.json").read_text())
    assert counts["models"] == {"train": 1, "val": 1, "test": 1}
    assert counts["samples"] == {"train": 2, "val": 2, "test": 2}
    assert counts["shared_part_images"] == {"images": 1, "models": 2, "pairs": 1}


def test_the_stage_writes_an_empty_table_for_an_empty_split(run_stage, tmp_path):
    manifest = make_manifest(tmp_path / "images", {"a": ["x"], "b": ["x"]})
    write_table(tmp_path / "out" / "manifest.csv", manifest)
    done = run_stage(", train_ratio: 0.5, val_ratio: 0.5, test_ratio: 0.0")
    assert done.status == 0, done.err
    header = (tmp_path / "out" / "split" / "test.csv").read_text()
    assert header == ",".join(MANIFEST_COLUMNS) + "\n"
    assert read_manifest(tmp_path / "out" / "split" / "test.csv").empty


def test_the_stage_limits_the_training_models(run_stage, tmp_path):
    models = {f"m{number}": ["x", "y"] for number in range(20)}
    write_table(tmp_path / "out" / "manifest.csv", make_manifest(tmp_path / "images", models))
    done = run_stage(", max_train_models: 5")
    assert done.status == 0, done.err
    counts = json.loads((tmp_path / "out" / "split" / "counts.json").read_text())
    assert (counts["models"]["train"], counts["samples"]["train"]) == (5, 10)
    assert len(read_manifest(tmp_path / "out" / "split" / "train.csv")) == 10


def test_the_stage_reports_an_error_in_one_line(run_stage, tmp_path):
    done = run_stage()
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "manifest.csv" in done.err

    write_table(tmp_path / "out" / "manifest.csv", make_manifest(tmp_path / "images", {"a": ["x"]}))
    done = run_stage()
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: found 1 models")


# -- reading a manifest ------------------------------------------------------------------------


def test_a_missing_column_is_an_error(tmp_path):
    (tmp_path / "m.csv").write_text("model,part\na,b\n")
    with pytest.raises(ValueError, match="m.csv: no column whole_path"):
        read_manifest(tmp_path / "m.csv")


def test_a_missing_file_is_an_error(tmp_path):
    message = r"train\.csv: no such file; run the previous stages"
    with pytest.raises(FileNotFoundError, match=message):
        read_manifest(tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "No columns"), (b"model\n\xff\n", "codec can't")]
)
def test_a_file_that_is_not_a_table_is_an_error(tmp_path, content, message):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"train\.csv: not a table: .*{message}"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("tx", "nan", "row 3: tx 'nan': expected a finite number"),
        ("part_sha256", "\u07ac" * 64, "row 3: part_sha256 '\u07ac+': expected a SHA-256"),
        ("whole_sha256", "", "row 3: whole_sha256 '': expected a SHA-256"),
    ],
)
def test_an_unusable_value_is_an_error_that_names_the_row(tmp_path, column, value, message):
    path, manifest = tmp_path / "train.csv", make_manifest(tmp_path / "images", {"a": ["x", "y"]})
    table = manifest.astype(str)
    table.loc[1, column] = value
    write_table(path, table)
    with pytest.raises(ValueError, match=rf"train\.csv: {message}"):
        read_manifest(path)
