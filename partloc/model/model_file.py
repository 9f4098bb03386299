"""Files that survive: the model that users get, and the state that an interrupted run goes on from.

Every write goes to a neighbour with a fixed name, is flushed to the disk and then renamed, so a
reader sees the old file or the new one, never a part.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from partloc.config import ModelConfig
from partloc.data.transforms import Preprocessing
from partloc.files import CheckpointError, hash_file, is_whole, load, save_atomically, write_hash
from partloc.model.depth_net import DEPTH_WEIGHTS, load_depth_net
from partloc.model.locator import PartLocator

MODEL_FORMAT = "partloc-model-7"
# The parameters of a model that its weights' shapes depend on.
SHAPING = (
    *("backbone_name", "cross_attention_layers", "cross_attention_dim", "cross_attention_heads"),
    *("mlp_hidden_dim", "match_size", "depth_maps"),
)


def save_model(path: Path, model: PartLocator, info: dict[str, Any], half: bool = False) -> None:
    """Write the model file: weights, architecture and preprocessing; nothing else is needed.

    half: weights in half precision, and the file's SHA-256 beside it: for starting weights, which
    travel with the code. A depth network that does so too is left out, and named by its SHA-256.
    """
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    depth_net = None
    if half:
        weights = {key: value.half() for key, value in weights.items()}
        if model.depth_net is not None:
            ours = {key: value.half() for key, value in _depth_weights().items()}
            if all(torch.equal(weights[key], value) for key, value in ours.items()):
                weights = {key: value for key, value in weights.items() if key not in ours}
                depth_net = hash_file(DEPTH_WEIGHTS).read_text()
    content = {
        "format": MODEL_FORMAT,
        "depth_net": depth_net,
        "model": model.config.model_dump(),
        "preprocessing": asdict(model.preprocessing),
        "weights": weights,
        "info": info,
    }
    save_atomically(path, content)
    if half:
        write_hash(path)


def load_model(path: Path) -> PartLocator:
    """Rebuild the network of a model file, in evaluation mode, on the CPU.

    Raises: CheckpointError also when the file is a checkpoint of something else.
    """
    content = _load_content(path)
    # The weights are in the file, so none are looked for elsewhere.
    beginning = {"pretrained": False, "weights": None, "start_from": None}
    config = ModelConfig(**content["model"] | beginning)
    model = PartLocator(config, Preprocessing(**content["preprocessing"]), blank=True)
    model.load_state_dict(_weights_of(content, path), assign=True)
    return model.eval()


def start_from(model: PartLocator, path: Path) -> None:
    """Give a model the weights of a model file; only the size of the images may differ.

    Raises: CheckpointError when the file is missing, damaged (its .sha256, where there is one,
        tells), or of another architecture, named by the parameters that differ.
    """
    if hash_file(path).exists() and not is_whole(path):
        raise CheckpointError(
            f"{path}: not the file that {hash_file(path).name} was written for; get both again"
        )
    content = _load_content(path)
    ours = model.config.model_dump()
    unlike = [
        f"model.{key}: {content['model'].get(key)!r} there, {ours[key]!r} here"
        for key in SHAPING
        if content["model"].get(key) != ours[key]
    ]
    if unlike:
        raise CheckpointError(f"{path}: weights of another architecture; {'; '.join(unlike)}")
    weights = _weights_of(content, path)
    table = "backbone.vit.pos_embed"
    weights[table] = model.backbone.fit_position_table(weights[table], str(path))
    model.load_state_dict(weights)


def _weights_of(content: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """All of a model file's, in single precision.

    Raises: CheckpointError when the depth network that it was made beside is not the code's.
    """
    weights = {key: value.float() for key, value in content["weights"].items()}
    if content["depth_net"] is None:
        return weights
    weights |= _depth_weights()
    ours = hash_file(DEPTH_WEIGHTS).read_text()
    if content["depth_net"] != ours:
        raise CheckpointError(
            f"{path}: expected {DEPTH_WEIGHTS.name} of SHA-256 {content['depth_net'][:12]}... "
            f"beside the code, found {ours[:12]}...; get both again, or make both (make pretrain)"
        )
    return weights


def _depth_weights() -> dict[str, torch.Tensor]:
    return load_depth_net().state_dict(prefix="depth_net.")


def _load_content(path: Path) -> dict[str, Any]:
    content = load(path)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != MODEL_FORMAT:
        raise CheckpointError(f"{path}: expected a {MODEL_FORMAT} file, found format {found!r}")
    return content
