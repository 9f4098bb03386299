"""The split divides models, stays put when models are added, and hides nothing."""

import json
import subprocess
import sys
from pathlib import Path
from unicodedata import normalize

import pandas as pd
import pytest
from folders import write_folder

from partloc.config import DataConfig
from partloc.data.index import MANIFEST_COLUMNS, build_index
from partloc.data.split import (
    SPLITS,
    SplitError,
    count_split,
    find_shared_images,
    limit_training_models,
    read_manifest,
    split_models,
)
from partloc.files import write_table

RATIOS = (0.8, 0.1, 0.1)
STAGE = Path(__file__).resolve().parents[2] / "stages" / "split.py"


def names(count: int) -> list[str]:
    return [f"model-{number:04d}" for number in range(count)]


def sizes(chosen: dict[str, str]) -> dict[str, int]:
    return {name: list(chosen.values()).count(name) for name in SPLITS}


def test_many_models_come_near_the_ratios():
    found = sizes(split_models(names(2000), RATIOS, seed=0))
    assert found == pytest.approx({"train": 1600, "val": 200, "test": 200}, abs=45)


@pytest.mark.parametrize("count", [3, 4, 5, 10])
@pytest.mark.parametrize("ratios", [RATIOS, (0.98, 0.01, 0.01), (0.1, 0.1, 0.8)])
def test_from_three_models_up_no_wanted_set_is_empty(count, ratios):
    for seed in range(50):
        chosen = split_models(names(count), ratios, seed)
        assert min(sizes(chosen).values()) >= 1
        assert sorted(chosen) == names(count)


def test_a_learning_curve_grows_by_additions_only():
    chosen = split_models(names(200), RATIOS, seed=0)
    before: set[str] = set()
    for most in (5, 20, 100):
        limited = limit_training_models(chosen, most, seed=0)
        train = {name for name, its in limited.items() if its == "train"}
        assert len(train) == most and before < train
        assert limited.items() <= chosen.items()
        assert sizes(limited)["test"] == sizes(chosen)["test"]
        assert sizes(limited)["val"] == sizes(chosen)["val"]
        before = train
    assert (
        limit_training_models(chosen, 100_000, seed=0)
        == limit_training_models(chosen, None, 0)
        == chosen
    )


def test_a_ratio_of_zero_gives_an_empty_set():
    found = sizes(split_models(names(2), (0.9, 0.0, 0.1), seed=0))
    assert found == {"train": 1, "val": 0, "test": 1}
    assert sizes(split_models(["only"], (1.0, 0.0, 0.0), seed=0))["train"] == 1


def test_ratios_that_add_up_to_nearly_one_leave_no_gap_at_the_end():
    chosen = split_models(names(100), (0.5, 0.2, 0.2), seed=0)  # a gap that is easy to hit
    assert sizes(chosen)["test"] >= 20


def test_fewer_models_than_sets_is_an_error_that_counts():
    with pytest.raises(SplitError, match=r"found 2 models .*the 3 splits .*train, val, test"):
        split_models(["a", "b"], RATIOS, seed=0)
    with pytest.raises(SplitError, match="found 0 models"):
        split_models([], (1.0, 0.0, 0.0), seed=0)


def test_adding_models_moves_none_once_each_set_has_its_own():
    everything = split_models(names(400), RATIOS, seed=0)
    for count in (100, 150, 399):
        fewer = split_models(names(count), RATIOS, seed=0)
        assert all(everything[model] == place for model, place in fewer.items())


def test_adding_a_model_to_a_few_moves_two_at_most():
    for seed in range(30):
        before = split_models(names(3), RATIOS, seed)
        for count in range(4, 30):
            after = split_models(names(count), RATIOS, seed)
            assert sum(after[model] != place for model, place in before.items()) <= 2
            before = after


def test_order_repetition_and_unicode_form_do_not_matter_but_the_seed_does():
    chosen = split_models(names(50), RATIOS, seed=0)
    assert split_models([*reversed(names(50)), *names(9)], RATIOS, seed=0) == chosen
    assert split_models(names(50), RATIOS, seed=1) != chosen
    many = [f"ö{number}" for number in range(50)]
    places = list(split_models(many, RATIOS, seed=0).values())
    decomposed = split_models([normalize("NFD", name) for name in many], RATIOS, seed=0)
    assert sorted(decomposed.values()) == sorted(places)


def test_the_places_are_the_same_on_every_machine():
    # Fixed values: whoever changes the hash re-divides everybody's data.
    chosen = split_models(names(12), (0.5, 0.25, 0.25), seed=0)
    assert "".join(chosen[name][1] for name in names(12)) == "arrrreeeraee"


def manifest(root: Path, models: dict[str, list[str]]) -> pd.DataFrame:
    return build_index(DataConfig(data_dir=str(write_folder(root, models)))).manifest


def copy_part(root: Path, source: str, target: str) -> None:
    (root / f"{target}.png").write_bytes((root / f"{source}.png").read_bytes())


def test_identical_part_images_in_two_sets_are_counted(tmp_path):
    models = {name: ["x", "y"] for name in "abcd"}
    write_folder(tmp_path, models)
    for target in ("b/b-x", "c/c-x"):
        copy_part(tmp_path, "a/a-x", target)
    copy_part(tmp_path, "c/c-y", "d/d-y")
    table = build_index(DataConfig(data_dir=str(tmp_path))).manifest

    chosen = {"a": "train", "b": "train", "c": "val", "d": "val"}
    shared = find_shared_images(table, chosen)
    assert shared.examples == [("a", "c"), ("b", "c")]  # a and b, c and d lie together
    assert (shared.images, shared.models) == (1, 3)
    counts = count_split(table, chosen, shared)
    assert counts["shared_part_images"] == {"images": 1, "models": 3, "pairs": 2}
    assert counts["samples"] == {"train": 4, "val": 4, "test": 0}
    assert find_shared_images(table, dict.fromkeys("abcd", "train")) == (0, 0, 0, [])


def test_a_picture_that_all_models_share_is_counted_without_listing_the_pairs():
    count = 20_000  # 100 million pairs of models, which would not fit into memory
    table = pd.DataFrame({"model": names(count), "part_sha256": "screw"})
    halves = dict(zip(names(count), ["train", "test"] * (count // 2), strict=True))
    shared = find_shared_images(table, halves)
    assert (shared.images, shared.models, shared.pairs) == (1, count, (count // 2) ** 2)
    assert shared.examples == [("model-0000", f"model-000{other}") for other in (1, 3, 5)]


def run_stage(cwd: Path, ratios: str = "") -> subprocess.CompletedProcess:
    (cwd / "p.yaml").write_text(f"data: {{output_dir: out{ratios}}}\n")
    command = [sys.executable, str(STAGE), "--config", "p.yaml"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_the_stage_puts_each_model_into_one_table_and_warns_of_shared_images(tmp_path):
    root = write_folder(tmp_path / "images", {name: ["01", "NA"] for name in "abc"})
    copy_part(root, "a/a-01", "b/b-01")
    write_table(
        tmp_path / "out" / "manifest.csv", build_index(DataConfig(data_dir=str(root))).manifest
    )
    done = run_stage(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: 2 models share 1 identical part images" in done.stderr

    tables = [read_manifest(tmp_path / "out" / "split" / f"{name}.csv") for name in SPLITS]
    models = [set(table.model) for table in tables]
    assert sum(map(len, models)) == 3 == len(set.union(*models))
    together = pd.concat(tables).sort_values(["model", "part"], ignore_index=True)
    assert together.equals(read_manifest(tmp_path / "out" / "manifest.csv"))
    counts = json.loads((tmp_path / "metrics" / "split.json").read_text())
    assert counts["models"] == {"train": 1, "val": 1, "test": 1}
    assert counts["samples"] == {"train": 2, "val": 2, "test": 2}
    assert counts["shared_part_images"] == {"images": 1, "models": 2, "pairs": 1}


def test_the_stage_writes_all_three_tables_even_when_one_is_empty(tmp_path):
    table = manifest(tmp_path / "images", {"a": ["x"], "b": ["x"]})
    write_table(tmp_path / "out" / "manifest.csv", table)
    done = run_stage(tmp_path, ", train_ratio: 0.5, val_ratio: 0.5, test_ratio: 0.0")
    assert done.returncode == 0, done.stderr
    header = (tmp_path / "out" / "split" / "test.csv").read_text()
    assert header == ",".join(MANIFEST_COLUMNS) + "\n"
    assert read_manifest(tmp_path / "out" / "split" / "test.csv").empty


def test_the_stage_leaves_out_what_a_learning_curve_does_not_want(tmp_path):
    models = {f"m{number}": ["x", "y"] for number in range(20)}
    write_table(tmp_path / "out" / "manifest.csv", manifest(tmp_path / "images", models))
    done = run_stage(tmp_path, ", max_train_models: 5")
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "metrics" / "split.json").read_text())
    assert (counts["models"]["train"], counts["samples"]["train"]) == (5, 10)
    assert len(read_manifest(tmp_path / "out" / "split" / "train.csv")) == 10


def test_the_stage_says_in_one_line_what_is_wrong(tmp_path):
    done = run_stage(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "manifest.csv" in done.stderr

    write_table(tmp_path / "out" / "manifest.csv", manifest(tmp_path / "i", {"a": ["x"]}))
    done = run_stage(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: found 1 models")


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("model,part\na,b\n")
    with pytest.raises(ValueError, match="m.csv: no column whole_path"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("content", "answer"), [(b"", "not a table: No columns"), (b"model\n\xff\n", "codec can't")]
)
def test_what_is_no_table_is_named(tmp_path, content, answer):
    path = tmp_path / "train.csv"
    with pytest.raises(
        FileNotFoundError, match=r"train.csv: no such file; run the previous stages"
    ):
        read_manifest(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"train\.csv: not a table: .*{answer.split(': ')[-1]}"):
        read_manifest(path)
