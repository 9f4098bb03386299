"""Train the weights in partloc/weights; no stage of the pipeline runs this.

Each training renders procedural objects that the demo data set does not contain, trains on them,
and writes weights in half precision with a checksum and the training history beside them. An
interrupted command continues where it stopped. It is made for a GPU; two CPU cores take days.

depth    renders objects with the depth of each pixel and writes partloc/weights/depth.pth, the
         depth network of every encoder.
encoder  renders objects, indexes and splits them, and writes partloc/weights/{backbone}.pth, the
         small encoder with everything that is trained beside it. It starts from random weights,
         or with --start-from from a model file.

Reads   params.yaml (seed, demo.image_size, data, model, train)
Writes  data/pretrain*, outputs/pretrain, runs/pretrain*, and OUT with .sha256 and .json beside it

    $ partloc pretrain depth
    $ partloc pretrain depth --set depth_models=1000 --set depth_steps=100
    $ partloc pretrain encoder --start-from partloc/weights/dinov2_vitt14.pth
    $ torchrun --nproc-per-node 2 -m partloc pretrain depth
"""

import argparse
import os
from datetime import timedelta
from functools import partial
from pathlib import Path

from partloc.cli import make_parser, run_command
from partloc.distributed import distributed_context
from partloc.model.depth_net import DEPTH_WEIGHTS
from partloc.pretraining.depth import train_depth
from partloc.pretraining.depth_samples import render_samples
from partloc.pretraining.encoder import encoder_config, render_and_split, write_weights
from partloc.pretraining.settings import PretrainingConfig, load_pretraining_config
from partloc.training.run import run_training, runs_root

# Rendering takes most of the time, and the other processes wait until the main one has finished it.
RENDERING_TIMEOUT = timedelta(hours=12)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("network", choices=tuple(TRAININGS), help="what to train")
    parser.add_argument(
        "--start-from", type=Path, metavar="FILE", help="encoder: a model file to start from"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: in partloc/weights")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of partloc/pretraining/settings.py; repeatable",
    )
    args = parser.parse_args()
    if args.start_from and args.network != "encoder":
        parser.error("--start-from is only for encoder")
    return args


def pretrain_depth(args: argparse.Namespace, config: PretrainingConfig) -> None:
    folder, out = Path("data/pretrain-depth"), args.out or DEPTH_WEIGHTS
    with distributed_context(config.machine.device, RENDERING_TIMEOUT) as context:
        if context.is_main:
            render_samples(folder, config, num_workers(config))
        context.barrier()
        train_depth(config, folder, runs_root("pretrain-depth"), context, out)


def pretrain_encoder(args: argparse.Namespace, config: PretrainingConfig) -> None:
    if args.start_from and not args.start_from.is_file():
        raise FileNotFoundError(f"--start-from {args.start_from}: no such file")
    config = encoder_config(config, args.start_from)
    split_dir = Path(config.data.output_dir, "split")
    out = args.out or Path("partloc/weights", f"{config.model.backbone_name}.pth")
    with distributed_context(config.machine.device, RENDERING_TIMEOUT) as context:
        if context.is_main:
            render_and_split(config, split_dir, num_workers(config))
        context.barrier()
        finish = partial(write_weights, config, out)
        run_training(config, context, split_dir, runs_root("pretrain"), True, finish)


TRAININGS = {"depth": pretrain_depth, "encoder": pretrain_encoder}


def num_workers(config: PretrainingConfig) -> int:
    """The number of rendering processes."""
    return config.machine.num_processes or os.cpu_count() or 1


def run() -> None:
    args = parse()
    TRAININGS[args.network](args, load_pretraining_config(args.config, args.overrides))


def main() -> None:
    run_command(run, stopped="stopped; the same command continues")
