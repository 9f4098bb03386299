"""How much of a GPU training and inference use: pairs a second, FLOP utilisation, waiting for data.

Alone on a machine with torch, torchvision, timm, pandas, pillow, pyyaml and what these bring; no
pydantic, DVC, renderer. The rate that utilisation is a share of is measured first, as the best of
several large bf16 matrix products; a data sheet's is higher. FLOPs are those of the method, none
counted twice when checkpointing computes it twice: --budget is the memory that a step may plan
with, and more of it computes less twice. Some minutes, most of them for --compile. Every part also
runs on a CPU, at small size, which shows that it works and nothing else.

    $ python benchmarks/gpu.py --output metrics/gpu.json
    $ python benchmarks/gpu.py --batch 16 --budget 70 --compile
    $ python benchmarks/gpu.py --backbone dinov2_vits14 --image-size 112 --batch 4    # on a CPU
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.setting import (  # noqa: E402
    PARTS,
    SyntheticBatch,
    full_size,
    machine,
    pairs_of_four,
    synthetic_batch,
)
from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.data.dataset import Batch, PairDataset, make_loader  # noqa: E402
from partloc.data.sampler import PlannedBatches  # noqa: E402
from partloc.data.transforms import Preprocessing  # noqa: E402
from partloc.distributed import (
    amp_dtype,  # noqa: E402
    choose_device,  # noqa: E402
)
from partloc.files import write_json  # noqa: E402
from partloc.model.locator import PartLocator  # noqa: E402
from partloc.training.activation_memory import Planner  # noqa: E402
from partloc.training.optim import make_optimizer  # noqa: E402
from partloc.training.summary import count_flops  # noqa: E402

KERNELS = 10
WARM_UP = 2  # calls after the first one, in which the allocator and the clocks settle


def seconds_of(run: Callable[[], object], device: torch.device, times: int) -> tuple[float, float]:
    """Of the first call, which may have kernels to choose or to compile, and of one when warm."""
    start = time.perf_counter()
    run()
    wait(device)
    first = time.perf_counter() - start
    for _ in range(WARM_UP):
        run()
    wait(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    wait(device)
    return first, (time.perf_counter() - start) / times


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of the best large matrix product, in bf16 on a GPU."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    rates = []
    for side in (4096, 8192, 16384) if device.type == "cuda" else (512, 1024):
        a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        rates.append(2 * side**3 / seconds_of(lambda a=a, b=b: a @ b, device, 10)[1])
    return max(rates)


class Training:
    """Whole optimiser steps as the loop takes them."""

    def __init__(
        self, config: SimpleNamespace, model: PartLocator, batch: SyntheticBatch, budget_gb: float
    ) -> None:
        device = model.center.device
        self.model, self.batch, self.grad_clip = model.train(), batch, config.train.grad_clip
        self.precision = amp_dtype(config.train.use_amp, device)
        self.optimizer = make_optimizer(model, config.train)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        planner = Planner(model, self.precision, budget_gb)
        planner.prepare(len(batch.wholes) + len(batch.parts), len(batch.parts))

    def step(self, pictures: Batch | None = None) -> None:
        """On the batch that is there already, or with other pictures in it."""
        batch = self.batch
        if pictures is not None:
            batch = batch._replace(wholes=pictures.wholes, parts=pictures.parts)
        self.scaler.scale(batch.loss(self.model, self.precision)).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


@torch.inference_mode()
def answer(model: PartLocator, batch: SyntheticBatch, precision: torch.dtype | None) -> None:
    model(batch.wholes, batch.parts, batch.whole_of_part, None, precision)


def figures_of(pairs: int, seconds: float, flops: float, rate: float) -> dict[str, float]:
    """flops: of a batch of so many pairs, which took so many seconds."""
    return {
        "pairs_per_s": pairs / seconds,
        "tflops": flops / seconds / 1e12,
        "utilisation": flops / seconds / rate,
    }


def loaded(
    config: SimpleNamespace, pairs: int, device: torch.device, workers: int, folder: Path
) -> Generator[Batch]:
    """Batches of pictures from files, many more than are asked for."""
    side = config.data.image_size
    table = pairs_of_four(folder, side, -(-pairs // PARTS))
    planned = PlannedBatches(table)
    planned.set_plan(0, [list(range(pairs))] * 1000)
    dataset = PairDataset(table, Preprocessing(side), 64_000_000)
    yield from make_loader(dataset, planned, workers, device)


def share_waiting(
    training: Training, batches: Iterator[Batch], device: torch.device, count: int
) -> float:
    """Of steps over pictures on the disk, what the loop spends waiting for the loader."""
    waited = total = 0.0
    for _ in range(count):
        start = time.perf_counter()
        batch = next(batches).to(device)
        waited += time.perf_counter() - start
        training.step(batch)
        wait(device)
        total += time.perf_counter() - start
    return waited / total


def synchronisations(run: Callable[[], None]) -> int | None:
    """How often it makes the processor wait for the GPU."""
    if not torch.cuda.is_available():
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def longest_kernels(training: Training, device: torch.device) -> list[dict[str, Any]]:
    """Of a step: what the GPU ran, or on a CPU the operations."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        training.step()
        wait(device)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    # The operations that launched the kernels are told with the kernels' times as well.
    where = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [
        event
        for event in profiler.key_averages()
        if event.device_type == where and not event.is_user_annotation
    ]
    events.sort(key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    return [
        {"kernel": event.key[:100], "calls": event.count, "share": getattr(event, key) / total}
        for event in events[:KERNELS]
    ]


def with_loader(
    args: argparse.Namespace, config: SimpleNamespace, training: Training, device: torch.device
) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(loaded(config, args.batch, device, args.workers, Path(folder))) as batches,
    ):
        first = next(batches)  # starts the workers
        training.step(first.to(device))
        return {
            "workers": args.workers,
            "pinned": first.wholes.is_pinned() if device.type == "cuda" else None,
            "waiting": share_waiting(training, batches, device, args.batches),
            "synchronisations": synchronisations(lambda: training.step(next(batches).to(device))),
        }


def measure(
    args: argparse.Namespace, device: torch.device, rate: float, compiled: bool
) -> dict[str, Any]:
    config = full_size(args.backbone, args.image_size)
    model = PartLocator(config.model, Preprocessing(args.image_size))
    an_image, a_pair = count_flops(model)
    batch = synthetic_batch(config, args.batch, device)
    flops = an_image * (len(batch.wholes) + args.batch) + a_pair * args.batch
    model.to(device)
    if compiled:
        model.backbone.compile()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, suffix = (10 if device.type == "cuda" else 2), ", compiled" if compiled else ""
    training = Training(config, model, batch, args.budget)
    first, seconds = seconds_of(training.step, device, times)
    figures: dict[str, Any] = {}
    figures[f"training{suffix}"] = {
        **figures_of(args.batch, seconds, 3 * flops, rate),  # backward costs two forwards
        "first_step_s": first,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
        "precision": str(training.precision or torch.float32).removeprefix("torch."),
        "fused_adamw": training.optimizer.defaults["fused"],
        "kept": [str(kept) for kept in model.backbone.kept],
    }
    if not compiled:
        figures["loader"] = with_loader(args, config, training, device)
        figures["kernels"] = longest_kernels(training, device)
    model.eval()
    answering = partial(answer, model, batch, training.precision)
    first, seconds = seconds_of(answering, device, times)
    found = figures_of(args.batch, seconds, flops, rate)
    figures[f"inference{suffix}"] = found | {"first_step_s": first}
    return figures


def show(figures: dict[str, Any]) -> None:
    print("\n| | pairs/s | TFLOP/s | of the matrix rate | first step, s | peak, GB |")
    print("|---|---|---|---|---|---|")
    for name, row in figures.items():
        if isinstance(row, dict) and "pairs_per_s" in row:
            cells = [name, f"{row['pairs_per_s']:.2f}", f"{row['tflops']:.1f}"]
            cells += [f"{row['utilisation']:.0%}", f"{row['first_step_s']:.1f}"]
            cells += [f"{row['peak_gb']:.1f}" if row.get("peak_gb") else ""]
            print(f"| {' | '.join(cells)} |")
    if "loader" in figures:
        loader, training = figures["loader"], figures["training"]
        print(f"\nfused AdamW: {training['fused_adamw']}; {training['precision']}")
        print(f"pinned pictures: {loader['pinned']}, {loader['workers']} workers; ", end="")
        print(f"waiting for data: {loader['waiting']:.1%}")
        print(f"synchronisations in a step, copies included: {loader['synchronisations']}")
        print("\n| kernel | calls | share |\n|---|---|---|")
        for row in figures["kernels"]:
            print(f"| {row['kernel']} | {row['calls']} | {row['share']:.1%} |")
    sys.stdout.flush()


def main() -> None:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("--backbone", default="dinov2_vitb14", metavar="NAME")
    add("--image-size", type=int, default=1024, metavar="PX")
    add("--batch", type=int, default=8, metavar="PAIRS", help="four of each whole; default 8")
    add("--budget", type=float, default=16.0, metavar="GB", help="default 16, of 1e9 bytes")
    add("--workers", type=int, default=8, metavar="N", help="of the loader; default 8")
    add("--batches", type=int, default=20, metavar="N", help="to wait for; default 20")
    add("--compile", action="store_true", help="measure with machine.compile too")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    device = choose_device("auto")
    rate = matrix_rate(device)
    figures: dict[str, Any] = {
        "machine": machine(device),
        "setting": f"{args.backbone}, {args.image_size} px, {args.batch} pairs of "
        f"{-(-args.batch // PARTS)} wholes, planned for {args.budget:g} GB",
        "matrix_tflops": rate / 1e12,
    }
    print(f"{figures['machine']}; {figures['setting']}; {rate / 1e12:.1f} TFLOP/s in products")
    for compiled in (False, True) if args.compile else (False,):
        try:
            found = measure(args, device, rate, compiled)
        except torch.OutOfMemoryError as error:
            cure = "give a smaller --batch or --budget"
            raise MemoryError(f"{args.batch} pairs: {str(error).splitlines()[0]} {cure}") from error
        show(found)  # at once: what comes next may fail
        figures |= found
        if args.output:
            write_json(args.output, figures)


if __name__ == "__main__":
    run_command(main)
