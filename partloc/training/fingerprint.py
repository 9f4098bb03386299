"""What identifies a training run: its parameters, its data, its starting weights, its code."""

import hashlib
from pathlib import Path
from typing import Any

from partloc.config import Config, digest
from partloc.model.depth_net import SHIPPED_WEIGHTS
from partloc.training.trainer import STATE_FORMAT


def training_parameters(config: Config) -> dict[str, Any]:
    """Return the parameters on which the weights depend; not machine settings or folders."""
    return {
        "seed": config.seed,
        "image_size": config.data.image_size,
        "read_size": config.data.read_size,
        **{name: getattr(config, name).model_dump() for name in ("model", "augment", "train")},
    }


def run_fingerprint(config: Config, split_dir: Path) -> str:
    """Return a SHA-256 of all that determines the weights: parameters, split, starting weights.

    Raises: FileNotFoundError naming the parameter whose file does not exist.
    """
    files = [split_dir / "train.csv", split_dir / "val.csv"]
    for key in ("weights", "start_from"):
        if path := getattr(config.model, key):
            if not Path(path).is_file():
                raise FileNotFoundError(f"model.{key}: {path}: no such file")
            files.append(Path(path))
    if config.model.match_size and config.model.depth_maps:
        files.append(SHIPPED_WEIGHTS)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return digest([STATE_FORMAT, training_parameters(config), hashes])


def source_hash() -> str:
    """Return a SHA-256 of partloc's source code.

    It is not part of the fingerprint, because most changes of the code need no new training.
    """
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in sources])
