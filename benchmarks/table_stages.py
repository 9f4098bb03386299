"""Time and memory of one stage's work on its tables, in a process of its own.

    $ python -m benchmarks.table_stages index FOLDER [--skip-images]  # files, labels, images
    $ python -m benchmarks.table_stages split FOLDER       # split outputs/manifest.csv
    $ python -m benchmarks.table_stages train FOLDER       # plan one epoch, 80 % of the samples
    $ python -m benchmarks.table_stages evaluate FOLDER    # score given predictions, 10 %

FOLDER holds images/, and outputs/ of the earlier stages. Prints one line of JSON: seconds of wall
time and of all cores, the number of samples, start_mb and peak_mb of memory. Measuring starts after
the stage's code is loaded, since importing torch is no cost of a sample. With --skip-images no
image is opened, hashed or decoded; each is replaced by one of 64 in memory, chosen by the file's
name.

`benchmarks/data_path.py` runs it for folders of several sizes.
"""

import hashlib
import importlib
import json
import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.box_images import NUM_SOURCES, random_boxes
from partloc.config import Config, DataConfig
from partloc.data import index
from partloc.data.layout import SPLITS
from partloc.data.split import count_split, find_shared_images, read_manifest, split_models
from partloc.data.twins import THUMBNAIL_PX
from partloc.system.cli import make_parser, run_command
from partloc.system.files import write_table, write_table_chunks

RATIOS = (0.8, 0.1, 0.1)
# Imports of a stage that take seconds and are not among the imports above.
SLOW_IMPORTS = {
    "train": ("partloc.data.sampler",),
    "evaluate": ("partloc.evaluation.evaluate", "scipy.optimize"),
}


def make_thumbnails() -> list[np.ndarray]:
    """NUM_SOURCES images, (T, T, 3) uint8 each."""
    rng = np.random.default_rng(0)
    return [random_boxes(rng, THUMBNAIL_PX, 1, (4, 28), (4, 28)) for _ in range(NUM_SOURCES)]


def skip_image(
    thumbnails: list[np.ndarray], root: Path, file: str, *_settings_and_findings: object
) -> index.IndexedImage:
    """Replaces the image reader of partloc.data.index; parts named 6 to 9 have equal images."""
    name = file[:-5] + file[-5].translate(str.maketrans("789", "666"))
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return index.IndexedImage(file, sha256, 1024, 1024, thumbnails[int(sha256, 16) % NUM_SOURCES])


def run_index(folder: Path, workers: int) -> int:
    result = index.build_index(DataConfig(data_dir=str(folder / "images")), workers)
    write_table(folder / "outputs/manifest.csv", result.manifest)
    write_table(folder / "outputs/index_report.csv", result.report)
    return index.count_findings(result)["samples"]


def run_split(folder: Path) -> int:
    manifest = read_manifest(folder / "outputs/manifest.csv")
    split_of_model = split_models(manifest.model, RATIOS, seed=0)
    count_split(manifest, split_of_model, find_shared_images(manifest, split_of_model))
    split = manifest.model.map(split_of_model)
    for name in SPLITS:
        write_table(folder / f"outputs/split/{name}.csv", manifest[split == name])
    return len(manifest)


def run_train(folder: Path) -> int:
    """Plan and iterate one epoch, without reading images."""
    from partloc.data.sampler import PlannedBatchSampler, plan_epoch
    from partloc.data.table import PairTable

    table = PairTable(read_manifest(folder / "outputs/split/train.csv"), folder / "images")
    batches = PlannedBatchSampler(table)
    batches.set_plan(0, plan_epoch(table, Config().train, seed=0, epoch=0))
    return sum(len(key.rows) for batch in batches for key in batch)


def run_evaluate(folder: Path) -> int:
    """Evaluate `noisy_predictions`: everything but the model and the sample images."""
    from partloc.data.table import PairTable
    from partloc.evaluation.accumulator import ErrorAccumulator
    from partloc.evaluation.evaluate import compute_metrics, read_split, training_median_pose

    samples = read_split(folder / "outputs", "test")
    table = PairTable(samples, folder / "images")
    accumulator = ErrorAccumulator(table)
    baseline = training_median_pose(folder / "outputs")
    rows = accumulator.iter_rows(samples, noisy_predictions(table), baseline, None)
    write_table_chunks(folder / "outputs/evaluate/predictions.csv", rows)
    compute_metrics(accumulator, seed=0)
    return len(samples)


def noisy_predictions(table: Any) -> Iterator[Any]:
    """Predictions for a PairTable in the evaluation's chunks: the labels with added noise."""
    import torch

    from partloc.evaluation.accumulator import labelled_poses
    from partloc.inference.hypotheses import Hypotheses
    from partloc.inference.prediction_files import TablePredictions, chunk_sizes
    from partloc.pose import PartPose

    rng, count, start = torch.Generator().manual_seed(0), Config().model.hypotheses, 0
    for size in chunk_sizes(table):
        rows = np.arange(start, start + size)
        labelled = labelled_poses(table, rows)
        noise = 0.1 * torch.randn(size, count, 3, generator=rng)
        poses = (labelled.translation[:, None] + noise, labelled.scale[:, None].repeat(1, count, 1))
        log_weight = torch.rand(size, count, generator=rng).log()
        hypotheses = Hypotheses(PartPose(*poses), log_weight, log_weight)
        confidence = log_weight.exp().amax(1)
        yield TablePredictions(rows, hypotheses, confidence, hypotheses.best_pose)
        start += size


def memory_mb(field: str) -> float:
    """Memory of this process, on Linux: VmRSS is the current value, VmHWM the peak."""
    status = Path("/proc/self/status").read_text()
    # getrusage would count the memory of the process that started this one.
    (kilobytes,) = re.findall(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(kilobytes) * 1024 / 1e6


def peak_mb() -> float:
    """Peak of this process or, if larger, of its largest worker."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    return max(memory_mb("VmHWM"), workers)


def measure(run_stage: Callable[[], int]) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start_mb, start, start_cpu = memory_mb("VmRSS"), time.perf_counter(), sum(os.times()[:4])
    samples = run_stage()
    return {
        "samples": samples,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": sum(os.times()[:4]) - start_cpu,  # of the workers, too
        "start_mb": start_mb,
        "peak_mb": peak_mb(),
    }


def main() -> None:
    parser = make_parser(__doc__, config=None)
    parser.add_argument("stage", choices=("index", "split", "train", "evaluate"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--skip-images", action="store_true", help="open no image")
    args = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    if args.skip_images:
        index._read_image = partial(skip_image, make_thumbnails())
        workers = 0  # the replaced reader exists in this process only
    stages = {
        "index": partial(run_index, args.folder, workers),
        "split": partial(run_split, args.folder),
        "train": partial(run_train, args.folder),
        "evaluate": partial(run_evaluate, args.folder),
    }
    for module in SLOW_IMPORTS.get(args.stage, ()):
        importlib.import_module(module)
    print(json.dumps(measure(stages[args.stage])))


if __name__ == "__main__":
    run_command(main)
