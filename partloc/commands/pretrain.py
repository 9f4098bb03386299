"""Train the weights that come with the code; no stage of the pipeline runs this.

Both trainings render procedural objects that the demo data set does not contain, train on them,
and write weights in half precision with a checksum and the training history beside them. An
interrupted command continues where it stopped. They are made for a GPU; two CPU cores take days.

depth    renders objects with the depth of each pixel and writes partloc/weights/depth.pth, the
         depth network of every encoder.
encoder  renders objects, indexes and splits them, and writes partloc/weights/{backbone}.pth, the
         small encoder with everything that is trained beside it. It starts from random weights,
         or with --start-from from a model file.

Reads   params.yaml (seed, demo.image_size, data, model, train, pretrain)
Writes  data/pretrain*, outputs/pretrain, runs/pretrain*, and OUT with .sha256 and .json beside it

    $ partloc pretrain depth
    $ partloc pretrain encoder --start-from partloc/weights/dinov2_vitt14.pth
    $ torchrun --nproc-per-node 2 -m partloc pretrain depth
"""

import argparse
import os
from datetime import timedelta
from functools import partial
from pathlib import Path

from partloc.cli import make_parser, run_command
from partloc.config import load_config
from partloc.distributed import join_team
from partloc.model.depth_net import DEPTH_WEIGHTS
from partloc.training.run import run_training, runs_root

# Rendering takes most of the time, and the processes beside the main one wait for its end.
RENDERING_TIMEOUT = timedelta(hours=12)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("network", choices=("depth", "encoder"), help="what to train")
    parser.add_argument(
        "--start-from", type=Path, metavar="FILE", help="encoder: a model file to start from"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: in partloc/weights")
    return parser.parse_args()


def pretrain_depth(args: argparse.Namespace) -> None:
    from partloc.pretraining.depth import draw_studies, train_depth

    config = load_config(args.config)
    pictures, out = Path("data/pretrain-depth"), args.out or DEPTH_WEIGHTS
    with join_team(config.machine.device, RENDERING_TIMEOUT) as team:
        if team.leads:
            draw_studies(pictures, config, config.machine.num_processes or os.cpu_count())
        team.wait()
        train_depth(config, pictures, runs_root("pretrain-depth"), team, out)


def pretrain_encoder(args: argparse.Namespace) -> None:
    from partloc.pretraining.encoder import make_tables, pretraining_of, write_weights

    if args.start_from and not args.start_from.is_file():
        raise FileNotFoundError(f"--start-from {args.start_from}: no such file")
    config = pretraining_of(load_config(args.config), args.start_from)
    split_dir = Path(config.data.output_dir, "split")
    out = args.out or Path("partloc/weights", f"{config.model.backbone_name}.pth")
    with join_team(config.machine.device, RENDERING_TIMEOUT) as team:
        if team.leads:
            make_tables(config, split_dir, config.machine.num_processes or os.cpu_count())
        team.wait()
        finish = partial(write_weights, config, out)
        run_training(config, team, split_dir, runs_root("pretrain"), True, finish)


def run() -> None:
    args = parse()
    if args.network == "depth":
        pretrain_depth(args)
    else:
        pretrain_encoder(args)


def main() -> None:
    run_command(run, stopped="stopped; the same command continues")
