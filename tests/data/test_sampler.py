"""A plan determines which samples form a batch; each process loads its part of the batch."""

from collections import Counter

import pytest
from toys import make_table, tiny_config

from partloc.data.sampler import (
    PAIRS_PER_WHOLE,
    PlannedBatchSampler,
    SampleKey,
    plan_epoch,
    plan_sequential,
)

UNEQUAL_COUNTS = {"a": 11, "b": 1, "c": 3, "d": 7}  # samples per model


def make_plan(table, epoch=0, seed=0, pairs_per_whole=PAIRS_PER_WHOLE, **train):
    return plan_epoch(table, tiny_config(train=train).train, seed, epoch, pairs_per_whole)


def flatten(batches):
    return [row for batch in batches for row in batch]


# -- plans -------------------------------------------------------------------------------------


def test_uniform_sampling_takes_every_sample_once():
    batches = make_plan(make_table(UNEQUAL_COUNTS), batch_size=4)
    assert sorted(flatten(batches)) == list(range(22))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 2]


def test_balanced_sampling_takes_every_model_equally_often():
    table = make_table(UNEQUAL_COUNTS)
    rows = flatten(make_plan(table, sampling="balanced"))
    assert len(rows) == 22  # as many as with uniform sampling
    assert sorted(Counter(table.models[rows]).values()) == [5, 5, 6, 6]
    # A sample is repeated only after all samples of its model were taken.
    assert max(Counter(row for row in rows if table.models[row] == "a").values()) == 1
    assert set(Counter(row for row in rows if table.models[row] == "c").values()) <= {1, 2}


def test_a_plan_is_the_same_on_every_machine():
    # Fixed values: an interrupted training cannot be resumed with another order.
    table = make_table({"a": 3, "b": 2, "c": 2})
    assert make_plan(table, batch_size=3, pairs_per_whole=2) == [[1, 6, 5], [2, 0, 4], [3]]
    assert make_plan(table, batch_size=7, sampling="balanced") == [[4, 3, 6, 5, 6, 1, 2]]


def test_a_plan_is_a_function_of_seed_and_epoch():
    table = make_table(UNEQUAL_COUNTS)
    assert make_plan(table, epoch=3, seed=1) == make_plan(table, epoch=3, seed=1)
    assert make_plan(table, epoch=3, seed=1) != make_plan(table, epoch=4, seed=1)
    assert make_plan(table, epoch=3, seed=1) != make_plan(table, epoch=3, seed=2)


@pytest.mark.parametrize("pairs_per_whole", [1, 2, 4])
def test_parts_of_a_model_stay_together_in_groups(pairs_per_whole):
    table = make_table({"a": 8, "b": 8, "c": 8})
    rows = flatten(make_plan(table, batch_size=4, pairs_per_whole=pairs_per_whole))
    groups = table.models[rows].reshape(-1, pairs_per_whole)
    assert all(len(set(group)) == 1 for group in groups)
    assert len({tuple(group) for group in groups}) == 3  # the models are mixed


def test_a_sequential_plan_takes_every_sample_once_in_a_fixed_order():
    assert plan_sequential(make_table({"a": 3, "b": 2}), 2) == [[0, 1], [2, 3], [4]]


# -- keys of the dataset -----------------------------------------------------------------------


def test_adjacent_samples_of_a_model_share_a_key_without_repeated_rows():
    batches = PlannedBatchSampler(make_table({"a": 3, "b": 2}))
    batches.set_plan(7, [[0, 2, 3, 4], [1, 1, 0]])
    first, second = list(batches)
    assert first == [SampleKey(7, 0, (0, 2)), SampleKey(7, 2, (3, 4))]
    assert second == [SampleKey(7, 4, (1,)), SampleKey(7, 5, (1, 0))]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_local_shares_form_the_batch(world_size):
    table = make_table(UNEQUAL_COUNTS)
    samplers = [PlannedBatchSampler(table, rank, world_size) for rank in range(world_size)]
    for batch in make_plan(table, batch_size=5):
        assert flatten(sampler.local_share(batch) for sampler in samplers) == batch


def test_the_batches_of_the_rest_of_an_epoch_are_those_of_the_whole_epoch():
    """With the same seeds of augmentation, which count groups from the start of the epoch."""
    table = make_table({"a": 5, "b": 4})
    sampler = PlannedBatchSampler(table)
    plan = plan_epoch(table, tiny_config(train={"batch_size": 2}).train, seed=0, epoch=3)
    sampler.set_plan(3, plan)
    expected = list(sampler)
    for first in range(len(plan) + 1):
        sampler.set_plan(3, plan, first)
        assert list(sampler) == expected[first:] and len(sampler) == len(expected) - first


def test_a_process_with_an_empty_share_loads_the_first_sample():
    batches = PlannedBatchSampler(make_table({"a": 3}), rank=2, world_size=3)
    batches.set_plan(0, [[1, 2]])
    assert batches.local_share([1, 2]) == []
    assert list(batches) == [[SampleKey(0, 0, (1,))]]
