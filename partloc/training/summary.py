"""Prints the cost of a configuration before it runs: parameters, tokens, FLOPs, memory.

    $ python -m partloc.training.summary                     # of params.yaml
    $ python -m partloc.training.summary --full-size         # of the full-size defaults

A pair is two images. Multiplications and additions count separately (2 FLOPs per product and sum).
"""

import sys
from typing import TYPE_CHECKING

import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from partloc.data.transforms import Preprocessing
from partloc.model.backbone import ActivationPolicy
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.system.cli import make_parser
from partloc.training.activation_memory import StepMemory, measure_step_memory

if TYPE_CHECKING:  # FLOPs are counted also where pydantic is not installed
    from partloc.config import Config

BACKWARD_COST = 2  # FLOPs of the backward pass, in units of the forward pass


def _attention_flops(query: tuple, key: tuple, value: tuple, *_args, **_kwargs) -> int:
    """FLOPs of attention by shapes; torch counts those of GPU kernels only."""
    return sdpa_flop_count(query, key, value)


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def count_flops(model: PartLocator) -> tuple[int, int]:
    """Count the FLOPs to encode an image, and to locate a part in a whole, both encoded.

    Counts matrix products, convolutions and attention; nothing is computed.
    """
    side = model.encoder.backbone.image_size
    counts = []
    # Fake tensors have shapes but no values.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        device = model.device
        image = torch.empty(1, 3, side, side, device=device)
        whole_of_part = torch.zeros(1, dtype=torch.long, device=device)
        tokens = model.encode(image)
        for run in (
            lambda: model.encode(image),
            lambda: model.predict(tokens, tokens, whole_of_part),
        ):
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                run()
            counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def build_without_weights(config: "Config") -> PartLocator:
    """A network whose cost can be counted: no weights are downloaded, read or drawn."""
    architecture = config.model.model_copy(update={"pretrained": False, "weights": None})
    model = build_locator(architecture, Preprocessing.from_config(config.data), blank=True)
    model.encoder.backbone.to_empty(device="cpu")  # takes no memory until it is written
    model.set_trainable(config.train, has_camera=True)
    return model


def summarize_model(config: "Config") -> dict[str, str]:
    """Return the cost of a configuration as (name, text): of a pair, and of a batch in memory."""
    model = build_without_weights(config)
    image_flops, pair_flops = count_flops(model)
    forward = 2 * image_flops + pair_flops
    backbone, tokens = model.encoder.backbone, model.encoder.tokens_per_side
    return {
        "encoder": f"{config.model.backbone_name}, {_count_parameters(backbone):.1f} M parameters",
        "all parameters": f"{_count_parameters(model):.1f} M",
        "patches of an image": f"{backbone.grid} x {backbone.grid}",
        "tokens after pooling": f"{tokens} x {tokens}",
        "forward, a pair": f"{forward / 1e9:.1f} GFLOP",
        **_summarize_step(config, model, forward, pair_flops),
    }


def _summarize_step(
    config: "Config", model: PartLocator, forward: int, pair_flops: int
) -> dict[str, str]:
    """FLOPs and memory of a training step.

    forward: FLOPs of a pair, its images encoded. pair_flops: of a pair without encoding.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        dtype = torch.bfloat16 if config.train.use_amp else None
        memory = measure_step_memory(model, config.train, dtype)
    pairs, blocks = config.train.batch_size, model.encoder.backbone.num_blocks
    if config.train.freeze_backbone:
        flops: float = (1 + BACKWARD_COST) * pair_flops
        peak = memory.constant_bytes + memory.pair_bytes * pairs
        detail = "the encoder's outputs are cached"
    else:
        plan = _choose_plan(config, memory)
        flops = (1 + BACKWARD_COST + memory.recomputed_blocks(plan) / blocks) * forward
        peak = memory.peak_bytes(2 * pairs, pairs, plan)
        counts = ((policy, plan.count(policy)) for policy in ActivationPolicy)
        stored = ", ".join(f"{count} store {policy}" for policy, count in counts if count)
        detail = f"of {blocks} blocks {stored}"
    return {
        "training, a pair": f"{flops / 1e9:.1f} GFLOP",
        "memory, computed": f"{peak / 1e9:.1f} GB to train with batches of {pairs}; {detail}",
    }


def _choose_plan(config: "Config", memory: StepMemory) -> tuple[ActivationPolicy, ...]:
    """Return the activation policies of a batch in which no two pairs share a whole."""
    pairs, mode = config.train.batch_size, config.train.use_gradient_checkpointing
    if mode == "auto":
        return memory.choose_plan(2 * pairs, pairs, config.machine.memory_budget_gb * 1e9)
    policy = ActivationPolicy.ATTENTION if mode else ActivationPolicy.EVERYTHING
    return (policy,) * memory.num_blocks


def _count_parameters(module: torch.nn.Module) -> float:
    """Return the number of parameters, millions."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, prog="python -m partloc.training.summary")
    parser.add_argument("--full-size", action="store_true", help="the defaults instead of a file")
    args = parser.parse_args(argv)
    from partloc.config import Config, ConfigError, load_config

    try:
        config = Config() if args.full_size else load_config(args.config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, text in summarize_model(config).items():
        print(f"{name:22}{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
