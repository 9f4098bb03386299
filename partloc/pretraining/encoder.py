"""Pretraining of the small encoder together with the rest of the model.

The training objects are procedural. They are of other kinds than those of the demo, or of no
particular kind.
"""

import sys
from pathlib import Path

from partloc.config import AugmentConfig, TrainConfig
from partloc.data.index import build_index
from partloc.data.split import split_models
from partloc.files import write_json, write_table
from partloc.model.model_file import save_model
from partloc.pretraining.settings import PretrainingConfig
from partloc.synthetic.dataset import write_dataset
from partloc.synthetic.families import (
    GENERIC_FAMILIES,
    PRETRAINING_FAMILIES,
    PRETRAINING_OBJECTS,
)
from partloc.training.history import describe_best
from partloc.training.trainer import Trainer

SPLIT_RATIOS = (0.98, 0.02, 0.0)  # training, validation, test


def encoder_config(config: PretrainingConfig, start_from: Path | None) -> PretrainingConfig:
    """Adapt the configuration of the pipeline to the pretraining.

    Args:
        start_from: model file with the initial weights; None initialises randomly.
    """
    settings = config.pretrain
    initial_weights = start_from and str(start_from)
    model = {"start_from": initial_weights, "weights": None, "pretrained": False}
    train = {
        "num_epochs": settings.num_epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "backbone_lr_factor": 1.0,
        "w_depth": 0.0,  # poses supervise depth less than the depth maps that it was trained on
        "use_amp": True,
        "crop_jitter": TrainConfig().crop_jitter,
    }
    data = {"data_dir": "data/pretrain", "output_dir": "outputs/pretrain"}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "model": config.model.model_copy(update=model),
            "augment": AugmentConfig(),
            "train": config.train.model_copy(update=train),
        }
    )


def render_and_split(config: PretrainingConfig, split_dir: Path, workers: int) -> None:
    """Render the models, index them, and write the training and validation tables."""
    data_dir = Path(config.data.data_dir)
    num_models, size = config.pretrain.num_models, config.demo.image_size
    write_dataset(
        data_dir, num_models, size, config.seed, workers, PRETRAINING_OBJECTS, resume=True
    )
    manifest = build_index(config.data, workers).manifest
    split = split_models(manifest.model, SPLIT_RATIOS, config.seed)
    for name in ("train", "val"):
        write_table(split_dir / f"{name}.csv", manifest[manifest.model.map(split) == name])


def write_weights(config: PretrainingConfig, path: Path, trainer: Trainer) -> None:
    """Write the model in half precision with its checksum, and a JSON file with the history."""
    save_model(path, trainer.model, {"best_epoch": trainer.best_epoch}, half=True)
    summary = {
        "seed": config.seed,
        "models": config.pretrain.num_models,
        "pairs": {"train": len(trainer.train_table), "val": len(trainer.val_table)},
        "families": [*PRETRAINING_FAMILIES, *GENERIC_FAMILIES],
        "history": [record for record in trainer.history if record["epoch"]],
    }
    write_json(path.with_suffix(".json"), summary)
    print(describe_best(trainer.history), file=sys.stderr)
    print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
