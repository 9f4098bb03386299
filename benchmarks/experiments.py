"""Run a table of experiments through DVC's queue and report their metrics.

- ablations: one setting changed at a time, on fewer models and epochs than the demo; from random
  weights, or from the shipped weights where the name says so
- small-data: the pipeline with 5 to all training models, and with all from random weights

Each row of a table is one `dvc exp run --queue` per seed; --list prints the commands. Experiments
that the current commit has finished already are not run again, so an interrupted table continues,
and more seeds extend a table. --report only reports what has finished. --rows selects rows; the
others are taken from --output if their command is the same.

A seed determines demo, split, initialisation and sampling order. With several seeds the metrics are
means and standard deviations. "difference" is the difference from the row with one setting less,
computed seed by seed.

    $ python -m benchmarks.experiments ablations --list
    $ python -m benchmarks.experiments ablations --output metrics/ablations.json    # hours
    $ python -m benchmarks.experiments ablations --report     # meanwhile, in another terminal
    $ python -m benchmarks.experiments ablations --rows "match_size: 0" "hypotheses: 1" \\
          --output metrics/ablations.json
    $ python -m benchmarks.experiments small-data --output metrics/small_data.json
"""

import argparse
import json
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import dvc.api

from benchmarks.common import ROOT, benchmark_parser
from benchmarks.metric_tables import BASELINE, experiment_table
from partloc.system.cli import positive_int, run_command
from partloc.system.files import nested_value, write_json

SMALL = ("data.max_train_models=100", "train.num_epochs=2")
RANDOM_WEIGHTS = ("model.start_from=null", "train.learning_rate=1.0e-3")
SCRATCH = (*SMALL, *RANDOM_WEIGHTS)
# 32 x 32 patches, so that tokens can be pooled to 8 x 8, to 16 x 16, or not at all.
FINE = (*SCRATCH, "data.image_size=448", "data.read_size=448", "data.max_train_models=30")

# Settings of each row. A row with one more setting than another is compared with it.
ABLATIONS = {
    "from random weights": SCRATCH,
    "scale_loss: l1": (*SCRATCH, "train.scale_loss=l1"),
    "twin_aware: false": (*SCRATCH, "train.twin_aware=false"),
    "sampling: balanced": (*SCRATCH, "train.sampling=balanced"),
    "cross_attention_layers: 0": (*SCRATCH, "model.cross_attention_layers=0"),
    "cross_attention_layers: 2": (*SCRATCH, "model.cross_attention_layers=2"),
    "cross_attention_layers: 4": (*SCRATCH, "model.cross_attention_layers=4"),
    "accumulation_steps: 4": (*SCRATCH, "train.accumulation_steps=4"),
    "match_size: 0": (*SCRATCH, "model.match_size=0"),
    "depth_maps: false": (*SCRATCH, "model.depth_maps=false"),
    "hypotheses: 1": (*SCRATCH, "model.hypotheses=1"),
    "w_rank: 0": (*SCRATCH, "train.w_rank=0.0"),
    "w_depth: 0": (*SCRATCH, "train.w_depth=0.0"),
    "from the shipped weights": SMALL,
    "shipped, freeze_backbone: true": (*SMALL, "train.freeze_backbone=true"),
    "shipped, hypotheses: 1": (*SMALL, "model.hypotheses=1"),
    "shipped, w_rank: 0": (*SMALL, "train.w_rank=0.0"),
    "shipped, w_depth: 0": (*SMALL, "train.w_depth=0.0"),
    "shipped, accumulation_steps: 4": (*SMALL, "train.accumulation_steps=4"),
    "shipped, batch_size: 2": (*SMALL, "train.batch_size=2"),
    "448 px, downsample_size: 8": FINE,
    "448 px, downsample_size: 16": (*FINE, "model.downsample_size=16"),
    "448 px, downsample_size: 32": (*FINE, "model.downsample_size=32"),
}
SMALL_DATA = {
    f"{count} models": (f"data.max_train_models={count}",) for count in (5, 10, 20, 50, 100)
} | {
    "all models": (),
    "all models, w_depth: 0": ("train.w_depth=0.0",),
    "all models, from random weights": RANDOM_WEIGHTS,
    "all models, from random weights, w_rank: 0": (*RANDOM_WEIGHTS, "train.w_rank=0.0"),
}
TABLES = {"ablations": ABLATIONS, "small-data": SMALL_DATA}

# Metric -> (report, path in it). Lower is better.
METRICS = {
    "val_translation_error": ("outputs/train/report.json", "best/val_translation_error"),
    "translation_error_mean": ("outputs/evaluate/report.json", "translation_error/mean"),
    "translation_error_median": ("outputs/evaluate/report.json", "translation_error/median"),
    "labelled_error_mean": ("outputs/evaluate/report.json", "labelled_error/mean"),
    "assigned_error_mean": ("outputs/evaluate/report.json", "assigned_error/mean"),
    "relative_scale_error_mean": ("outputs/evaluate/report.json", "relative_scale_error/mean"),
    "relative_scale_error_median": ("outputs/evaluate/report.json", "relative_scale_error/median"),
}
COMPARED = "translation_error_mean"
DIFFERENCE = f"{COMPARED}_difference"


class Experiment(NamedTuple):
    """One run of the pipeline up to evaluate."""

    name: str
    settings: tuple[str, ...]

    def command(self) -> list[str]:
        settings = [word for setting in self.settings for word in ("-S", setting)]
        return ["dvc", "exp", "run", "--queue", "--name", self.name, *settings, "evaluate"]


def plan_experiments(table: str, seed: int) -> dict[str, Experiment]:
    """Row -> experiment, with one seed."""
    planned = {}
    for row, settings in TABLES[table].items():
        words = "".join(c if c.isalnum() else " " for c in row).split()
        settings = (*settings, f"seed={seed}") if seed else settings
        planned[row] = Experiment("-".join([table, *words, f"seed{seed}"]), settings)
    return planned


# -- running ---------------------------------------------------------------------------------------


def read_output(*command: str) -> str:
    """Raises: ChildProcessError with the command's error message, if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def run_dvc(*arguments: str) -> str:
    return read_output(sys.executable, "-m", "dvc", *arguments)


def finished_experiments() -> dict[str, str]:
    """Names of the finished experiments of the current commit -> commit of the result.

    Read from Git: DVC's own list waits for a lock that a running queue holds to its end.
    """
    head = read_output("git", "rev-parse", "HEAD").strip()
    refs = f"refs/exps/{head[:2]}/{head[2:]}/"
    form = "--format=%(refname:lstrip=4) %(objectname)"
    lines = read_output("git", "for-each-ref", form, refs).splitlines()
    return dict(line.split() for line in lines)


def run_experiments(experiments: list[Experiment], jobs: int) -> None:
    """Queue what has neither finished nor been queued, then run the queue, `jobs` at a time."""
    finished = finished_experiments()
    missing = [experiment for experiment in experiments if experiment.name not in finished]
    tasks = [line.split() for line in run_dvc("queue", "status").splitlines()]
    queued = {word for task in tasks if task[-1:] == ["Queued"] for word in task}
    for experiment in missing:
        if experiment.name not in queued:
            run_dvc(*experiment.command()[1:])
    if missing:
        print(f"{len(missing)} of {len(experiments)} experiments to run", file=sys.stderr)
        run_queue = ["exp", "run", "--run-all", "--jobs", str(jobs)]
        subprocess.run([sys.executable, "-m", "dvc", *run_queue], cwd=ROOT)


# -- results ---------------------------------------------------------------------------------------


@cache  # the metrics of a reference are needed for every row compared with it
def read_metrics(commit: str, prefix: str = "") -> dict[str, float]:
    """Available METRICS of a finished experiment; with prefix "baseline/" those of the baseline."""
    files = {path for path, _ in METRICS.values()}
    contents = {path: json.loads(dvc.api.read(path, str(ROOT), commit)) for path in files}
    metrics = {}
    for name, (file, path) in METRICS.items():
        value = nested_value(contents[file], prefix + path)
        if value is not None:
            metrics[name] = value
    return metrics


def reference_row(table: str, row: str) -> str | None:
    """The row without the last setting of this one, if the table has it."""
    settings = TABLES[table][row]
    rows = (name for name in TABLES[table] if TABLES[table][name] == settings[:-1])
    return next(rows, None) if settings else None


def metrics_by_seed(
    table: str, row: str, planned: list[dict[str, Experiment]], finished: dict[str, str]
) -> list[dict[str, float]]:
    """Metrics of the finished experiments of a row, each with its difference from the reference.

    The test split of one seed may be harder than another's for all rows alike, hence the
    comparison within each seed.
    """
    reference = reference_row(table, row)
    results = []
    for experiments in planned:
        if experiments[row].name not in finished:
            continue
        metrics = dict(read_metrics(finished[experiments[row].name]))
        if reference and experiments[reference].name in finished:
            reference_metrics = read_metrics(finished[experiments[reference].name])
            metrics[DIFFERENCE] = metrics[COMPARED] - reference_metrics[COMPARED]
        results.append(metrics)
    return results


def summarize_seeds(results: list[dict[str, float]]) -> dict[str, float]:
    """Means of the metrics that all seeds have, and standard deviations of several seeds."""
    summary: dict[str, float] = {"seeds": len(results)}
    for name in results[0]:
        values = [metrics[name] for metrics in results if name in metrics]
        if len(values) < len(results):
            continue
        summary[name] = mean(values)
        if len(values) > 1:
            summary[f"{name}_std"] = stdev(values)
    return summary


def read_earlier_rows(path: Path | None, table: str) -> dict[str, dict[str, Any]]:
    """Rows of an earlier result file whose command is still the same, and the baseline's row."""
    if path is None or not path.exists():
        return {}
    commands = {row: shlex.join(e.command()) for row, e in plan_experiments(table, 0).items()}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["name"]: row for row in rows if row.get("command") == commands.get(row["name"])}


def collect_rows(
    table: str,
    names: list[str],
    planned: list[dict[str, Experiment]],
    finished: dict[str, str],
    earlier: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """The baseline's row, then the table's rows: finished ones, or else earlier ones.

    planned: the table's experiments by row, for each seed.
    Raises: ValueError if none of the rows has finished.
    """
    rows = {}
    for name in names:
        if results := metrics_by_seed(table, name, planned, finished):
            command = shlex.join(planned[0][name].command())
            rows[name] = {"name": name, "command": command, **summarize_seeds(results)}
    if not rows:
        raise ValueError("no experiment of this table has finished; see `dvc queue status`")
    if BASELINE not in earlier:
        name = next(iter(rows))
        runs = [by_row[name].name for by_row in planned if by_row[name].name in finished]
        results = [read_metrics(finished[run], "baseline/") for run in runs]
        rows[BASELINE] = {"name": BASELINE, **summarize_seeds(results)}
    rows = earlier | rows
    return [rows[name] for name in (BASELINE, *TABLES[table]) if name in rows]


def parse_arguments() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add("table", choices=TABLES)
    add("--rows", nargs="+", metavar="ROW", help="of the table; default all")
    add("--seeds", type=positive_int, default=1, metavar="N", help="0 to N - 1; default 1")
    add(
        "--jobs", type=positive_int, default=1, metavar="N", help="experiments at a time; default 1"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="print the commands, run nothing")
    mode.add_argument("--report", action="store_true", help="report what has finished")
    args = parser.parse_args()
    args.names = args.rows or list(TABLES[args.table])
    if unknown := [name for name in args.names if name not in TABLES[args.table]]:
        parser.error(f"no row {unknown[0]!r}; the table has {', '.join(TABLES[args.table])}")
    return args


def main() -> None:
    args = parse_arguments()
    planned = [plan_experiments(args.table, seed) for seed in range(args.seeds)]
    experiments = [by_row[name] for by_row in planned for name in args.names]
    if args.list:
        print(*(shlex.join(experiment.command()) for experiment in experiments), sep="\n")
        return
    if not args.report:
        run_experiments(experiments, args.jobs)
    earlier = read_earlier_rows(args.output, args.table) if args.rows else {}
    finished = finished_experiments()
    rows = collect_rows(args.table, args.names, planned, finished, earlier)
    if args.output:
        write_json(args.output, {"table": args.table, "rows": rows})
    print(experiment_table(rows))
    if unfinished := [e.name for e in experiments if e.name not in finished]:
        print(f"not finished: {', '.join(unfinished)}; see `dvc queue logs`", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
