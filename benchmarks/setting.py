"""What the benchmarks share: the machine in words, the full-size setting, a few pictures."""

import hashlib
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from partloc.data.table import PairTable
from partloc.model.locator import PartLocator
from partloc.pose import PartPose
from partloc.training.losses import training_loss

PARTS = 4  # of each whole

# The full-size defaults of what the network, its loss and its optimiser read. They stand here a
# second time, since partloc.config needs pydantic, which a machine with a GPU may lack; a test
# holds them to the first.
MODEL = {
    "weights": None,
    "start_from": None,
    "crop": True,
    "downsample_size": 32,
    "cross_attention_layers": 2,
    "cross_attention_dim": 384,
    "cross_attention_heads": 6,
    "similar_start": True,
    "position": "values",
    "mlp_hidden_dim": 512,
    "match_size": 48,
    "depth_maps": True,
    "hypotheses": 16,
    "training_hypotheses": 8,
}
TRAIN = {
    "use_amp": True,
    "learning_rate": 2.0e-4,
    "backbone_lr_factor": 0.1,
    "weight_decay": 0.05,
    "grad_clip": 1.0,
    "w_trans": 1.0,
    "w_scale": 0.8,
    "w_match": 0.2,
    "w_rank": 0.3,
    "w_depth": 0.1,
    "scale_loss": "log",
}


def machine(device: torch.device) -> str:
    """Name of the processor that computes, and versions."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def full_size(backbone: str, image_size: int) -> SimpleNamespace:
    """The groups and keys of a Config, as far as they are needed; random weights, no dropout."""
    blank = {"backbone_name": backbone, "pretrained": False, "dropout": 0.0}
    return SimpleNamespace(
        data=SimpleNamespace(image_size=image_size),
        model=SimpleNamespace(**MODEL | blank),
        train=SimpleNamespace(**TRAIN),
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
    config: SimpleNamespace

    def loss(self, model: PartLocator, precision: torch.dtype | None) -> Tensor:
        """The mean over the pairs of a training step's loss, with every term of it."""
        places = model.place_of(self.pose)
        found = model(self.wholes, self.parts, self.whole_of_part, self.pose, precision)
        targets = PartPose(*(field[:, None] for field in self.pose))
        return training_loss(found, targets, places[:, None], self.config).loss.mean()


def synthetic_batch(config: SimpleNamespace, pairs: int, device: torch.device) -> SyntheticBatch:
    """A batch of so many pairs for a model of `config`, see full_size."""
    wholes, side = -(-pairs // PARTS), config.data.image_size
    pictures = [torch.rand(count, 3, side, side, device=device) for count in (wholes, pairs)]
    pose = PartPose(
        torch.rand(pairs, 3, device=device) - 0.5, 0.2 + 0.5 * torch.rand(pairs, 1, device=device)
    )
    return SyntheticBatch(
        *pictures, torch.arange(pairs, device=device) // PARTS, pose, config.train
    )
