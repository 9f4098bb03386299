"""Devices and random-number generators."""

import random

import numpy as np
import pytest
import torch

from partloc.distributed import choose_device, restore_rng_states, rng_states, seed_everything


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
