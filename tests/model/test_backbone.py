"""The backbone computes the features of the official DINOv2 code, for both layouts of weight files.

`reference/backbone.npz` contains features of the official code (facebookresearch/dinov2) for the
weights and images defined below. To write it again, from a checkout of that code:

    $ python tests/model/test_backbone.py path/to/dinov2
"""

import hashlib
import math
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from partloc.config import BACKBONES
from partloc.model import backbone as module
from partloc.model.backbone import ActivationPolicy, Backbone, BackboneError, build_backbone

REFERENCE = Path(__file__).parent / "reference" / "backbone.npz"
NAMES = ("dinov2_vits14", "dinov2_vits14_reg")
# Pixels of the compared images. The position embeddings are of 37 x 37 patches, 518 pixels. They
# are enlarged at 1022 pixels, the full size, and at 574. The register models antialias them, which
# matters most where they are reduced, at 252.
SIDES = {"dinov2_vits14": (518, 1022), "dinov2_vits14_reg": (252, 518, 574)}
TOLERANCE = 1e-4  # relative, on the norm of the difference


def official_shapes(width: int = 384, depth: int = 12, registers: int = 0) -> dict[str, tuple]:
    """Keys and shapes of an official .pth; 1370 = one class token and 37 * 37 patches."""
    block = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "ls1.gamma": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
        "ls2.gamma": (width,),
    }
    shapes = {f"blocks.{n}.{key}": shape for n in range(depth) for key, shape in block.items()}
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    return shapes | {
        "cls_token": (1, 1, width),
        "mask_token": (1, width),
        "pos_embed": (1, 1370, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


def generator_for(key: str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
    return torch.Generator().manual_seed(seed)


def official_weights(shapes: dict[str, tuple]) -> dict[str, Tensor]:
    """Random weights, the same on every machine, with moderate activations in every block."""
    return {key: random_weight(key, shapes[key]) for key in sorted(shapes)}


def random_weight(key: str, shape: tuple) -> Tensor:
    generator = generator_for(key)
    if key == "pos_embed":
        return position_table(shape[-1], generator)
    noise = torch.randn(shape, generator=generator)
    if key.endswith("gamma") or "norm" in key and key.endswith("weight"):
        return 1 + 0.1 * noise
    if key.endswith("bias"):
        return 0.02 * noise
    if key.endswith("token") or key.endswith("tokens"):
        return 0.5 * noise
    return noise / math.sqrt(math.prod(shape[1:]))  # by the number of inputs


def position_table(width: int, generator: torch.Generator) -> Tensor:
    """Smooth waves of amplitude about 0.5: another resizing rule would change the features."""
    waves = torch.rand(3, 4, width, generator=generator)  # 4 per channel
    rows, columns = torch.meshgrid(torch.arange(37.0), torch.arange(37.0), indexing="ij")
    turns = [
        rows[..., None] * (u - 0.5) / 2 + columns[..., None] * (v - 0.5) / 2 + phase
        for u, v, phase in waves.unbind(1)
    ]
    field = 0.35 * sum(torch.sin(2 * math.pi * turn) for turn in turns)  # (37, 37, D)
    first = 0.5 * torch.randn(1, 1, width, generator=generator)
    return torch.cat([first, field.reshape(1, -1, width)], dim=1)  # (1, 1370, D)


def make_image(side: int) -> Tensor:
    """(1, 3, side, side), in the range of normalised images: waves of several lengths and noise."""
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    waves = [
        torch.sin(2 * math.pi * (a * x + b * y) + c)
        for a, b, c in ((3, 1, 0.0), (-7, 12, 1.0), (25, 4, 2.0))
    ]
    noise = torch.randn(3, side, side, generator=generator_for(f"picture {side}"))
    return (torch.stack(waves) + waves[0] * waves[1] + 0.3 * noise)[None]


def compared_patches(count: int) -> Tensor:
    """Indices of 32 of `count` patches, first and last included."""
    return torch.linspace(0, count - 1, 32).round().long()


def array_name(name: str, side: int) -> str:
    """Name of an array in REFERENCE."""
    return f"{name}_{side}"


def num_registers(name: str) -> int:
    return 4 if name.endswith("_reg") else 0


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def assert_same_features(found: Backbone, expected: Backbone, side: int) -> None:
    image = make_image(side)
    with torch.inference_mode():
        for features, reference in zip(found(image), expected(image), strict=True):
            assert torch.equal(features, reference)


@pytest.fixture
def folder():
    """Like tmp_path, but deleted after the test, because the weights are large."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def official_file():
    """An official .pth for each of NAMES."""
    with TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.pth") for name in NAMES}
        for name, file in files.items():
            torch.save(official_weights(official_shapes(registers=num_registers(name))), file)
        yield files


@pytest.fixture(scope="module")
def small_weights():
    """Weights of the size of dinov2_vitt14 in the official layout."""
    return official_weights(official_shapes(width=192, depth=4))


@pytest.mark.parametrize(("name", "side"), [(name, side) for name in NAMES for side in SIDES[name]])
def test_features_equal_those_of_the_official_code(name, side, official_file):
    backbone = build_backbone(name, side, weights=official_file[name])
    with torch.inference_mode():
        cls, patches = backbone(make_image(side))
    compared = patches[0, compared_patches(patches.shape[1])]
    with np.load(REFERENCE) as reference:
        expected = torch.from_numpy(reference[array_name(name, side)])  # (1 + 32, D)
    assert relative_error(cls[0], expected[0]) < TOLERANCE
    assert relative_error(compared, expected[1:]) < TOLERANCE


def test_both_layouts_of_a_register_model_give_equal_features(official_file, folder):
    official = torch.load(official_file["dinov2_vits14_reg"], weights_only=True)
    timm_layout = {key: value for key, value in official.items() if key != "mask_token"}
    timm_layout["reg_token"] = timm_layout.pop("register_tokens")
    timm_layout["cls_token"] = official["cls_token"] + official["pos_embed"][:, :1]
    timm_layout["pos_embed"] = official["pos_embed"][:, 1:].clone()
    save_file(timm_layout, folder / "timm.safetensors")

    expected = build_backbone("dinov2_vits14_reg", 112, weights=official_file["dinov2_vits14_reg"])
    found = build_backbone("dinov2_vits14_reg", 112, weights=folder / "timm.safetensors")
    assert_same_features(found, expected, 112)


def test_both_layouts_of_a_plain_model_give_equal_features_also_nested(small_weights, folder):
    # The layouts of a plain model differ only by the mask token.
    timm_layout = {key: value for key, value in small_weights.items() if key != "mask_token"}
    torch.save({"model": {"state_dict": timm_layout}}, folder / "timm.pth")
    torch.save(small_weights, folder / "official.pth")
    expected = build_backbone("dinov2_vitt14", 112, weights=folder / "official.pth")
    found = build_backbone("dinov2_vitt14", 112, weights=folder / "timm.pth")
    assert_same_features(found, expected, 112)


def test_only_the_central_pixels_that_whole_patches_cover_are_used():
    """126 of 128, and at full size 1022 of 1024."""
    torch.manual_seed(0)
    larger = build_backbone("dinov2_vitt14", 128)
    exact = build_backbone("dinov2_vitt14", 126)
    exact.load_state_dict(larger.state_dict())
    image = make_image(128)
    with torch.inference_mode():
        cls, patches = larger(image)
        exact_cls, exact_patches = exact(image[..., 1:127, 1:127])
    assert larger.grid == exact.grid == 9
    assert build_backbone("dinov2_vitt14", 1024).grid == 73
    assert patches.shape == (1, 9 * 9, larger.embed_dim)
    assert torch.equal(cls, exact_cls) and torch.equal(patches, exact_patches)


@pytest.mark.parametrize("name", ("dinov2_vitt14", "dinov2_vits14_reg"))
def test_register_tokens_are_dropped_and_the_final_norm_is_applied(name):
    backbone = build_backbone(name, 70)
    with torch.inference_mode():
        cls, patches = backbone(make_image(70).expand(2, -1, -1, -1))
    assert cls.shape == (2, backbone.embed_dim)
    assert patches.shape == (2, 25, backbone.embed_dim)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 25), atol=1e-4, rtol=0)
    torch.testing.assert_close(patches.std(-1), torch.ones(2, 25), atol=0.01, rtol=0)


def test_every_backbone_of_the_configuration_is_known():
    assert set(BACKBONES) == {*module.TIMM_NAMES, *module.TINY_SIZES}


def test_every_block_uses_fused_attention():
    backbone = build_backbone("dinov2_vitt14", 28)
    assert backbone.num_blocks == 4
    assert all(block.attn.fused_attn for block in backbone.vit.blocks)


def test_random_blocks_change_their_input():
    torch.manual_seed(0)
    backbone = build_backbone("dinov2_vitt14", 112)
    vit = backbone.vit
    with torch.inference_mode():
        before = vit._pos_embed(vit.patch_embed(make_image(112)))
        after = vit.blocks(before)
    assert relative_error(after, before) > 0.1  # with timm's LayerScale of 1e-5: about 1e-5
    assert all(torch.all(block.ls1.gamma == 1) for block in vit.blocks)


def test_a_blank_backbone_is_complete_after_loading_weights():
    """Neither a parameter nor a buffer stays on the meta device."""
    initialized = build_backbone("dinov2_vitt14", 28)
    blank = build_backbone("dinov2_vitt14", 28, blank=True)
    assert all(weight.is_meta for weight in blank.parameters())
    blank.load_state_dict(initialized.state_dict(), assign=True)
    images = torch.rand(2, 3, 28, 28)
    for found, expected in zip(blank(images), initialized(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_gradients_do_not_depend_on_the_activation_policy():
    torch.manual_seed(0)
    backbone = build_backbone("dinov2_vitt14", 56)
    gradients = []
    plans = [(policy,) * 4 for policy in ActivationPolicy] + [
        (ActivationPolicy.INPUT, ActivationPolicy.ATTENTION, *[ActivationPolicy.EVERYTHING] * 2)
    ]
    for backbone.activation_policies in plans:
        backbone.zero_grad()
        cls, patches = backbone(make_image(56))
        (cls.square().sum() + patches[:, 0].sum()).backward()
        gradients.append([weight.grad.clone() for weight in backbone.parameters()])
    for others in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], others, strict=True))


class OperationRecorder(TorchDispatchMode):
    """Records every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        self.operations.append(operation)
        return operation(*args, **(kwargs or {}))


def test_a_block_recomputes_what_its_policy_does_not_store():
    """Forward and backward together run attention once if its output is stored, else twice."""
    backbone = build_backbone("dinov2_vitt14", 56)
    for policy, linear, attention in (
        (ActivationPolicy.EVERYTHING, 1, 1),
        (ActivationPolicy.ATTENTION, 2, 1),
        (ActivationPolicy.INPUT, 2, 2),
    ):
        backbone.activation_policies = (policy,) * 4
        with OperationRecorder() as recorder:
            backbone(make_image(56))[0].sum().backward()
        names = [str(operation) for operation in recorder.operations]
        assert sum("flash_attention_for_cpu.default" in name for name in names) == 4 * attention
        assert sum("gelu.default" in name for name in names) == 4 * linear


def test_a_checkpoint_restores_a_backbone_without_the_weight_file(small_weights, folder):
    torch.save(small_weights, folder / "official.pth")
    trained = build_backbone("dinov2_vitt14", 140, weights=folder / "official.pth")
    torch.save(trained.state_dict(), folder / "checkpoint.pth")
    restored = build_backbone("dinov2_vitt14", 140)
    restored.load_state_dict(torch.load(folder / "checkpoint.pth", weights_only=True))
    with torch.inference_mode():
        assert torch.equal(restored(make_image(140))[1], trained(make_image(140))[1])


def test_local_weights_take_precedence_over_the_download(small_weights, folder):
    torch.save(small_weights, folder / "official.pth")
    backbone = build_backbone("dinov2_vitt14", 28, True, str(folder / "official.pth"))
    norm = backbone.vit.norm.weight.detach()
    assert torch.equal(norm, small_weights["norm.weight"])


def test_an_image_of_another_size_is_refused():
    backbone = build_backbone("dinov2_vitt14", 56)
    with pytest.raises(ValueError, match=r"expects.*\(B, 3, 56, 56\), found \(1, 3, 70, 70\)"):
        backbone(make_image(70))


@pytest.mark.parametrize(
    "damage, message",
    (
        ({"norm.weight": None}, "missing key 'norm.weight'"),
        ({"head.weight": torch.zeros(1)}, "unexpected key 'head.weight'"),
        ({"register_tokens": torch.zeros(1, 4, 192)}, "unexpected key 'register_tokens'"),
        ({"cls_token": torch.zeros(1, 1, 9)}, "cls_token has shape .1, 1, 9., expected .1, 1, 192"),
        ({"pos_embed": torch.zeros(1, 1369, 192)}, "pos_embed has shape .1, 1369, 192., expected"),
        ({"pos_embed": torch.zeros(5)}, "pos_embed has shape .5., expected .1, 1 . n . n, 192"),
        ({"norm.bias": "zero"}, "expected a state dict of tensors"),
    ),
)
def test_the_error_for_weights_that_do_not_fit_names_the_key(
    damage, message, small_weights, folder
):
    state = {key: value for key, value in (small_weights | damage).items() if value is not None}
    torch.save(state, folder / "damaged.pth")
    with pytest.raises(BackboneError, match=f"damaged.pth.*{message}"):
        build_backbone("dinov2_vitt14", 112, weights=folder / "damaged.pth")


def test_the_error_for_weights_of_another_width_gives_both(small_weights, folder):
    torch.save(small_weights, folder / "tiny.pth")
    with pytest.raises(BackboneError, match="tiny.pth.*192.*384.*another size of model"):
        build_backbone("dinov2_vits14", 112, weights=folder / "tiny.pth")


def test_weights_without_registers_do_not_fit_a_register_model(official_file):
    with pytest.raises(BackboneError, match="vits14.pth.*missing key 'reg_token'"):
        build_backbone("dinov2_vits14_reg", 112, weights=official_file["dinov2_vits14"])


@pytest.mark.parametrize("file", ("damaged.pth", "damaged.safetensors"))
def test_the_error_for_a_file_without_weights_names_it(file, folder):
    for content in (b"", b"no weights here", b"PK\x03\x04 a zip file cut short"):
        (folder / file).write_bytes(content)
        with pytest.raises(BackboneError, match=f"{file}: not a readable weight file"):
            build_backbone("dinov2_vitt14", 28, weights=folder / file)


def test_the_error_for_a_missing_weight_file_names_it(folder):
    with pytest.raises(FileNotFoundError, match="nowhere.pth: no such file"):
        build_backbone("dinov2_vitt14", 28, weights=folder / "nowhere.pth")


def test_the_error_without_a_connection_lists_the_alternatives(monkeypatch):
    downloads = []

    def not_in_the_cache(local_files_only=False, **_):
        downloads.append(not local_files_only)
        raise LocalEntryNotFoundError("not in the cache")

    def offline(*_, **__):
        raise OfflineModeIsEnabled("Name or service not known")

    monkeypatch.setattr(module, "hf_hub_download", not_in_the_cache)
    monkeypatch.setattr(module, "get_hf_file_metadata", offline)
    with pytest.raises(BackboneError, match="weights of dinov2_vits14_reg could not be") as raised:
        build_backbone("dinov2_vits14_reg", 28, pretrained=True)
    assert "Name or service not known" in str(raised.value)
    assert "model.weights to a local file" in str(raised.value)
    assert "model.pretrained: false" in str(raised.value)
    assert downloads == [False]  # the download, which retries for long, is not started


def test_downloaded_weights_are_used(monkeypatch, official_file):
    file = str(official_file["dinov2_vits14"])
    monkeypatch.setattr(module, "hf_hub_download", lambda **_: file)
    backbone = build_backbone("dinov2_vits14", 28, pretrained=True)
    official = torch.load(file, weights_only=True)
    assert torch.equal(backbone.vit.norm.bias.detach(), official["norm.bias"])


def test_the_tiny_backbone_has_no_published_weights():
    with pytest.raises(BackboneError, match="no published weights for dinov2_vitt14"):
        build_backbone("dinov2_vitt14", 28, pretrained=True)


def test_without_pretrained_nothing_is_downloaded(monkeypatch):
    monkeypatch.delattr(module, "hf_hub_download")
    monkeypatch.delattr(module, "get_hf_file_metadata")
    build_backbone("dinov2_vits14", 28)


def test_the_error_for_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BackboneError, match="unknown backbone 'vit'.*dinov2_vitb14"):
        build_backbone("vit", 28)


def make_reference(source: str) -> None:
    """Write REFERENCE with the official code in `source`."""
    sys.path.insert(0, source)
    from dinov2.hub import backbones

    arrays = {}
    for name in NAMES:
        official = getattr(backbones, name)(pretrained=False).eval()
        weights = official_weights(official_shapes(registers=num_registers(name)))
        official.load_state_dict(weights, strict=True)
        for side in SIDES[name]:
            with torch.inference_mode():
                features = official.forward_features(make_image(side))
            patches = features["x_norm_patchtokens"][0]
            compared = patches[compared_patches(len(patches))]
            arrays[array_name(name, side)] = torch.cat(
                [features["x_norm_clstoken"], compared]
            ).numpy()
    REFERENCE.parent.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCE, **arrays)


if __name__ == "__main__":
    make_reference(sys.argv[1])
