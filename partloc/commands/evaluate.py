"""Stage `evaluate`: measure the errors of the predictions of the stage `infer`.

Reads   {output_dir}/infer, {output_dir}/split/{test,train}.csv, {output_dir}/train/loss.json, the
        images of the samples shown
Writes  metrics.json, the main figures; into {output_dir}/evaluate: report.json, predictions.csv,
        the images in samples/, the data of the charts in plots/, and report.html, a page of all
        figures and cases

Another split or model file does not change these. Its results go to a folder of their own, e.g.
{output_dir}/evaluate-val or, for models/other.pth, {output_dir}/evaluate-test-models-other; the
command `infer` is run first and writes to infer/ in that folder.

    $ python stages/evaluate.py
    $ python stages/evaluate.py --split val
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import partloc
from partloc.config import Config, load_config
from partloc.data.layout import SPLITS
from partloc.data.table import PairTable
from partloc.evaluation.accumulator import ErrorAccumulator
from partloc.evaluation.evaluate import (
    PIPELINE_MODEL,
    EvaluationPaths,
    compute_metrics,
    evaluation_paths,
    format_comparison,
    plot_records,
    read_split,
    select_figures,
    split_path,
    training_median_pose,
)
from partloc.evaluation.page import make_content
from partloc.evaluation.report import write_samples
from partloc.inference.prediction_files import (
    ModelInfo,
    has_predictions,
    read_model_info,
    read_predictions,
)
from partloc.report_page.page import PAGE_FILE, write_page
from partloc.system.cli import make_parser, print_summary, run_command
from partloc.system.files import file_sha256, locked_folder, write_json, write_table_chunks


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
    paths = evaluation_paths(Path(config.data.output_dir), args.split, args.checkpoint)
    with locked_folder(paths.folder):
        evaluate(args, config, paths)


def evaluate(args: argparse.Namespace, config: Config, paths: EvaluationPaths) -> None:
    """Measure the predictions for a split, which are made if need be, and write the results."""
    data_dir, output_dir = Path(config.data.data_dir), Path(config.data.output_dir)
    samples = read_split(output_dir, args.split).sort_values(["model", "part"], ignore_index=True)
    baseline = training_median_pose(output_dir)
    table = PairTable(samples, data_dir)
    # Those of the pipeline are the output of another stage; others are made here, always anew.
    if paths.predictions != output_dir / "infer" or not has_predictions(paths.predictions):
        run_infer(args, split_path(output_dir, args.split), paths.predictions)
    info = read_model_info(paths.predictions)
    require_same_model(info, args.checkpoint, paths.predictions)

    accumulator = ErrorAccumulator(table)
    predictions = read_predictions(paths.predictions, table, info)
    rows = accumulator.iter_rows(samples, predictions, baseline, info.camera)
    write_table_chunks(paths.folder / "predictions.csv", rows)
    report = compute_metrics(accumulator, config.seed)
    table_file, max_pixels = paths.folder / "predictions.csv", config.data.max_image_pixels
    write_samples(paths.folder / "samples", table_file, data_dir, info.camera, max_pixels)
    for name, records in plot_records(accumulator, report).items():
        write_json(paths.folder / "plots" / f"{name}.json", {name: records})
    write_json(paths.folder / "report.json", report)
    write_json(paths.metrics, select_figures(report))
    is_pipeline_model = args.checkpoint.resolve() == PIPELINE_MODEL.resolve()
    loss_file = output_dir / "train/loss.json" if is_pipeline_model else None
    content = make_content(
        args.split, samples, accumulator, report, paths.predictions, loss_file, config.seed
    )
    write_page(paths.folder / PAGE_FILE, content, info, data_dir, max_pixels)
    print_summary(format_comparison(report, args.split), paths.metrics, paths.folder)


def run_infer(args: argparse.Namespace, split_table: Path, output: Path) -> None:
    """Run the command `infer` in another process: this one needs no code of the network.

    Exits with the status of that process if it fails; it has printed the reason.
    """
    if not args.checkpoint.is_file():
        raise FileNotFoundError(f"{args.checkpoint}: no such file; train it (dvc repro) or pull it")
    command: list[str | Path] = [sys.executable, "-P", "-m", "partloc", "infer"]
    command += ["--split", split_table]
    command += ["--output", output, "--checkpoint", args.checkpoint, "--config", args.config]
    checkout = str(Path(partloc.__file__).parents[1])
    import_path = filter(None, [checkout, os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(import_path)}
    status = subprocess.run(command, env=environment).returncode
    if status:
        sys.exit(status)


def require_same_model(info: ModelInfo, checkpoint: Path, predictions: Path) -> None:
    """Raises: ValueError if the predictions are those of another model file."""
    if checkpoint.is_file() and file_sha256(checkpoint) != info.checkpoint_sha256:
        raise ValueError(
            f"{predictions}: these are not the predictions of {checkpoint}; run `dvc repro infer`"
        )


def main() -> None:
    run_command(run)
