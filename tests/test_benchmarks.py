"""The yardsticks are fair: the same answers and gradients, and settings that exist."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from torch.testing import assert_close
from toys import make_trainer, tiny_config

from benchmarks import experiments, literal
from partloc.view import View

ROOT = Path(__file__).resolve().parents[1]
# What a machine lent for its GPU need not have.
ABSENT = ("dvc", "pyvista", "vtk", "scipy", "matplotlib", "tensorboard")


def test_training_gives_the_gradients_of_encoding_every_pair_for_itself(tables):
    """A whole once for its parts, equal pictures once: no gradient is lost or counted twice."""
    table = tables[0]
    trainer = make_trainer(tiny_config(), *tables)
    model = trainer.model.train()
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head[-1].weight, std=0.3)
    model.set_view(View(torch.tensor([[1.0, 0.0, 0.3], [0.0, -1.0, 0.2]]), torch.zeros(2), 1.0))
    trainer.knows_view = True
    rows = list(range(8))  # two models, with twins
    assert len(set(table.pictures[rows])) < len(rows)
    trainer.val_batches.table = trainer.val_loader.dataset.table = table
    for batches in (trainer.train_batches, trainer.val_batches):
        batches.set_plan(0, [rows])
    sums = trainer._accumulate(iter(trainer.val_loader), [rows], len(rows))
    ours = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()

    (batch,) = literal.literal_loader(table, model.preprocessing, rows, len(rows))
    loss = literal.loss_of(model, table, batch, trainer.config.train)
    loss.backward()
    assert_close(sums[0] / len(rows), loss.detach())
    assert any(gradient.abs().max() > 1e-3 for gradient in ours)
    for gradient, weight in zip(ours, model.parameters(), strict=True):
        assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-6)


def test_the_gpu_s_benchmark_needs_neither_dvc_nor_a_renderer():
    hide = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); import benchmarks.gpu"
    subprocess.run([sys.executable, "-c", hide], cwd=ROOT, check=True, env=os.environ)


@pytest.mark.parametrize("table", experiments.TABLES)
def test_every_experiment_changes_keys_that_there_are(table):
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    planned = experiments.experiments_of(table, seed=1)
    assert len({experiment.name for experiment in planned.values()}) == len(planned)
    for experiment in planned.values():
        for setting in experiment.settings:
            *groups, key = setting.partition("=")[0].split(".")
            found = params
            for group in groups:
                found = found[group]
            assert key in found, setting
