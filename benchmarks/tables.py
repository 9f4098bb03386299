"""One stage's work on the tables of a folder of samples, in a process of its own: time and memory.

    $ python benchmarks/tables.py index FOLDER [--unread]    # the walk, labels, pictures, twins
    $ python benchmarks/tables.py split FOLDER               # outputs/manifest.csv in three
    $ python benchmarks/tables.py train FOLDER               # the plan of one epoch, 80 %
    $ python benchmarks/tables.py evaluate FOLDER            # figures of given answers, 10 %

FOLDER holds images/, and outputs/ of the stages before. Prints one line of JSON: seconds by the
clock and of all cores, samples, start_mb and peak_mb of memory. With --unread no picture is opened,
neither hashed nor decoded; each is taken for one of 64 in memory, chosen by the file's name.

`benchmarks/data_path.py` runs it for folders of many sizes.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from partloc import index  # noqa: E402
from partloc.command import run_command  # noqa: E402
from partloc.config import Config, DataConfig  # noqa: E402
from partloc.files import write_table  # noqa: E402
from partloc.images import THUMBNAIL_PX  # noqa: E402
from partloc.split import SETS, count_split, find_shared, read_manifest, split_models  # noqa: E402

RATIOS = (0.8, 0.1, 0.1)
LOOKS = 64  # different pictures, boxes on white


def looks() -> np.ndarray:
    """(LOOKS, T, T, 3) uint8."""
    chance = np.random.default_rng(0)
    drawn = np.full((LOOKS, THUMBNAIL_PX, THUMBNAIL_PX, 3), 255, np.uint8)
    for picture in drawn:
        top, left, height, width = chance.integers(4, 28, 4)
        picture[top : top + height, left : left + width] = chance.integers(0, 200, 3)
    return drawn


def unread(drawn: np.ndarray, root: Path, file: str, settings: DataConfig) -> index.Picture:
    """In the place of partloc.index's reader: parts that end on 6 to 9 are the same part."""
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
    from partloc.plan import PairTable, PlannedBatches, plan_epoch  # loads torch

    table = PairTable(read_manifest(folder / "outputs/split/train.csv"), folder / "images")
    batches = PlannedBatches(table)
    batches.set_plan(0, plan_epoch(table, Config().train, seed=0, epoch=0))
    return sum(len(draw.rows) for batch in batches for draw in batch)


def run_evaluate(folder: Path) -> int:
    """All that evaluation does but run the model; each hypothesis is the truth and some noise."""
    import torch

    from partloc.evaluate import errors_of, evaluate, prediction_table
    from partloc.metrics import constant_answer
    from partloc.model import Prediction
    from partloc.plan import PairTable
    from partloc.pose import PartPose

    samples = read_manifest(folder / "outputs/split/test.csv")
    table, count = PairTable(samples, folder / "images"), Config().model.hypotheses
    chance = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(len(table), count, 3, generator=chance)
    truth = PartPose(table.translation, table.scale)
    poses = PartPose(truth.translation[:, None] + noise, truth.scale[:, None].repeat(1, count, 1))
    found = Prediction(poses, torch.rand(len(table), count, generator=chance).log())
    errors, confidence = errors_of(found, table), found.log_confidence.exp().amax(1)
    baseline = constant_answer(truth, len(table))
    evaluate(found, errors, confidence, table, baseline, None, seed=0)
    predictions = prediction_table(samples, table, found, errors, confidence)
    write_table(folder / "outputs/evaluate/predictions.csv", predictions)
    return len(table)


def peak_mb() -> float:
    """Of this process or, where that is more, of its largest worker; on Linux."""
    status = Path("/proc/self/status").read_text()
    # Its own getrusage would count the memory of the process that started it, too.
    own = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("index", "split", "train", "evaluate"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unread", action="store_true", help="take the pictures as read")
    args = parser.parse_args()
    workers = os.cpu_count()
    if args.unread:
        index._read_picture, workers = partial(unread, looks()), 0  # workers would not know of it
    jobs = {
        "index": lambda: run_index(args.folder, workers),
        "split": lambda: run_split(args.folder),
        "train": lambda: run_train(args.folder),
        "evaluate": lambda: run_evaluate(args.folder),
    }
    start_mb, start = peak_mb(), time.perf_counter()
    samples = jobs[args.stage]()
    figures = {"seconds": time.perf_counter() - start, "samples": samples}
    figures["cpu_seconds"] = sum(os.times()[:4])  # of the workers, too
    print(json.dumps({**figures, "start_mb": start_mb, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    run_command(main)
