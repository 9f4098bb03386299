"""Make partloc/weights: what the small encoder starts from, as others start from DINOv2's weights.

Renders procedural objects that the demo does not have (other drawings, proportions and colours,
and objects of no known kind; three of the demo's families are left out), trains on them, and
writes the weights in half precision with a checksum and the figures of the training. Interrupted,
the same command goes on where it stopped. Hours on two cores; no stage of the pipeline runs it.

Reads   params.yaml (pretrain, and of the rest what is not about the demo's own training)
Writes  data/pretrain, outputs/pretrain, runs/pretrain, and partloc/weights/{encoder}.pth with
        .sha256 and .json beside it

    $ make pretrain
    $ python stages/pretrain.py --config params.yaml
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partloc.checkpoint import save_model  # noqa: E402
from partloc.command import run_command  # noqa: E402
from partloc.config import AugmentConfig, Config, load_config  # noqa: E402
from partloc.demo import HELD_OUT, PRETRAINING, write_demo  # noqa: E402
from partloc.files import write_json, write_table  # noqa: E402
from partloc.index import build_index  # noqa: E402
from partloc.run import run_training, runs_root  # noqa: E402
from partloc.split import split_models  # noqa: E402
from partloc.train import Trainer  # noqa: E402

WEIGHTS = Path("partloc/weights")
RATIOS = (0.98, 0.02, 0.0)


def pretraining_of(config: Config) -> Config:
    """The pipeline's configuration, changed to train from chance on other data."""
    chosen = config.pretrain
    beginning = {"start_from": None, "weights": None, "pretrained": False}
    train = {"num_epochs": chosen.num_epochs, "batch_size": chosen.batch_size}
    train |= {"learning_rate": chosen.learning_rate, "backbone_lr_factor": 1.0}
    data = {"data_dir": "data/pretrain", "output_dir": "outputs/pretrain"}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "model": config.model.model_copy(update=beginning),
            "augment": AugmentConfig(),
            "train": config.train.model_copy(update=train),
        }
    )


def make_tables(config: Config, workers: int) -> Path:
    """Render, index and split; the folder with the tables."""
    data_dir, split_dir = Path(config.data.data_dir), Path(config.data.output_dir, "split")
    count, size = config.pretrain.num_models, config.demo.image_size
    write_demo(data_dir, count, size, config.seed, workers, PRETRAINING, resume=True)
    manifest = build_index(config.data, workers).manifest
    chosen = split_models(manifest.model, RATIOS, config.seed)
    for name in ("train", "val"):
        write_table(split_dir / f"{name}.csv", manifest[manifest.model.map(chosen) == name])
    return split_dir


def write_weights(config: Config, trainer: Trainer) -> None:
    path = WEIGHTS / f"{config.model.backbone_name}.pth"
    save_model(path, trainer.model, {"best_epoch": trainer.best_epoch}, half=True)
    figures = {
        "seed": config.seed,
        "models": config.pretrain.num_models,
        "pairs": {"train": len(trainer.train_table), "val": len(trainer.val_table)},
        "families_left_out": list(HELD_OUT),
        "history": trainer.history,
    }
    write_json(path.with_suffix(".json"), figures)
    print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("params.yaml"), metavar="FILE")
    config = pretraining_of(load_config(parser.parse_args().config))
    split_dir = make_tables(config, config.machine.num_processes or os.cpu_count())

    run_training(config, split_dir, runs_root("pretrain"), True, partial(write_weights, config))


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on")
