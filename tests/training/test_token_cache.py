"""The token cache of a frozen encoder: computed once, equal results, safe on the disk."""

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from toys import SINGLE_PROCESS, make_trainer, randomize_output_layers, tiny_config, write_split

from partloc.config import Config
from partloc.data.dataset import PairDataset
from partloc.data.sampler import SampleKey
from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.training.run import run_training
from partloc.training.run_folder import RunFolder
from partloc.training.token_cache import TokenCache, token_cache_digest
from partloc.training.trainer import Trainer

# 4 wholes, and 3 + 3 + 2 + 2 different parts.
NUM_IMAGES = 16  # distinct images of the toys: wholes and parts without equal twins


def frozen_config(**groups: dict) -> Config:
    train = {"freeze_backbone": True, "learning_rate": 1e-3} | groups.pop("train", {})
    model = {"match_size": 8, "hypotheses": 2} | groups.pop("model", {})
    return tiny_config(model=model, train=train, **groups)


def make_frozen_trainer(tables, config=None, folder: Path | None = None) -> Trainer:
    """A trainer whose `encoded` lists the batch sizes of its encoder; with a cache in `folder`."""
    trainer = make_trainer(config or frozen_config(), *tables)
    torch.manual_seed(1)
    randomize_output_layers(trainer.model)
    trainer.encoded = []
    trainer.model.encoder.backbone.register_forward_hook(
        lambda _module, inputs, _outputs: trainer.encoded.append(len(inputs[0]))
    )
    if folder:
        trainer.use_token_cache(folder)
    return trainer


def cache_file(folder: Path) -> Path:
    (path,) = folder.glob("*.tokens")
    return path


def read_rows(folder: Path, trainer: Trainer) -> set[bytes]:
    size = TokenCache(folder, trainer.model, trainer.dtype).row_dtype.itemsize
    data = cache_file(folder).read_bytes()
    assert len(data) % size == 0
    return {data[start : start + size] for start in range(0, len(data), size)}


# -- equal results -----------------------------------------------------------------------------


@pytest.mark.parametrize("match_size", [0, 8])
def test_training_from_the_cache_equals_training_from_images(tables, tmp_path, match_size):
    config = frozen_config(model={"match_size": match_size})
    results = []
    for folder in (None, tmp_path):
        trainer = make_frozen_trainer(tables, config, folder)
        for group in trainer.optimizer.param_groups:
            group["eps"] = 1e-4  # AdamW makes full steps of gradients that are only rounding
        metrics = []
        for trainer.state.epoch in range(2):
            metrics += [*trainer.train_epoch().values(), *trainer.validate().values()]
        results.append((metrics, trainer.model.state_dict()))
    (expected, weights), (found, others) = results
    assert found == pytest.approx(expected, rel=1e-4)
    start = make_frozen_trainer(tables, config).model.state_dict()
    for key, weight in weights.items():
        change = (weight - start[key]).abs().max()
        assert (weight - others[key]).abs().max() <= 0.01 * change + 1e-6, key
    assert any(not torch.equal(weights[key], start[key]) for key in weights)


def test_a_row_holds_the_tokens_of_its_image(tables, tmp_path):
    trainer = make_frozen_trainer(tables, folder=tmp_path)
    pairs, key = trainer.val_loader.dataset, SampleKey(0, 0, (0, 1, 2))
    read = pairs.cache.read(pairs[key].images).float()
    images = PairDataset(tables[1], trainer.model.preprocessing, 10**6)[key].images
    with torch.no_grad():
        computed = trainer.model.encode(images)
    for name, precision in (("tokens", 2**-8), ("image", 2**-10)):
        expected = getattr(computed, name)
        assert_close(getattr(read, name), expected, rtol=precision, atol=1e-5)
    assert read.tokens.std() > 0.1 and read.image.std() > 0.1


# -- computed once -----------------------------------------------------------------------------


def test_each_image_is_encoded_once_and_no_epoch_opens_one(tables, tmp_path, monkeypatch):
    trainer = make_frozen_trainer(tables, folder=tmp_path)
    assert trainer.encoded == [1] * NUM_IMAGES

    def fail(*_args):
        raise AssertionError("an image was opened")

    monkeypatch.setattr("partloc.data.dataset.load_image", fail)
    for trainer.state.epoch in range(3):
        trainer.train_epoch()
        trainer.validate()
    assert len(trainer.encoded) == NUM_IMAGES


def test_another_head_learning_rate_augmentation_or_split_encodes_nothing(tables, tmp_path):
    first = make_frozen_trainer(tables, folder=tmp_path)
    train = {"learning_rate": 2e-4, "batch_size": 3, "augmentation": "light"}
    changed = frozen_config(model={"mlp_hidden_dim": 32}, train=train)
    assert make_frozen_trainer(tables, changed, tmp_path).encoded == []

    split = tables[0].data_dir.parent / "outputs" / "split"
    fewer = read_manifest(split / "train.csv").query("model != 'chair'")
    fewer_table = PairTable(fewer, tables[0].data_dir)
    other = make_frozen_trainer((fewer_table, tables[1]))
    other.model.set_camera(first.model.pinhole_camera)
    other.use_token_cache(tmp_path)
    assert other.encoded == []


def test_the_file_depends_on_everything_that_the_tokens_depend_on(tables):
    def compute_digest(dtype=None, seed=0, **groups):
        config = frozen_config(**groups).model_copy(update={"seed": seed})
        return token_cache_digest(make_trainer(config, *tables).model, dtype)

    original = compute_digest()
    assert original == compute_digest(model={"dropout": 0.5, "cross_attention_layers": 2})
    larger = {"data": {"image_size": 56}}
    others = [
        compute_digest(seed=1),  # other random weights
        compute_digest(data={"image_size": 42}),
        compute_digest(model={"match_size": 9}),
        compute_digest(dtype=torch.bfloat16),
        compute_digest(**larger),
        compute_digest(**larger, model={"downsample_size": 3}),
    ]
    assert len({original, *others}) == 1 + len(others)


def test_the_cache_is_beside_the_states_of_all_trainings(tmp_path):
    split = write_split(tmp_path)
    config = frozen_config(data={"data_dir": str(tmp_path / "images")}, train={"num_epochs": 1})
    root = tmp_path / "runs" / "train"
    run_training(config, SINGLE_PROCESS, split, root, True, lambda trainer: None)
    assert cache_file(tmp_path / "runs" / "tokens").stat().st_size > 0


# -- interruption, damage, concurrency ---------------------------------------------------------


def test_an_interrupted_filling_resumes_after_the_last_complete_row(tables, tmp_path):
    complete = make_frozen_trainer(tables, folder=tmp_path / "complete")
    trainer = make_frozen_trainer(tables)

    def interrupt(_module, _inputs):
        if len(trainer.encoded) == 5:
            raise KeyboardInterrupt

    trainer.model.encoder.backbone.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.use_token_cache(tmp_path / "partial")
    with cache_file(tmp_path / "partial").open("ab") as file:  # an incomplete row
        file.write(bytes(100))
    resumed = make_frozen_trainer(tables, folder=tmp_path / "partial")
    assert len(resumed.encoded) == NUM_IMAGES - 5
    assert read_rows(tmp_path / "partial", resumed) == read_rows(tmp_path / "complete", complete)


def test_lost_rows_are_computed_again(tables, tmp_path, capsys):
    first = make_frozen_trainer(tables, folder=tmp_path)
    expected, path = read_rows(tmp_path, first), cache_file(tmp_path)
    size = path.stat().st_size // NUM_IMAGES
    with path.open("r+b") as file:
        file.truncate((NUM_IMAGES - 2) * size + 1)
    capsys.readouterr()
    again = make_frozen_trainer(tables, folder=tmp_path)
    assert len(again.encoded) == 2
    count = f"tokens of {NUM_IMAGES - 2} of {NUM_IMAGES} images"
    assert f"{count} are in {path}; 2 to compute" in capsys.readouterr().err
    assert read_rows(tmp_path, again) == expected
    assert make_frozen_trainer(tables, folder=tmp_path).encoded == []


def test_a_damaged_row_is_found_when_it_is_used_and_computed_by_the_next_run(tables, tmp_path):
    first = make_frozen_trainer(tables, folder=tmp_path)
    expected, path = read_rows(tmp_path, first), cache_file(tmp_path)
    size = path.stat().st_size // NUM_IMAGES
    with path.open("r+b") as file:
        file.seek(3 * size + size // 2)
        (byte,) = file.read(1)
        file.seek(3 * size + size // 2)
        file.write(bytes([byte ^ 1]))
    damaged = make_frozen_trainer(tables, folder=tmp_path)
    assert damaged.encoded == []  # opening the cache compares no checksum
    with pytest.raises(OSError, match=f"{path.name}: the tokens of an image .* run again"):
        for _ in range(2):
            damaged.train_epoch()
        damaged.validate()
    again = make_frozen_trainer(tables, folder=tmp_path)
    assert len(again.encoded) == 1
    assert expected <= read_rows(tmp_path, again)


def test_opening_a_cache_reads_little_of_it(tables, tmp_path, monkeypatch):
    make_frozen_trainer(tables, folder=tmp_path)
    checked = []
    monkeypatch.setattr("partloc.training.token_cache._checksum", checked.append)
    assert make_frozen_trainer(tables, folder=tmp_path).encoded == []
    assert not checked


def test_a_file_of_other_content_is_ignored_row_by_row(tables, tmp_path):
    path = TokenCache(tmp_path, make_trainer(frozen_config(), *tables).model, None).path
    path.write_bytes(np.random.default_rng(0).bytes(50_000))
    assert len(make_frozen_trainer(tables, folder=tmp_path).encoded) == NUM_IMAGES


def test_two_trainings_that_fill_the_same_file_share_the_work(tables, tmp_path):
    """The second one starts while the first one computes its fourth image."""
    first, second = make_frozen_trainer(tables), make_frozen_trainer(tables)

    def start_second(_module, _inputs):
        if len(first.encoded) == 3 and not second.encoded:
            second.use_token_cache(tmp_path)

    first.model.encoder.backbone.register_forward_pre_hook(start_second)
    first.use_token_cache(tmp_path)
    assert len(second.encoded) == NUM_IMAGES - 3
    assert len(first.encoded) == 4
    assert len(read_rows(tmp_path, first)) == NUM_IMAGES
    assert first.train_epoch() == second.train_epoch()


def test_a_resumed_training_ends_with_the_same_weights(tables, tmp_path):
    def config_of(num_epochs: int) -> Config:
        return frozen_config(model={"dropout": 0.3}, train={"num_epochs": num_epochs})

    uninterrupted = make_frozen_trainer(tables, config_of(3), tmp_path / "uninterrupted")
    uninterrupted.fit(RunFolder(tmp_path, "a" * 16))
    folder = RunFolder(tmp_path, "b" * 16)
    for num_epochs in (1, 3):
        resumed = make_frozen_trainer(tables, config_of(3))
        if state := folder.load_state():
            resumed.model.load_state_dict(state["model"])
            resumed.state.restore(state)
        resumed.use_token_cache(tmp_path / "resumed")
        resumed.state.config = config_of(num_epochs).train
        resumed.fit(folder)
    assert resumed.encoded == []
    assert resumed.state.history == uninterrupted.state.history
    for key, expected in uninterrupted.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], expected), key


# -- errors ------------------------------------------------------------------------------------


def test_a_full_disk_is_reported_before_anything_is_computed(tables, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9 - 10, 10))
    trainer = make_frozen_trainer(tables)
    message = rf"tokens of {NUM_IMAGES} images need 0\.\d+ GB, 0\.00 GB"
    with pytest.raises(OSError, match=message):
        trainer.use_token_cache(tmp_path)
    assert trainer.encoded == []


def test_an_image_that_changed_since_it_was_indexed_is_refused(tmp_path):
    split = write_split(tmp_path)
    tables = [
        PairTable(read_manifest(split / f"{name}.csv"), tmp_path / "images")
        for name in ("train", "val")
    ]
    shutil.copy(tmp_path / "images/lamp/lamp-whole.png", tmp_path / "images/lamp/lamp-foot.png")
    with pytest.raises(ValueError, match=r"lamp-foot\.png: expected the image that was indexed"):
        make_frozen_trainer(tables, folder=tmp_path / "tokens")
