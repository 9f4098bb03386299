"""Attack the project and count what breaks it.

Each property is tried in many cases; a case follows from its seed. The table at the end names the
seeds that failed, and the status is then 1. One case is repeated, with its message, by

    $ python -m benchmarks.torture --only kills --seed 7

All of it:

    $ make torture
"""

import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import benchmark_parser, describe_machine
from benchmarks.metric_tables import torture_table
from benchmarks.torture.properties import PROPERTIES
from benchmarks.torture.runner import PROCESSES, run_property
from partloc.system.cli import run_command
from partloc.system.files import write_json


def run_all(names: list[str], seed: int | None, folder: Path) -> dict[str, Any]:
    """The content of metrics/torture.json."""
    start, rows = time.perf_counter(), []
    for prop in PROPERTIES:
        if prop.name in names:
            seeds = range(prop.cases) if seed is None else [seed]
            rows.append(run_property(prop, seeds, folder / prop.name).as_json())
    cores = min(PROCESSES, len(os.sched_getaffinity(0)))
    return {
        "date": date.today().isoformat(),
        "machine": f"{describe_machine(torch.device('cpu')).partition(',')[0]}, {cores} cores, "
        f"torch {torch.__version__}",
        "minutes": (time.perf_counter() - start) / 60,
        "properties": rows,
    }


def main() -> None:
    names = [prop.name for prop in PROPERTIES]
    parser = benchmark_parser(__doc__)
    parser.add_argument("--only", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--seed", type=int, metavar="S", help="only this case; with --only")
    args = parser.parse_args()
    if args.seed is not None and not args.only:
        parser.error("--seed needs --only NAME")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
        results = run_all([args.only] if args.only else names, args.seed, Path(folder).resolve())
    print(torture_table(results))
    if args.output:
        write_json(args.output, results)
    if any(row["failures"] for row in results["properties"]):
        sys.stdout.flush()
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
