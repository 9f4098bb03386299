"""The tables of the data-path benchmark: every stage runs, with and without reading images."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.box_images import LINKED_PARTS, write_linked_samples
from benchmarks.common import ROOT
from benchmarks.data_path import STAGES


def run_stage(stage: str, folder: Path, *options: str) -> int:
    """Run a stage in a process of its own, whose memory it measures; return its samples."""
    command = [sys.executable, "-m", "benchmarks.table_stages", stage, str(folder), *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    row = json.loads(run.stdout)
    assert row["peak_mb"] >= row["start_mb"] > 0 and row["seconds"] > 0
    return row["samples"]


def test_every_stage_runs_on_linked_samples(tmp_path):
    """With images and without; the stages after the index read none in either case."""
    write_linked_samples(tmp_path, 30 * LINKED_PARTS)
    assert run_stage("index", tmp_path) == 30 * LINKED_PARTS
    (tmp_path / "outputs/manifest.csv").unlink()
    assert run_stage("index", tmp_path, "--skip-images") == 30 * LINKED_PARTS
    samples = {stage: run_stage(stage, tmp_path) for stage in STAGES[1:]}
    assert samples["split"] == 30 * LINKED_PARTS
    assert 0 < samples["evaluate"] < samples["train"] < samples["split"]
