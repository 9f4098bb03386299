"""How the weights move: AdamW in groups, warm-up and cosine; the precision of the arithmetic."""

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:  # any object with the fields will do, also where pydantic is not installed
    from partloc.config import TrainConfig


def make_optimizer(model: nn.Module, config: "TrainConfig") -> torch.optim.AdamW:
    """AdamW; no decay on norms, biases and tables; a lower rate for the backbone, and for the depth
    network, which has learned before as well."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(("pos_embed", "_token"))
            begun = name.startswith(("backbone.", "depth_net."))
            groups.setdefault((begun, decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate * (config.backbone_lr_factor if begun else 1),
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (begun, decays), parameters in sorted(groups.items(), key=lambda kv: kv[0])
        ],
        # One kernel for all weights, and no copies of them on the way.
        fused=all(parameter.is_cuda for parameter in model.parameters()),
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, steps_per_epoch: int, config: "TrainConfig"
) -> LambdaLR:
    """Linear warm-up, then half a cosine to zero; counted in optimiser steps."""
    total = steps_per_epoch * config.num_epochs
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return LambdaLR(optimizer, factor)
