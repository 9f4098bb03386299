"""Stage `evaluate`: how far off the model is, beside the constant answer.

Reads   {output_dir}/split/{test,train}.csv, the images they name, models/best_model.pth
Writes  metrics/evaluate.json, {output_dir}/evaluate/predictions.csv and samples/

Another split or checkpoint leaves these alone and writes all three to a folder of its own,
{output_dir}/evaluate-val or, of models/other.pth, {output_dir}/evaluate-test-models-other.

    $ python stages/evaluate.py
    $ python stages/evaluate.py --split val
"""

import argparse
import sys
from pathlib import Path

from partloc.cli import make_parser, run_command
from partloc.config import load_config
from partloc.data.split import SPLITS
from partloc.data.table import PairTable
from partloc.distributed import choose_device
from partloc.evaluation.evaluate import (
    PIPELINE_MODEL,
    Judge,
    answer_models,
    comparison,
    evaluate,
    judged_rows,
    read_split,
    results_of,
    training_median,
)
from partloc.evaluation.report import write_samples
from partloc.files import write_json, write_table_chunks
from partloc.model.model_file import load_model


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--split", choices=SPLITS, default="test", help="default test")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=PIPELINE_MODEL,
        metavar="FILE",
        help=f"default {PIPELINE_MODEL}",
    )
    return parser.parse_args()


def run() -> None:
    args = parse()
    config = load_config(args.config)
    data_dir, output_dir = Path(config.data.data_dir), Path(config.data.output_dir)
    metrics_file, folder = results_of(output_dir, args.split, args.checkpoint)

    samples = read_split(output_dir, args.split).sort_values(["model", "part"], ignore_index=True)
    constant = training_median(output_dir)
    judge = Judge(PairTable(samples, data_dir))
    model = load_model(args.checkpoint)
    answers = answer_models(model, judge.table, config, choose_device(config.machine.device))
    predictions = folder / "predictions.csv"
    write_table_chunks(
        predictions, judged_rows(samples, judge, answers, constant, model.pinhole_camera)
    )
    figures = evaluate(judge, config.seed)
    write_samples(folder / "samples", predictions, data_dir, config.data.max_image_pixels)
    write_json(metrics_file, figures)
    print(comparison(figures, args.split), file=sys.stderr)
    print(f"written: {metrics_file}, {folder}", file=sys.stderr)


def main() -> None:
    run_command(run)
