"""What training the demo is worth: errors on its test models before and after, seed by seed.

The seed determines the models, the split and the order of training; the number of threads only the
rounding. The error before is that of the starting weights, with the camera fitted to the training
models. State is kept in runs/demo-training, and rows of --output that the same code, settings and
weights have measured are kept, so an interrupted run continues.

    $ python -m benchmarks.demo_training --output metrics/demo_training.json
    $ python -m benchmarks.demo_training --seeds 1 --threads 2
"""

import argparse
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.common import benchmark_parser
from benchmarks.errors import (
    Job,
    Row,
    accumulate_errors,
    mean_errors,
    measure_rows,
    row_fingerprint,
)
from benchmarks.metric_tables import demo_training_table
from partloc.config import Config, load_config
from partloc.data.index import build_index
from partloc.data.split import SPLITS, split_models
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import choose_device, distributed_context
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.model.model_file import load_model, save_model
from partloc.synthetic.dataset import DEMO_IMAGE_PX, write_dataset
from partloc.system.cli import positive_int, run_command
from partloc.system.files import write_table
from partloc.training.history import best_metric
from partloc.training.initialization import initialize_model
from partloc.training.run import run_training, runs_root
from partloc.training.trainer import Trainer

REPORTED = ("translation_error", "assigned_error", "relative_scale_error")


def make_tables(config: Config) -> dict[str, pd.DataFrame]:
    """Render the demo of the configuration's seed into its data_dir, and split it."""
    workers = config.machine.used_processes
    num_models, folder = config.demo.num_models, Path(config.data.data_dir)
    write_dataset(folder, num_models, DEMO_IMAGE_PX, config.seed, workers, resume=True)
    manifest = build_index(config.data, workers=workers).manifest
    ratios = (config.data.train_ratio, config.data.val_ratio, config.data.test_ratio)
    split_of_row = manifest.model.map(split_models(manifest.model, ratios, config.seed))
    return {split: manifest[split_of_row == split] for split in SPLITS}


def evaluate(model: PartLocator, config: Config, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Mean errors on the test models, each with its 95 % interval."""
    train, test = (PairTable(tables[s], Path(config.data.data_dir)) for s in ("train", "test"))
    errors = accumulate_errors(model, config, train, test).errors
    return mean_errors({name: errors[name] for name in REPORTED}, test, config.seed)


def train(config: Config, tables: dict[str, pd.DataFrame], folder: Path) -> dict[str, Any]:
    """Train, or take what an earlier call has trained, and describe the kept epoch."""
    for name, table in tables.items():
        write_table(folder / "split" / f"{name}.csv", table)
    facts: dict[str, Any] = {}

    def finish(trainer: Trainer) -> None:
        save_model(folder / "model.pth", trainer.model, trainer.state.info)
        facts["kept_epoch"] = best_metric(trainer.state.history)["epoch"]

    start, cpu_start = time.perf_counter(), time.process_time()
    with distributed_context(config.machine.device) as context:
        run_training(config, context, folder / "split", folder, True, finish)
    facts["seconds"] = time.perf_counter() - start
    facts["cpu_seconds"] = time.process_time() - cpu_start
    return facts


def measure(config: Config, threads: int, _: Row) -> Row:
    """One row: the configuration's seed, with this number of threads."""
    root = runs_root("demo-training")
    images = {"data_dir": str(root / f"seed-{config.seed}" / "images")}
    config = config.model_copy(update={"data": config.data.model_copy(update=images)})
    torch.set_num_threads(threads)
    tables = make_tables(config)
    start = build_locator(config.model, Preprocessing.from_config(config.data))
    data_dir = Path(config.data.data_dir)
    initialize_model(start, PairTable(tables["train"], data_dir), config)
    before = evaluate(start.eval(), config, tables)
    folder = root / f"seed-{config.seed}" / f"threads-{threads}"
    facts = train(config, tables, folder)
    return {
        "seed": config.seed,
        "threads": threads,
        "num_models": {split: table.model.nunique() for split, table in tables.items()},
        "num_test_parts": len(tables["test"]),
        **facts,
        "before": before,
        "after": evaluate(load_model(folder / "model.pth"), config, tables),
    }


def parse_arguments() -> argparse.Namespace:
    parser = benchmark_parser(__doc__, config=Path("params.yaml"))
    add = parser.add_argument
    add("--seeds", type=positive_int, default=3, metavar="N", help="0 to N - 1; default 3")
    add("--threads", type=positive_int, nargs="+", default=[1, 2], metavar="N", help="default 1 2")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    config = load_config(args.config)
    choose_device(config.machine.device)
    jobs = [
        Job(
            f"seed {seed}, threads {threads}",
            row_fingerprint(seeded, threads),
            partial(measure, seeded, threads),
        )
        for seed, threads in product(range(args.seeds), args.threads)
        for seeded in [config.model_copy(update={"seed": seed})]
    ]
    print(demo_training_table(measure_rows(args.output, jobs)))


if __name__ == "__main__":
    run_command(main)
