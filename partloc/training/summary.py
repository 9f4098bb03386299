"""What a configuration costs, before it runs: parameters, tokens, FLOPs, memory.

    $ python -m partloc.summary                     # of params.yaml
    $ python -m partloc.summary --full-size         # of the full-size defaults

Shapes: B pairs, each of two images; N patches and D width of the encoder.
"""

import sys
from typing import TYPE_CHECKING

import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from partloc.cli import make_parser
from partloc.data.transforms import Preprocessing
from partloc.model.backbone import Kept
from partloc.model.locator import PartLocator
from partloc.training.activation_memory import measure_step

if TYPE_CHECKING:  # FLOPs are counted also where pydantic is not installed
    from partloc.config import Config


def _attention_flops(query: tuple, key: tuple, value: tuple, *_args, **_kwargs) -> int:
    """Of shapes; torch knows those of the GPU's kernels only."""
    return sdpa_flop_count(query, key, value)


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def count_flops(model: PartLocator) -> tuple[int, int]:
    """To encode an image, and to locate a pair whose tokens are known; nothing is computed.

    Of matrix products, convolutions and attention, a product and a sum counting two.
    """
    side = model.backbone.image_size
    counts = []
    # Fake tensors have shapes and no values: the FLOPs are counted, not spent.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        device = model.center.device
        image = torch.empty(1, 3, side, side, device=device)
        alone = torch.zeros(1, dtype=torch.long, device=device)
        tokens = model.encode(image)
        for run in (lambda: model.encode(image), lambda: model.locate(tokens, tokens, alone)):
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                run()
            counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def summarize_model(config: "Config") -> dict[str, str]:
    """The figures of one training pair (two images) and of a batch, name -> text."""
    # No encoder's weights are needed, so none are fetched or read.
    blank = config.model.model_copy(update={"pretrained": False, "weights": None})
    model = PartLocator(blank, Preprocessing.of(config.data))
    backbone = model.backbone
    an_image, a_pair = count_flops(model)
    gigaflops = (2 * an_image + a_pair) / 1e9
    total = sum(parameter.numel() for parameter in model.parameters())
    encoder = sum(parameter.numel() for parameter in backbone.parameters())
    frozen = config.train.freeze_backbone
    model.set_learning(config.train, has_camera=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        memory = measure_step(model, torch.bfloat16 if config.train.use_amp else None)
    pairs, blocks = config.train.batch_size, backbone.num_blocks
    plan = (Kept.INPUT if config.train.use_gradient_checkpointing else Kept.EVERYTHING,) * blocks
    if config.train.use_gradient_checkpointing == "auto":
        plan = memory.plan(2 * pairs, pairs, config.machine.memory_budget_gb * 1e9)
    training = (3 + memory.again(plan) / blocks) * gigaflops  # backward costs two
    peak = memory.peak(2 * pairs, pairs, plan)
    kept = ", ".join(f"{plan.count(how)} keep {how}" for how in Kept if how in plan)
    kept = f"of {blocks} blocks {kept}"
    if frozen:
        training, peak = 3 * a_pair / 1e9, memory.constant + memory.pair * pairs
        kept = "the encoder's tokens are read"
    side = model.pool.weights.shape[0]
    return {
        "encoder": f"{config.model.backbone_name}, {encoder / 1e6:.1f} M parameters",
        "all parameters": f"{total / 1e6:.1f} M",
        "patches of an image": f"{backbone.grid} x {backbone.grid}",
        "tokens after pooling": f"{side} x {side}",
        "forward, a pair": f"{gigaflops:.1f} GFLOP",
        "training, a pair": f"{training:.1f} GFLOP",
        "memory, computed": f"{peak / 1e9:.1f} GB to train with batches of {pairs}; {kept}",
    }


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, prog="python -m partloc.summary")
    parser.add_argument("--full-size", action="store_true", help="the defaults, not a file")
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
