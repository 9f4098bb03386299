"""A training step stores as many activations as the memory budget allows."""

import weakref
from functools import cache

import pytest
import torch
from torch._subclasses import FakeTensorMode
from toys import tiny_config

from partloc.config import Config
from partloc.data.transforms import Preprocessing
from partloc.model.backbone import ActivationPolicy
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.training import activation_memory
from partloc.training.activation_memory import (
    RESERVED_FRACTION,
    MemoryPlanner,
    StepMemory,
    measure_step_memory,
    run_loss,
    saved_bytes,
)

GB = 1e9
EVERYTHING, ATTENTION, INPUT = ActivationPolicy

# Fake tensors access a missing gradient; torch's own filter of that warning is overruled by ours.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")


@cache
def full_size_memory(backbone: str) -> StepMemory:
    settings = Config().model.model_copy(update={"pretrained": False, "backbone_name": backbone})
    model = build_locator(settings, Preprocessing(1024), blank=True)
    model.encoder.backbone.to_empty(device="cpu")  # takes no memory until it is written
    with FakeTensorMode(allow_non_fake_inputs=True):
        return measure_step_memory(model, Config().train, torch.bfloat16)


TRAIN_CONFIG = tiny_config().train


def make_tiny_model() -> PartLocator:
    config = tiny_config()
    return build_locator(config.model, Preprocessing.from_config(config.data))


def test_measurements_of_one_block_predict_the_memory_of_the_whole_step():
    """Memory is linear in images and pairs, so one and two pairs predict three to five."""
    model = make_tiny_model()
    memory = measure_step_memory(model, TRAIN_CONFIG, None)

    def measure(pairs: int) -> int:
        return saved_bytes(lambda: run_loss(model, TRAIN_CONFIG, None, pairs), model)

    per_pair = (measure(5) - measure(3)) / 2
    blocks = 2 * memory.num_blocks * memory.block_bytes[EVERYTHING]
    assert abs(per_pair - memory.pair_bytes - blocks) < 0.02 * per_pair


def test_the_memory_of_a_pair_includes_the_loss(monkeypatch):
    """The match loss alone saves a number per position of the template matching."""
    model = make_tiny_model()
    side = model.encoder.backbone.image_size

    def run_forward(model, _config, _dtype, pairs):
        images = torch.zeros(pairs, 3, side, side)
        return model(images, images, torch.arange(pairs))

    total = measure_step_memory(model, TRAIN_CONFIG, None).pair_bytes
    monkeypatch.setattr(activation_memory, "run_loss", run_forward)
    forward = measure_step_memory(model, TRAIN_CONFIG, None).pair_bytes
    assert total - forward > 4 * len(model.template_matching.positions)


def test_storing_less_needs_less_memory():
    memory = full_size_memory("dinov2_vitb14")
    block_bytes = memory.block_bytes
    assert block_bytes[INPUT] < block_bytes[ATTENTION] < block_bytes[EVERYTHING]
    peaks = [memory.peak_bytes(16, 8, (policy,) * 12) for policy in ActivationPolicy]
    assert sorted(peaks, reverse=True) == peaks


def test_sixteen_pairs_with_shared_wholes_at_full_size_fit_in_16_gb():
    """Four parts per whole: 4 wholes and 16 parts."""
    memory = full_size_memory("dinov2_vitb14")
    plan = memory.choose_plan(20, 16, 16 * GB)
    assert memory.peak_bytes(20, 16, plan) < 16 * GB
    large = full_size_memory("dinov2_vitl14")
    assert large.peak_bytes(4, 2, large.choose_plan(4, 2, 16 * GB)) < 16 * GB


def test_the_plan_is_the_fastest_that_fits():
    memory = full_size_memory("dinov2_vitb14")
    assert memory.choose_plan(2, 1, 16 * GB) == (EVERYTHING,) * 12
    plan = memory.choose_plan(10, 8, 16 * GB)
    assert memory.peak_bytes(10, 8, plan) <= (1 - RESERVED_FRACTION) * 16 * GB
    ranks = [list(ActivationPolicy).index(policy) for policy in plan]
    assert ranks == sorted(ranks, reverse=True)  # blocks that store more come last
    first = next(i for i, policy in enumerate(plan) if policy != EVERYTHING)
    larger = (*plan[:first], EVERYTHING, *plan[first + 1 :])
    assert memory.peak_bytes(10, 8, larger) > (1 - RESERVED_FRACTION) * 16 * GB
    assert memory.recomputed_blocks(plan) < memory.recomputed_blocks((ATTENTION,) * 12)


def test_the_least_is_stored_if_no_plan_fits():
    memory = full_size_memory("dinov2_vitb14")
    plan = memory.choose_plan(64, 32, 1 * GB)
    assert plan.count(INPUT) >= memory.num_blocks - 1


def test_measuring_leaves_the_model_unchanged():
    model = make_tiny_model().eval()
    state = torch.get_rng_state()
    MemoryPlanner(model, TRAIN_CONFIG, None, 16.0)
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_measuring_frees_what_it_computed():
    outputs = []

    def run() -> torch.Tensor:
        output = torch.ones(3, requires_grad=True).sigmoid()  # saves its output
        outputs.append(weakref.ref(output))
        return output

    assert saved_bytes(run, make_tiny_model()) == 3 * 4
    assert outputs[0]() is None


def test_measuring_on_a_machine_with_several_gpus_does_not_warn(monkeypatch):
    """torch would save the random state of every GPU and warn; here warnings are errors."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)
    measure_step_memory(make_tiny_model(), TRAIN_CONFIG, None)


def test_each_batch_has_its_own_plan():
    model = make_tiny_model()
    memory = measure_step_memory(model, TRAIN_CONFIG, None)
    peak = memory.peak_bytes(4, 2, (EVERYTHING,) * memory.num_blocks)
    planner = MemoryPlanner(
        model, TRAIN_CONFIG, None, (1 + 1e-9) * peak / (1 - RESERVED_FRACTION) / GB
    )
    planner.prepare(4, 2)
    assert set(model.encoder.backbone.activation_policies) == {EVERYTHING}
    planner.prepare(40, 20)
    assert EVERYTHING not in model.encoder.backbone.activation_policies[:-1]
