"""A model file rebuilds the network, and a file of another kind gives a clear error."""

import os
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from toys import randomize_output_layers, tiny_config

from partloc.config import Config, load_config
from partloc.data.transforms import Preprocessing
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.model.model_file import (
    CONTENT_TYPES,
    MODEL_FORMAT,
    POSITION_TABLE,
    load_model,
    save_model,
    start_from,
)
from partloc.system.files import CheckpointError, save_tensors

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> PartLocator:
    torch.manual_seed(0)
    return build_locator(
        tiny_config().model, Preprocessing(28, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    )


# -- save and load -----------------------------------------------------------------------------


def test_a_model_file_rebuilds_the_network_with_nothing_else(model, tmp_path):
    save_model(tmp_path / "model.pth", model, {"best_epoch": 3})
    loaded = load_model(tmp_path / "model.pth")
    assert not loaded.training
    assert loaded.preprocessing == model.preprocessing
    images = torch.randn(3, 3, 28, 28)
    with torch.inference_mode():
        expected = model.eval()(images[:1], images[1:], torch.tensor([0, 0])).pose
        found = loaded(images[:1], images[1:], torch.tensor([0, 0])).pose
    assert_close(found.translation, expected.translation, rtol=0, atol=0)
    assert_close(found.scale, expected.scale, rtol=0, atol=0)


def test_loading_does_not_initialize_the_backbone_at_random(model, tmp_path):
    save_model(tmp_path / "model.pth", model, {})

    def random_after(build):
        torch.manual_seed(0)
        build()
        return torch.rand(()).item()

    initialized, blank = (
        random_after(lambda blank=blank: build_locator(model.config, model.preprocessing, blank))
        for blank in (False, True)
    )
    assert random_after(lambda: load_model(tmp_path / "model.pth")) == blank != initialized


def test_weights_in_half_precision_are_loaded_in_single_precision(model, tmp_path):
    save_model(tmp_path / "model.pth", model, {}, half=True)
    dtypes = {value.dtype for value in load_model(tmp_path / "model.pth").state_dict().values()}
    assert dtypes == {torch.float32}


def test_the_bytes_of_a_model_file_do_not_depend_on_its_name(model, tmp_path):
    names = ("a.pth", "a-longer-name.pth", "other/model.bin")
    for name in names:
        save_model(tmp_path / name, model, {})
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1


@pytest.mark.parametrize(
    ("content", "found"),
    [({"format": "other"}, "'other'"), ({"w": 1}, "None"), ([1], "'list'")],
)
def test_the_error_for_a_foreign_file_gives_its_format(tmp_path, content, found):
    path = tmp_path / "foreign.pth"
    save_tensors(path, content)
    with pytest.raises(CheckpointError, match=f"expected a {MODEL_FORMAT} file, found .*{found}"):
        load_model(path)


@pytest.mark.parametrize(
    ("found", "writer"),
    [("partloc-model-7", "partloc 0.1.0"), ("partloc-model-99", "another version of partloc")],
)
def test_the_error_for_another_format_gives_both_formats_and_the_version(tmp_path, found, writer):
    path = tmp_path / "old.pth"
    save_tensors(path, {"format": found})
    message = rf"old.pth: format {found}, written by {writer}; expected {MODEL_FORMAT}; train again"
    for load in (load_model, lambda path: start_from(other_model(), path)):
        with pytest.raises(CheckpointError, match=message):
            load(path)


def test_a_file_cannot_execute_code(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "executed"),)

    torch.save({"format": MODEL_FORMAT, "model": Malicious()}, tmp_path / "malicious.pth")
    with pytest.raises(
        CheckpointError, match="malicious.pth: .* it holds more than tensors and plain values"
    ):
        load_model(tmp_path / "malicious.pth")
    assert not (tmp_path / "executed").exists()


NAN, HUGE = float("nan"), 10**12
WIDTH = "pose_head.hidden.1.weight"
# Changes of the content of a model file, by path.
TAMPERINGS = [
    *[((name,), value) for name in CONTENT_TYPES for value in (3, [], "text")],
    *[((name,), {}) for name in ("model", "preprocessing", "weights")],
    *[(("model", key), value) for key in ("mlp_hidden_dim", "match_size") for value in (-1, "a")],
    (("model", "mlp_hidden_dim"), HUGE),
    (("model", "mlp_hidden_dim"), 17),
    (("model", "cross_attention_dim"), 64 * HUGE),
    (("model", "cross_attention_dim"), 28),
    (("model", "match_size"), 0),
    (("model", "depth_maps"), False),
    (("model", "hypotheses"), NAN),
    (("model", "backbone_name"), "dinov2_vits14"),
    (("model", "unknown"), 1),
    (("model", 3), 1),
    *[(("preprocessing", "image_size"), value) for value in (0, -28, 28.0, HUGE, 42, True, None)],
    *[(("preprocessing", "read_size"), value) for value in (0, HUGE, NAN)],
    *[(("preprocessing", "mean"), value) for value in ((NAN, 0.0, 0.0), (0.0,), "abc", 1.0)],
    *[(("preprocessing", "std"), value) for value in ((0.0, 1.0, 1.0), (-1.0, 1.0, 1.0))],
    (("preprocessing", "unknown"), 1),
    (("weights", "unknown"), torch.zeros(1)),
    (("weights", 3), torch.zeros(1)),
    *[(("weights", WIDTH), value) for value in (None, 1.0, [1.0], torch.zeros(16))],
    (("weights", WIDTH), torch.zeros(1).expand(10**6, 10**6)),
    (("weights", WIDTH), torch.zeros(16, 16, dtype=torch.complex64)),
    (("weights", WIDTH), torch.zeros(16, 16, dtype=torch.int64)),
    (("weights", WIDTH), torch.zeros(16, 16).to_sparse()),
    (("weights", WIDTH), torch.quantize_per_tensor(torch.zeros(16, 16), 0.1, 0, torch.qint8)),
    (("weights", WIDTH), torch.zeros(16, 16, device="meta")),
    (("weights", POSITION_TABLE), torch.zeros(1, 5, 191)),
    (("weights", POSITION_TABLE), torch.zeros(5)),
]


@pytest.fixture(scope="module")
def content() -> dict:
    """The content of a model file."""
    model = other_model()
    content = {"format": MODEL_FORMAT, "depth_net": None, "info": {}}
    preprocessing = asdict(model.preprocessing)
    weights = {key: value.half() for key, value in model.state_dict().items()}
    return content | {
        "model": model.config.model_dump(),
        "preprocessing": preprocessing,
        "weights": weights,
    }


def change(content: dict, keys: tuple, value: object) -> dict:
    """A copy with one changed value."""
    key, *rest = keys
    return content | {key: change(content[key], tuple(rest), value) if rest else value}


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize(("keys", "value"), TAMPERINGS)
def test_a_file_with_one_wrong_value_is_refused_as_a_whole(content, tmp_path, keys, value):
    path = tmp_path / "model.pth"
    torch.save(change(content, keys, value), path)
    with pytest.raises(CheckpointError, match=f"^{path}: ") as caught:
        load_model(path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_every_tensor_is_needed_and_must_be_finite(content, tmp_path):
    path, initialized = tmp_path / "model.pth", other_model()
    for key in [*content["weights"]][::19]:
        missing = {k: v for k, v in content["weights"].items() if k != key}
        damaged = content["weights"][key].clone()
        damaged.view(-1)[-1] = float("inf")
        for weights in (missing, content["weights"] | {key: damaged}):
            torch.save(content | {"weights": weights}, path)
            for load in (load_model, partial(start_from, initialized)):
                with pytest.raises(CheckpointError, match=f"^{path}: .*{re.escape(key)}"):
                    load(path)


# -- start from a model file -------------------------------------------------------------------


@pytest.fixture
def weights(model, tmp_path) -> Path:
    """A model file in half precision, with its checksum."""
    save_model(tmp_path / "weights.pth", model, {}, half=True)
    return tmp_path / "weights.pth"


def other_model(image_size: int = 28, **changes) -> PartLocator:
    torch.manual_seed(1)
    return build_locator(tiny_config(model=changes).model, Preprocessing(image_size))


def test_a_model_starts_with_the_weights_rounded_to_half_precision(model, weights, tmp_path):
    save_model(tmp_path / "single.pth", model, {})
    assert weights.stat().st_size < 0.6 * (tmp_path / "single.pth").stat().st_size
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
    mean = model.encoder.backbone.vit.pos_embed[:, 1:].mean(1)
    assert_close(table[:, 1:].mean(1), mean, rtol=0, atol=2e-3)


def test_the_error_for_another_architecture_names_the_keys_that_differ(weights):
    message = "model.mlp_hidden_dim: 16 in the file, 32 configured"
    with pytest.raises(CheckpointError, match=message):
        start_from(other_model(mlp_hidden_dim=32), weights)


def test_the_shipped_weights_fit_the_demo_and_are_small():
    config = load_config(ROOT / "params.yaml")
    path = ROOT / config.model.start_from
    assert path.stat().st_size < 16e6
    start_from(build_locator(config.model, Preprocessing.from_config(config.data)), path)


def test_another_encoder_inherits_everything_behind_it(tmp_path):
    """The first predictions are nearly those of the file without its encoder. Training can use the
    tokens from the first step on."""
    small = other_model()
    randomize_output_layers(small)
    torch.nn.init.normal_(small.cross_attention.output[-1].weight)
    save_model(tmp_path / "small.pth", small, {})
    large = other_model(backbone_name="dinov2_vits14")
    assert not start_from(large, tmp_path / "small.pth")
    images = torch.randn(3, 3, 28, 28)
    pairs = images[:1], images[1:], torch.tensor([0, 0])
    found = large.eval()(*pairs)
    with_tokens = small.eval()(*pairs)
    torch.nn.init.zeros_(small.token_gate)
    expected = small(*pairs)
    for name in ("translation", "scale"):
        known, faint, none = (
            getattr(prediction.hypotheses, name) for prediction in (with_tokens, found, expected)
        )
        assert (faint - none).abs().max() < 0.1 * (known - none).abs().max()
    found.log_weight[:, 0].sum().backward()
    assert large.token_gate.grad.any()


@pytest.mark.parametrize("backbone", ["dinov2_vits14", "dinov2_vitt14"])
def test_the_full_size_configuration_inherits_the_shipped_weights(backbone):
    changes = {"backbone_name": backbone, "pretrained": False}
    config = Config().model.model_copy(update=changes)
    model = build_locator(config, Preprocessing(224))
    inherited = start_from(model, ROOT / config.start_from)
    assert inherited == (backbone == "dinov2_vitt14")
    assert model.has_camera


def test_weights_that_do_not_match_their_checksum_are_refused(model, weights):
    save_model(weights, other_model(), {})  # without a new checksum
    with pytest.raises(CheckpointError, match="not the file that weights.sha256 was written for"):
        start_from(other_model(), weights)
    weights.with_suffix(".sha256").unlink()
    start_from(other_model(), weights)  # a file of a user has no checksum
