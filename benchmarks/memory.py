"""Peak memory of a training step by batch size and by the activations that the encoder stores.

A batch has four parts a whole, as in training: 16 pairs are 20 images. "Computed" is the estimate
that train.use_gradient_checkpointing: auto plans with. "Measured" is torch's peak under a hard
limit of --budget GB, which a step keeps or fails. Each measurement runs in a process of its own,
so that none inherits another's memory fragments. On a CPU nothing is measured. The required
packages are those of `benchmarks/gpu.py`.

    $ python -m benchmarks.memory
    $ python -m benchmarks.memory --backbone dinov2_vitl14 --output metrics/memory-vitl.json
"""

import argparse
import json
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from benchmarks.common import (
    ROOT,
    add_encoder_options,
    add_memory_budget_option,
    benchmark_parser,
    describe_machine,
    table_head,
    table_row,
)
from benchmarks.full_size import full_size_config, num_wholes, synthetic_batch
from partloc.data.transforms import Preprocessing
from partloc.distributed import choose_device
from partloc.model.backbone import ActivationPolicy
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.system.cli import run_command
from partloc.system.files import write_json
from partloc.training.activation_memory import StepMemory, measure_step_memory
from partloc.training.optim import make_optimizer

MODES = ("everything", "attention", "input", "auto")


def choose_policies(
    memory: StepMemory, mode: str, num_pairs: int, budget_bytes: float
) -> tuple[ActivationPolicy, ...]:
    """The activation policy of each block of the encoder."""
    if mode == "auto":
        return memory.choose_plan(num_images(num_pairs), num_pairs, budget_bytes)
    return (ActivationPolicy(mode),) * memory.num_blocks


def num_images(num_pairs: int) -> int:
    return num_pairs + num_wholes(num_pairs)


def make_model(config: SimpleNamespace) -> PartLocator:
    return build_locator(config.model, Preprocessing(config.data.image_size))


def run_steps(
    config: SimpleNamespace, mode: str, num_pairs: int, budget_bytes: float
) -> dict[str, float]:
    """Take three steps on a GPU. Returns the peak, GB, and the last step's seconds.

    The result is empty if the memory limit was exceeded.
    """
    device = torch.device("cuda")
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget_bytes / total))
    model = make_model(config).to(device).train()
    memory = measure_step_memory(model, config.train, torch.bfloat16)
    policies = choose_policies(memory, mode, num_pairs, budget_bytes)
    model.encoder.backbone.activation_policies = policies
    optimizer = make_optimizer(model, config.train)
    batch = synthetic_batch(config, num_pairs, device)
    try:
        for _ in range(3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            batch.loss(model, torch.bfloat16).backward()
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - start
    except torch.OutOfMemoryError:
        return {}
    return {"gb": torch.cuda.max_memory_allocated() / 1e9, "seconds": seconds}


def run_steps_in_process(args: argparse.Namespace, mode: str, num_pairs: int) -> dict[str, float]:
    options = {"--backbone": args.backbone, "--image-size": args.image_size}
    options |= {"--budget": args.budget, "--batches": num_pairs, "--modes": mode}
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "benchmarks.memory", "--single", *words]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def format_row(row: dict[str, Any]) -> str:
    excess = "" if row["computed_gb"] <= row["budget_gb"] else " (over)"
    cells = [row["pairs"], row["mode"], f"{row['computed_gb']:.1f}{excess}"]
    cells += [f"{row['recomputed_fraction']:.0%}"]
    if "measured" in row:
        measured = row["measured"]
        cells += [f"{measured['gb']:.1f}" if measured else "out of memory"]
        cells += [f"{row['pairs'] / measured['seconds']:.2f}" if measured else ""]
    return table_row(cells)


def measure(args: argparse.Namespace, has_gpu: bool) -> list[dict[str, Any]]:
    """A row for each batch size and mode; prints each row as soon as it is measured."""
    config = full_size_config(args.backbone, args.image_size)
    model = make_model(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        memory = measure_step_memory(model, config.train, torch.bfloat16)
    rows = []
    for num_pairs in args.batches:
        for mode in args.modes:
            policies = choose_policies(memory, mode, num_pairs, args.budget * 1e9)
            peak_bytes = memory.peak_bytes(num_images(num_pairs), num_pairs, policies)
            row = {
                "pairs": num_pairs,
                "mode": mode,
                "budget_gb": args.budget,
                "computed_gb": peak_bytes / 1e9,
                "recomputed_fraction": memory.recomputed_blocks(policies) / len(policies),
                "activation_policies": [str(policy) for policy in policies],
            }
            if has_gpu:
                row["measured"] = run_steps_in_process(args, mode, num_pairs)
            rows.append(row)
            print(format_row(row), flush=True)
    return rows


def main() -> None:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add_encoder_options(parser, "dinov2_vitb14", 1024)
    add_memory_budget_option(parser)
    add("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="PAIRS")
    add("--modes", nargs="+", choices=MODES, default=list(MODES), metavar="MODE")
    add("--single", action="store_true", help=argparse.SUPPRESS)  # one measurement, as a process
    args = parser.parse_args()
    if args.single:
        config = full_size_config(args.backbone, args.image_size)
        print(json.dumps(run_steps(config, args.modes[0], args.batches[0], args.budget * 1e9)))
        return
    device = choose_device("auto")
    machine = describe_machine(device)
    print(f"{machine}; {args.backbone} at {args.image_size} px, bf16, {args.budget:g} GB")
    head = ["pairs", "stored", "computed, GB", "encoder recomputed"]
    if device.type == "cuda":
        head += ["measured, GB", "pairs/s"]
    else:
        print("no GPU found: memory is computed, not measured")
    print(f"\n{table_head(head)}")
    rows = measure(args, device.type == "cuda")
    if args.output:
        write_json(args.output, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    run_command(main)
