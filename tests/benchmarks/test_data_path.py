"""The tables of the data-path benchmark: every stage runs, with and without reading images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import table_stages
from benchmarks.box_images import LINKED_PARTS, write_linked_samples
from benchmarks.common import ROOT
from benchmarks.data_path import STAGES
from partloc.data import index


def num_samples(printed: str) -> int:
    """The samples of a stage, whose time and memory were measured."""
    row = json.loads(printed)
    assert row["peak_mb"] >= row["start_mb"] > 0 and row["seconds"] > 0
    return row["samples"]


@pytest.fixture
def run_stage(run_command, monkeypatch):
    """Runs a stage in this process and returns the number of its samples."""
    monkeypatch.setattr(index, "_read_image", index._read_image)  # which --skip-images replaces

    def run(*arguments: str | Path) -> int:
        done = run_command(table_stages, *arguments)
        assert done.status == 0, done.err
        return num_samples(done.out)

    return run


def test_every_stage_runs_on_linked_samples(tmp_path, run_stage):
    """With images and without; the stages after the index read none in either case.

    The first one runs in a process of its own, as all of them do in the benchmark.
    """
    write_linked_samples(tmp_path, 30 * LINKED_PARTS)
    command = [sys.executable, "-m", "benchmarks.table_stages", "index", str(tmp_path)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert num_samples(first.stdout) == 30 * LINKED_PARTS
    (tmp_path / "outputs/manifest.csv").unlink()
    assert run_stage("index", tmp_path, "--skip-images") == 30 * LINKED_PARTS
    samples = {stage: run_stage(stage, tmp_path) for stage in STAGES[1:]}
    assert samples["split"] == 30 * LINKED_PARTS
    assert 0 < samples["evaluate"] < samples["train"] < samples["split"]
