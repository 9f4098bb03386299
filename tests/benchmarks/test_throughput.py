"""The per-pair reference computes what the pipeline computes, so their speeds can be compared."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from toys import make_trainer, randomize_output_layers, tiny_config

from benchmarks import throughput
from benchmarks.reference import reference_loader, reference_loss
from partloc.model.camera import PinholeCamera


def test_training_gives_the_gradients_of_encoding_every_pair_by_itself(tables):
    """The pipeline encodes a whole once for its parts, and equal images once."""
    table = tables[0]
    trainer = make_trainer(tiny_config(), *tables)
    model = trainer.model.train()
    torch.manual_seed(1)
    randomize_output_layers(model)
    slope = torch.tensor([[1.0, 0.0, 0.3], [0.0, -1.0, 0.2]])
    model.set_camera(PinholeCamera(slope, torch.zeros(2), torch.tensor(0.3), 1.0))
    trainer.objective.has_camera = True
    rows = list(range(8))  # two models, with twins
    assert len(set(table.image_ids[rows])) < len(rows)
    trainer.val_batches.table = trainer.val_loader.dataset.table = table
    for batches in (trainer.train_batches, trainer.val_batches):
        batches.set_plan(0, [rows])
    sums = trainer.accumulate_gradients(iter(trainer.val_loader), [rows])
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = [weight.grad.clone() for weight in weights]
    model.zero_grad()

    (batch,) = reference_loader(table, model.preprocessing, rows, len(rows))
    loss = reference_loss(model, table, batch, trainer.config.train)
    loss.backward()
    assert_close(sums[0] / len(rows), loss.detach())
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients)
    for gradient, weight in zip(gradients, weights, strict=True):
        assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-6)


def test_throughput_reports_a_speed_up_only_if_the_gradients_are_equal(
    monkeypatch, tmp_path, capsys
):
    output = tmp_path / "throughput.json"
    options = ["--backbone", "dinov2_vitt14", "--image-size", "56", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["throughput", *options, "--output", str(output)])
    throughput.main()
    results = json.loads(output.read_text())
    assert 0 <= results["gradient_difference"] < 1e-4
    assert f"| {results['speedup']['median']:.3g} (" in capsys.readouterr().out

    sides = [SimpleNamespace(gradients=[torch.ones(2), torch.full((3,), 1e-9)]) for _ in range(2)]
    sides[0].gradients[1][0] = 1.0  # of a weight whose gradient is negligible
    assert throughput.largest_gradient_difference(*sides) == 0
    sides[0].gradients[0][0] = 1.5
    assert throughput.largest_gradient_difference(*sides) == pytest.approx(0.5 / 2**0.5)

    monkeypatch.setattr(throughput, "largest_gradient_difference", lambda *_: 0.5)
    with pytest.raises(ValueError, match="a gradient differs by 5.0e-01 of its norm"):
        throughput.main()


def test_gradients_reach_the_encoder_of_the_compared_models():
    model = throughput.make_model(throughput.make_config("dinov2_vitt14", 56, 4))
    images = torch.randn(2, 3, 56, 56)
    model(images[:1], images[1:], torch.tensor([0])).pose.translation.sum().backward()
    assert model.encoder.backbone.vit.blocks[0].attn.qkv.weight.grad.norm() > 1e-6
