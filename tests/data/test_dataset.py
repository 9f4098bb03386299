"""Batches contain the planned samples; random changes depend only on seed, epoch and image."""

import shutil

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from toys import index_table, make_table, tiny_config, write_model_in_view

from partloc.data.dataset import PairDataset, make_loader
from partloc.data.images import ImageError
from partloc.data.sampler import PlannedBatchSampler, SampleKey, plan_epoch
from partloc.data.transforms import COLOR_CHANGES, Augmentation, ColorChanges, Preprocessing
from partloc.system.cli import error_message

STRONG = COLOR_CHANGES["strong"]


def make_plan(table, epoch=0):
    config = tiny_config(train={"batch_size": 5}).train
    return plan_epoch(table, config, seed=0, epoch=epoch, pairs_per_whole=3)


def load_batches(table, epoch=0, rank=0, world_size=1, num_workers=0, changes=STRONG):
    """The batches of one epoch from the loader of one process."""
    augmentation = Augmentation(changes)
    dataset = PairDataset(table, Preprocessing(28), 10**6, augmentation, seed=3, jitter=0.2)
    batches = PlannedBatchSampler(table, rank, world_size)
    loader = make_loader(dataset, batches, num_workers, torch.device("cpu"))
    batches.set_plan(epoch, make_plan(table, epoch))
    return list(loader)


# -- the content of a batch --------------------------------------------------------------------


def test_a_batch_joins_each_part_with_its_whole_and_its_pose(tables):
    table = tables[0]
    for batch in load_batches(table, changes=ColorChanges()):
        for position, row in enumerate(batch.rows.tolist()):
            whole, part = PairDataset(table, Preprocessing(28), 10**6)[
                SampleKey(0, 0, (row,))
            ].images
            part_index = batch.part_of_pair[position]
            assert_close(batch.wholes[batch.whole_of_part[part_index]], whole)
            assert_close(batch.parts[part_index], part)
            assert torch.equal(batch.pose.translation[position], table.translation[row])
            assert torch.equal(batch.pose.scale[position], table.scale[row])
        assert batch.pose.scale.shape == (len(batch.rows), 1)


def test_equal_images_of_a_model_are_adjacent_and_loaded_once_per_batch(tables):
    table = tables[0]
    for batch in load_batches(table):
        image_ids = table.image_ids[batch.rows.numpy()]
        assert len(batch.parts) == len(set(image_ids))
        assert set(batch.part_of_pair.tolist()) == set(range(len(batch.parts)))
        num_runs = (image_ids[1:] != image_ids[:-1]).sum() + 1
        assert num_runs == len(set(image_ids))
    counts = np.unique(table.image_ids, return_counts=True)[1]
    assert sorted(counts[counts > 1]) == [2, 3]  # the legs of chair and desk


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_processes_together_load_the_batches_of_one(tables, world_size):
    table = tables[0]
    shares = [load_batches(table, rank=rank, world_size=world_size) for rank in range(world_size)]
    samplers = [PlannedBatchSampler(table, rank, world_size) for rank in range(world_size)]
    plan = make_plan(table)
    for i, expected in enumerate(load_batches(table)):
        # A process whose share is empty loads a sample that does not count.
        local = [
            batches[i]
            for batches, sampler in zip(shares, samplers, strict=True)
            if sampler.local_share(plan[i])
        ]
        parts = torch.cat([batch.parts[batch.part_of_pair] for batch in local])
        wholes = torch.cat(
            [batch.wholes[batch.whole_of_part[batch.part_of_pair]] for batch in local]
        )
        # The images are augmented: a group that is cut in two keeps its color seed.
        assert torch.equal(parts, expected.parts[expected.part_of_pair])
        whole_of_pair = expected.whole_of_part[expected.part_of_pair]
        assert torch.equal(wholes, expected.wholes[whole_of_pair])


# -- randomness --------------------------------------------------------------------------------


def test_augmentation_seeds_differ_between_epochs_and_uses():
    table = make_table({"a": 2})
    dataset = PairDataset(table, Preprocessing(28), 10**6, Augmentation(STRONG))
    seeds = {dataset._augmentation_seed(epoch, 0, use) for epoch in range(10) for use in range(4)}
    assert len(seeds) == 40


def test_a_whole_and_its_parts_share_the_color_seed_but_not_the_noise_seed():
    table = make_table({"a": 3})
    dataset = PairDataset(table, Preprocessing(28), 10**6, Augmentation(STRONG))
    requests = dataset.requests(SampleKey(0, 0, (0, 1, 2)))
    assert len({request.color_seed for request in requests}) == 1
    assert len({request.noise_seed for request in requests}) == len(requests) == 4


def test_crop_jitter_differs_between_images_and_epochs():
    dataset = PairDataset(make_table({"a": 40}), Preprocessing(28), 10**6, jitter=0.3)

    def sample_jitter(epoch, *rows):
        return dataset._sample_jitter(SampleKey(epoch, 0, rows), list(rows))

    jitter = torch.cat([sample_jitter(epoch, *range(40)) for epoch in range(5)])  # (205, 3)
    is_zero = (jitter == 0).all(1)
    assert 0.4 < is_zero.float().mean() < 0.6
    assert len(jitter[~is_zero].unique(dim=0)) == (~is_zero).sum()
    assert jitter[:, 0].min() == 0 and 0.25 < jitter[:, 0].max() < 0.3
    assert -1 < jitter[:, 1:].min() < -0.9 and 0.9 < jitter[:, 1:].max() < 1
    # The jitter of an image does not depend on the other images.
    assert torch.equal(sample_jitter(1, 3, 7)[2], sample_jitter(1, 7, 5, 6)[1])
    dataset.jitter = 0.0
    assert not sample_jitter(0, *range(40)).any()


# -- the loader --------------------------------------------------------------------------------


def test_the_batches_do_not_depend_on_the_number_of_workers(tables):
    expected, *others = [load_batches(tables[0], epoch=1, num_workers=n) for n in (0, 1, 2)]
    for batches in others:
        for expected_batch, batch in zip(expected, batches, strict=True):
            for expected_field, field in zip(expected_batch, batch, strict=True):
                if isinstance(expected_field, torch.Tensor):
                    assert torch.equal(expected_field, field)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_does_not_use_the_global_generator(tables, num_workers):
    """Otherwise a resumed training would sample different dropout masks."""
    before = torch.get_rng_state()
    load_batches(tables[0], num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_that_was_replaced_after_indexing_is_refused(tmp_path):
    """It would change the weights, and nothing would tell."""
    for model in ("chair", "lamp"):
        write_model_in_view(tmp_path, model, ["seat", "back"])
    table = index_table(tmp_path)
    assert len(load_batches(table))
    shutil.copy(tmp_path / "lamp/lamp-back.png", tmp_path / "chair/chair-seat.png")
    with pytest.raises(ImageError, match=r"chair-seat\.png: expected the image that was indexed"):
        load_batches(table)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_missing_image_is_reported_in_one_line(num_workers):
    with pytest.raises(ValueError) as caught:
        load_batches(make_table({"a": 2}), num_workers=num_workers)
    assert error_message(caught.value) == "a/whole.png: No such file or directory"
