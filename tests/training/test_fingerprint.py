"""The fingerprint changes with everything that determines the weights, and with nothing else."""

from toys import tiny_config

from partloc.training import fingerprint
from partloc.training.fingerprint import run_fingerprint


def test_the_fingerprint_depends_on_training_parameters_only(toy_split):
    def compute(**groups):
        return run_fingerprint(tiny_config(**groups), toy_split)

    original = compute()
    assert original == compute(machine={"device": "auto", "num_workers": 7})
    assert original == compute(data={"data_dir": "elsewhere", "output_dir": "there"})
    assert original == compute(demo={"num_models": 9})
    changes = [
        {"data": {"image_size": 42}},
        {"model": {"dropout": 0.2}},
        {"augment": {"hue": 0.0}},
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
