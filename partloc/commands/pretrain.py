"""Train the weights in partloc/weights further; no stage of the pipeline runs this.

Renders procedural objects that the demo does not contain, seen by random cameras in random light,
and trains the whole network on them: encoder, matching, depth network and heads. It starts from the
shipped weights, and it continues where an earlier call with the same starting weights has stopped:
a call with more steps trains further. Two CPU cores train about 9 pairs a second.

Reads   the starting weights
Writes  runs/pretrain; the averaged weights to OUT, and beside it their checksum and a JSON file
        with the history

The last weights are averaged, and mixed with the starting weights if --start-share is given, which
keeps more of what these can do on other images; a call with the same --steps only mixes again.

    $ partloc pretrain --steps 20000 --out pretrained.pth
    $ partloc pretrain --steps 20000 --start-share 0.5 --out pretrained.pth
    $ partloc pretrain --steps 100 --start-from models/best_model.pth --out pretrained.pth
"""

import argparse
import sys
from pathlib import Path

from partloc.config import digest, load_config
from partloc.distributed import seed_everything
from partloc.model.depth_net import SHIPPED_WEIGHTS
from partloc.model.model_file import load_model, save_model
from partloc.model.proposals import ProposalLocator
from partloc.pretraining.batches import RenderedBatches, load_batches
from partloc.pretraining.trainer import PretrainingTrainer
from partloc.system.cli import make_parser, positive_int, run_command
from partloc.system.files import file_sha256, write_json
from partloc.training.run import runs_root
from partloc.training.run_folder import RunFolder

STATE_FORMAT_VERSION = 2  # increase it when the meaning of a saved state changes
# Validation batches have numbers that no training reaches.
FIRST_VAL_BATCH, NUM_VAL_BATCHES = 10**9, 16


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--steps",
        type=positive_int,
        default=20_000,
        help="in all; default 20000",
    )
    parser.add_argument(
        "--start-from", type=Path, default=SHIPPED_WEIGHTS, metavar="FILE", help="a model file"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=SHIPPED_WEIGHTS,
        metavar="FILE",
        help="default: shipped file",
    )
    parser.add_argument(
        "--start-share",
        type=share,
        default=0.0,
        metavar="X",
        help="share of the starting weights in the written ones, 0 to 1; default 0",
    )
    return parser.parse_args()


def share(text: str) -> float:
    """Type of an argument. Raises: ValueError outside 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise ValueError
    return number


def run() -> None:
    args = parse()
    seed = load_config(args.config).seed
    model = load_model(args.start_from)
    if not isinstance(model, ProposalLocator) or model.depth_net is None:
        raise ValueError(
            f"{args.start_from}: expected a model with template matching and depth maps"
        )
    origin = [STATE_FORMAT_VERSION, seed, file_sha256(args.start_from)]
    folder = RunFolder(runs_root("pretrain"), digest(origin))
    with folder.locked():
        seed_everything(seed)
        batches = RenderedBatches(seed, model.preprocessing)
        numbers = range(FIRST_VAL_BATCH, FIRST_VAL_BATCH + NUM_VAL_BATCHES)
        trainer = PretrainingTrainer(model, [batches[number] for number in numbers])
        state = folder.load_state()
        if state is not None:
            trainer.restore(state)
        trainer.train(load_batches(batches, trainer.step, args.steps), folder, args.steps)
        finished = trainer.finished_model(args.start_share)
        save_model(args.out, finished, {"steps": trainer.step}, half=True)
        history = {
            "seed": seed,
            "pairs": trainer.pairs,
            "start_share": args.start_share,
            "history": trainer.history,
        }
        write_json(args.out.with_suffix(".json"), history)
        print(f"written: {args.out}", file=sys.stderr)


def main() -> None:
    run_command(run, stopped="stopped; the same command continues from the last saved state")
