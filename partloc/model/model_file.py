"""The model file: weights, architecture and preprocessing, all that a prediction needs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from partloc.config import ModelConfig
from partloc.data.transforms import Preprocessing
from partloc.files import (
    CheckpointError,
    checksum_path,
    load_tensors,
    matches_checksum,
    save_tensors,
    write_checksum,
)
from partloc.model.build import build_locator
from partloc.model.depth_net import DEPTH_WEIGHTS, load_depth_net
from partloc.model.locator import PartLocator

MODEL_FORMAT = "partloc-model-8"
FORMAT_PREFIX = "partloc-model-"
FORMAT_WRITERS = {"partloc-model-7": "partloc 0.1.0"}
# Configuration keys that determine the shapes of the weights.
ARCHITECTURE_KEYS = (
    *("backbone_name", "cross_attention_layers", "cross_attention_dim", "mlp_hidden_dim"),
    *("match_size", "depth_maps"),
)
POSITION_TABLE = "encoder.backbone.vit.pos_embed"


def save_model(path: Path, model: PartLocator, info: dict[str, Any], half: bool = False) -> None:
    """Write a model file.

    half: in half precision, with a checksum beside it: for weights that come with the code. The
    depth network is left out if it is the one that comes with the code, and named by its SHA-256.
    """
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    depth_net = None
    if half:
        weights = {key: value.half() for key, value in weights.items()}
        if model.depth_net is not None:
            shipped = {key: value.half() for key, value in _shipped_depth_weights().items()}
            if all(weights[key].equal(value) for key, value in shipped.items()):
                weights = {key: value for key, value in weights.items() if key not in shipped}
                depth_net = checksum_path(DEPTH_WEIGHTS).read_text()
    content = {
        "format": MODEL_FORMAT,
        "depth_net": depth_net,
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
    # The file contains all weights, so no others are loaded.
    config = ModelConfig(
        **content["model"] | {"pretrained": False, "weights": None, "start_from": None}
    )
    model = build_locator(config, Preprocessing(**content["preprocessing"]), blank=True)
    model.load_state_dict(_full_weights(content, path), assign=True)
    return model.eval()


def start_from(model: PartLocator, path: Path) -> None:
    """Initialise a model with the weights of a model file; only the image size may differ.

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
        raise CheckpointError(f"{path}: weights of another architecture; {'; '.join(different)}")
    weights = _full_weights(content, path)
    table = model.encoder.backbone.resize_position_table(weights[POSITION_TABLE], str(path))
    model.load_state_dict(weights | {POSITION_TABLE: table})


def _full_weights(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """All weights of a model file in single precision.

    Raises: CheckpointError if it refers to another depth network than the one beside the code.
    """
    weights = {key: value.float() for key, value in content["weights"].items()}
    if content["depth_net"] is None:
        return weights
    expected, found = content["depth_net"], checksum_path(DEPTH_WEIGHTS).read_text()
    if expected != found:
        raise CheckpointError(
            f"{path}: expected {DEPTH_WEIGHTS.name} of SHA-256 {expected[:12]}... beside the code, "
            f"found {found[:12]}...; get both files again, or train both (make pretrain)"
        )
    return weights | _shipped_depth_weights()


def _shipped_depth_weights() -> dict[str, Tensor]:
    return load_depth_net().state_dict(prefix="depth_net.")


def _load_content(path: Path) -> dict[str, Any]:
    content = load_tensors(path)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found == MODEL_FORMAT:
        return content
    if isinstance(found, str) and found.startswith(FORMAT_PREFIX):
        writer = FORMAT_WRITERS.get(found, "another version of partloc")
        raise CheckpointError(
            f"{path}: format {found}, written by {writer}; expected {MODEL_FORMAT}; train again, "
            "or predict with the version that wrote it"
        )
    raise CheckpointError(f"{path}: expected a {MODEL_FORMAT} file, found format {found!r}")
