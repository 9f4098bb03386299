"""Devices and random-number generators."""

import ast
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from partloc.distributed import (
    choose_device,
    peak_memory_gb,
    restore_rng_states,
    rng_states,
    seed_everything,
    training_dtype,
)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "xpu:", "cuda:99", "mps:99"])
def test_an_unavailable_device_is_an_error_that_names_it(name):
    with pytest.raises(ValueError, match=f"^device '{name}': (expected auto, cpu|torch finds)"):
        choose_device(name)


def test_restored_generators_continue_where_they_were():
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.random(), torch.rand(()).item()

    cpu = torch.device("cpu")
    seed_everything(3, rank=1)
    np.random.randn()  # leaves a second normal number in the generator
    states, expected = rng_states(cpu), draw()
    assert draw() != expected
    restore_rng_states(states, cpu)
    assert draw() == expected
    seed_everything(4)  # the same seed in total
    np.random.randn()
    assert draw() == expected


@pytest.fixture
def two_gpus(monkeypatch) -> list[int]:
    """Pretend that torch finds two GPUs; returns the devices that were made current."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    return current


@pytest.mark.parametrize(("name", "index"), [("cuda:1", 1), ("cuda", 0), ("auto", 0)])
def test_the_chosen_gpu_is_the_current_device_and_keeps_full_precision(two_gpus, name, index):
    assert choose_device(name).type == "cuda"
    assert two_gpus == [index]
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("is_native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bfloat16_is_used_only_where_the_gpu_supports_it_natively(monkeypatch, is_native, dtype):
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or is_native  # torch emulates it on any GPU

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert training_dtype(True, torch.device("cuda")) == dtype
    assert training_dtype(False, torch.device("cuda")) is None


@pytest.mark.parametrize(("platform", "factor"), [("linux", 1.024e-6), ("darwin", 1e-9)])
def test_peak_memory_is_in_gigabytes_on_every_platform(monkeypatch, platform, factor):
    import resource

    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory_gb(torch.device("cpu")) == pytest.approx(maximum * factor, rel=0.05)


def test_no_module_imports_what_windows_lacks():
    """At module level; inside a function it is a choice of the platform."""
    for path in (Path(__file__).parents[1] / "partloc").rglob("*.py"):
        names = [
            alias.name
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.Import)
            for alias in node.names
        ]
        assert not {"fcntl", "resource", "pwd", "termios"} & set(names), path
