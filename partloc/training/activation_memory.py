"""Memory planning: which activations the encoder's blocks store, so that a batch fits in memory.

What a block does not store is recomputed in the backward pass (gradient checkpointing), which
costs time. The memory of a training step is, up to constants, linear in the numbers of images and
of pairs; the slopes are measured on the model itself with one and two of each. For every batch the
fastest plan that fits is chosen. A plan is one ActivationPolicy per block.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, UntypedStorage
from torch.autograd.graph import saved_tensors_hooks

from partloc.model.backbone import ActivationPolicy
from partloc.model.locator import PartLocator
from partloc.model.proposals import ProposalLocator
from partloc.pose import PartPose
from partloc.training.losses import training_loss

if TYPE_CHECKING:  # any object with the fields will do, also where pydantic is not installed
    from partloc.config import TrainConfig

# A trainable parameter: its value, its gradient and AdamW's two moments, all float32.
BYTES_PER_PARAMETER = 16
# Gradients held while a block is differentiated, as a multiple of its saved activations.
GRADIENT_FACTOR = 1.0
# Tokens of the smaller of two measurements of a block; its saved bytes are linear in the tokens.
MEASURED_TOKENS = 64
# Fraction of the budget left for what is not counted: the CUDA context, fragmentation.
RESERVED_FRACTION = 0.1


class StepMemory(NamedTuple):
    """Bytes that a training step needs.

    Counts what exists at once when the backward pass begins: all tensors that autograd saves in the
    forward pass and in the loss, with its auxiliary terms, of parts without twins. Twins add a few
    numbers per hypothesis. Temporary tensors of single operations are not counted.

    constant_bytes: weights, gradients, optimiser state, and low-precision copies of the weights.
    pair_bytes: activations outside the blocks and of the loss, per pair.
    block_bytes: activations of one image in one block, by policy.
    attention_fraction: fraction of a block's operations spent in attention itself.
    num_blocks: transformer blocks.
    """

    constant_bytes: float
    pair_bytes: float
    block_bytes: dict[ActivationPolicy, float]
    attention_fraction: float
    num_blocks: int

    def peak_bytes(self, images: int, pairs: int, plan: tuple[ActivationPolicy, ...]) -> float:
        """Return the peak memory of a batch under `plan`."""
        stored = self.constant_bytes + self.pair_bytes * pairs
        stored += images * sum(self.block_bytes[policy] for policy in plan)
        everything = self.block_bytes[ActivationPolicy.EVERYTHING]
        # The last block is differentiated while all others still hold their activations.
        recomputed = everything - self.block_bytes[plan[-1]]
        return stored + images * (recomputed + GRADIENT_FACTOR * everything)

    def recomputed_blocks(self, plan: tuple[ActivationPolicy, ...]) -> float:
        """Return the recomputed operations, in units of one block's forward pass."""
        attention_stored = plan.count(ActivationPolicy.ATTENTION)
        return plan.count(ActivationPolicy.INPUT) + attention_stored * (1 - self.attention_fraction)

    def choose_plan(self, images: int, pairs: int, budget: float) -> tuple[ActivationPolicy, ...]:
        """Return the plan with the least recomputation that fits in `budget` bytes.

        If none fits, the plan with the lowest peak. Blocks that store more come last: their
        activations are freed before the first blocks are recomputed.
        """
        plans = []
        for inputs, attentions in product(range(self.num_blocks + 1), repeat=2):
            rest = self.num_blocks - inputs - attentions
            if rest >= 0:
                plan = (ActivationPolicy.INPUT,) * inputs
                plan += (ActivationPolicy.ATTENTION,) * attentions
                plan += (ActivationPolicy.EVERYTHING,) * rest
                peak = self.peak_bytes(images, pairs, plan)
                plans.append((self.recomputed_blocks(plan), peak, plan))
        fitting = [plan for plan in plans if plan[1] <= (1 - RESERVED_FRACTION) * budget]
        return min(fitting)[2] if fitting else min(plans, key=lambda plan: plan[1])[2]


class MemoryPlanner:
    """Sets the encoder's activation policies before each batch.

    Per batch, because the number of images depends on how many pairs share a whole.
    """

    def __init__(
        self,
        model: PartLocator,
        config: "TrainConfig",
        dtype: torch.dtype | None,
        budget_gb: float,
    ) -> None:
        """config: of the loss. dtype: of autocast, None for full precision. budget_gb: memory of a
        step, 1e9 bytes."""
        self.backbone = model.encoder.backbone
        memory = measure_step_memory(model, config, dtype)
        choose_plan = partial(memory.choose_plan, budget=budget_gb * 1e9)
        self.choose_plan = lru_cache(maxsize=None)(choose_plan)

    def prepare(self, images: int, pairs: int) -> None:
        """Set the policies for a batch of `images` images and `pairs` pairs."""
        self.backbone.activation_policies = self.choose_plan(images, pairs)


def measure_step_memory(
    model: PartLocator, config: "TrainConfig", dtype: torch.dtype | None
) -> StepMemory:
    """Measure the memory of a training step; the model is left as it was.

    Only one block of the encoder runs, on few tokens. Under FakeTensorMode nothing is computed.
    config: of the loss. dtype: of autocast, None for full precision.
    """
    backbone = model.encoder.backbone
    tokens, width = backbone.num_tokens, backbone.embed_dim
    pair_bytes, token_bytes = _measure_pair_and_token_bytes(model, config, dtype)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    copies = dtype.itemsize * parameters if dtype else 0
    block_input = 4 * tokens * width
    # The output of attention and its normaliser, one number per head.
    attention_output = (dtype or torch.float32).itemsize * tokens * width
    attention_output += 4 * tokens * backbone.num_heads
    return StepMemory(
        constant_bytes=BYTES_PER_PARAMETER * parameters + copies,
        pair_bytes=pair_bytes,
        block_bytes={
            ActivationPolicy.EVERYTHING: token_bytes * tokens,
            ActivationPolicy.ATTENTION: block_input + attention_output,
            ActivationPolicy.INPUT: block_input,
        },
        attention_fraction=tokens / (tokens + 6 * width),
        num_blocks=backbone.num_blocks,
    )


def _measure_pair_and_token_bytes(
    model: PartLocator, config: "TrainConfig", dtype: torch.dtype | None
) -> tuple[float, float]:
    """Return the saved bytes of a pair outside the blocks, and of a token in one block."""
    backbone, device = model.encoder.backbone, model.device

    def run_one_block(count: int) -> Tensor:
        block_input = torch.zeros(1, count, backbone.embed_dim, device=device, requires_grad=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            return backbone.vit.blocks[0](block_input)

    run_block, training = backbone.run_block, model.training
    backbone.run_block = lambda _block, tokens, _policy: tokens
    model.train()
    try:
        one, two = (
            saved_bytes(partial(run_loss, model, config, dtype, pairs), model) for pairs in (1, 2)
        )
        few, many = (
            saved_bytes(partial(run_one_block, count), model)
            for count in (MEASURED_TOKENS, 2 * MEASURED_TOKENS)
        )
    finally:
        backbone.run_block = run_block
        model.train(training)
    return two - one, (many - few) / MEASURED_TOKENS


def run_loss(
    model: PartLocator, config: "TrainConfig", dtype: torch.dtype | None, pairs: int
) -> Tensor:
    """Return the loss () of `pairs` empty images, each pair with a whole of its own."""
    side, device = model.encoder.backbone.image_size, model.device
    images = torch.zeros(pairs, 3, side, side, device=device)
    pose = PartPose(*(torch.ones(pairs, size, device=device) for size in (3, 1)))
    gt_pose = pose if isinstance(model, ProposalLocator) else None
    prediction = model(images, images, torch.arange(pairs, device=device), gt_pose, dtype)
    targets = PartPose(*(field[:, None] for field in pose))
    positions = None if gt_pose is None else model.project(targets)
    return training_loss(prediction, targets, positions, config).loss.sum()


def saved_bytes(run: Callable[[], Tensor], model: PartLocator) -> int:
    """Return the bytes that autograd saves for the backward pass of run(), without parameters.

    Tensors saved inside a checkpointed function are not counted.
    """
    # Storages are identified by their handles, because fake tensors have no addresses.
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, UntypedStorage] = {}  # holds the storages, so that no handle is reused

    def count(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = storage

    def refuse(_packed: None) -> Tensor:
        raise AssertionError("the graph of a measurement has no backward pass")

    # Without `devices` torch would warn on a machine with several GPUs.
    devices = [model.device] if model.device.type == "cuda" else []
    # `count` keeps no tensor: a graph that holds outputs of its own is never freed.
    hooks = saved_tensors_hooks(count, refuse)
    with torch.random.fork_rng(devices), torch.enable_grad(), hooks:
        run()
    return sum(storage.nbytes() for storage in saved.values())
