"""Pretraining of the small encoder with everything that is trained beside it.

The objects are procedural and none of the demo's: other proportions and colours, objects of no
known kind, and two of the demo's families left out.
"""

import sys
from pathlib import Path

from partloc.config import AugmentConfig, Config, TrainConfig
from partloc.data.index import build_index
from partloc.data.split import split_models
from partloc.files import write_json, write_table
from partloc.model.model_file import save_model
from partloc.synthetic.dataset import HELD_OUT, PRETRAINING, write_demo
from partloc.training.history import learned
from partloc.training.trainer import Trainer

RATIOS = (0.98, 0.02, 0.0)


def pretraining_of(config: Config, begin: Path | None) -> Config:
    """The pipeline's configuration, changed to train on other data, from the weights in the model
    file `begin`, or from chance."""
    chosen = config.pretrain
    beginning = {"start_from": begin and str(begin), "weights": None, "pretrained": False}
    train = {"num_epochs": chosen.num_epochs, "batch_size": chosen.batch_size}
    # The depth network has learned from every pixel's depth, of which poses say less.
    train |= {"learning_rate": chosen.learning_rate, "backbone_lr_factor": 1.0, "w_depth": 0.0}
    train |= {"use_amp": True, "crop_jitter": TrainConfig().crop_jitter}
    data = {"data_dir": "data/pretrain", "output_dir": "outputs/pretrain"}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "model": config.model.model_copy(update=beginning),
            "augment": AugmentConfig(),
            "train": config.train.model_copy(update=train),
        }
    )


def make_tables(config: Config, split_dir: Path, workers: int) -> None:
    """Render, index and split."""
    data_dir = Path(config.data.data_dir)
    count, size = config.pretrain.num_models, config.demo.image_size
    write_demo(data_dir, count, size, config.seed, workers, PRETRAINING, resume=True)
    manifest = build_index(config.data, workers).manifest
    chosen = split_models(manifest.model, RATIOS, config.seed)
    for name in ("train", "val"):
        write_table(split_dir / f"{name}.csv", manifest[manifest.model.map(chosen) == name])


def write_weights(config: Config, path: Path, trainer: Trainer) -> None:
    save_model(path, trainer.model, {"best_epoch": trainer.best_epoch}, half=True)
    figures = {
        "seed": config.seed,
        "models": config.pretrain.num_models,
        "pairs": {"train": len(trainer.train_table), "val": len(trainer.val_table)},
        "families_left_out": list(HELD_OUT),
        "history": learned(trainer.history),
    }
    write_json(path.with_suffix(".json"), figures)
    print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
