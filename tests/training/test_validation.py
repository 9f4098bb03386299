"""Validation: metrics, calibration, and losses that are not finite."""

import math

import pytest
import torch
from torch.testing import assert_close
from toys import make_trainer, set_constant_confidence, tiny_config

from partloc.training import validation
from partloc.training.finite_check import NonFiniteLossError


def test_the_confidence_is_calibrated_on_the_validation_set(tables, monkeypatch):
    trainer = make_trainer(tiny_config(), *tables)
    set_constant_confidence(trainer.model, 0.7)
    calls = []
    monkeypatch.setattr(validation, "fit_platt", lambda *args: calls.append(args) or (2.0, 1.0))
    trainer.validate()
    ((logits, is_right),) = calls
    assert_close(logits, torch.full((len(trainer.val_table),), 0.7))
    assert is_right.shape == logits.shape and is_right.dtype == torch.bool
    assert_close(trainer.model.confidence(logits[:1]), torch.tensor([2.4]).sigmoid())


def test_results_are_in_the_order_of_the_table_and_their_means_are_the_metrics(tables):
    trainer = make_trainer(tiny_config(train={"batch_size": 2}), *tables)
    metrics = trainer.validate()
    results = validation.predict_validation_set(
        trainer.objective, trainer.val_batches, trainer.val_loader, trainer.context
    )
    assert results.rows.tolist() == list(range(len(trainer.val_table)))
    assert metrics["translation_error"] == results.translation_errors.mean().item()
    assert metrics["labelled_error"] == results.labelled_errors.mean().item()
    assert metrics["translation_error"] <= metrics["labelled_error"]  # the nearest twin
    config = trainer.config.train
    pose = config.w_trans * metrics["translation_loss"] + config.w_scale * metrics["scale_loss"]
    assert metrics["pose_loss"] == pose


def test_a_validation_loss_that_is_not_finite_stops_the_training(tables):
    trainer = make_trainer(tiny_config(), *tables)
    with torch.no_grad():
        trainer.model.pose_head.output.bias[0] = math.nan
    with pytest.raises(NonFiniteLossError, match="validation loss is nan"):
        trainer.validate()
