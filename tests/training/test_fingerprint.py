"""The fingerprint changes with everything that determines the weights, and with nothing else."""

from ruamel.yaml import YAML
from toys import ROOT, tiny_config

from partloc.training import fingerprint
from partloc.training.fingerprint import (
    TRAINING_CODE,
    run_fingerprint,
    source_hash,
    source_hashes,
)


def test_the_fingerprint_depends_on_training_parameters_only(toy_split):
    def compute(**groups):
        return run_fingerprint(tiny_config(**groups), toy_split)

    original = compute()
    assert original == compute(machine={"device": "auto", "num_workers": 7})
    assert original == compute(data={"data_dir": "elsewhere", "output_dir": "there"})
    assert original == compute(demo={"num_models": 9})
    assert original == compute(train={"state_every_minutes": 1.0})
    changes = [
        {"data": {"image_size": 42}},
        {"model": {"dropout": 0.2}},
        {"train": {"augmentation": "none"}},
        {"train": {"num_epochs": 3}},
        {"train": {"w_scale": 2.0}},
    ]
    assert len({original, *(compute(**change) for change in changes)}) == 1 + len(changes)


def test_the_fingerprint_depends_on_split_and_starting_weights(toy_split, tmp_path, monkeypatch):
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_bytes((toy_split / f"{name}.csv").read_bytes())
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"1")
    config = tiny_config(model={"weights": str(weights)})
    fingerprints = {run_fingerprint(config, tmp_path)}
    depth = tmp_path / "depth.pth"
    depth.write_bytes(fingerprint.SHIPPED_WEIGHTS.read_bytes())
    monkeypatch.setattr(fingerprint, "SHIPPED_WEIGHTS", depth)
    for path in (tmp_path / "train.csv", tmp_path / "val.csv", weights, depth):
        path.write_bytes(path.read_bytes() + b"\n")
        fingerprints.add(run_fingerprint(config, tmp_path))
    assert len(fingerprints) == 5


def test_the_code_that_is_compared_is_that_on_which_dvc_lets_the_training_depend():
    pipeline = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))
    deps = pipeline["stages"]["train"]["deps"]
    code = {dep for dep in deps if dep.startswith(("partloc/", "stages/"))} - {"partloc/weights"}
    assert code == {*TRAINING_CODE}
    hashes = source_hashes()
    assert {"stages/train.py", "partloc/system/cli.py", "partloc/training/run.py"} < hashes.keys()
    assert len({*hashes.values()}) > len(hashes) // 2


def test_an_edited_source_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "partloc/data").mkdir(parents=True)
    for name in ("partloc/config.py", "partloc/data/table.py", "partloc/data/index.py"):
        (tmp_path / name).write_text("pass")
    monkeypatch.setattr(fingerprint, "_PROJECT", tmp_path)
    before = source_hashes()
    (tmp_path / "partloc/data/table.py").write_text("print()")
    (tmp_path / "partloc/data/index.py").unlink()
    changed = fingerprint.changed_names(before, source_hashes())
    assert changed == ["partloc/data/index.py", "partloc/data/table.py"]


def test_the_hash_of_some_packages_depends_on_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_PROJECT", tmp_path)
    files = [tmp_path / "partloc" / name for name in ("pose.py", "data/a.py", "model/b.py")]
    hashes = set()
    for edited in (None, *files):
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("edited" if path == edited else "pass")
        hashes.add((source_hash("model"), source_hash("model", "data"), source_hash()))
    assert [len(set(column)) for column in zip(*hashes, strict=True)] == [2, 3, 4]
