"""The tables of the data-path benchmark: every stage runs, with and without reading images."""

import json
import subprocess
import sys

import pytest

from benchmarks.box_images import LINKED_PARTS, write_linked_samples
from benchmarks.common import ROOT
from benchmarks.data_path import STAGES


@pytest.mark.parametrize("options", [(), ("--skip-images",)], ids=["images", "no images"])
def test_every_stage_runs_on_linked_samples(tmp_path, options):
    write_linked_samples(tmp_path, 30 * LINKED_PARTS)
    samples = {}
    for stage in STAGES:
        command = [sys.executable, "-m", "benchmarks.table_stages", stage, str(tmp_path)]
        command += options if stage == "index" else ()
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        row = json.loads(run.stdout)
        assert row["peak_mb"] >= row["start_mb"] > 0 and row["seconds"] > 0
        samples[stage] = row["samples"]
    assert samples["index"] == samples["split"] == 30 * LINKED_PARTS
    assert 0 < samples["evaluate"] < samples["train"] < samples["split"]
