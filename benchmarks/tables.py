"""One stage's work on the tables of a folder of samples, in a process of its own: time and memory.

    $ python benchmarks/tables.py index FOLDER [--unread]    # the walk, labels, pictures, twins
    $ python benchmarks/tables.py split FOLDER               # outputs/manifest.csv in three
    $ python benchmarks/tables.py train FOLDER               # the plan of one epoch, 80 %
    $ python benchmarks/tables.py evaluate FOLDER            # figures of given answers, 10 %

FOLDER holds images/, and outputs/ of the stages before. Prints one line of JSON: seconds by the
clock and of all cores, samples, start_mb and peak_mb of memory. All is counted from when the
stage's code is loaded: that torch takes seconds and hundreds of MB to load is no cost of a sample.
With --unread no picture is opened, neither hashed nor decoded; each is taken for one of 64 in
memory, chosen by the file's name.

`benchmarks/data_path.py` runs it for folders of many sizes.
"""

import hashlib
import importlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.config import Config, DataConfig  # noqa: E402
from partloc.data.dataset import index  # noqa: E402
from partloc.data.split import SETS, count_split, find_shared, read_manifest, split_models  # noqa: E402
from partloc.data.twins import THUMBNAIL_PX  # noqa: E402
from partloc.files import write_pieces, write_table  # noqa: E402

RATIOS = (0.8, 0.1, 0.1)
LOOKS = 64  # different pictures, boxes on white
# What a stage takes seconds to load, when it does not come with the imports above.
LOADED = {
    "train": ("partloc.data.sampler",),
    "evaluate": ("partloc.evaluation.evaluate", "scipy.optimize"),
}


def looks() -> np.ndarray:
    """(LOOKS, T, T, 3) uint8."""
    chance = np.random.default_rng(0)
    drawn = np.full((LOOKS, THUMBNAIL_PX, THUMBNAIL_PX, 3), 255, np.uint8)
    for picture in drawn:
        top, left, height, width = chance.integers(4, 28, 4)
        picture[top : top + height, left : left + width] = chance.integers(0, 200, 3)
    return drawn


def unread(drawn: np.ndarray, root: Path, file: str, settings: DataConfig) -> index.Picture:
    """In the place of partloc.data.index's reader: parts that end on 6 to 9 are the same part."""
    name = file[:-5] + file[-5].translate(str.maketrans("789", "666"))
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return index.Picture(file, sha256, 1024, 1024, drawn[int(sha256, 16) % LOOKS])


def run_index(folder: Path, workers: int) -> int:
    found = index.build_index(DataConfig(data_dir=str(folder / "images")), workers)
    write_table(folder / "outputs/manifest.csv", found.manifest)
    write_table(folder / "outputs/index_report.csv", found.report)
    return index.count_findings(found)["samples"]


def run_split(folder: Path) -> int:
    manifest = read_manifest(folder / "outputs/manifest.csv")
    chosen = split_models(manifest.model, RATIOS, seed=0)
    count_split(manifest, chosen, find_shared(manifest, chosen))
    places = manifest.model.map(chosen)
    for name in SETS:
        write_table(folder / f"outputs/split/{name}.csv", manifest[places == name])
    return len(manifest)


def run_train(folder: Path) -> int:
    """What a training does with its table before and beside the pictures, for one epoch."""
    from partloc.data.sampler import PlannedBatches, plan_epoch
    from partloc.data.table import PairTable

    table = PairTable(read_manifest(folder / "outputs/split/train.csv"), folder / "images")
    batches = PlannedBatches(table)
    batches.set_plan(0, plan_epoch(table, Config().train, seed=0, epoch=0))
    return sum(len(draw.rows) for batch in batches for draw in batch)


def run_evaluate(folder: Path) -> int:
    """All that evaluation does but run the model and draw; see `made_up`."""
    from partloc.data.table import PairTable
    from partloc.evaluation.evaluate import (
        Judge,
        evaluate,
        judged_rows,
        read_split,
        training_median,
    )

    samples = read_split(folder / "outputs", "test")
    constant = training_median(folder / "outputs")
    judge = Judge(PairTable(samples, folder / "images"))
    rows = judged_rows(samples, judge, made_up(judge.table), constant, None)
    write_pieces(folder / "outputs/evaluate/predictions.csv", rows)
    evaluate(judge, seed=0)
    return len(samples)


def made_up(table: Any) -> Iterator[Any]:
    """Answers to a PairTable, as many at a time as the evaluation takes; each hypothesis is the
    truth and some noise."""
    import torch

    from partloc.evaluation.evaluate import Answers, sizes_of, truth_of
    from partloc.model.prediction import Prediction
    from partloc.pose import PartPose

    chance, count, start = torch.Generator().manual_seed(0), Config().model.hypotheses, 0
    for size in sizes_of(table):
        rows = np.arange(start, start + size)
        truth = truth_of(table, rows)
        noise = 0.1 * torch.randn(size, count, 3, generator=chance)
        poses = (truth.translation[:, None] + noise, truth.scale[:, None].repeat(1, count, 1))
        log_share = torch.rand(size, count, generator=chance).log()
        found = Prediction(PartPose(*poses), log_share, log_share)
        yield Answers(rows, found, log_share.exp().amax(1))
        start += size


def memory_mb(which: str) -> float:
    """Of this process, on Linux: VmRSS holds what it has, VmHWM the most that it has had."""
    status = Path("/proc/self/status").read_text()
    # getrusage would count the memory of the process that started it, too.
    return int(re.search(rf"{which}:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def peak_mb() -> float:
    """Of this process or, where that is more, of its largest worker."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    return max(memory_mb("VmHWM"), workers)


def main() -> None:
    parser = make_parser(__doc__, config=None)
    parser.add_argument("stage", choices=("index", "split", "train", "evaluate"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unread", action="store_true", help="take the pictures as read")
    args = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    if args.unread:
        index._read_picture, workers = partial(unread, looks()), 0  # workers would not know of it
    jobs = {
        "index": lambda: run_index(args.folder, workers),
        "split": lambda: run_split(args.folder),
        "train": lambda: run_train(args.folder),
        "evaluate": lambda: run_evaluate(args.folder),
    }
    for module in LOADED.get(args.stage, ()):
        importlib.import_module(module)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start_mb, start, start_cpu = memory_mb("VmRSS"), time.perf_counter(), sum(os.times()[:4])
    samples = jobs[args.stage]()
    figures = {"seconds": time.perf_counter() - start, "samples": samples}
    figures["cpu_seconds"] = sum(os.times()[:4]) - start_cpu  # of the workers, too
    print(json.dumps({**figures, "start_mb": start_mb, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    run_command(main)
