"""Tokens of a frozen encoder: computed once, the same as without the store, safe on the disk."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from toys import ALONE, let_speak, make_trainer, tiny_config, write_split

from partloc.data.dataset import PairDataset
from partloc.data.sampler import Draw
from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.data.transforms import Augmentation
from partloc.training.run import run_training
from partloc.training.run_folder import RunFolder
from partloc.training.token_cache import TokenStore, encoder_digest

# 4 wholes, and 3 + 3 + 2 + 2 different parts; those of training in two variants, of validation as
# they are.
PICTURES = 2 * (3 + 3 + 3 + 2) + 1 + 2
STILL = dict.fromkeys(
    ("brightness", "contrast", "saturation", "hue", "gray_probability", "blur_probability"), 0.0
) | {"noise_std": 0.0}


@pytest.fixture(autouse=True)
def do_not_wait_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


def frozen(**groups: dict):
    train = {"freeze_backbone": True, "cached_variants": 2, "learning_rate": 1e-3}
    model = {"match_size": 8, "hypotheses": 2} | groups.pop("model", {})
    return tiny_config(model=model, train=train | groups.pop("train", {}), **groups)


def trainer_of(tables, config=None, folder=None):
    """A head that says something, and a store if there is a folder for one."""
    trainer = make_trainer(config or frozen(), *tables)
    torch.manual_seed(1)
    let_speak(trainer.model)
    trainer.encoded = []
    trainer.model.backbone.register_forward_hook(
        lambda _module, inputs, _outputs: trainer.encoded.append(len(inputs[0]))
    )
    if folder:
        trainer.use_store(folder)
    return trainer


def file_in(folder: Path) -> Path:
    (path,) = folder.glob("*.tokens")
    return path


def rows_in(folder: Path, trainer) -> set[bytes]:
    size = TokenStore(folder, trainer.model, trainer.dtype).layout.itemsize
    data = file_in(folder).read_bytes()
    assert len(data) % size == 0
    return {data[start : start + size] for start in range(0, len(data), size)}


# -- the same results --------------------------------------------------------------------------


@pytest.mark.parametrize("match_size", [0, 8])
@pytest.mark.parametrize("augment", [{}, STILL])
def test_training_from_the_store_learns_what_it_learns_from_pictures(
    tables, tmp_path, match_size, augment
):
    config = frozen(model={"match_size": match_size}, augment=augment)
    results = []
    for folder in (None, tmp_path):
        trainer = trainer_of(tables, config, folder)
        for group in trainer.optimizer.param_groups:
            group["eps"] = 1e-4  # AdamW makes full steps of gradients that are only rounding
        epochs = []
        for trainer.epoch in range(2):
            epochs += [*trainer.train_epoch().values(), *trainer.validate().values()]
        results.append((epochs, trainer.model.state_dict()))
    (expected, weights), (found, others) = results
    assert found == pytest.approx(expected, rel=1e-4)
    start = trainer_of(tables, config).model.state_dict()
    for key, weight in weights.items():
        moved = (weight - start[key]).abs().max()
        assert (weight - others[key]).abs().max() <= 0.01 * moved + 1e-6, key
    assert any(not torch.equal(weights[key], start[key]) for key in weights)


def test_a_row_holds_what_the_encoder_says_of_the_picture(tables, tmp_path):
    trainer = trainer_of(tables, folder=tmp_path)
    pairs = trainer.val_loader.dataset
    draw = Draw(0, 0, (0, 1, 2))
    read = pairs.store.read(pairs.store.find(pairs, pairs.shots(draw))).float()
    plain = PairDataset(tables[1], trainer.model.preprocessing, 10**6)
    with torch.no_grad():
        computed = trainer.model.encode(plain[draw].images)
    for name, precision in (("cls", 2**-8), ("patches", 2**-8), ("picture", 2**-10)):
        expected = getattr(computed, name)
        assert_close(getattr(read, name), expected, rtol=precision, atol=1e-5)
    assert read.patches.std() > 0.1 and read.picture.std() > 0.1


# -- once --------------------------------------------------------------------------------------


def test_each_picture_is_encoded_once_and_the_epochs_open_none(tables, tmp_path, monkeypatch):
    trainer = trainer_of(tables, folder=tmp_path)
    assert trainer.encoded == [1] * PICTURES

    def refuse(*_args):
        raise AssertionError("a picture was opened")

    monkeypatch.setattr("partloc.data.dataset.load_rgb", refuse)
    for trainer.epoch in range(3):
        trainer.train_epoch()
        trainer.validate()
    assert len(trainer.encoded) == PICTURES


def test_a_training_with_another_head_rate_or_split_encodes_nothing(tables, tmp_path):
    trainer_of(tables, folder=tmp_path)
    config = frozen(model={"mlp_hidden_dim": 32}, train={"learning_rate": 2e-4, "batch_size": 3})
    assert trainer_of(tables, config, tmp_path).encoded == []

    fewer = object.__new__(PairTable)
    split = tables[0].data_dir.parent / "outputs" / "split"
    fewer.__init__(read_manifest(split / "train.csv").query("model != 'chair'"), tables[0].data_dir)
    assert trainer_of((fewer, tables[1]), folder=tmp_path).encoded == []


def test_what_tokens_depend_on_tells_files_apart(tables):
    def digest_of(precision=None, seed=0, **groups):
        config = frozen(**groups).model_copy(update={"seed": seed})
        return encoder_digest(make_trainer(config, *tables).model, precision)

    plain = digest_of()
    assert plain == digest_of(model={"dropout": 0.5, "cross_attention_layers": 2})
    others = [
        digest_of(seed=1),  # other random weights
        digest_of(data={"image_size": 42}),
        digest_of(model={"match_size": 9}),
        digest_of(precision=torch.bfloat16),
    ]
    finer = {"data": {"image_size": 56}}
    others += [digest_of(**finer), digest_of(**finer, model={"downsample_size": 3})]
    assert len({plain, *others}) == 1 + len(others)


def test_the_store_of_a_training_lies_beside_the_state_of_all_trainings(tmp_path):
    split = write_split(tmp_path)
    config = frozen(data={"data_dir": str(tmp_path / "images")}, train={"num_epochs": 1})
    root = tmp_path / "runs" / "train"
    run_training(config, ALONE, split, root, True, lambda trainer: None)
    assert file_in(tmp_path / "runs" / "tokens").stat().st_size > 0


# -- augmentation ------------------------------------------------------------------------------


def test_epochs_take_turns_with_the_variants(tables):
    config = frozen()
    pairs = make_trainer(config, *tables).train_loader.dataset
    shown = [pairs[Draw(epoch, 7 * epoch, (0, 1))].images for epoch in range(4)]
    assert torch.equal(shown[0], shown[2]) and torch.equal(shown[1], shown[3])
    assert not torch.allclose(shown[0], shown[1], atol=0.01)
    thawed = make_trainer(frozen(train={"freeze_backbone": False}), *tables).train_loader.dataset
    fresh = [thawed[Draw(epoch, 7 * epoch, (0, 1))].images for epoch in (0, 2)]
    assert not torch.allclose(*fresh, atol=0.01)


def test_a_variant_s_light_is_shared_by_a_whole_and_its_parts_but_not_by_all_wholes(tables):
    table = tables[0]
    pairs = make_trainer(frozen(), *tables).train_loader.dataset
    lights = [
        {shot.light for shot in pairs.shots(Draw(0, 0, tuple(rows)))}
        for rows in table.rows_of_models()
    ]
    assert [len(light) for light in lights] == [1, 1, 1]
    assert len(set.union(*lights)) == 3
    cameras = [shot.camera for shot in pairs.shots(Draw(0, 0, (0, 1)))]
    assert len(set(cameras)) == len(cameras)


def test_no_more_variants_are_kept_than_there_are_epochs_or_changes(tables, tmp_path):
    once = frozen(train={"num_epochs": 1, "cached_variants": 5})
    assert len(trainer_of(tables, once, tmp_path / "once").encoded) == 11 + 3
    still = frozen(augment=STILL, train={"num_epochs": 9, "cached_variants": 5})
    assert len(trainer_of(tables, still, tmp_path / "still").encoded) == 11 + 3


# -- interrupted, damaged, shared --------------------------------------------------------------


def test_an_interrupted_filling_goes_on_with_what_is_complete(tables, tmp_path):
    whole = trainer_of(tables, folder=tmp_path / "whole")
    trainer = trainer_of(tables)

    def stop(_module, _inputs):
        if len(trainer.encoded) == 5:
            raise KeyboardInterrupt

    trainer.model.backbone.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.use_store(tmp_path / "part")
    with file_in(tmp_path / "part").open("ab") as file:  # a row that was being written
        file.write(bytes(100))
    again = trainer_of(tables, folder=tmp_path / "part")
    assert len(again.encoded) == PICTURES - 5
    assert rows_in(tmp_path / "part", again) == rows_in(tmp_path / "whole", whole)


def test_damaged_rows_and_lost_ones_are_told_and_computed_again(tables, tmp_path, capsys):
    first = trainer_of(tables, folder=tmp_path)
    expected, path = rows_in(tmp_path, first), file_in(tmp_path)
    size = path.stat().st_size // PICTURES
    with path.open("r+b") as file:
        file.seek(3 * size + size // 2)
        (byte,) = file.read(1)
        file.seek(3 * size + size // 2)
        file.write(bytes([byte ^ 1]))
        file.truncate((PICTURES - 2) * size + 1)
    capsys.readouterr()
    again = trainer_of(tables, folder=tmp_path)
    assert len(again.encoded) == 3
    told = capsys.readouterr().err
    assert f"{path}: 1 damaged rows are left out" in told
    assert f"tokens of {PICTURES - 3} of {PICTURES} pictures are in {path}; 3 to compute" in told
    assert expected < rows_in(tmp_path, again)
    assert trainer_of(tables, folder=tmp_path).encoded == []


def test_a_file_of_something_else_is_left_out_row_by_row(tables, tmp_path):
    path = TokenStore(tmp_path, make_trainer(frozen(), *tables).model, None).path
    path.write_bytes(np.random.default_rng(0).bytes(50_000))
    assert len(trainer_of(tables, folder=tmp_path).encoded) == PICTURES


def test_two_that_fill_the_same_file_share_the_work(tables, tmp_path):
    """The second comes while the first computes its fourth picture."""
    first, second = trainer_of(tables), trainer_of(tables)

    def come(_module, _inputs):
        if len(first.encoded) == 3 and not second.encoded:
            second.use_store(tmp_path)

    first.model.backbone.register_forward_pre_hook(come)
    first.use_store(tmp_path)
    assert len(second.encoded) == PICTURES - 3
    assert len(first.encoded) == 4
    assert len(rows_in(tmp_path, first)) == PICTURES
    assert first.train_epoch() == second.train_epoch()


def test_a_resumed_training_ends_with_the_same_weights(tables, tmp_path):
    def config(epochs):
        return frozen(model={"dropout": 0.3}, train={"num_epochs": epochs})

    straight = trainer_of(tables, config(3), tmp_path / "straight")
    straight.fit(RunFolder(tmp_path, "a" * 16))
    folder = RunFolder(tmp_path, "b" * 16)
    for stop in (1, 3):
        resumed = trainer_of(tables, config(3))
        if state := folder.load_state():
            resumed.model.load_state_dict(state["model"])
            resumed.restore(state)
        resumed.use_store(tmp_path / "resumed")
        resumed.config = config(stop)
        resumed.fit(folder)
    assert resumed.encoded == []
    assert resumed.history == straight.history
    for key, expected in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], expected), key


# -- what stops it -----------------------------------------------------------------------------


def test_too_little_room_is_told_before_anything_is_computed(tables, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9 - 10, 10))
    trainer = trainer_of(tables)
    with pytest.raises(OSError, match=rf"tokens of {PICTURES} pictures need 0\.\d+ GB, 0\.00 GB"):
        trainer.use_store(tmp_path)
    assert trainer.encoded == []


def test_a_picture_that_is_not_the_one_that_was_indexed_is_refused(tmp_path):
    split = write_split(tmp_path)
    tables = [
        PairTable(read_manifest(split / f"{name}.csv"), tmp_path / "images")
        for name in ("train", "val")
    ]
    shutil.copy(tmp_path / "images/lamp/lamp-whole.png", tmp_path / "images/lamp/lamp-foot.png")
    with pytest.raises(ValueError, match=r"lamp-foot\.png: expected the picture that was indexed"):
        trainer_of(tables, folder=tmp_path / "tokens")


def test_an_augmentation_shows_one_picture_as_it_shows_it_beside_others(tables):
    """The store is filled picture by picture."""
    config = frozen()
    pairs = make_trainer(config, *tables).train_loader.dataset
    assert isinstance(pairs.augmentation, Augmentation)
    shots = pairs.shots(Draw(1, 0, (0, 1)))
    together = pairs.show(shots)
    for shot, image in zip(shots, together, strict=True):
        assert torch.equal(pairs.show([shot])[0], image)
