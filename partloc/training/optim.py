"""Optimiser and learning-rate schedule: AdamW with parameter groups, warm-up, half a cosine."""

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:  # any object with the fields will do, also where pydantic is not installed
    from partloc.config import TrainConfig

# Gradients are scaled down to this norm over all parameters.
MAX_GRADIENT_NORM = 1.0


def make_optimizer(model: nn.Module, config: "TrainConfig") -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters, in up to four groups.

    Norms, biases, position tables and class tokens have no weight decay. The backbone and the
    depth network, which start pretrained, have a learning rate scaled by `backbone_lr_factor`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(("pos_embed", "_token"))
            is_pretrained = name.startswith(("encoder.backbone.", "depth_net."))
            groups.setdefault((is_pretrained, decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate * (config.backbone_lr_factor if is_pretrained else 1),
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (is_pretrained, decays), parameters in sorted(groups.items(), key=lambda kv: kv[0])
        ],
        fused=True,  # a single kernel updates all weights, without intermediate copies
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, steps_per_epoch: int, config: "TrainConfig"
) -> LambdaLR:
    """Build the schedule: linear warm-up, then half a cosine to zero, in optimiser steps.

    A warm-up longer than the training is cut to all steps but one.
    """
    total = steps_per_epoch * config.num_epochs
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return LambdaLR(optimizer, factor)
