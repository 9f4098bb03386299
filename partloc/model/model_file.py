"""The model file: weights, architecture and preprocessing, all that a prediction needs."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from partloc.config import ConfigError, Group, ModelConfig, validate
from partloc.data.transforms import Preprocessing
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.system.files import (
    CheckpointError,
    checksum_path,
    load_tensors,
    matches_checksum,
    save_tensors,
    write_checksum,
)

MODEL_FORMAT = "partloc-model-9"
FORMAT_PREFIX = "partloc-model-"
FORMAT_WRITERS = {f"{FORMAT_PREFIX}{number}": "partloc 0.1.0" for number in (7, 8)}
# Configuration keys that determine the shapes of the weights, apart from those of the encoder.
ARCHITECTURE_KEYS = (
    *("cross_attention_layers", "cross_attention_dim", "mlp_hidden_dim", "match_size"),
    "depth_maps",
)
ENCODER_PREFIXES = ("encoder.", "projection.")
POSITION_TABLE = "encoder.backbone.vit.pos_embed"
CONTENT_TYPES: dict[str, tuple[type, ...]] = {
    "model": (dict,),
    "preprocessing": (dict,),
    "weights": (dict,),
    "info": (dict,),
}

Level = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Deviation = Annotated[float, Field(ge=1e-3, le=100, allow_inf_nan=False)]


class PreprocessingValues(Group):
    """The fields of `Preprocessing` in a model file."""

    image_size: Annotated[int, Field(ge=14, le=4096)]
    read_size: Annotated[int, Field(ge=14, le=8192)]
    mean: tuple[Level, Level, Level]
    std: tuple[Deviation, Deviation, Deviation]


def save_model(
    path: Path,
    model: PartLocator,
    info: dict[str, Any],
    half: bool = False,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model file.

    Args:
        half: in half precision, with a checksum beside it: for weights that come with the code.
        weights: other weights of the model than those that it has now.
    """
    weights = {key: value.cpu() for key, value in (weights or model.state_dict()).items()}
    if half:
        weights = {key: value.half() for key, value in weights.items()}
    content = {
        "format": MODEL_FORMAT,
        "model": model.config.model_dump(),
        "preprocessing": asdict(model.preprocessing),
        "weights": weights,
        "info": info,
    }
    save_tensors(path, content)
    if half:
        write_checksum(path)


def load_model(path: Path) -> PartLocator:
    """Build the network of a model file, in evaluation mode, on the CPU.

    Raises: CheckpointError for a missing, damaged or foreign file.
    """
    content = _load_content(path)
    config, preprocessing = _read_settings(content, path)
    weights = _full_weights(content, path)
    _require_possible_widths(config, weights, path)
    model = build_locator(config, preprocessing, blank=True)
    _require_shapes(weights, model.state_dict(), path)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _read_settings(content: dict[str, Any], path: Path) -> tuple[ModelConfig, Preprocessing]:
    # The file contains all weights, so no others are loaded.
    values = content["model"] | {"pretrained": False, "weights": None, "start_from": None}
    try:
        config = validate(ModelConfig, values, f"{path}: not a usable model file: model")
        preprocessing = validate(
            PreprocessingValues,
            content["preprocessing"],
            f"{path}: not a usable model file: preprocessing",
        )
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    return config, Preprocessing(**preprocessing.model_dump())


def _require_possible_widths(config: ModelConfig, weights: dict[str, Tensor], path: Path) -> None:
    """Raises: CheckpointError for layers with more weights than the file has: before the network is
    built, for which there might be no memory."""
    num_weights = sum(value.numel() for value in weights.values())
    for key in ("cross_attention_dim", "mlp_hidden_dim"):
        if (width := getattr(config, key)) ** 2 > num_weights:
            raise CheckpointError(
                f"{path}: not a usable model file: model.{key} is {width}, but the file has "
                f"{num_weights} weights"
            )


def _require_shapes(
    weights: dict[str, Tensor], expected: Mapping[str, Tensor], path: Path, but: str = ""
) -> None:
    """Raises: CheckpointError naming the first tensor that is missing, unknown or of another shape.

    but: a tensor that may have another shape.
    """
    for key in sorted(weights.keys() | expected.keys()):
        found, needed = (
            list(tensors[key].shape) if key in tensors else "none"
            for tensors in (weights, expected)
        )
        if found != needed and (key != but or "none" in (found, needed)):
            raise CheckpointError(
                f"{path}: not a usable model file: weights {key!r:.80} of shape {found}, expected "
                f"{needed}"
            )


def start_from(model: PartLocator, path: Path) -> bool:
    """Initialise a model with the weights of a model file.

    The image size may differ, and so may the encoder: nothing behind its projection depends on it.
    The model keeps its own encoder if that is another one, or if it has been given weights. Then
    the caller has to fit the projection, and the tokens are switched off at first: the predictions
    are those of the file without its encoder.

    Returns: whether the encoder has the weights of the file.
    Raises: CheckpointError if the file is missing, does not match its checksum, or is of another
        architecture; the message names the keys that differ.
    """
    if checksum_path(path).exists() and not matches_checksum(path):
        raise CheckpointError(
            f"{path}: not the file that {checksum_path(path).name} was written for; get both again"
        )
    content = _load_content(path)
    config = model.config.model_dump()
    different = [
        f"model.{key}: {content['model'].get(key)!r} in the file, {config[key]!r} configured"
        for key in ARCHITECTURE_KEYS
        if content["model"].get(key) != config[key]
    ]
    if different:
        raise CheckpointError(
            f"{path}: weights of another architecture; {'; '.join(different)}; with "
            "model.start_from: null the training starts without them"
        )
    weights = _full_weights(content, path)
    has_weights = config["pretrained"] or config["weights"] is not None
    inherits_encoder = (
        content["model"]["backbone_name"] == config["backbone_name"] and not has_weights
    )
    if inherits_encoder:
        _require_shapes(weights, model.state_dict(), path, but=POSITION_TABLE)
        backbone = model.encoder.backbone
        table = backbone.resize_position_table(weights[POSITION_TABLE], str(path))
        weights[POSITION_TABLE] = table
    else:
        own = model.state_dict()
        weights |= {key: own[key] for key in own if key.startswith(ENCODER_PREFIXES)}
        # Without what only the file's encoder has.
        weights = {key: value for key, value in weights.items() if key in own}
    _require_shapes(weights, model.state_dict(), path)
    model.load_state_dict(weights)
    if not inherits_encoder:
        model.fade_tokens()
    return inherits_encoder


def _full_weights(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """All weights of a model file in single precision. Raises: CheckpointError unless finite."""
    weights = {}
    for key, value in content["weights"].items():
        if problem := _weight_problem(key, value):
            raise CheckpointError(
                f"{path}: not a usable model file: weights {key!r:.80}: {problem}"
            )
        weights[key] = value.detach().float()
    return weights


def _weight_problem(key: Any, value: Any) -> str | None:
    """Why an item of the weights cannot be used, or None."""
    if not isinstance(key, str):
        return "its name is not text"
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, expected a tensor"
    is_dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_nested
    if not is_dense or value.is_quantized or not value.is_floating_point():
        return f"a tensor of {value.dtype}, expected a dense tensor of floating-point numbers"
    # A tensor may repeat the numbers of a small file to any size.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"shape {list(value.shape)}, but fewer numbers"
    if not value.float().isfinite().all():
        return "not all numbers are finite"
    return None


def _load_content(path: Path) -> dict[str, Any]:
    content = load_tensors(path)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found == MODEL_FORMAT:
        for key, types in CONTENT_TYPES.items():
            if not isinstance(content.get(key), types):
                found = type(content[key]).__name__ if key in content else "none"
                raise CheckpointError(f"{path}: not a usable model file: {key}: found {found}")
        return content
    if isinstance(found, str) and found.startswith(FORMAT_PREFIX):
        writer = FORMAT_WRITERS.get(found, "another version of partloc")
        raise CheckpointError(
            f"{path}: format {found}, written by {writer}; expected {MODEL_FORMAT}; train again, "
            "or predict with the version that wrote it"
        )
    raise CheckpointError(f"{path}: expected a {MODEL_FORMAT} file, found format {found!r}")
