"""Stage `train`: train the model, or resume an interrupted training.

Reads   {output_dir}/split/train.csv and val.csv, the images that they name, params.yaml
Writes  models/best_model.pth, {output_dir}/train/report.json and loss.json; the resumable state,
        the best model so far and TensorBoard's files are in runs/train, which is no output of DVC,
        and so is a copy of the last best_model.pth

    $ python stages/train.py --resume
    $ torchrun --nproc-per-node 2 stages/train.py
"""

import argparse
from pathlib import Path

from partloc.config import Config, load_config
from partloc.distributed import distributed_context
from partloc.system.cli import make_parser, print_summary, run_command
from partloc.training.history import format_training
from partloc.training.run import keep_model, run_training, runs_root, write_outputs
from partloc.training.trainer import Trainer


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="continue a training of the same configuration and split (default); a finished one "
        "writes its outputs again",
    )
    return parser.parse_args()


def run() -> None:
    args = parse()
    config = load_config(args.config)

    def finish(trainer: Trainer) -> None:
        reports = Path(config.data.output_dir, "train")
        model_file = write_outputs(trainer, Path("models"), reports)
        keep_model(model_file, root)
        print_summary(format_training(trainer.state.history), model_file, reports)

    def reload_config() -> Config:
        return load_config(args.config)

    root, split_dir = runs_root(), Path(config.data.output_dir, "split")
    with distributed_context(config.machine.device) as context:
        run_training(config, context, split_dir, root, args.resume, finish, reload_config)


def main() -> None:
    run_command(run, stopped="stopped; the same command resumes from the last saved state")
