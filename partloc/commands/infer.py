"""Stage `infer`: predict the poses of parts from images. Needs no labels.

Without --checkpoint the model is models/best_model.pth or, if this does not exist, that of the last
finished training, or else the one whose weights come with the package.

One whole: prints {"translation": [x, y, z], "scale": s, "confidence": c}, or with several --part a
list of such objects, each with its "part"; partloc/inference/answer.schema.json describes them. The
confidence is the probability that the translation error is below 0.05. Parts that look identical
get distinct positions. Messages go to stderr.

    $ python stages/infer.py --whole chair-whole.png --part chair-leg.png
    $ python stages/infer.py --whole chair-whole.png --part chair-leg.png --part chair-seat.png

With --all also "hypotheses": all poses that were considered, the most probable first.

    $ python stages/infer.py --whole chair-whole.png --part chair-leg.png --all

Images of another camera than that of the model file: its angles in degrees, azimuth from +x toward
+y, elevation above the horizontal plane, full field of view. Translations are then in a
right-handed frame with z upward.

    $ python stages/infer.py --whole chair-whole.png --part chair-leg.png --camera=-20,10,45

A folder of models: writes OUT/{model}/{model}-{part}.json for each part, such an object with the
names of model and part; OUT/predictions.csv, the same as a table; OUT/hypotheses.npy, all
hypotheses of its rows; OUT/attention.npy, what each part attended to; OUT/skipped.csv, the images
that could not be used; and OUT/model.json, facts about the model. With --report also
OUT/report.html, a page of all predictions.

    $ python stages/infer.py --data-dir data/images --output predictions

A split of the pipeline, or the file of a split table; the folders and the device come from
params.yaml. The predictions for the test split are written to {output_dir}/infer by default.

    $ python stages/infer.py --split test
    $ python stages/infer.py --split outputs/split/val.csv --output predictions-val

Several processes divide the models among them and write the same bytes as one.

    $ torchrun --nproc-per-node 2 stages/infer.py --data-dir data/images --output predictions
"""

import argparse
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from partloc.inference.checkpoint import find_pretrained
from partloc.system.cli import (
    gc_paused,
    importing,
    make_parser,
    positive_int,
    print_json,
    print_summary,
    run_command,
)

if TYPE_CHECKING:
    from partloc.inference.locator_api import Locator

# Modules that need torch are imported after the arguments are checked, so that a mistake is
# reported at once.

PIPELINE_MODEL = Path("models/best_model.pth")
LAST_MODEL = Path("runs/train/best_model.pth")  # its copy; DVC deletes the former while it trains
# How long a process waits for others that have more work.
TIMEOUT = timedelta(days=7)
PIPELINE_SPLIT = "test"  # its predictions are an output of the pipeline


def make_infer_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("--whole", type=Path, metavar="FILE", help="image of the whole")
    add("--part", type=Path, metavar="FILE", action="append", help="image of a part; repeatable")
    add("--data-dir", type=Path, metavar="DIR", help="folder of models; labels are not needed")
    add("--split", metavar="SPLIT", help="train, val, test, or a split table: only these parts")
    add("--output", type=Path, metavar="OUT", help="folder for the predictions of many models")
    add("--all", action="store_true", help="report all hypotheses")
    add("--report", action="store_true", help="write a page of the predictions, OUT/report.html")
    add("--config", type=Path, metavar="FILE", help="with --split only; default params.yaml")
    add("--checkpoint", type=Path, metavar="FILE", help=f"default {PIPELINE_MODEL}")
    add("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1 or mps")
    pixels_help = "skip larger images; default 64,000,000"
    camera_help = "azimuth, elevation and field of view of the camera in degrees; see above"
    add("--camera", type=parse_camera, metavar="A,E,F", help=camera_help)
    add("--max-image-pixels", type=positive_int, metavar="N", help=pixels_help)
    return parser


def parse_camera(text: str) -> tuple[float, float, float]:
    """Raises: ArgumentTypeError unless it is three numbers."""
    try:
        azimuth, elevation, fov = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected azimuth,elevation,field of view in degrees, e.g. 45,30,30"
        ) from None
    return azimuth, elevation, fov


def find_mistake(args: argparse.Namespace) -> str | None:
    """The mistake in the combination of arguments, if there is one."""
    many = args.data_dir or args.split
    if not (args.whole or args.part or many):
        return "give --whole and --part, or --data-dir and --output, or --split and --output"
    if (args.whole or args.part) and (many or args.output):
        return "--whole and --part are for one whole; they exclude --data-dir, --split and --output"
    if not many and not (args.whole and args.part):
        return f"{'--part' if args.whole else '--whole'} is missing: a whole and a part are needed"
    if many and not args.output and args.split != PIPELINE_SPLIT:
        return "--output is missing: the folder for the predictions"
    if args.report and not many:
        return "--report is for --data-dir or --split"
    if args.config and not args.split:
        return "--config is for --split; otherwise the model file contains all settings"
    return None


def choose_checkpoint(given: Path | None, of_pipeline: bool = False) -> Path:
    """The model file: the one given, that of the pipeline, its copy, or the shipped one.

    of_pipeline: no other than the first two. A split table is predicted to measure a model, so no
        other model may take its place.
    Raises: OSError if it does not exist or is no regular file.
    """
    checkpoint = given or PIPELINE_MODEL
    if not (checkpoint.exists() or given or of_pipeline):
        checkpoint = LAST_MODEL if LAST_MODEL.is_file() else find_pretrained()
        found = f"the shipped model {checkpoint.name}"
        if checkpoint == LAST_MODEL:
            found = f"{checkpoint}, the model of the last finished training"
        print(f"no {PIPELINE_MODEL}: using {found}", file=sys.stderr)
    if not checkpoint.exists():
        cure = "train it with `dvc repro`, or fetch it with `dvc pull`"
        raise FileNotFoundError(f"{checkpoint}: no such file; {cure}")
    if not checkpoint.is_file():
        raise OSError(f"{checkpoint}: not a regular file; expected a model file")
    return checkpoint


def require_images(args: argparse.Namespace) -> None:
    """Raises: FileNotFoundError for the first image that does not exist."""
    for path in [args.whole, *(args.part or [])]:
        if path and not path.exists():
            raise FileNotFoundError(f"{path}: no such file")


def camera_message(locator: "Locator", args: argparse.Namespace) -> str:
    from partloc.model.camera import describe_camera

    source = "as given" if args.camera else "of the model file"
    return describe_camera(locator.camera, source)


def predict_one_whole(args: argparse.Namespace, checkpoint: Path) -> None:
    with importing(), gc_paused():
        from partloc.data.background import NO_BACKGROUND_WARNING
        from partloc.data.images import DEFAULT_MAX_PIXELS
        from partloc.inference.estimate import make_answer
        from partloc.inference.locator_api import Locator

        max_pixels = args.max_image_pixels or DEFAULT_MAX_PIXELS
        locator = Locator(checkpoint, args.device or "auto", max_pixels, args.camera)
    print(camera_message(locator, args), file=sys.stderr)
    estimates = locator.locate(args.whole, args.part)
    for path, estimate in zip(args.part, estimates, strict=True):
        if not estimate.plain_background:
            print(f"warning: {path}: {NO_BACKGROUND_WARNING}", file=sys.stderr)
    print_json(make_answer(list(map(str, args.part)), estimates, args.all))


def predict_many(args: argparse.Namespace, checkpoint: Path) -> None:
    with importing():
        from partloc.config import Config, load_config
        from partloc.data.layout import SPLITS
        from partloc.distributed import distributed_context
        from partloc.inference.folder import (
            Summary,
            make_model_info,
            predict_jobs,
            require_outside,
            write_predictions,
        )
        from partloc.inference.jobs import find_jobs, local_jobs, read_jobs
        from partloc.inference.locator_api import Locator
        from partloc.inference.prediction_files import write_model_info
        from partloc.system.files import locked_folder

    config = load_config(args.config or "params.yaml") if args.split else Config()
    data_dir = args.data_dir or Path(config.data.data_dir)
    output = args.output or Path(config.data.output_dir, "infer")
    require_outside(output, data_dir)
    if args.split in SPLITS:
        jobs = read_jobs(Path(config.data.output_dir, "split", f"{args.split}.csv"))
    else:
        jobs = read_jobs(Path(args.split)) if args.split else find_jobs(data_dir)

    device = args.device or config.machine.device
    max_pixels = args.max_image_pixels or config.data.max_image_pixels
    with (
        distributed_context(device, TIMEOUT) as context,
        context.on_main(locked_folder(output)),
    ):
        context.barrier()  # until the folder is locked
        locator = Locator(checkpoint, str(context.device), max_pixels, args.camera)
        predictor = locator.predictor
        if context.is_main:
            print(camera_message(locator, args), file=sys.stderr)
        outcomes = predict_jobs(predictor, local_jobs(jobs, context), data_dir, context.is_main)
        model = predictor.model
        summary = write_predictions(
            *(output, outcomes, model.num_hypotheses, context, args.all, model.attention_side)
        )
        summaries = context.gather(summary)
        if context.is_main:
            write_model_info(output, make_model_info(model, checkpoint))
            written = [output]
            if args.report:
                # No import statement: the stage `infer` writes no page, so that a change of the
                # page does not make DVC predict again.
                page = import_module("partloc.report_page.predictions")
                written.append(page.write_predictions_page(output, data_dir, max_pixels))
            print_summary(sum(summaries, start=Summary()), *written)


def run() -> None:
    parser = make_infer_parser()
    args = parser.parse_args()
    mistake = find_mistake(args)
    if mistake:
        parser.error(mistake)
    require_images(args)
    checkpoint = choose_checkpoint(args.checkpoint, of_pipeline=bool(args.split))
    if args.whole:
        predict_one_whole(args, checkpoint)
    else:
        predict_many(args, checkpoint)


def main() -> None:
    run_command(run)
