"""A small data set with its split tables, and configurations that train on it in a moment."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from folders import write_folder
from PIL import Image

from partloc.config import Config, DataConfig, ModelConfig
from partloc.data.index import build_index
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import Team, seed_everything
from partloc.files import write_table
from partloc.model.locator import PartLocator
from partloc.model.prediction import Prediction
from partloc.pose import PartPose
from partloc.training.run import start_from_data
from partloc.training.trainer import Trainer

TRAIN_MODELS = {
    "chair": ["seat", "back", "leg-1", "leg-2"],
    "desk": ["top", "leg-1", "leg-2", "leg-3", "drawer"],
    "lamp": ["foot", "shade"],
}
PARTS = [f"part-{number}" for number in range(10)]  # more than one batch
UNLABELLED = {"stühle-1.5": PARTS, "lamp": ["foot"]}
VAL_MODELS = {"stool": ["seat", "leg-1", "leg-2"]}

ALONE = Team(0, 1, torch.device("cpu"))
# Two processes run what follows.
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

TINY = {
    "data": {"image_size": 28, "read_size": 36},
    "model": {
        "backbone_name": "dinov2_vitt14",
        "pretrained": False,
        "downsample_size": 2,
        "cross_attention_layers": 1,
        "cross_attention_dim": 24,
        "cross_attention_heads": 3,
        "mlp_hidden_dim": 16,
        "dropout": 0.0,
    },
    "train": {
        "batch_size": 4,
        "num_epochs": 2,
        "warmup_epochs": 0.5,
        "crop_jitter": 0.0,
        "backbone_lr_factor": 1.0,
        "use_gradient_checkpointing": False,
    },
    "machine": {"device": "cpu", "num_workers": 0},
}


def tiny_config(**groups: dict) -> Config:
    """tiny_config(train={"num_epochs": 3}): that key, and the toys' value of every other."""
    merged = {name: TINY.get(name, {}) | groups.get(name, {}) for name in {*TINY, *groups}}
    return Config.model_validate(merged)


def write_split(root: Path) -> Path:
    """Write `root`/images and `root`/outputs/split/{train,val}.csv; returns the split's folder."""
    images, split = root / "images", root / "outputs" / "split"
    write_folder(images, TRAIN_MODELS | VAL_MODELS)
    manifest = build_index(DataConfig(data_dir=str(images))).manifest
    for name, models in (("train", TRAIN_MODELS), ("val", VAL_MODELS)):
        write_table(split / f"{name}.csv", manifest[manifest.model.isin(list(models))])
    return split


def write_params(root: Path, config: Config) -> Path:
    """Write `root`/params.yaml (JSON is YAML) with the folders of `write_split`."""
    values = config.model_dump()
    values["data"] |= {"data_dir": "images", "output_dir": "outputs"}
    path = root / "params.yaml"
    path.write_text(json.dumps(values, indent=1))
    return path


def table_of(counts: dict[str, int], data_dir: Path = Path(".")) -> PairTable:
    """A table without pictures: so many samples of each model, none of them twins."""
    columns = ["model", "whole_path", "part_path", "part_sha256", "tx", "ty", "tz", "scale"]
    rows = [
        (
            model,
            f"{model}/whole.png",
            f"{model}/{n}.png",
            str(n),
            *(0.1 * n, 0.0, -0.1, 0.2 + 0.1 * n),
        )
        for model, count in counts.items()
        for n in range(count)
    ]
    table = pd.DataFrame(rows, columns=columns)
    same = {"twin_group": table.part_sha256, "whole_sha256": table.model}
    return PairTable(table.assign(**same), data_dir)


def make_trainer(config: Config, train: PairTable, val: PairTable) -> Trainer:
    """As stages/train.py does it, for one process on the CPU."""
    seed_everything(config.seed)
    model = PartLocator(config.model, Preprocessing.of(config.data))
    start_from_data(model, train, config)
    seed_everything(config.seed)
    return Trainer(config, model, train, val, ALONE)


def sure_of(pose: PartPose) -> Prediction:
    """One hypothesis for each of the poses (B, 3), (B, 1)."""
    nothing = torch.zeros(len(pose.scale), 1)
    return Prediction(PartPose(*(field[:, None] for field in pose)), nothing, nothing)


def let_speak(model: PartLocator, std: float = 0.3) -> None:
    """The way from the head to the answer starts at zero, where nothing differs and no gradient
    gets past it; give it something to say."""
    for layer in (model.head[-1], model.sure):
        torch.nn.init.normal_(layer.weight, std=std)
    if model.match is not None:
        torch.nn.init.eye_(model.lift.weight)


def be_sure(model: PartLocator, log_odds: float) -> None:
    """Of every answer, whatever it is."""
    torch.nn.init.zeros_(model.sure.weight)
    torch.nn.init.constant_(model.sure.bias, log_odds)


def answering_model() -> PartLocator:
    """A tiny network, untrained, whose answers differ from picture to picture; 56 pixels."""
    torch.manual_seed(0)
    config = ModelConfig(
        backbone_name="dinov2_vitt14",
        pretrained=False,
        downsample_size=4,
        cross_attention_layers=1,
        cross_attention_dim=48,
        cross_attention_heads=3,
        mlp_hidden_dim=32,
    )
    model = PartLocator(config, Preprocessing(56))
    let_speak(model)
    with torch.no_grad():
        model.lift.weight.mul_(0.15)  # else answers are pushed to the edge of the whole
    return model


def noise(seed: int, size: tuple[int, int] = (60, 50)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


def write_pictures(root: Path) -> Path:
    """Two models in the users' layout, without labels; one name is not ASCII."""
    for number, (model, parts) in enumerate(UNLABELLED.items()):
        (root / model).mkdir(parents=True)
        for i, part in enumerate(["whole", *parts]):
            noise(100 * number + i).save(root / model / f"{model}-{part}.png")
    return root
