"""Tables of experiments through DVC's queue: what each choice is worth, and how few models do.

- ablations: one setting changed at a time, on fewer models and epochs than the demo's, from
  random weights unless a line says otherwise
- small-data: the pipeline as it is, on 5 to all training models, and on all from random weights

Each line of a table is one `dvc exp run --queue`, which --list prints; what this commit has run
already is not run again, so an interrupted table goes on and a table of more seeds adds to one of
fewer. --report tells of what has ended so far and runs nothing. --lines asks for some lines only;
the others stay as --output has them, if they were made by the command that would make them today.

A seed is one of everything: demo, split, weights, order. Figures of several are means and standard
deviations; "difference" is that from the line of one setting less, taken seed by seed.

    $ python benchmarks/experiments.py ablations --list
    $ python benchmarks/experiments.py ablations --output metrics/ablations.json    # hours
    $ python benchmarks/experiments.py ablations --report     # beside it, in another terminal
    $ python benchmarks/experiments.py ablations --lines "crop: false" "match_size: 0" \\
          --output metrics/ablations.json
    $ python benchmarks/experiments.py small-data --output metrics/small_data.json
"""

import json
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import dvc.api

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from partloc.cli import count, make_parser, run_command  # noqa: E402
from partloc.files import figure_at, write_json  # noqa: E402

SMALL = ("data.max_train_models=100", "train.num_epochs=2")
CHANCE = ("model.start_from=null", "train.learning_rate=1.0e-3")
SCRATCH = (*SMALL, *CHANCE)
# 32 x 32 patches, so that tokens can be pooled to 8, to 16, or not at all.
FINE = (*SCRATCH, "data.image_size=448", "data.read_size=448", "data.max_train_models=30")

# What each line of a table sets; a line of one setting more than another is compared with it.
ABLATIONS = {
    "from random weights": SCRATCH,
    "position: none": (*SCRATCH, "model.position=none"),
    "similar_start: false": (*SCRATCH, "model.similar_start=false"),
    "scale_loss: plain": (*SCRATCH, "train.scale_loss=plain"),
    "twin_aware: false": (*SCRATCH, "train.twin_aware=false"),
    "sampling: balanced": (*SCRATCH, "train.sampling=balanced"),
    "cross_attention_layers: 0": (*SCRATCH, "model.cross_attention_layers=0"),
    "cross_attention_layers: 2": (*SCRATCH, "model.cross_attention_layers=2"),
    "cross_attention_layers: 4": (*SCRATCH, "model.cross_attention_layers=4"),
    "accumulation_steps: 4": (*SCRATCH, "train.accumulation_steps=4"),
    "crop: false": (*SCRATCH, "model.crop=false"),
    "match_size: 0": (*SCRATCH, "model.match_size=0"),
    "depth_maps: false": (*SCRATCH, "model.depth_maps=false"),
    "hypotheses: 1": (*SCRATCH, "model.hypotheses=1"),
    "w_rank: 0": (*SCRATCH, "train.w_rank=0.0"),
    "w_depth: 0.1": (*SCRATCH, "train.w_depth=0.1"),
    "from the shipped weights": SMALL,
    "shipped, freeze_backbone: true": (*SMALL, "train.freeze_backbone=true"),
    "shipped, hypotheses: 1": (*SMALL, "model.hypotheses=1"),
    "shipped, w_rank: 0": (*SMALL, "train.w_rank=0.0"),
    "shipped, w_depth: 0.1": (*SMALL, "train.w_depth=0.1"),
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
    "all models, w_depth: 0.1": ("train.w_depth=0.1",),
    "all models, from random weights": CHANCE,
    "all models, from random weights, w_rank: 0": (*CHANCE, "train.w_rank=0.0"),
}
TABLES = {"ablations": ABLATIONS, "small-data": SMALL_DATA}
CONSTANT = "always the training median"

# Figure -> (metrics file, path in it); lower is better.
FIGURES = {
    "nearest twin, validation": ("metrics/train.json", "best_val_twin_aware_error"),
    "nearest twin": ("metrics/evaluate.json", "translation_error/twin_aware/mean"),
    "median": ("metrics/evaluate.json", "translation_error/twin_aware/median"),
    "raw": ("metrics/evaluate.json", "translation_error/mean"),
    # Without the network that judges places together, which no line changes.
    "assigned": ("metrics/evaluate.json", "translation_error/unarranged/mean"),
    "scale, mean": ("metrics/evaluate.json", "scale_error/relative_mean"),
    "scale, median": ("metrics/evaluate.json", "scale_error/relative_median"),
}
# Of this one, how far a line is from its reference.
COMPARED = "nearest twin"
DIFFERENCE = f"{COMPARED}, difference"


class Experiment(NamedTuple):
    """One run of the pipeline up to evaluate."""

    name: str
    settings: tuple[str, ...]

    def command(self) -> list[str]:
        settings = [word for setting in self.settings for word in ("-S", setting)]
        return ["dvc", "exp", "run", "--queue", "--name", self.name, *settings, "evaluate"]


def experiments_of(table: str, seed: int) -> dict[str, Experiment]:
    """For each line of a table its experiment with one seed."""
    planned = {}
    for line, settings in TABLES[table].items():
        words = "".join(c if c.isalnum() else " " for c in line).split()
        settings = (*settings, f"seed={seed}") if seed else settings
        planned[line] = Experiment("-".join([table, *words, f"seed{seed}"]), settings)
    return planned


def output_of(*command: str) -> str:
    """Raises: ChildProcessError with what the command says, if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def dvc_output(*arguments: str) -> str:
    return output_of(sys.executable, "-m", "dvc", *arguments)


def finished() -> dict[str, str]:
    """Names of this commit's finished experiments, and the commit of each.

    Read from Git, since DVC's own list waits for a lock that the queue's run holds to its end.
    """
    head = output_of("git", "rev-parse", "HEAD").strip()
    place = f"refs/exps/{head[:2]}/{head[2:]}/"
    found = output_of("git", "for-each-ref", "--format=%(refname:lstrip=4) %(objectname)", place)
    return dict(line.split() for line in found.splitlines())


def run(experiments: list[Experiment], jobs: int) -> None:
    """Queue what has neither been run nor queued, and work the queue off, `jobs` at a time."""
    known = finished()
    missing = [experiment for experiment in experiments if experiment.name not in known]
    tasks = [line.split() for line in dvc_output("queue", "status").splitlines()]
    queued = {word for task in tasks if task[-1:] == ["Queued"] for word in task}
    for experiment in missing:
        if experiment.name not in queued:
            dvc_output(*experiment.command()[1:])
    if missing:
        print(f"{len(missing)} of {len(experiments)} experiments to run", file=sys.stderr)
        work_off = ["exp", "run", "--run-all", "--jobs", str(jobs)]
        subprocess.run([sys.executable, "-m", "dvc", *work_off], cwd=ROOT)


@cache  # a reference is asked for by every line that is compared with it
def figures_of(commit: str, under: str = "") -> dict[str, float]:
    """Of a finished experiment; those that its metrics files have. under: "baseline/" for those
    of the constant answer."""
    files = {path for path, _ in FIGURES.values()}
    read = {path: json.loads(dvc.api.read(path, str(ROOT), commit)) for path in files}
    found = {name: figure_at(read[path], under + place) for name, (path, place) in FIGURES.items()}
    return {name: value for name, value in found.items() if value is not None}


def reference_of(table: str, line: str) -> str | None:
    """The line that does without the last of its settings, if the table has it."""
    settings = TABLES[table][line]
    lines = (name for name in TABLES[table] if TABLES[table][name] == settings[:-1])
    return next(lines, None) if settings else None


def results_of(
    table: str, line: str, planned: list[dict[str, Experiment]], done: dict[str, str]
) -> list[dict[str, float]]:
    """Figures of what has finished of one line, each with its difference from the reference's.

    A seed is another test split, easier or harder for all lines alike: so they are compared seed
    by seed.
    """
    reference = reference_of(table, line)
    results = []
    for by_line in planned:
        if by_line[line].name not in done:
            continue
        result = dict(figures_of(done[by_line[line].name]))
        if reference and by_line[reference].name in done:
            theirs = figures_of(done[by_line[reference].name])
            result[DIFFERENCE] = result[COMPARED] - theirs[COMPARED]
        results.append(result)
    return results


def over_seeds(results: list[dict[str, float]]) -> dict[str, float]:
    """Means of the figures that all have, and deviations where there are several."""
    found = {"seeds": len(results)}
    for name in results[0]:
        values = [result[name] for result in results if name in result]
        if len(values) < len(results):
            continue
        found[name] = mean(values)
        if len(values) > 1:
            found[f"{name}, deviation"] = stdev(values)
    return found


def kept_rows(path: Path | None, table: str) -> dict[str, dict[str, Any]]:
    """The rows of an earlier table, by line, that the commands of today would make; and that of
    the constant answer, which none makes."""
    if path is None or not path.exists():
        return {}
    commands = {line: shlex.join(e.command()) for line, e in experiments_of(table, 0).items()}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["line"]: row for row in rows if row.get("command") == commands.get(row["line"])}


def rows_of(
    table: str,
    lines: list[str],
    planned: list[dict[str, Experiment]],
    done: dict[str, str],
    kept: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """The constant answer's row, then each line's: what was run of it, or else what is kept.

    planned: for each seed the table's experiments, by line; done: as `finished` tells.
    Raises: ValueError where none of the lines has finished.
    """
    found = {}
    for line in lines:
        if results := results_of(table, line, planned, done):
            command = shlex.join(planned[0][line].command())
            found[line] = {"line": line, "command": command, **over_seeds(results)}
    if not found:
        raise ValueError("no experiment of this table has finished; see `dvc queue status`")
    if CONSTANT not in kept:
        line = next(iter(found))
        runs = [each[line].name for each in planned if each[line].name in done]
        results = [figures_of(done[run], "baseline/") for run in runs]
        found[CONSTANT] = {"line": CONSTANT, **over_seeds(results)}
    rows = kept | found
    return [rows[line] for line in (CONSTANT, *TABLES[table]) if line in rows]


def main() -> None:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("table", choices=TABLES)
    add("--lines", nargs="+", metavar="LINE", help="of the table; default all")
    add("--seeds", type=count, default=1, metavar="N", help="0 to N - 1; default 1")
    add("--jobs", type=count, default=1, metavar="N", help="experiments at a time; default 1")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--list", action="store_true", help="print the commands, run nothing")
    only.add_argument("--report", action="store_true", help="of what has been run; run nothing")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    lines = args.lines or list(TABLES[args.table])
    if unknown := [line for line in lines if line not in TABLES[args.table]]:
        parser.error(f"no such line: {unknown[0]!r}; there are {', '.join(TABLES[args.table])}")
    planned = [experiments_of(args.table, seed) for seed in range(args.seeds)]
    everything = [by_line[line] for by_line in planned for line in lines]
    if args.list:
        print(*(shlex.join(experiment.command()) for experiment in everything), sep="\n")
        return
    if not args.report:
        run(everything, args.jobs)
    kept = kept_rows(args.output, args.table) if args.lines else {}
    done = finished()
    rows = rows_of(args.table, lines, planned, done, kept)
    if args.output:
        write_json(args.output, {"table": args.table, "rows": rows})
    columns = (*FIGURES, DIFFERENCE)
    print(f"| | seeds | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 2) + "|")
    for row in rows:
        cells = [_cell(row, name) for name in columns]
        print(f"| {row['line']} | {row['seeds']} | {' | '.join(cells)} |")
    if failed := [e.name for e in everything if e.name not in done]:
        print(f"not finished: {', '.join(failed)}; see `dvc queue logs`", file=sys.stderr)


def _cell(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    form = ".1%" if name.startswith("scale") else ".3f"
    deviation = f" ± {row[f'{name}, deviation']:{form}}" if f"{name}, deviation" in row else ""
    return f"{row[name]:{'+' if name == DIFFERENCE else ''}{form}}{deviation}"


if __name__ == "__main__":
    run_command(main)
