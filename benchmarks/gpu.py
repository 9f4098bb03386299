"""How well training and inference use a GPU: pairs per second, FLOP utilization, data loading.

Utilization is relative to the fastest of several large bf16 matrix products, measured first; a data
sheet's rate is higher. FLOPs are those of the method: work that checkpointing repeats counts once.
--budget is the memory that a step may plan with; the more, the less is recomputed.

Needs torch, torchvision, timm, pandas, pillow, pyyaml, scipy and their dependencies; no pydantic,
no DVC, no renderer. It also runs on a CPU at a small size, which only shows that it works.

    $ python -m benchmarks.gpu --output metrics/gpu.json
    $ python -m benchmarks.gpu --batch 16 --budget 70
    $ python -m benchmarks.gpu --backbone dinov2_vits14 --image-size 112 --batch 4    # on a CPU
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

from benchmarks.box_models import write_box_models
from benchmarks.common import (
    add_encoder_options,
    add_memory_budget_option,
    benchmark_parser,
    describe_machine,
    markdown_table,
)
from benchmarks.full_size import SyntheticBatch, full_size_config, num_wholes, synthetic_batch
from partloc.data.dataset import Batch, PairDataset, make_loader
from partloc.data.sampler import PlannedBatchSampler
from partloc.data.transforms import Preprocessing
from partloc.distributed import choose_device, training_dtype
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.system.cli import run_command
from partloc.system.files import write_json
from partloc.training.activation_memory import MemoryPlanner
from partloc.training.optim import MAX_GRADIENT_NORM, make_optimizer
from partloc.training.summary import count_flops

NUM_KERNELS = 10
WARM_UP_CALLS = 2  # after the first call; the allocator and the clocks settle


def time_calls(
    function: Callable[[], object], device: torch.device, calls: int
) -> tuple[float, float]:
    """Seconds of the first call, which may select or compile kernels, and of a warm call."""
    start = time.perf_counter()
    function()
    synchronize(device)
    first = time.perf_counter() - start
    for _ in range(WARM_UP_CALLS):
        function()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronize(device)
    return first, (time.perf_counter() - start) / calls


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_matrix_rate(device: torch.device) -> float:
    """FLOP/s of the fastest large matrix product, in bf16 on a GPU."""
    is_gpu = device.type == "cuda"
    dtype, sides = (torch.bfloat16, (4096, 8192, 16384)) if is_gpu else (torch.float32, (512, 1024))
    rates = []
    for side in sides:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        rates.append(2 * side**3 / time_calls(partial(torch.matmul, a, b), device, 10)[1])
    return max(rates)


class TrainingStep:
    """One optimiser step at each call, as the training loop takes it."""

    def __init__(
        self, config: SimpleNamespace, model: PartLocator, batch: SyntheticBatch, budget_gb: float
    ) -> None:
        device = model.device
        self.model, self.batch = model.train(), batch
        self.precision = training_dtype(config.train.use_amp, device)
        self.optimizer = make_optimizer(model, config.train)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        planner = MemoryPlanner(model, config.train, self.precision, budget_gb)
        planner.prepare(len(batch.wholes) + len(batch.parts), len(batch.parts))

    def __call__(self, images: Any = None) -> None:
        """Train on the synthetic batch, or on its poses with the images of a Batch."""
        batch = self.batch
        if images is not None:
            batch = batch._replace(wholes=images.wholes, parts=images.parts)
        self.scaler.scale(batch.loss(self.model, self.precision)).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


@torch.inference_mode()
def predict(model: PartLocator, batch: SyntheticBatch, precision: torch.dtype | None) -> None:
    model(batch.wholes, batch.parts, batch.whole_of_part, None, precision)


def throughput(num_pairs: int, seconds: float, flops: float, matrix_rate: float) -> dict:
    """Figures of a batch of `num_pairs`, which takes `seconds` and `flops`."""
    return {
        "pairs_per_s": num_pairs / seconds,
        "tflops": flops / seconds / 1e12,
        "utilization": flops / seconds / matrix_rate,
    }


def load_batches(
    config: SimpleNamespace, num_pairs: int, device: torch.device, workers: int, folder: Path
) -> Generator[Batch]:
    """Batches of images from files, many more than are needed."""
    side = config.data.image_size
    table = write_box_models(folder, side, num_wholes(num_pairs))
    batches = PlannedBatchSampler(table)
    batches.set_plan(0, [list(range(num_pairs))] * 1000)
    dataset = PairDataset(table, Preprocessing(side), max_pixels=64_000_000)
    yield from make_loader(dataset, batches, workers, device)


def waiting_fraction(
    step: TrainingStep, batches: Iterator[Batch], device: torch.device, count: int
) -> float:
    """Fraction of the time of `count` steps that the loop waits for the loader."""
    waited = total = 0.0
    for _ in range(count):
        start = time.perf_counter()
        batch = next(batches).to(device)
        waited += time.perf_counter() - start
        step(batch)
        synchronize(device)
        total += time.perf_counter() - start
    return waited / total


def count_synchronizations(function: Callable[[], None]) -> int | None:
    """How often a call makes the CPU wait for the GPU; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def longest_kernels(step: TrainingStep, device: torch.device) -> list[dict[str, Any]]:
    """The kernels of a step that take most of the GPU's time; on a CPU the operations."""
    is_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=activities) as profiler:
        step()
        synchronize(device)
    key = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    # The profiler also assigns the kernels' times to the operations that launched them.
    device_type = DeviceType.CUDA if is_gpu else DeviceType.CPU
    events = [
        event
        for event in profiler.key_averages()
        if event.device_type == device_type and not event.is_user_annotation
    ]
    events.sort(key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    return [
        {
            "kernel": event.key[:100],
            "calls": event.count,
            "time_fraction": getattr(event, key) / total,
        }
        for event in events[:NUM_KERNELS]
    ]


def measure_loading(
    args: argparse.Namespace, config: SimpleNamespace, step: TrainingStep, device: torch.device
) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as name,
        closing(load_batches(config, args.batch, device, args.workers, Path(name))) as batches,
    ):
        first: Any = next(batches)  # starts the workers
        step(first.to(device))
        return {
            "workers": args.workers,
            "pinned": first.wholes.is_pinned() if device.type == "cuda" else None,
            "waiting_fraction": waiting_fraction(step, batches, device, args.batches),
            "synchronizations": count_synchronizations(lambda: step(next(batches).to(device))),
        }


def measure(args: argparse.Namespace, device: torch.device, matrix_rate: float) -> dict[str, Any]:
    is_gpu = device.type == "cuda"
    config = full_size_config(args.backbone, args.image_size)
    model = build_locator(config.model, Preprocessing(args.image_size))
    image_flops, pair_flops = count_flops(model)
    batch = synthetic_batch(config, args.batch, device)
    flops = image_flops * (len(batch.wholes) + args.batch) + pair_flops * args.batch
    model.to(device)
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    step, calls = TrainingStep(config, model, batch, args.budget), 10 if is_gpu else 2
    first, seconds = time_calls(step, device, calls)
    training = {
        **throughput(args.batch, seconds, 3 * flops, matrix_rate),  # backward costs two forwards
        "first_step_s": first,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if is_gpu else None,
        "precision": str(step.precision or torch.float32).removeprefix("torch."),
        "fused_adamw": step.optimizer.defaults["fused"],
        "activation_policies": [
            str(policy) for policy in model.encoder.backbone.activation_policies
        ],
    }
    loader = measure_loading(args, config, step, device)
    kernels = longest_kernels(step, device)
    model.eval()
    first, seconds = time_calls(partial(predict, model, batch, step.precision), device, calls)
    inference = throughput(args.batch, seconds, flops, matrix_rate) | {"first_step_s": first}
    return {"training": training, "inference": inference, "loader": loader, "kernels": kernels}


def report(results: dict[str, Any]) -> str:
    rows = []
    for name in ("training", "inference"):
        row = results[name]
        peak = f"{row['peak_gb']:.1f}" if row.get("peak_gb") else ""
        cells = [name, f"{row['pairs_per_s']:.2f}", f"{row['tflops']:.1f}"]
        rows.append([*cells, f"{row['utilization']:.0%}", f"{row['first_step_s']:.1f}", peak])
    head = ["", "pairs/s", "TFLOP/s", "utilization", "first step, s", "peak, GB"]
    loader, training = results["loader"], results["training"]
    kernels = [
        [row["kernel"], row["calls"], f"{row['time_fraction']:.1%}"] for row in results["kernels"]
    ]
    return (
        f"\n{markdown_table(head, rows)}\n\n"
        f"fused AdamW: {training['fused_adamw']}; {training['precision']}\n"
        f"pinned images: {loader['pinned']}, {loader['workers']} workers; "
        f"waiting for data: {loader['waiting_fraction']:.1%}\n"
        f"synchronizations in a step, copies included: {loader['synchronizations']}\n\n"
        f"{markdown_table(['kernel', 'calls', 'time'], kernels)}"
    )


def main() -> None:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add_encoder_options(parser, "dinov2_vitb14", 1024)
    add_memory_budget_option(parser)
    add("--batch", type=int, default=8, metavar="PAIRS", help="four of each whole; default 8")
    add("--workers", type=int, default=8, metavar="N", help="of the loader; default 8")
    add("--batches", type=int, default=20, metavar="N", help="loaded from files; default 20")
    args = parser.parse_args()
    device = choose_device("auto")
    matrix_rate = measure_matrix_rate(device)
    setup = {
        "machine": describe_machine(device),
        "setting": f"{args.backbone}, {args.image_size} px, {args.batch} pairs of "
        f"{num_wholes(args.batch)} wholes, planned for {args.budget:g} GB",
        "matrix_tflops": matrix_rate / 1e12,
    }
    print(f"{setup['machine']}; {setup['setting']}; {matrix_rate / 1e12:.1f} TFLOP/s in products")
    sys.stdout.flush()
    try:
        results = setup | measure(args, device, matrix_rate)
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        raise MemoryError(
            f"{args.batch} pairs: {reason} Give a smaller --batch or --budget"
        ) from error
    print(report(results))
    if args.output:
        write_json(args.output, results)


if __name__ == "__main__":
    run_command(main)
