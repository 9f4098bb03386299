"""The GPU benchmarks need only the network's own packages, and use the full-size configuration."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks import memory
from benchmarks.full_size import full_size_config
from partloc.config import Config

ROOT = Path(__file__).resolve().parents[2]
# Modules that the GPU benchmarks do without.
HIDDEN_MODULES = (
    *("dvc", "matplotlib", "pydantic", "pyvista", "ruamel", "tensorboard", "vtk"),
    "partloc.config",
)
OPTIONS = ("--backbone", "dinov2_vitt14", "--image-size", "28")
# Runs modules as scripts, with HIDDEN_MODULES not installed.
RUN_WITHOUT_MODULES = """
import runpy, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Finder())
for command in {commands!r}:
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    print({end!r})
"""
END = "-- end of a command --"


class Printed(NamedTuple):
    """The results of `benchmarks.gpu` and what both benchmarks have printed."""

    results: dict[str, Any]
    gpu: str
    memory: str


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> Printed:
    """Runs both benchmarks in one process, since importing torch takes longer than they do."""
    file = tmp_path_factory.mktemp("gpu") / "gpu.json"
    sizes = ("--batch", "2", "--workers", "1", "--batches", "1")
    commands = (
        ("benchmarks.gpu", *OPTIONS, *sizes, "--output", str(file)),
        ("benchmarks.memory", *OPTIONS, "--batches", "1"),
    )
    code = RUN_WITHOUT_MODULES.format(hidden=HIDDEN_MODULES, commands=commands, end=END)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    gpu, memory, _ = run.stdout.split(END)
    return Printed(json.loads(file.read_text()), gpu, memory)


def test_the_gpu_benchmark_runs_with_only_the_networks_packages(printed):
    results = printed.results
    for name in ("training", "inference"):
        row = results[name]
        assert row["pairs_per_s"] > 0
        assert row["tflops"] / results["matrix_tflops"] == pytest.approx(row["utilization"], 1e-3)
        printed_speed = float(re.search(rf"\| {name} \| ([\d.]+) \|", printed.gpu)[1])
        assert printed_speed == pytest.approx(row["pairs_per_s"], abs=0.01)
    assert results["training"].keys() >= {"precision", "fused_adamw", "peak_gb", "first_step_s"}
    assert 0 < results["loader"]["waiting_fraction"] < 1
    assert results["loader"].keys() >= {"pinned", "synchronizations"}
    fractions = [row["time_fraction"] for row in results["kernels"]]
    assert len(fractions) == 10 and fractions == sorted(fractions, reverse=True)
    assert sum(fractions) <= 1
    assert all(row["kernel"] in printed.gpu for row in results["kernels"])
    # A step on fake tensors would show Python's own work.
    assert not any("Python" in row["kernel"] for row in results["kernels"])


def test_the_memory_benchmark_runs_with_only_the_networks_packages(printed):
    rows = printed.memory.splitlines()[-4:]
    assert [row.split(" | ")[1] for row in rows] == list(memory.MODES)


def test_full_size_config_has_the_defaults_of_the_configuration():
    default = Config().model_dump()
    config = full_size_config(default["model"]["backbone_name"], default["data"]["image_size"])
    random_weights = {"pretrained": False, "start_from": None, "dropout": 0.0}
    assert vars(config.model) == default["model"] | random_weights
    assert vars(config.train).items() <= default["train"].items()
