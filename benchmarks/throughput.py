"""Training: the pipeline against every pair by itself (literal.py), side by side.

Both take optimiser steps on the same batches of the same pictures from the same weights: whole
models of four parts, so that 4 pairs are 5 pictures for the one and 8 for the other. First the
loss and the gradients of a step are compared; then the steps alternate, and the ratio of their
times is told.

    $ python benchmarks/throughput.py
    $ python benchmarks/throughput.py --backbone dinov2_vitb14 --image-size 1024    # on a GPU
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import literal  # noqa: E402
from benchmarks.setting import machine, pairs_of_four  # noqa: E402
from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.config import Config  # noqa: E402
from partloc.data.table import PairTable  # noqa: E402
from partloc.data.transforms import Preprocessing  # noqa: E402
from partloc.distributed import Team, choose_device, seed_everything  # noqa: E402
from partloc.files import write_json  # noqa: E402
from partloc.model.locator import PartLocator  # noqa: E402
from partloc.training.optim import make_optimizer  # noqa: E402
from partloc.training.trainer import Trainer  # noqa: E402


def small_config(backbone: str, image_size: int, batch_size: int) -> Config:
    """The full-size configuration with another encoder, size and batch; random weights, float32,
    no dropout or jitter, everything kept for the backward pass."""
    still = {"use_amp": False, "use_gradient_checkpointing": False, "backbone_lr_factor": 1.0}
    still["crop_jitter"] = 0.0
    return Config.model_validate(
        {
            "data": {"image_size": image_size},
            "model": {"backbone_name": backbone, "pretrained": False, "dropout": 0.0},
            "train": still | {"batch_size": batch_size},
            "machine": {"num_workers": 0},
        }
    )


def untrained(config: Config) -> PartLocator:
    """The same for both; what comes last already says something, else hardly a gradient would get
    past it."""
    seed_everything(config.seed)
    model = PartLocator(config.model, Preprocessing(config.data.image_size))
    nn.init.normal_(model.head[-1].weight, std=0.1)
    nn.init.eye_(model.lift.weight)
    return model


def gradients_of(model: nn.Module) -> list[torch.Tensor]:
    """Of what learns; without a camera the depth network does not."""
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


class Ours:
    """Steps of the pipeline's own loop, without augmentation."""

    def __init__(self, config: Config, table: PairTable, device: torch.device) -> None:
        self.trainer = Trainer(config, untrained(config), table, table, Team(0, 1, device))
        # Validation's loader: the same pictures as they are.
        self.batches, self.loader = self.trainer.val_batches, self.trainer.val_loader

    def steps(self, plan: list[list[int]]) -> list[float]:
        """The loss of each."""
        self.batches.set_plan(0, plan)
        self.trainer.train_batches.set_plan(0, plan)
        self.trainer.model.train()
        losses, loader = [], iter(self.loader)
        for batch in plan:
            sums = self.trainer._accumulate(loader, [batch], len(batch))
            self.gradients = gradients_of(self.trainer.model)
            self.trainer._step()
            losses.append(sums[0].item() / len(batch))
        return losses


class Literal:
    """The same steps, every pair for itself."""

    def __init__(self, config: Config, table: PairTable, device: torch.device) -> None:
        self.config, self.table = config, table
        self.model = untrained(config).to(device)
        self.optimizer = make_optimizer(self.model, config.train)

    def steps(self, plan: list[list[int]]) -> list[float]:
        self.model.train()
        rows = [row for batch in plan for row in batch]
        loader = literal.literal_loader(self.table, self.model.preprocessing, rows, len(plan[0]))
        losses = []
        for batch in loader:
            loss = literal.loss_of(self.model, self.table, batch, self.config.train)
            self.optimizer.zero_grad()
            loss.backward()
            self.gradients = gradients_of(self.model)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.grad_clip)
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def largest_difference(ours: Ours, theirs: Literal) -> float:
    """Of the two gradients of any one weight, as a share of its norm; a weight that moves a
    millionth as much as all together does not count."""
    norms = torch.stack([gradient.norm() for gradient in theirs.gradients])
    pairs = zip(ours.gradients, theirs.gradients, strict=True)
    off = torch.stack([(a - b).norm() for a, b in pairs])
    counts = norms > 1e-6 * norms.norm()
    return (off[counts] / norms[counts]).max().item()


def main() -> None:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("--backbone", default="dinov2_vits14", metavar="NAME")
    add("--image-size", type=int, default=448, metavar="PX")
    add("--batch", type=int, default=4, metavar="PAIRS", help="default 4")
    add("--rounds", type=int, default=3, metavar="N", help="default 3, a step each")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    device = choose_device("auto")
    config = small_config(args.backbone, args.image_size, args.batch)
    with tempfile.TemporaryDirectory() as folder:
        table = pairs_of_four(Path(folder), args.image_size, args.batch // 4)
        plan = [list(range(args.batch))]
        ours, theirs = Ours(config, table, device), Literal(config, table, device)
        losses = [side.steps(plan)[0] for side in (ours, theirs)]
        off = largest_difference(ours, theirs)
        if off > 1e-3:
            raise ValueError(f"a gradient differs by {off:.1e} of its norm, expected below 1e-3")
        seconds = {"pipeline": [], "literal": []}
        for _ in range(args.rounds):
            for name, side in (("pipeline", ours), ("literal", theirs)):
                start = time.perf_counter()
                side.steps(plan)
                seconds[name].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(seconds["pipeline"], seconds["literal"], strict=True)]
    figures = {
        "machine": machine(device),
        "backbone": args.backbone,
        "image_size": args.image_size,
        "loss": {"pipeline": losses[0], "literal": losses[1]},
        "gradients_differ": off,
        "pairs_per_s": {
            name: args.batch / statistics.median(each) for name, each in seconds.items()
        },
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
    if args.output:
        write_json(args.output, figures)
    print(f"{machine(device)}; {args.backbone} at {args.image_size} px, {args.batch} pairs a step")
    print(f"loss {losses[0]:.5f} and {losses[1]:.5f}")
    print(f"the gradient of a weight differs by {off:.1e} of its norm at most\n")
    print("| | pairs/s | |\n|---|---|---|")
    speed, ratio = figures["pairs_per_s"], figures["ratio"]
    print(f"| literal | {speed['literal']:.2f} | 1 |")
    print(f"| pipeline | {speed['pipeline']:.2f} | {ratio['median']:.2f} "
          f"({ratio['min']:.2f} to {ratio['max']:.2f}) |")  # fmt: skip


if __name__ == "__main__":
    run_command(main)
