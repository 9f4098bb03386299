"""A training step keeps as much as the budget allows, and knows before how much that is."""

from functools import cache

import pytest
import torch
from torch._subclasses import FakeTensorMode

from partloc.config import Config
from partloc.data.transforms import Preprocessing
from partloc.model.backbone import Kept
from partloc.model.locator import PartLocator
from partloc.training.activation_memory import (
    RESERVE,
    Planner,
    StepMemory,
    measure_step,
    saved_bytes,
)
from tests.toys import tiny_config

GB = 1e9


# Fake tensors ask for a gradient that is not there, and torch's own filter of that warning is
# overruled by ours.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")


@cache
def full_size(backbone: str) -> StepMemory:
    settings = Config().model.model_copy(update={"pretrained": False, "backbone_name": backbone})
    model = PartLocator(settings, Preprocessing(1024))
    with FakeTensorMode(allow_non_fake_inputs=True):
        return measure_step(model, torch.bfloat16)


def tiny_model() -> PartLocator:
    config = tiny_config()
    return PartLocator(config.model, Preprocessing.of(config.data))


def test_what_is_measured_of_one_block_is_what_the_whole_step_keeps():
    """Linear in images and pairs: of three pairs as of one and two."""
    model = tiny_model()
    memory = measure_step(model, None)
    side = model.backbone.image_size

    def kept_of(pairs: int) -> int:
        images = torch.zeros(pairs, 3, side, side)
        return saved_bytes(lambda: model(images, images, torch.arange(pairs)), model)

    per_pair = (kept_of(5) - kept_of(3)) / 2
    blocks = 2 * memory.num_blocks * memory.block[Kept.EVERYTHING]
    assert abs(per_pair - memory.pair - blocks) < 0.02 * per_pair


def test_keeping_less_needs_less():
    memory = full_size("dinov2_vitb14")
    assert memory.block[Kept.INPUT] < memory.block[Kept.ATTENTION] < memory.block[Kept.EVERYTHING]
    peaks = [memory.peak(16, 8, (kept,) * 12) for kept in Kept]
    assert sorted(peaks, reverse=True) == peaks


def test_sixteen_pairs_of_shared_wholes_at_full_size_fit_in_16_gb():
    """Four parts a whole: 4 wholes and 16 parts."""
    memory = full_size("dinov2_vitb14")
    plan = memory.plan(20, 16, 16 * GB)
    assert memory.peak(20, 16, plan) < 16 * GB
    large = full_size("dinov2_vitl14")
    assert large.peak(4, 2, large.plan(4, 2, 16 * GB)) < 16 * GB


def test_the_plan_is_the_fastest_that_fits():
    memory = full_size("dinov2_vitb14")
    assert memory.plan(2, 1, 16 * GB) == (Kept.EVERYTHING,) * 12
    plan = memory.plan(10, 8, 16 * GB)
    assert memory.peak(10, 8, plan) <= (1 - RESERVE) * 16 * GB
    ranks = [list(Kept).index(kept) for kept in plan]
    assert ranks == sorted(ranks, reverse=True)  # those that keep more come last
    freed = next(i for i, kept in enumerate(plan) if kept != Kept.EVERYTHING)
    lavish = (*plan[:freed], Kept.EVERYTHING, *plan[freed + 1 :])
    assert memory.peak(10, 8, lavish) > (1 - RESERVE) * 16 * GB
    assert memory.again(plan) < memory.again((Kept.ATTENTION,) * 12)


def test_where_nothing_fits_the_least_is_kept():
    memory = full_size("dinov2_vitb14")
    plan = memory.plan(64, 32, 1 * GB)
    assert plan.count(Kept.INPUT) >= memory.num_blocks - 1


def test_measuring_leaves_the_model_as_it_was():
    model = tiny_model().eval()
    state = torch.get_rng_state()
    Planner(model, None, 16.0)
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_batch_gets_its_own_plan():
    model = tiny_model()
    memory = measure_step(model, None)
    room = memory.peak(4, 2, (Kept.EVERYTHING,) * memory.num_blocks)
    planner = Planner(model, None, (1 + 1e-9) * room / (1 - RESERVE) / GB)
    planner.prepare(4, 2)
    assert set(model.backbone.kept) == {Kept.EVERYTHING}
    planner.prepare(40, 20)
    assert Kept.EVERYTHING not in model.backbone.kept[:-1]
