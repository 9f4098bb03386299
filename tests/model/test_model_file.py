"""Files that survive: kills, damage, foreign content, a full disk, a second trainer."""

import os
import resource
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from toys import tiny_config

from partloc.config import load_config
from partloc.data.transforms import Preprocessing
from partloc.files import CheckpointError, load_tensors, save_tensors
from partloc.model.depth_net import load_depth_net
from partloc.model.locator import PartLocator
from partloc.model.model_file import MODEL_FORMAT, load_model, save_model, start_from

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PartLocator(tiny_config().model, Preprocessing(28, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# -- one file ----------------------------------------------------------------------------------


def test_a_model_file_rebuilds_the_network_with_nothing_else(model, tmp_path):
    save_model(tmp_path / "model.pth", model, {"best_epoch": 3})
    again = load_model(tmp_path / "model.pth")
    assert not again.training
    assert again.preprocessing == model.preprocessing
    images = torch.randn(3, 3, 28, 28)
    with torch.inference_mode():
        expected = model.eval()(images[:1], images[1:], torch.tensor([0, 0])).pose
        found = again(images[:1], images[1:], torch.tensor([0, 0])).pose
    assert_close(found.translation, expected.translation, rtol=0, atol=0)
    assert_close(found.scale, expected.scale, rtol=0, atol=0)


def test_no_encoder_is_drawn_at_chance_before_a_file_s_is_taken(model, tmp_path):
    save_model(tmp_path / "model.pth", model, {})

    def chance_after(make):
        torch.manual_seed(0)
        make()
        return torch.rand(()).item()

    drawn, blank = (
        chance_after(lambda blank=blank: PartLocator(model.config, model.preprocessing, blank))
        for blank in (False, True)
    )
    assert chance_after(lambda: load_model(tmp_path / "model.pth")) == blank != drawn


def test_weights_in_half_precision_are_computed_with_in_full(model, tmp_path):
    save_model(tmp_path / "model.pth", model, {}, half=True)
    kinds = {value.dtype for value in load_model(tmp_path / "model.pth").state_dict().values()}
    assert kinds == {torch.float32}


def test_a_depth_network_that_comes_with_the_code_is_not_written_again(model, tmp_path):
    path = tmp_path / "model.pth"
    save_model(path, model, {}, half=True)
    assert not any(key.startswith("depth_net.") for key in load_tensors(path)["weights"])
    found, theirs = load_model(path).depth_net.state_dict(), load_depth_net().state_dict()
    assert all(torch.equal(found[key], value) for key, value in theirs.items())

    weight = next(model.depth_net.parameters())
    with torch.no_grad():
        weight.add_(1.0)
    save_model(path, model, {}, half=True)
    kept = next(load_model(path).depth_net.parameters())
    assert_close(kept, weight, atol=1e-2, rtol=0)


def test_weights_made_beside_another_depth_network_are_refused(model, tmp_path):
    path = tmp_path / "model.pth"
    save_model(path, model, {}, half=True)
    content = load_tensors(path)
    save_tensors(path, content | {"depth_net": "0" * 64})
    with pytest.raises(CheckpointError, match=r"model.pth: expected depth.pth of SHA-256 0000"):
        load_model(path)


def test_the_bytes_of_a_model_file_do_not_depend_on_its_name(model, tmp_path):
    names = ("a.pth", "a-longer-name.pth", "other/model.bin")
    for name in names:
        save_model(tmp_path / name, model, {})
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1


@pytest.mark.parametrize("damage", [cut, flip_a_bit, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "file.pth"
    save_tensors(path, {"weights": torch.randn(1000)})
    damage(path)
    with pytest.raises(CheckpointError, match="file.pth: not a readable checkpoint"):
        load_tensors(path)


def test_the_error_for_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.pth: no such file; train it \(dvc repro\)"):
        load_tensors(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("content", "found"),
    [({"format": "other"}, "'other'"), ({"w": 1}, "None"), ([1], "'list'")],
)
def test_a_foreign_file_is_refused_with_its_format(tmp_path, content, found):
    path = tmp_path / "foreign.pth"
    save_tensors(path, content)
    with pytest.raises(CheckpointError, match=f"expected a {MODEL_FORMAT} file, found .*{found}"):
        load_model(path)


def test_a_file_of_an_older_format_names_both_formats(tmp_path):
    path = tmp_path / "old.pth"
    save_tensors(path, {"format": "partloc-model-7"})
    with pytest.raises(CheckpointError, match=f"old.pth: .*partloc-model-7.*{MODEL_FORMAT}"):
        load_model(path)


def test_a_file_cannot_execute_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "harm"),)

    torch.save({"format": MODEL_FORMAT, "model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(
        CheckpointError, match="evil.pth: .* it holds more than tensors and plain values"
    ):
        load_model(tmp_path / "evil.pth")
    assert not (tmp_path / "harm").exists()


def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.pth"
    save_tensors(path, {"value": 1})

    def interrupted(*_args):
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                save_tensors(path, {"value": 2})
        assert load_tensors(path) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.pth"]


def test_a_full_disk_leaves_the_old_file_and_names_the_new_one(tmp_path):
    path = tmp_path / "file.pth"
    save_tensors(path, {"value": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="file.pth: cannot be written: .*File too large"):
            save_tensors(path, {"value": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_tensors(path) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.pth"]


# -- weights to start from ---------------------------------------------------------------------


@pytest.fixture
def weights(model, tmp_path):
    """A model file in half precision, with its checksum."""
    save_model(tmp_path / "weights.pth", model, {}, half=True)
    return tmp_path / "weights.pth"


def other_model(image_size=28, **changes):
    torch.manual_seed(1)
    return PartLocator(tiny_config(model=changes).model, Preprocessing(image_size))


def test_a_model_starts_with_the_weights_of_another_to_half_precision(model, weights, tmp_path):
    save_model(tmp_path / "whole.pth", model, {})
    assert weights.stat().st_size < 0.6 * (tmp_path / "whole.pth").stat().st_size
    initialized = other_model()
    start_from(initialized, weights)
    for name, value in model.state_dict().items():
        assert_close(initialized.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert all(value.dtype == torch.float32 for value in initialized.state_dict().values())


def test_a_model_for_larger_images_starts_from_the_same_weights(model, weights):
    initialized = other_model(image_size=56)
    start_from(initialized, weights)
    table = initialized.encoder.backbone.vit.pos_embed
    assert table.shape[1] == 1 + 4 * 4
    assert_close(table[:, :1], model.encoder.backbone.vit.pos_embed[:, :1], rtol=1e-3, atol=1e-6)
    middle = model.encoder.backbone.vit.pos_embed[:, 1:].mean(1)
    assert_close(table[:, 1:].mean(1), middle, rtol=0, atol=2e-3)


def test_weights_of_another_architecture_are_refused_with_the_keys_that_differ(weights):
    with pytest.raises(CheckpointError, match="model.mlp_hidden_dim: 16 there, 32 here"):
        start_from(other_model(mlp_hidden_dim=32), weights)


def test_the_shipped_weights_fit_the_demo_and_are_small():
    config = load_config(ROOT / "params.yaml")
    path = ROOT / config.model.start_from
    assert path.stat().st_size < 16e6
    start_from(PartLocator(config.model, Preprocessing.from_config(config.data)), path)


def test_weights_that_do_not_match_their_checksum_are_refused(model, weights):
    save_model(weights, other_model(), {})  # without a new checksum
    with pytest.raises(CheckpointError, match="not the file that weights.sha256 was written for"):
        start_from(other_model(), weights)
    weights.with_suffix(".sha256").unlink()
    start_from(other_model(), weights)  # a file of the user's own has none
