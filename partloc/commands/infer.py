"""Stage `infer`: where does a part belong? Needs a checkpoint and pictures, nothing else.

One whole: prints {"translation": [x, y, z], "scale": s, "confidence": c}; with several --part a
list of such objects, each with its "part". The confidence is the probability that the translation
is less than 0.05 off. Parts that look the same are given distinct places. All else goes to stderr.

    $ python stages/infer.py --whole chair-whole.png --part chair-leg.png
    $ python stages/infer.py --whole chair-whole.png --part chair-leg.png --part chair-seat.png

With --all also "hypotheses": every place considered, the one that would be chosen first.

    $ python stages/infer.py --whole chair-whole.png --part chair-leg.png --all

A folder of models: writes OUT/{model}/{model}-{part}.json for each part, in the format of the
labels, OUT/predictions.csv, and OUT/skipped.csv with the pictures that could not be used.

    $ python stages/infer.py --data-dir data/images --output answers

The models of a split table, as in the pipeline; data_dir and device come from params.yaml.

    $ python stages/infer.py --split outputs/split/test.csv --output outputs/infer

Several processes share the models of either, and leave the bytes that one would leave.

    $ torchrun --nproc-per-node 2 stages/infer.py --data-dir data/images --output answers
"""

import argparse
import json
import sys
from datetime import timedelta
from pathlib import Path

from partloc.cli import gc_paused, make_parser, positive_int, run_command

PATIENCE = timedelta(days=7)  # of a process that has answered its share, for the others

# What needs torch is imported after the arguments are checked: a mistake is answered at once.


def parser_of_infer() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("--whole", type=Path, metavar="FILE", help="picture of the whole")
    add("--part", type=Path, metavar="FILE", action="append", help="of a part; repeatable")
    add("--data-dir", type=Path, metavar="DIR", help="folder of models; labels are not needed")
    add("--split", type=Path, metavar="FILE", help="a split table: only the parts that it lists")
    add("--output", type=Path, metavar="OUT", help="folder for the answers of many models")
    add("--all", action="store_true", help="every hypothesis, beside the best")
    add("--config", type=Path, metavar="FILE", help="with --split only; default params.yaml")
    model = Path("models/best_model.pth")
    add("--checkpoint", type=Path, metavar="FILE", default=model, help=f"default {model}")
    add("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1 or mps")
    add(
        "--max-image-pixels",
        type=positive_int,
        metavar="N",
        help="refuse larger pictures; 64,000,000",
    )
    return parser


def check(args: argparse.Namespace) -> str | None:
    """What is wrong with the arguments taken together, or None."""
    many = args.data_dir or args.split
    if not (args.whole or args.part or many):
        return "give --whole and --part, or --data-dir and --output, or --split and --output"
    if (args.whole or args.part) and (many or args.output):
        return "--whole and --part answer one whole; they exclude --data-dir, --split and --output"
    if not many and not (args.whole and args.part):
        return f"{'--part' if args.whole else '--whole'} is missing: a whole and a part are needed"
    if many and not args.output:
        return "--output is missing: the folder for the answers"
    if args.config and not args.split:
        return "--config goes with --split; elsewhere the checkpoint says everything"
    return None


def require_files(args: argparse.Namespace) -> None:
    """Raises: FileNotFoundError for the first file that is not there."""
    if not args.checkpoint.is_file():
        cure = "train it with `dvc repro`, or fetch it with `dvc pull`"
        raise FileNotFoundError(f"{args.checkpoint}: no such file; {cure}")
    for path in [args.whole, *(args.part or []), args.split]:
        if path and not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")


def answer_one(args: argparse.Namespace) -> None:
    with gc_paused():
        from partloc.data.images import DEFAULT_MAX_PIXELS, ImageError
        from partloc.inference.predictor import Predictor

        limit = args.max_image_pixels or DEFAULT_MAX_PIXELS
        predictor = Predictor(args.checkpoint, args.device or "auto", limit)
    outcomes = predictor.predict(args.whole, args.part)
    for outcome in outcomes:
        if isinstance(outcome, ImageError):
            raise outcome
    answers = [found.as_json(args.all) for found in outcomes]
    if len(answers) == 1:
        print(json.dumps(answers[0]))
    else:
        named = [{"part": str(p)} | a for p, a in zip(args.part, answers, strict=True)]
        print(json.dumps(named, ensure_ascii=False))


def answer_many(args: argparse.Namespace) -> None:
    from partloc.config import Config, load_config
    from partloc.distributed import distributed_context
    from partloc.inference.folder import (
        Tally,
        find_jobs,
        jobs_of_table,
        predict_jobs,
        refuse_overwriting,
        share_of,
        write_answers,
    )
    from partloc.inference.predictor import Predictor

    config = load_config(args.config or "params.yaml") if args.split else Config()
    data_dir = args.data_dir or Path(config.data.data_dir)
    limit = args.max_image_pixels or config.data.max_image_pixels
    refuse_overwriting(args.output, data_dir)
    jobs = jobs_of_table(args.split) if args.split else find_jobs(data_dir)

    with distributed_context(args.device or config.machine.device, PATIENCE) as context:
        predictor = Predictor(args.checkpoint, str(context.device), limit)
        outcomes = predict_jobs(predictor, share_of(jobs, context), data_dir, bar=context.is_main)
        tallies = context.gather(write_answers(args.output, outcomes, context, args.all))
        if context.is_main:
            print(sum(tallies, start=Tally()), file=sys.stderr)
            print(f"written: {args.output}", file=sys.stderr)


def run() -> None:
    parser = parser_of_infer()
    args = parser.parse_args()
    mistake = check(args)
    if mistake:
        parser.error(mistake)
    require_files(args)
    if args.whole:
        answer_one(args)
    else:
        answer_many(args)


def main() -> None:
    run_command(run)
