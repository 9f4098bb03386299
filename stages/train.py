"""Stage `train`: learn where a part belongs; goes on where an interrupted training stopped.

Reads   {output_dir}/split/train.csv and val.csv, the images that they name, params.yaml
Writes  models/best_model.pth, metrics/train.json; the resumable state and TensorBoard's files go
        to runs/train, which is no output of DVC

    $ python stages/train.py --resume
    $ torchrun --nproc-per-node 2 stages/train.py
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partloc.command import make_parser, run_command  # noqa: E402
from partloc.config import load_config  # noqa: E402
from partloc.run import (  # noqa: E402
    refuse_edited_parameters,
    run_training,
    runs_root,
    write_outputs,
)
from partloc.team import join_team  # noqa: E402
from partloc.train import Trainer  # noqa: E402


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with an unfinished training of the same configuration and split (default)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    config = load_config(args.config)

    def finish(trainer: Trainer) -> None:
        refuse_edited_parameters(config, load_config(args.config))
        write_outputs(trainer, Path("models"), Path("metrics"))

    split_dir = Path(config.data.output_dir, "split")
    with join_team(config.machine.device) as team:
        run_training(config, team, split_dir, runs_root(), args.resume, finish)


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on from the last finished epoch")
