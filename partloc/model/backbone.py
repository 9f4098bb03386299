"""The backbone: DINOv2 vision transformers from timm, equivalent to the official code.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, and for
the register variants Darcet et al., "Vision Transformers Need Registers", 2023.

Shapes: B batch, S image side in pixels, G = S // 14 patches per side, N = G * G patches, D width,
T = N + class token and registers, M patches per side of the position table in a weight file (37 in
the published ones).
"""

import math
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

PATCH_SIZE = 14  # pixels

TIMM_NAMES = {
    "dinov2_vits14": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_vitb14": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_vitl14": "vit_large_patch14_dinov2.lvd142m",
    "dinov2_vits14_reg": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2.lvd142m",
}
# Not a published size: small enough to train from scratch on a CPU.
TINY_SIZES: dict[str, dict[str, Any]] = {
    "dinov2_vitt14": {"embed_dim": 192, "depth": 4, "num_heads": 3}
}

# Raised by the readers for a file that is damaged or contains something else.
READ_ERRORS = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    AssertionError,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
)


# The kernels of F.scaled_dot_product_attention, by device and precision.
ATTENTION_KERNELS = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


class ActivationPolicy(StrEnum):
    """What a transformer block stores for the backward pass; the rest is recomputed there.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174).
    """

    EVERYTHING = "everything"
    # Its input and the output of attention: saves over half of the recomputation for an eighth of
    # the memory.
    ATTENTION = "attention"
    INPUT = "input"


class BackboneError(ValueError):
    """Weights that are not available or do not fit; the message says which and what to do."""


class Backbone(nn.Module):
    """A DINOv2 encoder for square images of one size, `image_size` pixels per side.

    embed_dim: D. grid: G, e.g. 73 for 1024. num_tokens: T. num_blocks: transformer blocks.
    num_heads: of the attention in each block.
    activation_policies: what each block stores for the backward pass; no output and no gradient
    depends on it.
    """

    def __init__(self, vit: VisionTransformer, image_size: int) -> None:
        super().__init__()
        self.vit = vit
        self.image_size = image_size
        self.grid = image_size // PATCH_SIZE
        self.num_tokens = vit.num_prefix_tokens + self.grid**2
        self.embed_dim = vit.embed_dim
        self.num_blocks = len(vit.blocks)
        self.num_heads = next(_attentions(vit)).num_heads
        self.activation_policies: Sequence[ActivationPolicy] = (
            ActivationPolicy.EVERYTHING,
        ) * self.num_blocks
        self.run_block: Callable[[nn.Module, Tensor, ActivationPolicy | None], Tensor] = _run_block

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class token (B, D) and patch tokens (B, N, D), row by row, after the final norm.

        images: (B, 3, S, S), normalised. Only the central 14 * G pixels per side are used: 1022
            of 1024. Register tokens are dropped.

        Raises: ValueError for images of another size.
        """
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"the backbone expects images of shape (B, {', '.join(map(str, expected))}), "
                f"found {tuple(images.shape)}"
            )
        side = PATCH_SIZE * self.grid
        start = (self.image_size - side) // 2
        central = images[..., start : start + side, start : start + side]  # (B, 3, 14G, 14G)
        tokens = self.embed(central)  # (B, T, D)
        for block, policy in zip(self.vit.blocks, self.activation_policies, strict=True):
            tokens = self.run_block(block, tokens, policy if torch.is_grad_enabled() else None)
        tokens = self.vit.norm(tokens)
        return tokens[:, 0], tokens[:, self.vit.num_prefix_tokens :]

    def resize_position_table(self, table: Tensor, source: str) -> Tensor:
        """Resize the position table of another image size to this grid, as the official code does.

        source: the file, for error messages. Raises: BackboneError for another architecture.
        """
        return _fit_pos_embed(table, self.vit, source)

    def embed(self, central: Tensor) -> Tensor:
        """(B, 3, 14 G, 14 G) -> the tokens before the first block, (B, T, D)."""
        return self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(central)))


def _run_block(block: nn.Module, tokens: Tensor, policy: ActivationPolicy | None) -> Tensor:
    """(B, T, D) -> (B, T, D). policy: None without a backward pass."""
    if policy in (None, ActivationPolicy.EVERYTHING):
        return block(tokens)
    if policy == ActivationPolicy.INPUT:
        return checkpoint(block, tokens, use_reentrant=False)
    keep_attention = partial(create_selective_checkpoint_contexts, _keep_attention)
    return checkpoint(block, tokens, use_reentrant=False, context_fn=keep_attention)


def _keep_attention(_context: object, operation: object, *_args, **_kwargs) -> CheckpointPolicy:
    is_attention = operation in ATTENTION_KERNELS
    return CheckpointPolicy.MUST_SAVE if is_attention else CheckpointPolicy.PREFER_RECOMPUTE


def build_backbone(
    name: str,
    image_size: int,
    pretrained: bool = False,
    weights: Path | str | None = None,
    blank: bool = False,
) -> Backbone:
    """Build one of partloc.config.BACKBONES for images of `image_size` pixels per side.

    weights: a local file in timm's or the official key layout (.pth or .safetensors). It takes
        precedence over `pretrained`, which downloads the published weights. With neither, the
        weights are random, from torch's global generator.
    blank: without weights, on torch's meta device, if all of them are loaded afterwards: the random
        initialisation of a ViT-S takes as long as a prediction.

    Raises: BackboneError if the weights cannot be downloaded or do not fit the architecture;
        FileNotFoundError if `weights` does not exist.
    """
    with torch.device("meta") if blank else nullcontext():
        vit = _make_vit(name, PATCH_SIZE * (image_size // PATCH_SIZE))
    if weights is not None:
        state = _read_state(Path(weights))
        vit.load_state_dict(_fit_state(state, vit, f"{weights} for {name}"))
    elif pretrained:
        vit.load_state_dict(_fit_state(_download_state(name), vit, f"download for {name}"))
    return Backbone(vit, image_size)


def _make_vit(name: str, side: int) -> VisionTransformer:
    """timm's model for square images of `side` pixels, a multiple of the patch size."""
    if name not in TIMM_NAMES and name not in TINY_SIZES:
        known = ", ".join([*TINY_SIZES, *TIMM_NAMES])
        raise BackboneError(f"unknown backbone {name!r}; expected one of {known}")
    timm_name = TIMM_NAMES.get(name, "vit_small_patch14_dinov2")
    # timm's LayerScale starts at 1e-5, which makes random blocks nearly the identity and slow to
    # train; published weights contain their own values.
    vit = timm.create_model(
        timm_name, img_size=side, num_classes=0, init_values=1.0, **TINY_SIZES.get(name, {})
    )
    assert isinstance(vit, VisionTransformer)
    assert all(attention.fused_attn for attention in _attentions(vit)), (
        "timm's fused attention is off (TIMM_FUSED_ATTN=0?); without it 1024 px need 16 GB"
    )
    return vit


def _attentions(vit: VisionTransformer) -> Iterator[Attention]:
    """The attention of each block."""
    return (module for module in vit.modules() if isinstance(module, Attention))


def _download_state(name: str) -> dict[str, Tensor]:
    """The published weights in timm's layout, from the hub's cache or downloaded.

    Raises: BackboneError with the alternatives.
    """
    if name not in TIMM_NAMES:
        raise BackboneError(
            f"there are no published weights for {name}; set model.pretrained: false (random "
            "weights), or model.weights to a local file"
        )
    repository, filename = f"timm/{TIMM_NAMES[name]}", "model.safetensors"
    try:
        return _read_state(
            Path(hf_hub_download(repo_id=repository, filename=filename, local_files_only=True))
        )
    except LocalEntryNotFoundError:
        pass  # not in the cache
    try:
        # A short request first: offline, the download itself retries for most of a minute.
        get_hf_file_metadata(hf_hub_url(repo_id=repository, filename=filename), timeout=10)
        return _read_state(Path(hf_hub_download(repo_id=repository, filename=filename)))
    except (OSError, HTTPError) as error:
        reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise BackboneError(
            f"the weights of {name} could not be downloaded ({reason}); "
            "set model.weights to a local file (timm's or the official dinov2 .pth), or "
            "model.pretrained: false to start from random weights"
        ) from error


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a .pth or .safetensors file, also below `model` or `state_dict`.

    Raises: FileNotFoundError; BackboneError if the file contains something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the encoder's weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        # torch's own message would advise to load pickled code.
        kind = type(error).__name__
        raise BackboneError(
            f"{path}: not a readable weight file ({kind}); expected tensors by name"
        ) from error
    for container in ("model", "state_dict"):
        if isinstance(state, dict) and container in state:
            state = state[container]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BackboneError(f"{path}: expected a state dict of tensors, found other objects")
    return state


def _fit_state(state: dict[str, Tensor], vit: VisionTransformer, source: str) -> dict[str, Tensor]:
    """Check weights and convert them to timm's layout and the model's position table.

    source: the file and the backbone's name, for error messages. Raises: BackboneError.
    """
    state = _to_timm_layout(state, vit)
    expected = vit.state_dict()
    for key in sorted(expected.keys() & state.keys() - {"pos_embed"}):
        if state[key].shape != expected[key].shape:
            raise _shape_error(source, key, state[key].shape, expected[key].shape)
    for problem, keys in (
        ("missing", expected.keys() - state.keys()),
        ("unexpected", state.keys() - expected.keys()),
    ):
        if keys:
            first, *others = sorted(keys)
            more = f" and {len(others)} more" if others else ""
            raise BackboneError(
                f"{source}: {problem} key {first!r}{more}; are these weights of another "
                "architecture?"
            )
    state["pos_embed"] = _fit_pos_embed(state["pos_embed"], vit, source)
    return state


def _to_timm_layout(state: dict[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
    """A copy with timm's keys. The layouts differ in the mask token and the registers only."""
    state = {key: value for key, value in state.items() if key != "mask_token"}
    if vit.num_reg_tokens and {"register_tokens", "pos_embed", "cls_token"} <= state.keys():
        # timm's register models have no position for the class token: it is added to the token.
        table = state["pos_embed"]
        state["reg_token"] = state.pop("register_tokens")
        if table.ndim == 3 and table.shape[-1] == state["cls_token"].shape[-1]:
            state["cls_token"] = state["cls_token"] + table[:, :1]
        state["pos_embed"] = table[:, 1:]
    return state


def _fit_pos_embed(table: Tensor, vit: VisionTransformer, source: str) -> Tensor:
    """(1, prefix + M * M, D) to (1, prefix + N, D), resized as the official code does it."""
    grid = vit.patch_embed.grid_size[0]
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    old_grid = math.isqrt(max(table.shape[1] - prefix, 0)) if table.ndim == 3 else 0
    if not old_grid or table.shape != (1, prefix + old_grid**2, vit.embed_dim):
        raise _shape_error(
            source, "pos_embed", table.shape, (1, f"{prefix} + n * n", vit.embed_dim)
        )
    if old_grid == grid:
        return table
    patches = table[:, prefix:].float().reshape(1, old_grid, old_grid, -1).permute(0, 3, 1, 2)
    patches = _resize_table(patches, grid, registers=vit.num_reg_tokens > 0)  # (1, D, G, G)
    assert patches.shape[2:] == (grid, grid)
    return torch.cat([table[:, :prefix].float(), patches.flatten(2).transpose(1, 2)], dim=1)


def _resize_table(table: Tensor, grid: int, registers: bool) -> Tensor:
    """(1, D, M, M) to (1, D, G, G), as each family of weights was published.

    Plain models: bicubic by a scale factor whose offset of 0.1 shifts every sample a little.
    Register models: bicubic to the exact size with antialiasing, which uses another kernel.
    """
    if registers:
        return interpolate(table, size=(grid, grid), mode="bicubic", antialias=True)
    scale = (grid + 0.1) / table.shape[-1]
    return interpolate(table, scale_factor=(scale, scale), mode="bicubic")


def _shape_error(source: str, key: str, found: tuple, expected: tuple) -> BackboneError:
    found_text, expected_text = (f"({', '.join(map(str, shape))})" for shape in (found, expected))
    return BackboneError(
        f"{source}: {key} has shape {found_text}, expected {expected_text}; "
        "are these weights of another size of model?"
    )
