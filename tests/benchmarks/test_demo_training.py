"""The benchmark of the demo's training: one row per seed and number of threads."""

import json
import sys

import pytest

from benchmarks import demo_training, errors
from benchmarks.metric_tables import demo_training_table

INTERVAL = {"low": 0.05, "high": 0.07}
ERRORS = {
    name: {"mean": 0.06, "interval_95": INTERVAL}
    for name in ("translation_error", "relative_scale_error")
}


def fake_row(seed: int, threads: int) -> dict:
    before = ERRORS | {"translation_error": {"mean": 0.08, "interval_95": INTERVAL}}
    return {
        "seed": seed,
        "threads": threads,
        "kept_epoch": 3,
        "before": before,
        "after": ERRORS,
    }


@pytest.fixture
def run_benchmark(monkeypatch, tmp_path):
    """Runs the benchmark without training; returns the measured (seed, threads) and the rows."""
    output = tmp_path / "demo_training.json"

    def run(*arguments: str) -> tuple[list[tuple[int, int]], list[dict]]:
        measured = []

        def measure(config, threads, _):
            measured.append((config.seed, threads))
            return fake_row(config.seed, threads)

        monkeypatch.setattr(demo_training, "measure", measure)
        monkeypatch.setattr(sys, "argv", ["demo_training", "--output", str(output), *arguments])
        demo_training.main()
        return measured, json.loads(output.read_text())["rows"]

    return run


def test_rows_of_the_same_code_settings_and_weights_are_not_measured_again(
    run_benchmark, monkeypatch
):
    assert run_benchmark("--seeds", "1")[0] == [(0, 1), (0, 2)]
    measured, rows = run_benchmark("--seeds", "2")
    assert measured == [(1, 1), (1, 2)]
    assert [(row["seed"], row["threads"]) for row in rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    monkeypatch.setattr(errors, "source_hash", lambda: "edited code")
    assert run_benchmark("--seeds", "1")[0] == [(0, 1), (0, 2)]
    monkeypatch.setattr(errors, "file_sha256", lambda _: "other weights")
    assert run_benchmark("--seeds", "1")[0] == [(0, 1), (0, 2)]


def test_the_table_compares_the_kept_epoch_with_the_starting_weights():
    line = demo_training_table([fake_row(1, 2)]).splitlines()[-1]
    assert line == (
        "| 1 | 2 | 3 | 0.080 (0.050 to 0.070) | 0.060 (0.050 to 0.070) | -25 % "
        "| 6.0 % (5.0 to 7.0 %) | 6.0 % (5.0 to 7.0 %) |"
    )
