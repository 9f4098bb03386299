"""Make partloc/weights: what the small encoder starts from, as others start from DINOv2's weights.

Renders procedural objects that the demo does not have (other drawings, proportions and colours,
and objects of no known kind; two of the demo's families are left out), trains on them, and writes
the weights in half precision with a checksum and the figures of the training. Interrupted, the
same command goes on where it stopped. Made for a GPU, and a week or more on two cores; no stage of
the pipeline runs it. It begins from chance, or with --start-from where an earlier pretraining has
ended.

Reads   params.yaml (pretrain, and of the rest what is not about the demo's own training)
Writes  data/pretrain, outputs/pretrain, runs/pretrain, and partloc/weights/{encoder}.pth with
        .sha256 and .json beside it

    $ make pretrain
    $ python stages/pretrain.py --start-from partloc/weights/dinov2_vitt14.pth
    $ torchrun --nproc-per-node 2 stages/pretrain.py --config params.yaml
"""

import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partloc.checkpoint import save_model  # noqa: E402
from partloc.command import make_parser, run_command  # noqa: E402
from partloc.config import AugmentConfig, Config, TrainConfig, load_config  # noqa: E402
from partloc.demo import HELD_OUT, PRETRAINING, write_demo  # noqa: E402
from partloc.files import write_json, write_table  # noqa: E402
from partloc.history import learned  # noqa: E402
from partloc.index import build_index  # noqa: E402
from partloc.run import run_training, runs_root  # noqa: E402
from partloc.split import split_models  # noqa: E402
from partloc.team import join_team  # noqa: E402
from partloc.train import Trainer  # noqa: E402

WEIGHTS = Path("partloc/weights")
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


def write_weights(config: Config, trainer: Trainer) -> None:
    path = WEIGHTS / f"{config.model.backbone_name}.pth"
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


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--start-from", type=Path, metavar="FILE", help="a model file")
    args = parser.parse_args()
    if args.start_from and not args.start_from.is_file():
        raise FileNotFoundError(f"--start-from {args.start_from}: no such file")
    config = pretraining_of(load_config(args.config), args.start_from)
    split_dir, finish = Path(config.data.output_dir, "split"), partial(write_weights, config)
    patience = timedelta(hours=12)  # of which most is drawing
    with join_team(config.machine.device, patience) as team:
        if team.leads:
            make_tables(config, split_dir, config.machine.num_processes or os.cpu_count())
        team.wait()
        run_training(config, team, split_dir, runs_root("pretrain"), True, finish)


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on")
