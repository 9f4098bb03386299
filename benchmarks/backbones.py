"""What every encoder inherits from the shipped weights: errors before and after a short training.

Encoders that the shipped weights do not contain start with random weights here, as if no DINOv2
weights were at hand; everything behind the encoder's projection is inherited. The samples are those
of the pipeline's split; run `dvc repro` before.

- first: the starting weights, with projection and camera fitted to the training models
- trained: with --train, after a short training with a fixed encoder on some of these models

Rows of --output that the same code, settings and weights have measured are kept.

    $ python -m benchmarks.backbones --output metrics/backbones.json --train
    $ python -m benchmarks.backbones --backbones dinov2_vits14 --image-size 112
"""

import argparse
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks.common import benchmark_parser
from benchmarks.errors import (
    Job,
    Row,
    accumulate_errors,
    mean_errors,
    measure_rows,
    row_fingerprint,
    train_or_load,
)
from benchmarks.metric_tables import backbones_table
from partloc.config import Config, load_config
from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import seed_everything
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.system.cli import positive_int, run_command
from partloc.system.files import write_table
from partloc.training.initialization import initialize_model
from partloc.training.run import runs_root

BACKBONES = ("dinov2_vitt14", "dinov2_vits14", "dinov2_vitb14")
REPORTED = ("translation_error", "relative_scale_error")
MAX_TRAIN_MODELS, NUM_EPOCHS = 24, 2


def evaluate(model: PartLocator, config: Config, train: PairTable, test: PairTable) -> Row:
    """Mean errors on the test models, each with its 95 % interval."""
    errors = accumulate_errors(model, config, train, test).errors
    return mean_errors({name: errors[name] for name in REPORTED}, test, config.seed)


def with_backbone(config: Config, backbone: str, image_size: int) -> Config:
    """The configuration with another encoder at another image size."""
    model = config.model.model_copy(update={"backbone_name": backbone})
    data = config.data.model_copy(update={"image_size": image_size})
    return config.model_copy(update={"model": model, "data": data})


def train(config: Config, folder: Path) -> PartLocator:
    """Train for a short time with a fixed encoder, or take what an earlier call has trained."""
    short = {"num_epochs": NUM_EPOCHS, "freeze_backbone": True}
    config = config.model_copy(update={"train": config.train.model_copy(update=short)})
    known = read_split(config, "train")
    is_used = known.model.isin(known.model.unique()[:MAX_TRAIN_MODELS])
    for split, table in (("train", known[is_used]), ("val", read_split(config, "val"))):
        write_table(folder / "split" / f"{split}.csv", table)
    return train_or_load(config, folder / "split", folder)


def read_split(config: Config, split: str) -> pd.DataFrame:
    return read_manifest(Path(config.data.output_dir, "split", f"{split}.csv"))


def measure(config: Config, with_training: bool, row: Row) -> Row:
    """Complete a row of the table."""
    data_dir = Path(config.data.data_dir)
    known, test = (PairTable(read_split(config, split), data_dir) for split in ("train", "test"))
    if not row:
        row = measure_first(config, known, test)
    if with_training:
        folder = runs_root("backbones") / row_fingerprint(config)
        row = row | {"trained": evaluate(train(config, folder), config, known, test)}
    return row


def measure_first(config: Config, known: PairTable, test: PairTable) -> Row:
    """The row before any training."""
    seed_everything(config.seed)
    model = build_locator(config.model, Preprocessing.from_config(config.data)).eval()
    initialize_model(model, known, config)
    return {
        "backbone": config.model.backbone_name,
        "image_size": config.data.image_size,
        "encoder_weights": sum(weight.numel() for weight in model.encoder.parameters()),
        "num_parts": len(test),
        "first": evaluate(model, config, known, test),
    }


def parse_arguments() -> argparse.Namespace:
    parser = benchmark_parser(__doc__, config=Path("params.yaml"))
    add = parser.add_argument
    add("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES, metavar="NAME")
    add("--image-size", type=positive_int, default=224, metavar="PX", help="default 224")
    add("--train", action="store_true", help="train each for a short time, too")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    base = load_config(args.config)
    # The shipped weights as they are come first: the others are compared with them.
    configs = [base] + [with_backbone(base, name, args.image_size) for name in args.backbones]
    jobs = [
        Job(
            f"{config.model.backbone_name}, {config.data.image_size} px",
            row_fingerprint(config),
            partial(measure, config, args.train),
        )
        for config in configs
    ]
    print(backbones_table(measure_rows(args.output, jobs, "trained" if args.train else None)))


if __name__ == "__main__":
    run_command(main)
