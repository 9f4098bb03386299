"""How much of the encoder's work to keep for the backward pass, so that a batch fits in memory.

Keeping less costs time: what is not kept is computed twice. What a training step needs is, but for
constants, linear in the number of images and of pairs; the slopes are measured on the model itself
with one and two of each, and for every batch the fastest plan that fits is chosen.

Shapes: T tokens of an image, D width of the encoder.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks

from partloc.model.backbone import Kept
from partloc.model.locator import PartLocator

# Of a parameter in training: itself, its gradient and AdamW's two moments in float32.
BYTES_PER_PARAMETER = 16
# While a block is being differentiated, beside what it has kept: gradients of the same tensors.
DIFFERENTIATING = 1.0
# Tokens that a block is measured with; what it keeps is so much a token.
FEW = 64
# Of the budget, left to what is not counted: the device's own needs, fragmentation.
RESERVE = 0.1


class StepMemory(NamedTuple):
    """Bytes that a training step needs.

    constant: weights, gradients, optimiser, and what the weights' half precision copies need.
    pair: of each pair, outside the blocks. block: of each image, in each block, by what it keeps.
    attention_share: of a block's operations, what attention itself takes.
    """

    constant: float
    pair: float
    block: dict[Kept, float]
    attention_share: float
    num_blocks: int

    def peak(self, images: int, pairs: int, plan: tuple[Kept, ...]) -> float:
        """Of a batch, when the blocks keep what `plan` says."""
        kept = self.constant + self.pair * pairs
        kept += images * sum(self.block[how] for how in plan)
        everything = self.block[Kept.EVERYTHING]
        # The last block is differentiated while all others still keep theirs.
        again = everything - self.block[plan[-1]]
        return kept + images * (again + DIFFERENTIATING * everything)

    def again(self, plan: tuple[Kept, ...]) -> float:
        """How many blocks' worth of operations are done twice."""
        return plan.count(Kept.INPUT) + plan.count(Kept.ATTENTION) * (1 - self.attention_share)

    def plan(self, images: int, pairs: int, budget: float) -> tuple[Kept, ...]:
        """The plan that computes least twice among those that fit in `budget` bytes; if none fits,
        the one that needs least.

        Blocks that keep more come last: they have let go of it before the first ones are
        computed again.
        """
        plans = []
        for inputs, attentions in product(range(self.num_blocks + 1), repeat=2):
            rest = self.num_blocks - inputs - attentions
            if rest >= 0:
                plan = (Kept.INPUT,) * inputs + (Kept.ATTENTION,) * attentions
                plan += (Kept.EVERYTHING,) * rest
                plans.append((self.again(plan), self.peak(images, pairs, plan), plan))
        fitting = [plan for plan in plans if plan[1] <= (1 - RESERVE) * budget]
        return min(fitting)[2] if fitting else min(plans, key=lambda plan: plan[1])[2]


class Planner:
    """Sets before each batch what the encoder's blocks keep.

    By batch, since how many images a batch of so many pairs has depends on how they share wholes.
    """

    def __init__(self, model: PartLocator, dtype: torch.dtype | None, budget_gb: float) -> None:
        """budget_gb: of 1e9 bytes, all that a step may take."""
        self.backbone = model.backbone
        memory = measure_step(model, dtype)
        self.plan = lru_cache(maxsize=None)(partial(memory.plan, budget=budget_gb * 1e9))

    def prepare(self, images: int, pairs: int) -> None:
        self.backbone.kept = self.plan(images, pairs)


def measure_step(model: PartLocator, dtype: torch.dtype | None) -> StepMemory:
    """What a training step of the model needs; of the encoder one block is run, on few tokens."""
    backbone, device = model.backbone, model.center.device
    tokens, width = backbone.num_tokens, backbone.embed_dim

    def without_blocks(pairs: int) -> None:
        images = torch.zeros(pairs, 3, *[backbone.image_size] * 2, device=device)
        model(images, images, torch.arange(pairs, device=device), precision=dtype)

    def one_block(count: int) -> None:
        entering = torch.zeros(1, count, width, device=device, requires_grad=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            backbone.vit.blocks[0](entering)

    run_block, training = backbone.run_block, model.training
    backbone.run_block = lambda _block, entering, _kept: entering
    model.train()
    try:
        outside = [saved_bytes(partial(without_blocks, pairs), model) for pairs in (1, 2)]
        inside = [saved_bytes(partial(one_block, count), model) for count in (FEW, 2 * FEW)]
    finally:
        backbone.run_block = run_block
        model.train(training)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    copies = dtype.itemsize * parameters if dtype else 0
    entering = 4 * tokens * width
    # Attention's answer and its normaliser, one number a head.
    returned = (dtype or torch.float32).itemsize * tokens * width
    returned += 4 * tokens * backbone.vit.blocks[0].attn.num_heads
    return StepMemory(
        constant=BYTES_PER_PARAMETER * parameters + copies,
        pair=outside[1] - outside[0],
        block={
            Kept.EVERYTHING: (inside[1] - inside[0]) / FEW * tokens,
            Kept.ATTENTION: entering + returned,
            Kept.INPUT: entering,
        },
        attention_share=tokens / (tokens + 6 * width),
        num_blocks=backbone.num_blocks,
    )


def saved_bytes(run: Callable[[], None], model: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of run(), parameters not counted.

    What a checkpointed function keeps is not seen.
    """
    # Storages are told apart by their handles: addresses fake tensors do not have.
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    held: dict[int, UntypedStorage] = {}  # keeps them, so that no handle is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage
        return tensor

    with torch.random.fork_rng(), torch.enable_grad(), saved_tensors_hooks(pack, lambda t: t):
        run()
    return sum(storage.nbytes() for storage in held.values())
