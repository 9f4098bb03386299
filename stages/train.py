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

from partloc.checkpoint import RunFolder  # noqa: E402
from partloc.config import load_config  # noqa: E402
from partloc.data import Preprocessing, reason_of  # noqa: E402
from partloc.model import PartLocator  # noqa: E402
from partloc.run import (  # noqa: E402
    Interrupted,
    fingerprint_of,
    on_signals,
    read_tables,
    refuse_edited_parameters,
    resume_or_start,
    runs_root,
    start_from_data,
    write_outputs,
)
from partloc.team import join_team, seed_everything  # noqa: E402
from partloc.train import Trainer  # noqa: E402


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("params.yaml"), metavar="FILE")
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
    split_dir, data_dir = Path(config.data.output_dir, "split"), Path(config.data.data_dir)
    train_table, val_table = read_tables(split_dir, data_dir)

    team = join_team(config.machine.device)
    seed_everything(config.seed)
    model = PartLocator(config.model, Preprocessing(config.data.image_size))
    start_from_data(model, train_table, config)
    seed_everything(config.seed, team.rank)
    trainer = Trainer(config, model, train_table, val_table, team)
    folder = RunFolder(runs_root(), fingerprint_of(config, split_dir))
    with team.led(folder.locked()):
        resume_or_start(trainer, folder, args.resume)
        trainer.fit(folder)
        if team.leads:
            refuse_edited_parameters(config, load_config(args.config))
            write_outputs(trainer, folder, Path("models"), Path("metrics"))
            folder.mark_finished()
    team.leave()


if __name__ == "__main__":
    try:
        with on_signals():
            main()
    except Interrupted as stop:
        print(
            f"{stop}: stopped; the same command goes on from the last finished epoch",
            file=sys.stderr,
        )
        sys.exit(128 + stop.signum)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {reason_of(error)}", file=sys.stderr)
        sys.exit(2)
