"""The benchmark of encoders: each starts with the inherited weights and is compared with them."""

import json
import sys

import pandas as pd
import pytest
from toys import tiny_config

from benchmarks import backbones
from benchmarks.metric_tables import backbones_table

INTERVAL = {"low": 0.05, "high": 0.07}


def fake_row(config, error: float = 0.06) -> dict:
    errors = {
        name: {"mean": error, "interval_95": INTERVAL}
        for name in ("translation_error", "relative_scale_error")
    }
    return {
        "backbone": config.model.backbone_name,
        "image_size": config.data.image_size,
        "encoder_weights": 21_600_000,
        "first": errors,
    }


@pytest.fixture
def run_benchmark(monkeypatch, tmp_path):
    """Runs the benchmark without a network; returns what was measured and the rows."""
    output = tmp_path / "backbones.json"

    def run(*arguments: str) -> tuple[list[tuple[str, int]], list[dict]]:
        measured = []

        def measure_first(config, *_):
            measured.append((config.model.backbone_name, config.data.image_size))
            return fake_row(config)

        errors = fake_row(tiny_config())["first"]
        monkeypatch.setattr(backbones, "PairTable", lambda *_: None)
        monkeypatch.setattr(backbones, "read_split", lambda *_: None)
        monkeypatch.setattr(backbones, "train", lambda *_: None)
        monkeypatch.setattr(backbones, "evaluate", lambda *_: errors)
        monkeypatch.setattr(backbones, "measure_first", measure_first)
        monkeypatch.setattr(sys, "argv", ["backbones", "--output", str(output), *arguments])
        backbones.main()
        return measured, json.loads(output.read_text())["rows"]

    return run


def test_the_shipped_encoder_comes_first_and_known_rows_are_not_measured_again(run_benchmark):
    small = ("--backbones", "dinov2_vits14")
    first = [("dinov2_vitt14", 112), ("dinov2_vits14", 224)]
    assert run_benchmark(*small)[0] == first
    measured, rows = run_benchmark("--backbones", "dinov2_vits14", "dinov2_vitb14")
    assert measured == [("dinov2_vitb14", 224)]
    assert [row["backbone"] for row in rows] == ["dinov2_vitt14", "dinov2_vits14", "dinov2_vitb14"]
    measured, rows = run_benchmark(*small, "--train")
    assert measured == [] and all("trained" in row for row in rows)


def test_the_ratio_is_that_to_the_shipped_encoder(run_benchmark):
    _, (shipped, other) = run_benchmark("--backbones", "dinov2_vits14", "--train")
    other["first"]["translation_error"]["mean"] = 0.063
    other["trained"]["relative_scale_error"]["mean"] = 0.08
    assert backbones_table([shipped, other]).splitlines()[-1] == (
        "| dinov2_vits14, 22 M weights | 224 px | 0.063 (0.050 to 0.070) | 1.05 | 6 % "
        "| 0.060 (0.050 to 0.070) | 8 % |"
    )


def test_the_short_training_has_few_of_the_training_models(monkeypatch, tmp_path):
    models = [f"model-{number:02d}" for number in range(30) for _part in range(2)]
    monkeypatch.setattr(backbones, "read_split", lambda *_: pd.DataFrame({"model": models}))
    given = []
    monkeypatch.setattr(backbones, "train_or_load", lambda config, *_: given.append(config))
    backbones.train(tiny_config(), tmp_path)
    counts = {s: pd.read_csv(tmp_path / f"split/{s}.csv").model.nunique() for s in ("train", "val")}
    assert counts == {"train": backbones.MAX_TRAIN_MODELS, "val": 30}
    assert given[0].train.freeze_backbone and given[0].train.num_epochs == backbones.NUM_EPOCHS
