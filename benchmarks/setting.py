"""What the benchmarks share: the machine in words, a configuration, a few pictures."""

import hashlib
import platform
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from partloc.config import Config, TrainConfig
from partloc.losses import training_loss
from partloc.model import PartLocator
from partloc.plan import PairTable
from partloc.pose import PartPose

PARTS = 4  # of each whole


def machine(device: torch.device) -> str:
    """Name of the processor that computes, and versions."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def small_config(backbone: str, image_size: int, batch_size: int, **train: object) -> Config:
    """The full-size configuration with another encoder, size and batch; random weights, float32,
    no dropout, everything kept for the backward pass."""
    still = {"use_amp": False, "use_gradient_checkpointing": False, "batch_size": batch_size}
    return Config.model_validate(
        {
            "data": {"image_size": image_size},
            "model": {"backbone_name": backbone, "pretrained": False, "dropout": 0.0},
            "train": still | {"backbone_lr_factor": 1.0} | train,
            "machine": {"num_workers": 0},
        }
    )


def pairs_of_four(folder: Path, side_px: int, wholes: int, seed: int = 0) -> PairTable:
    """Models of four different parts: coloured boxes on white, in files under `folder`."""
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(wholes):
        whole = np.full((side_px, side_px, 3), 255, np.uint8)
        model = f"model-{number}"
        (folder / model).mkdir(parents=True)
        for part in range(PARTS):
            colour, scale = chance.integers(0, 200, 3), chance.uniform(0.2, 0.5)
            place = chance.uniform(-0.25, 0.25, 3)
            half = round(side_px * scale / 2)
            right, down = (round(side_px * (0.5 + x)) for x in place[:2])
            whole[down - half : down + half, right - half : right + half] = colour
            alone = np.full_like(whole, 255)
            edge = side_px // 8
            alone[edge:-edge, edge:-edge] = colour
            path = f"{model}/{model}-{part}.png"
            Image.fromarray(alone).save(folder / path)
            rows.append((model, str(part), path, *place, scale, part))
        Image.fromarray(whole).save(folder / model / f"{model}-whole.png")
    columns = ["model", "part", "part_path", "tx", "ty", "tz", "scale", "twin_group"]
    table = pd.DataFrame(rows, columns=columns)
    table["whole_path"] = table.model + "/" + table.model + "-whole.png"
    for kind in ("whole", "part"):
        files = [(folder / path).read_bytes() for path in table[f"{kind}_path"]]
        table[f"{kind}_sha256"] = [hashlib.sha256(data).hexdigest() for data in files]
    return PairTable(table, folder)


class SyntheticBatch(NamedTuple):
    """Pictures and poses of chance on a device, `PARTS` parts a whole."""

    wholes: Tensor
    parts: Tensor
    whole_of_part: Tensor
    pose: PartPose
    config: TrainConfig

    def backward(self, model: PartLocator, precision: torch.dtype | None) -> None:
        """Forward and backward of a training step, with every term of the loss."""
        places = model.place_of(self.pose)
        found = model(self.wholes, self.parts, self.whole_of_part, places, precision)
        targets = PartPose(*(field[:, None] for field in self.pose))
        training_loss(found, targets, places[:, None], self.config).loss.mean().backward()


def synthetic_batch(config: Config, pairs: int, device: torch.device) -> SyntheticBatch:
    """A batch of so many pairs for a model of `config`."""
    wholes, side = -(-pairs // PARTS), config.data.image_size
    pictures = [torch.rand(count, 3, side, side, device=device) for count in (wholes, pairs)]
    pose = PartPose(
        torch.rand(pairs, 3, device=device) - 0.5, 0.2 + 0.5 * torch.rand(pairs, 1, device=device)
    )
    return SyntheticBatch(
        *pictures, torch.arange(pairs, device=device) // PARTS, pose, config.train
    )
