"""How much of a GPU training and inference use: pairs a second, FLOP utilisation, waiting for data.

Needs torch, torchvision, timm, pandas, pillow, pyyaml and what partloc itself imports for its
network: no DVC, no renderer. The rate that utilisation is a share of is measured first, as the
best of several large bf16 matrix products. FLOPs are those of the method, none counted twice when
checkpointing computes it twice. Every part of the script also runs on a CPU, at small size, which
shows that it works and nothing else.

    $ python benchmarks/gpu.py --output metrics/gpu.json
    $ python benchmarks/gpu.py --backbone dinov2_vits14 --image-size 112 --batch 4    # on a CPU
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.setting import (  # noqa: E402
    PARTS,
    SyntheticBatch,
    machine,
    pairs_of_four,
    small_config,
    synthetic_batch,
)
from partloc.command import run_command  # noqa: E402
from partloc.config import Config  # noqa: E402
from partloc.data import PairDataset, Preprocessing, make_loader  # noqa: E402
from partloc.files import write_json  # noqa: E402
from partloc.memory import Planner  # noqa: E402
from partloc.model import PartLocator  # noqa: E402
from partloc.plan import PlannedBatches  # noqa: E402
from partloc.schedule import amp_dtype, make_optimizer  # noqa: E402
from partloc.summary import count_flops  # noqa: E402
from partloc.team import choose_device  # noqa: E402

KERNELS = 10


def seconds_of(run: Callable[[], object], device: torch.device, times: int) -> float:
    """Of one call, after one that is not counted."""
    run()
    wait(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    wait(device)
    return (time.perf_counter() - start) / times


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of the best large matrix product, in bf16 on a GPU."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    rates = []
    for side in (4096, 8192, 16384) if device.type == "cuda" else (512, 1024):
        a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        rates.append(2 * side**3 / seconds_of(lambda a=a, b=b: a @ b, device, 10))
    return max(rates)


class Training:
    """Whole optimiser steps as the loop takes them, on pictures that are there already."""

    def __init__(self, config: Config, model: PartLocator, batch: SyntheticBatch) -> None:
        self.model, self.batch = model.train(), batch
        self.precision = amp_dtype(config.train.use_amp, model.center.device)
        self.optimizer = make_optimizer(model, config.train)
        planner = Planner(model, self.precision, config.machine.memory_budget_gb)
        planner.prepare(len(batch.wholes) + len(batch.parts), len(batch.parts))

    def step(self) -> None:
        self.batch.backward(self.model, self.precision)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@torch.inference_mode()
def answer(model: PartLocator, batch: SyntheticBatch, precision: torch.dtype | None) -> None:
    model(batch.wholes, batch.parts, batch.whole_of_part, None, precision)


def utilisation(model: PartLocator, batch: SyntheticBatch, seconds: float, passes: int) -> float:
    """FLOP/s: of a forward pass, times `passes` (3 with the backward one)."""
    an_image, a_pair = count_flops(model)
    pairs = len(batch.parts)
    return passes * (an_image * (len(batch.wholes) + pairs) + a_pair * pairs) / seconds


def synchronisations(training: Training) -> int | None:
    """How often a step makes the processor wait for the GPU."""
    if not torch.cuda.is_available():
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        training.step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def share_waiting(
    config: Config, training: Training, device: torch.device, workers: int, batches: int
) -> float:
    """Of an epoch over pictures on the disk, what the loop spends waiting for the loader."""
    pairs = len(training.batch.parts)
    with tempfile.TemporaryDirectory() as folder:
        table = pairs_of_four(Path(folder), config.data.image_size, -(-pairs // PARTS))
        planned = PlannedBatches(table)
        planned.set_plan(0, [list(range(pairs))] * batches)
        dataset = PairDataset(table, Preprocessing(config.data.image_size), 64_000_000)
        loader = iter(make_loader(dataset, planned, workers, device))
        waited = total = 0.0
        for number in range(batches):
            start = time.perf_counter()
            batch = next(loader).to(device)
            there = time.perf_counter()
            own = training.batch._replace(wholes=batch.wholes, parts=batch.parts)
            own.backward(training.model, training.precision)
            wait(device)
            if number:  # the first one starts the workers
                waited += there - start
                total += time.perf_counter() - start
    return waited / total


def longest_kernels(training: Training, device: torch.device) -> list[dict[str, Any]]:
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        training.step()
        wait(device)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    return [
        {"kernel": event.key[:80], "calls": event.count, "share": getattr(event, key) / total}
        for event in events[:KERNELS]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--backbone", default="dinov2_vitb14", metavar="NAME")
    add("--image-size", type=int, default=1024, metavar="PX")
    add("--batch", type=int, default=8, metavar="PAIRS", help="four of each whole; default 8")
    add("--workers", type=int, default=8, metavar="N", help="of the loader; default 8")
    add("--batches", type=int, default=20, metavar="N", help="to wait for; default 20")
    add("--compile", action="store_true", help="measure with machine.compile too")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    device = choose_device("auto")
    config = small_config(args.backbone, args.image_size, args.batch, use_amp=True)
    batch = synthetic_batch(config, args.batch, device)
    rate = matrix_rate(device)
    figures: dict[str, Any] = {
        "machine": machine(device),
        "setting": f"{args.backbone}, {args.image_size} px, {args.batch} pairs of "
        f"{len(batch.wholes)} wholes, {amp_dtype(True, device) or 'float32'}",
        "matrix_tflops": rate / 1e12,
    }
    times = 10 if device.type == "cuda" else 2
    for compiled in (False, True) if args.compile else (False,):
        model = PartLocator(config.model, Preprocessing(args.image_size)).to(device)
        if compiled:
            model.backbone.compile()
        training = Training(config, model, batch)
        seconds = seconds_of(training.step, device, times)
        name = "training, compiled" if compiled else "training"
        figures[name] = {
            "pairs_per_s": args.batch / seconds,
            "utilisation": utilisation(model, batch, seconds, 3) / rate,
            "kept": [str(kept) for kept in model.backbone.kept],
            "synchronisations": synchronisations(training),
        }
        if not compiled:
            figures["loader"] = {
                "workers": args.workers,
                "waiting": share_waiting(config, training, device, args.workers, args.batches),
            }
            figures["kernels"] = longest_kernels(training, device)
        if device.type == "cuda":
            figures[name]["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        model.eval()
        precision = amp_dtype(True, device)
        seconds = seconds_of(lambda m=model, p=precision: answer(m, batch, p), device, times)
        figures[name.replace("training", "inference")] = {
            "pairs_per_s": args.batch / seconds,
            "utilisation": utilisation(model, batch, seconds, 1) / rate,
        }
    if args.output:
        write_json(args.output, figures)
    print(f"{figures['machine']}; {figures['setting']}; {rate / 1e12:.1f} TFLOP/s in products\n")
    print("| | pairs/s | of the matrix rate |\n|---|---|---|")
    for name, row in figures.items():
        if isinstance(row, dict) and "pairs_per_s" in row:
            print(f"| {name} | {row['pairs_per_s']:.2f} | {row['utilisation']:.0%} |")
    waiting = figures["loader"]["waiting"]
    print(f"\nwaiting for data, {args.workers} workers: {waiting:.1%}")
    print(f"synchronisations in a step: {figures['training']['synchronisations']}\n")
    print("| kernel | calls | share |\n|---|---|---|")
    for row in figures["kernels"]:
        print(f"| {row['kernel']} | {row['calls']} | {row['share']:.1%} |")


if __name__ == "__main__":
    run_command(main)
