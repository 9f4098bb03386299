"""Peak memory of a training step, by batch and by what the encoder keeps for the backward pass.

Four parts a whole, as training draws them: 16 pairs are 20 pictures. Computed is what the pipeline
reckons with when it chooses (train.use_gradient_checkpointing: auto). Measured is torch's peak
under a hard limit of --budget GB, which a step either stays in or fails; each line is measured in
a process of its own, so that none inherits another's fragments. On a CPU nothing is measured:
what is shown there is only the model of the tensors that are saved. Needs no more than gpu.py.

    $ python benchmarks/memory.py
    $ python benchmarks/memory.py --backbone dinov2_vitl14 --output metrics/memory-vitl.json
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.setting import full_size, machine, synthetic_batch  # noqa: E402
from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.data.transforms import Preprocessing  # noqa: E402
from partloc.distributed import choose_device  # noqa: E402
from partloc.files import write_json  # noqa: E402
from partloc.model.backbone import Kept  # noqa: E402
from partloc.model.locator import PartLocator  # noqa: E402
from partloc.training.activation_memory import StepMemory, measure_step  # noqa: E402
from partloc.training.optim import make_optimizer  # noqa: E402

MODES = ("everything", "attention", "input", "auto")
PARTS = 4  # of a whole


def plan_of(memory: StepMemory, mode: str, pairs: int, budget: float) -> tuple[Kept, ...]:
    if mode == "auto":
        return memory.plan(images_of(pairs), pairs, budget)
    return (Kept(mode),) * memory.num_blocks


def images_of(pairs: int) -> int:
    return pairs + -(-pairs // PARTS)


def trial(config: SimpleNamespace, mode: str, pairs: int, budget: float) -> dict[str, float]:
    """Three steps on a GPU: the peak, GB, and the last one's seconds; empty if out of memory."""
    device = torch.device("cuda")
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total))
    model = PartLocator(config.model, Preprocessing(config.data.image_size)).to(device).train()
    memory = measure_step(model, torch.bfloat16)
    model.backbone.kept = plan_of(memory, mode, pairs, budget)
    optimizer = make_optimizer(model, config.train)
    batch = synthetic_batch(config, pairs, device)
    seconds = 0.0
    try:
        for step in range(3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            batch.loss(model, torch.bfloat16).backward()
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - start if step else 0.0
    except torch.OutOfMemoryError:
        return {}
    return {"gb": torch.cuda.max_memory_allocated() / 1e9, "seconds": seconds}


def computed(config: SimpleNamespace) -> StepMemory:
    model = PartLocator(config.model, Preprocessing(config.data.image_size))
    with FakeTensorMode(allow_non_fake_inputs=True):
        return measure_step(model, torch.bfloat16)


def line_of(row: dict[str, Any]) -> str:
    fits = "" if row["computed_gb"] <= row["budget_gb"] else " (over)"
    cells = [str(row["pairs"]), row["mode"], f"{row['computed_gb']:.1f}{fits}"]
    cells += [f"{row['again']:.0%}"]
    if "measured" in row:
        measured = row["measured"]
        cells += [f"{measured['gb']:.1f}" if measured else "out of memory"]
        cells += [f"{row['pairs'] / measured['seconds']:.2f}" if measured else ""]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("--backbone", default="dinov2_vitb14", metavar="NAME")
    add("--image-size", type=int, default=1024, metavar="PX")
    add("--budget", type=float, default=16.0, metavar="GB", help="default 16, of 1e9 bytes")
    add("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="PAIRS")
    add("--modes", nargs="+", choices=MODES, default=list(MODES), metavar="MODE")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    add("--trial", action="store_true", help=argparse.SUPPRESS)  # what that process is told
    args = parser.parse_args()
    config = full_size(args.backbone, args.image_size)
    budget = args.budget * 1e9
    if args.trial:
        print(json.dumps(trial(config, args.modes[0], args.batches[0], budget)))
        return
    device = choose_device("auto")
    memory = computed(config)
    print(f"{machine(device)}; {args.backbone} at {args.image_size} px, bf16, {args.budget:g} GB")
    head = ["pairs", "keeps", "computed, GB", "of the encoder computed twice"]
    if device.type == "cuda":
        head += ["measured, GB", "pairs/s"]
    else:
        print("no GPU here: nothing is measured, this is only the model of the saved tensors")
    print(f"\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    rows = []
    for pairs in args.batches:
        for mode in args.modes:
            plan = plan_of(memory, mode, pairs, budget)
            row = {
                "pairs": pairs,
                "mode": mode,
                "budget_gb": args.budget,
                "computed_gb": memory.peak(images_of(pairs), pairs, plan) / 1e9,
                "again": memory.again(plan) / len(plan),
                "kept": [str(kept) for kept in plan],
            }
            if device.type == "cuda":
                command = [sys.executable, __file__, "--trial", "--backbone", args.backbone]
                command += ["--image-size", str(args.image_size), "--budget", str(args.budget)]
                command += ["--batches", str(pairs), "--modes", mode]
                found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                row["measured"] = json.loads(found.stdout)
            rows.append(row)
            print(line_of(row), flush=True)  # at once: a trial starts a process and takes a while
    if args.output:
        write_json(args.output, {"machine": machine(device), "rows": rows})


if __name__ == "__main__":
    run_command(main)
