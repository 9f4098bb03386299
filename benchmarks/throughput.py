"""Training throughput of the pipeline and of the per-pair reference (`benchmarks/reference.py`).

Both take optimiser steps on the same batches from the same weights. A whole has four parts, so 4
pairs are 5 images for the pipeline and 8 for the reference. The loss and the gradients of one step
are compared first; then steps alternate, and the ratio of their times is reported.

    $ python -m benchmarks.throughput
    $ python -m benchmarks.throughput --backbone dinov2_vitb14 --image-size 1024    # on a GPU
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.box_models import PARTS_PER_WHOLE, write_box_models
from benchmarks.common import (
    Range,
    add_encoder_options,
    benchmark_parser,
    describe_machine,
    markdown_table,
    speedup,
    time_alternating,
)
from benchmarks.reference import reference_loader, reference_loss
from partloc.config import Config
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import DistributedContext, choose_device, seed_everything
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.model.proposals import ProposalLocator
from partloc.system.cli import run_command
from partloc.system.files import write_json
from partloc.training.optim import MAX_GRADIENT_NORM, make_optimizer
from partloc.training.trainer import Trainer

MAX_GRADIENT_DIFFERENCE = 1e-3  # relative to the norm of the gradient


def make_config(backbone: str, image_size: int, batch_size: int) -> Config:
    """The full-size configuration with another encoder, image size and batch size.

    Random weights, float32, no dropout, no jitter, all activations stored: the two sides can then
    be compared exactly.
    """
    deterministic = {"use_amp": False, "use_gradient_checkpointing": False, "crop_jitter": 0.0}
    return Config.model_validate(
        {
            "data": {"image_size": image_size},
            "model": {"backbone_name": backbone, "pretrained": False, "dropout": 0.0},
            "train": deterministic | {"backbone_lr_factor": 1.0, "batch_size": batch_size},
            "machine": {"num_workers": 0},
        }
    )


def make_model(config: Config) -> PartLocator:
    """A model with random weights, the same at each call.

    The output layers start at zero, which would stop the gradient; they get random weights.
    """
    seed_everything(config.seed)
    model = build_locator(config.model, Preprocessing(config.data.image_size))
    assert isinstance(model, ProposalLocator)
    attention_output = model.cross_attention.output[-1]
    assert isinstance(attention_output, nn.Linear)
    for layer in (model.pose_head.output, attention_output):
        nn.init.normal_(layer.weight, std=0.1)
    nn.init.eye_(model.position_decoder.lift.weight)
    return model


def copy_gradients(model: nn.Module) -> list[torch.Tensor]:
    """Gradients of the trained weights; without a camera the depth network has none."""
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


class PipelineSteps:
    """Optimiser steps of the pipeline's own loop, without augmentation."""

    def __init__(self, config: Config, table: PairTable, device: torch.device) -> None:
        context = DistributedContext(0, 1, device)
        self.trainer = Trainer(config, make_model(config), table, table, context)
        # The loader of validation reads the same images without augmentation.
        self.batches, self.loader = self.trainer.val_batches, self.trainer.val_loader

    def step(self, rows: list[int]) -> float:
        """Train on one batch and return its loss."""
        self.batches.set_plan(0, [rows])
        self.trainer.train_batches.set_plan(0, [rows])
        self.trainer.model.train()
        sums = self.trainer.accumulate_gradients(iter(self.loader), [rows])
        self.gradients = copy_gradients(self.trainer.model)
        self.trainer.update_weights()
        return sums[0].item() / len(rows)


class ReferenceSteps:
    """The same steps, every pair processed by itself."""

    def __init__(self, config: Config, table: PairTable, device: torch.device) -> None:
        self.config, self.table = config, table
        self.model = make_model(config).to(device)
        self.optimizer = make_optimizer(self.model, config.train)

    def step(self, rows: list[int]) -> float:
        """Train on one batch and return its loss."""
        self.model.train()
        (batch,) = reference_loader(self.table, self.model.preprocessing, rows, len(rows))
        loss = reference_loss(self.model, self.table, batch, self.config.train)
        self.optimizer.zero_grad()
        loss.backward()
        self.gradients = copy_gradients(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return loss.item()


def largest_gradient_difference(pipeline: PipelineSteps, reference: ReferenceSteps) -> float:
    """The largest difference between the two gradients of a weight, relative to its norm.

    Weights whose gradient is below a millionth of the whole gradient's norm are ignored.
    """
    norms = torch.stack([gradient.norm() for gradient in reference.gradients])
    pairs = zip(pipeline.gradients, reference.gradients, strict=True)
    differences = torch.stack([(a - b).norm() for a, b in pairs])
    is_counted = norms > 1e-6 * norms.norm()
    return (differences[is_counted] / norms[is_counted]).max().item()


def measure(args: argparse.Namespace, device: torch.device) -> dict:
    """Raises: ValueError if the gradients differ."""
    config = make_config(args.backbone, args.image_size, args.batch)
    rows = list(range(args.batch))
    with tempfile.TemporaryDirectory() as folder:
        table = write_box_models(Path(folder), args.image_size, args.batch // PARTS_PER_WHOLE)
        pipeline = PipelineSteps(config, table, device)
        reference = ReferenceSteps(config, table, device)
        losses = pipeline.step(rows), reference.step(rows)
        difference = largest_gradient_difference(pipeline, reference)
        if difference > MAX_GRADIENT_DIFFERENCE:
            raise ValueError(
                f"a gradient differs by {difference:.1e} of its norm, "
                f"expected below {MAX_GRADIENT_DIFFERENCE:g}"
            )
        seconds, reference_seconds = time_alternating(
            args.rounds, partial(pipeline.step, rows), partial(reference.step, rows)
        )
    return {
        "machine": describe_machine(device),
        "backbone": args.backbone,
        "image_size": args.image_size,
        "loss": dict(zip(("pipeline", "reference"), losses, strict=True)),
        "gradient_difference": difference,
        "pairs_per_s": {
            "pipeline": args.batch / Range.of(seconds).median,
            "reference": args.batch / Range.of(reference_seconds).median,
        },
        "speedup": speedup(reference_seconds, seconds)._asdict(),
    }


def main() -> None:
    parser = benchmark_parser(__doc__)
    add_encoder_options(parser, "dinov2_vits14", 448)
    parser.add_argument("--batch", type=int, default=4, metavar="PAIRS", help="default 4")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3 steps each")
    args = parser.parse_args()
    results = measure(args, choose_device("auto"))
    if args.output:
        write_json(args.output, results)
    print(
        f"{results['machine']}; {args.backbone} at {args.image_size} px, {args.batch} pairs a step"
    )
    print("loss {pipeline:.5f} (pipeline), {reference:.5f} (reference)".format(**results["loss"]))
    print(f"largest gradient difference {results['gradient_difference']:.1e} of its norm\n")
    speed = results["pairs_per_s"]
    rows: list[list[object]] = [
        ["reference", f"{speed['reference']:.2f}", 1],
        ["pipeline", f"{speed['pipeline']:.2f}", Range(**results["speedup"])],
    ]
    print(markdown_table(["", "pairs/s", "speed-up (range)"], rows))


if __name__ == "__main__":
    run_command(main)
