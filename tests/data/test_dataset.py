"""Batches: what is drawn and in which order, what a picture goes through, what chance may touch."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from toys import make_table, tiny_config

from partloc.cli import error_message
from partloc.config import AugmentConfig
from partloc.data.dataset import PairDataset, make_loader
from partloc.data.sampler import (
    PAIRS_PER_WHOLE,
    PlannedBatchSampler,
    SampleKey,
    plan_epoch,
    plan_sequential,
)
from partloc.data.table import PairTable
from partloc.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Augmentation, Preprocessing

UNEVEN = {"a": 11, "b": 1, "c": 3, "d": 7}
QUIET = {"gray_probability": 0.0, "blur_probability": 0.0, "noise_std": 0.0}
LIGHTS_OFF = {"color_jitter": 0.0, "hue": 0.0}


def plan(table, epoch=0, seed=0, pairs_per_whole=PAIRS_PER_WHOLE, **train):
    return plan_epoch(table, tiny_config(train=train).train, seed, epoch, pairs_per_whole)


def flat(batches):
    return [row for batch in batches for row in batch]


def as_images(*colors, side=32):
    """Pictures of one colour each, (I, 3, side, side) uint8."""
    return torch.tensor(colors, dtype=torch.uint8)[:, :, None, None].repeat(1, 1, side, side)


def load_batches(table, epoch=0, rank=0, size=1, workers=0, augment=None, batch_size=5):
    """The batches of one epoch as the loader hands them out."""
    augmentation = Augmentation(augment or AugmentConfig())
    dataset = PairDataset(table, Preprocessing(28), 10**6, augmentation, seed=3, jitter=0.2)
    batches = PlannedBatchSampler(table, rank, size)
    loader = make_loader(dataset, batches, workers, torch.device("cpu"))
    batches.set_plan(epoch, plan(table, epoch, batch_size=batch_size, pairs_per_whole=3))
    return list(loader)


# -- which samples, in which order -------------------------------------------------------------


def test_uniform_sampling_draws_every_sample_once():
    table = make_table(UNEVEN)
    batches = plan(table, batch_size=4)
    assert sorted(flat(batches)) == list(range(22))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 2]


def test_balanced_sampling_draws_every_model_equally_often():
    table = make_table(UNEVEN)
    rows = flat(plan(table, sampling="balanced"))
    assert len(rows) == 22  # as many as uniform sampling
    assert sorted(Counter(table.models[rows]).values()) == [5, 5, 6, 6]
    # Within a model nothing is drawn a second time before everything was drawn once.
    assert max(Counter(row for row in rows if table.models[row] == "a").values()) == 1
    assert set(Counter(row for row in rows if table.models[row] == "c").values()) <= {1, 2}


def test_a_plan_is_the_same_on_every_machine():
    # Fixed values: whoever changes the order ends every unfinished training.
    table = make_table({"a": 3, "b": 2, "c": 2})
    assert plan(table, batch_size=3, pairs_per_whole=2) == [[1, 6, 5], [2, 0, 4], [3]]
    assert plan(table, batch_size=7, sampling="balanced") == [[4, 3, 6, 5, 6, 1, 2]]


def test_a_row_knows_its_twins_wherever_they_stand_in_the_table():
    samples = pd.DataFrame({"model": list("abaabb"), "twin_group": list("xxyxyx")})
    paths = samples.assign(whole_path="w", part_path="p", part_sha256=samples.twin_group)
    paths = paths.assign(whole_sha256=samples.model)
    table = PairTable(paths.assign(tx=range(6), ty=0, tz=0, scale=0.5), Path("data"))
    assert [rows.tolist() for rows in table.rows_by_model()] == [[0, 2, 3], [1, 4, 5]]
    every = table.twin_groups(np.arange(6))
    assert [places.tolist() for places in every] == [[0, 3], [1, 5], [2], [4]]
    some = table.twin_groups(np.array([5, 2, 1]))
    assert [places.tolist() for places in some] == [[0, 2], [1]]
    assert table.twin_group_sizes.tolist() == [2, 2, 1, 2, 1, 2]
    assert table.image_ids.tolist() == [0, 1, 2, 0, 4, 1]
    twins = table.twin_poses([2, 3, 5])
    assert twins.translation[..., 0].tolist() == [[2, 2], [0, 3], [1, 5]]
    assert twins.scale.shape == (3, 2, 1)


def test_a_plan_is_a_function_of_seed_and_epoch():
    table = make_table(UNEVEN)
    assert plan(table, epoch=3, seed=1) == plan(table, epoch=3, seed=1)
    assert plan(table, epoch=3, seed=1) != plan(table, epoch=4, seed=1)
    assert plan(table, epoch=3, seed=1) != plan(table, epoch=3, seed=2)


@pytest.mark.parametrize("together", [1, 2, 4])
def test_so_many_parts_of_a_whole_stay_together(together):
    table = make_table({"a": 8, "b": 8, "c": 8})
    models = table.models[flat(plan(table, batch_size=4, pairs_per_whole=together))]
    groups = models.reshape(-1, together)
    assert all(len(set(group)) == 1 for group in groups)
    assert len({tuple(group) for group in groups}) == 3  # and models are mixed


def test_validation_takes_every_sample_once_in_a_fixed_order():
    assert plan_sequential(make_table({"a": 3, "b": 2}), 2) == [[0, 1], [2, 3], [4]]


def test_a_whole_is_read_once_for_neighbours_but_a_draw_holds_no_part_twice():
    batches = PlannedBatchSampler(make_table({"a": 3, "b": 2}))
    batches.set_plan(7, [[0, 2, 3, 4], [1, 1, 0]])
    first, second = list(batches)
    assert first == [SampleKey(7, 0, (0, 2)), SampleKey(7, 2, (3, 4))]
    assert second == [SampleKey(7, 4, (1,)), SampleKey(7, 5, (1, 0))]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_shares_of_all_processes_are_the_batch_of_one(tables, size):
    together = load_batches(tables[0])
    shares = [load_batches(tables[0], rank=rank, size=size) for rank in range(size)]
    plans = plan(tables[0], batch_size=5, pairs_per_whole=3)
    for i, whole in enumerate(together):
        mine = [
            PlannedBatchSampler(tables[0], rank, size).local_share(plans[i]) for rank in range(size)
        ]
        assert sum(mine, []) == plans[i]
        parts = torch.cat(
            [
                share[i].parts[share[i].part_of_pair]
                for share, rows in zip(shares, mine, strict=True)
                if rows
            ]
        )
        seen = torch.cat(
            [
                share[i].wholes[share[i].whole_of_part[share[i].part_of_pair]]
                for share, rows in zip(shares, mine, strict=True)
                if rows
            ]
        )
        # Augmentation included: a group that is cut in two keeps one light.
        assert torch.equal(parts, whole.parts[whole.part_of_pair])
        assert torch.equal(seen, whole.wholes[whole.whole_of_part[whole.part_of_pair]])


def test_a_process_without_a_pair_still_gets_a_batch():
    batches = PlannedBatchSampler(make_table({"a": 3}), rank=2, world_size=3)
    batches.set_plan(0, [[1, 2]])
    assert batches.local_share([1, 2]) == []
    assert list(batches) == [[SampleKey(0, 0, (1,))]]


# -- what a batch holds ------------------------------------------------------------------------


def test_a_batch_joins_each_part_with_its_whole_its_pose_and_its_row(tables):
    table = tables[0]
    for batch in load_batches(table, augment=AugmentConfig(**QUIET, **LIGHTS_OFF)):
        for place, row in enumerate(batch.rows.tolist()):
            fresh = PairDataset(table, Preprocessing(28), 10**6)[SampleKey(0, 0, (row,))].images
            part = batch.part_of_pair[place]
            assert_close(batch.wholes[batch.whole_of_part[part]], fresh[0])
            assert_close(batch.parts[part], fresh[1])
            assert torch.equal(batch.pose.translation[place], table.translation[row])
            assert torch.equal(batch.pose.scale[place], table.scale[row])
        assert batch.pose.scale.shape == (len(batch.rows), 1)


def test_equal_pictures_of_a_model_are_read_once_in_a_batch_and_stand_side_by_side(tables):
    table = tables[0]
    equal = {"chair": 2, "desk": 3}  # legs
    for batch in load_batches(table):
        drawn = table.image_ids[batch.rows.numpy()]
        assert len(batch.parts) == len(set(drawn)) < len(drawn) or len(set(drawn)) == len(drawn)
        assert torch.equal(batch.part_of_pair[batch.pair_of_part], torch.arange(len(batch.parts)))
        changes = (drawn[1:] != drawn[:-1]).sum() + 1
        assert changes == len(set(drawn))
    counts = np.unique(table.image_ids, return_counts=True)[1]
    assert sorted(counts[counts > 1]) == sorted(equal.values())


def test_twins_are_all_places_of_the_group_padded_with_the_own_one(tables):
    table = tables[0]
    rows = [i for i, path in enumerate(table.part_paths) if path.startswith("desk/")]
    twins = table.twin_poses(rows)
    assert twins.translation.shape == (5, 3, 3) and twins.scale.shape == (5, 3, 1)
    legs = [row for row in rows if "leg" in table.part_paths[row]]
    for place, row in enumerate(rows):
        right = {tuple(found) for found in twins.translation[place].tolist()}
        members = legs if row in legs else [row]
        assert right == {tuple(table.translation[member].tolist()) for member in members}


def test_an_empty_table_is_allowed():
    """A validation set may be empty."""
    empty = make_table({})
    assert len(empty) == 0 and plan_sequential(empty, 4) == []


# -- preprocessing -----------------------------------------------------------------------------


def test_every_image_becomes_a_square_normalised_as_on_imagenet():
    image = Image.new("RGB", (90, 40), (255, 0, 51))
    pixels = Preprocessing(28)(image)
    assert pixels.shape == (3, 28, 28) and pixels.dtype == torch.float32
    for channel, value in enumerate((1.0, 0.0, 0.2)):
        expected = (value - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert_close(pixels[channel], torch.full((28, 28), expected))


def test_resizing_keeps_places():
    """The right half stays the right half, the top quarter the top quarter."""
    pixels = np.zeros((400, 200, 3), np.uint8)
    pixels[:100, 100:] = 255
    small = Preprocessing(32).resize(Image.fromarray(pixels)).float() / 255
    assert small[:, :7, 17:].min() > 0.99
    assert small[:, 9:].max() < 0.01 and small[:, :, :15].max() < 0.01


# -- augmentation ------------------------------------------------------------------------------


def test_equal_colours_stay_equal_in_the_whole_and_its_parts():
    """Light is shared: also where one picture is mostly white and another is not."""
    images = as_images((250, 250, 250), (200, 60, 30))
    images[0, :, 8:12, 8:12] = images[1, :, :4, :4]
    augmentation = Augmentation(AugmentConfig(**QUIET))
    changed = 0
    for seed in range(20):
        lit_whole, lit_part = augmentation(images, (seed, seed), (seed, seed + 1))
        assert_close(lit_whole[:, 9, 9], lit_part[:, 9, 9])
        changed += not torch.allclose(lit_part, images[1] / 255, atol=0.02)
    assert changed >= 18


@pytest.mark.parametrize("strength", [{"hue": 0.1}, {"color_jitter": 0.1}])
def test_hue_and_saturation_change_colours_but_not_the_luma(strength):
    augmentation = Augmentation(AugmentConfig(**QUIET | LIGHTS_OFF | strength))
    luma, color = torch.tensor([0.299, 0.587, 0.114]), torch.tensor([0.6, 0.4, 0.3])
    # A matrix applies hue and saturation; brightness and contrast are a gain and an offset.
    colors = torch.stack(
        [augmentation._sample_color_transform(seed)[0] @ color for seed in range(9)]
    )
    assert_close(colors @ luma, (luma @ color).expand(9), atol=1e-3, rtol=0)
    assert (colors - colors[0]).abs().amax() > 0.01


def test_half_a_turn_of_the_hue_is_the_opposite_colour():
    turns = Augmentation(AugmentConfig(**QUIET, **LIGHTS_OFF | {"hue": 0.5}))
    colour = torch.tensor([120.0, 100.0, 90.0])
    opposite = 2 * colour @ torch.tensor([0.299, 0.587, 0.114]) - colour
    images = as_images(colour.tolist()).repeat(200, 1, 1, 1)
    lit = 255 * turns(images, range(200), range(200))[:, :, 0, 0]
    assert (lit - opposite).abs().amax(1).min() < 1


def test_grey_comes_to_a_whole_and_its_parts_together():
    images = as_images((200, 60, 30), (10, 220, 90))
    augmentation = Augmentation(AugmentConfig(**{**QUIET, **LIGHTS_OFF, "gray_probability": 0.5}))
    grey = [
        [bool((image[0] == image[1]).all()) for image in augmentation(images, (seed, seed), (0, 1))]
        for seed in range(20)
    ]
    assert {tuple(pair) for pair in grey} == {(True, True), (False, False)}


def test_noise_differs_between_a_whole_and_its_parts():
    images = as_images((128, 128, 128), (128, 128, 128))
    augmentation = Augmentation(AugmentConfig(**{**QUIET, **LIGHTS_OFF, "noise_std": 0.1}))
    whole, part = augmentation(images, (0, 0), (1, 2))
    whole_noise, part_noise = whole - 128 / 255, part - 128 / 255
    assert whole_noise.std() > 0.005 and part_noise.std() > 0.005
    correlation = (whole_noise * part_noise).mean() / (whole_noise.std() * part_noise.std())
    assert abs(correlation) < 0.1


def test_blur_strikes_a_whole_and_its_parts_apart():
    images = as_images((0, 0, 0), (0, 0, 0))
    images[:, :, 10:20, 10:20] = 255
    augmentation = Augmentation(AugmentConfig(**{**QUIET, **LIGHTS_OFF, "blur_probability": 0.5}))
    blurred = set()
    for seed in range(20):
        shots = augmentation(images, (0, 0), (seed, seed + 100))
        blurred.add(tuple(bool(((shot > 0.1) & (shot < 0.9)).any()) for shot in shots))
    assert len(blurred) == 4


def test_augmentation_is_never_geometric():
    """A dark square on white stays where it is, under everything that the defaults may do."""
    images = as_images((255, 255, 255), (255, 255, 255))
    images[:, :, 5:12, 18:29] = as_images((30, 60, 90))[..., :7, :11]
    square = torch.zeros(32, 32, dtype=torch.bool)
    square[5:12, 18:29] = True
    strong = Augmentation(AugmentConfig(blur_probability=0.5, gray_probability=0.5))
    for seed in range(30):
        for shot in strong(images, (seed, seed), (seed, seed + 1)):
            dark = shot.mean(0) < (shot.mean(0)[0, 0] + shot.mean(0)[8, 23]) / 2
            assert (dark != square).float().mean() < 0.01


def test_augmentation_leaves_the_generators_of_others_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Augmentation(AugmentConfig())(as_images((1, 2, 3)), (0,), (1,))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_sees_other_light():
    table = make_table({"a": 2})
    dataset = PairDataset(table, Preprocessing(28), 10**6, Augmentation(AugmentConfig()))
    seeds = {dataset._augmentation_seed(epoch, 0, use) for epoch in range(10) for use in range(4)}
    assert len(seeds) == 40


def test_every_picture_and_epoch_has_a_jitter_of_its_own():
    table = make_table({"a": 40})
    dataset = PairDataset(table, Preprocessing(28), 10**6, jitter=0.3)

    def drawn(epoch, *rows):
        return dataset._sample_jitter(SampleKey(epoch, 0, rows), list(rows))

    every = torch.cat([drawn(epoch, *range(40)) for epoch in range(5)])  # (205, 3)
    still = (every == 0).all(1)
    assert 0.4 < still.float().mean() < 0.6
    assert len(every[~still].unique(dim=0)) == (~still).sum()
    assert every[:, 0].min() == 0 and 0.25 < every[:, 0].max() < 0.3
    assert -1 < every[:, 1:].min() < -0.9 and 0.9 < every[:, 1:].max() < 1
    # Of the same picture the same, whichever are drawn beside it.
    assert torch.equal(drawn(1, 3, 7)[2], drawn(1, 7, 5, 6)[1])
    dataset.jitter = 0.0
    assert not drawn(0, *range(40)).any()


def test_the_bytes_do_not_depend_on_the_number_of_workers(tables):
    alone, *others = [load_batches(tables[0], epoch=1, workers=n) for n in (0, 1, 2)]
    for batches in others:
        for expected, found in zip(alone, batches, strict=True):
            for one, other in zip(expected, found, strict=True):
                if isinstance(one, torch.Tensor):
                    assert torch.equal(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_takes_nothing_from_the_global_generator(tables, workers):
    """Or the dropout of a resumed training would differ, and with it the weights."""
    before = torch.get_rng_state()
    load_batches(tables[0], workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_image_is_told_in_one_line(workers):
    with pytest.raises(ValueError) as caught:
        load_batches(make_table({"a": 2}), workers=workers)
    assert error_message(caught.value) == "a/whole.png: No such file or directory"
