"""Parameter groups of the optimiser and the learning-rate schedule."""

import math

import pytest
import torch
from toys import make_trainer, tiny_config

from partloc.training.optim import make_optimizer, make_schedule


def test_norms_biases_and_tables_have_no_decay_and_the_backbone_is_slower(tables):
    config = tiny_config(
        train={"weight_decay": 0.1, "learning_rate": 1e-3, "backbone_lr_factor": 0.1}
    )
    model = make_trainer(config, *tables).model.requires_grad_()  # as with a camera
    groups = {}
    for group in make_optimizer(model, config.train).param_groups:
        for parameter in group["params"]:
            groups[parameter] = (group["lr"], group["weight_decay"])
    parameters = dict(model.named_parameters())
    assert set(groups) == set(parameters.values())
    for name, parameter in parameters.items():
        learning_rate, decay = groups[parameter]
        is_pretrained = name.startswith(("encoder.backbone.", "depth_net."))
        assert learning_rate == pytest.approx(1e-4 if is_pretrained else 1e-3), name
        undecayed = parameter.ndim < 2 or "pos_embed" in name or "cls_token" in name
        assert decay == (0.0 if undecayed else 0.1), name
    undecayed = {name for name, p in parameters.items() if groups[p][1] == 0}
    assert {"encoder.backbone.vit.cls_token", "encoder.backbone.vit.pos_embed"} <= undecayed


def test_the_learning_rate_rises_linearly_and_falls_as_half_a_cosine():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    config = tiny_config(train={"num_epochs": 3, "warmup_epochs": 0.75}).train
    schedule = make_schedule(optimizer, steps_per_epoch=4, config=config)
    rates = []
    for _ in range(12):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    cosine = [0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, *cosine])
    assert schedule.get_last_lr()[0] == pytest.approx(0)


def test_a_warm_up_longer_than_the_training_is_shortened():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    config = tiny_config(train={"num_epochs": 1, "warmup_epochs": 9.0}).train
    assert make_schedule(optimizer, 1, config).get_last_lr()[0] == 1.0
