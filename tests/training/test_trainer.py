"""The loop: accumulation, divergence, weight decay, the rate, freezing, and that it learns."""

import json
import math
import os

import pytest
import torch
from torch.testing import assert_close
from toys import be_sure, let_speak, make_trainer, tiny_config

from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.model.backbone import Kept
from partloc.model.model_file import load_model, save_model
from partloc.training import run
from partloc.training.optim import make_optimizer, make_schedule
from partloc.training.run import fingerprint_of, read_tables, write_outputs
from partloc.training.run_folder import RunFolder
from partloc.training.trainer import NonFiniteLoss

STILL = {"learning_rate": 1e-3, "warmup_epochs": 0.0}


@pytest.fixture(autouse=True)
def do_not_wait_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


def answering(trainer):
    torch.manual_seed(1)
    let_speak(trainer.model)
    return trainer


def without_validation(table):
    empty = object.__new__(PairTable)
    empty.__dict__ |= table.__dict__ | {"models": table.models[:0]}
    return empty


# -- one step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_four_accumulated_batches_of_two_are_one_batch_of_eight(tables, sampling):
    """With the last short group (3 of 11 samples, as 2 + 1) and with augmentation."""
    weights = []
    for batch_size, steps in ((8, 1), (2, 4)):
        train = {"batch_size": batch_size, "accumulation_steps": steps, "sampling": sampling}
        trainer = answering(make_trainer(tiny_config(train=STILL | train), *tables))
        # Else AdamW makes full steps of gradients that are nothing but rounding.
        for group in trainer.optimizer.param_groups:
            group["eps"] = 1e-2
        losses = trainer.train_epoch()
        assert trainer.schedule.last_epoch == 2
        weights.append((losses, trainer.model.state_dict()))
    (big_losses, big), (small_losses, small) = weights
    assert big_losses == pytest.approx(small_losses, rel=1e-5)
    start = answering(make_trainer(tiny_config(), *tables)).model.state_dict()
    for key in big:
        moved = (big[key] - start[key]).abs().max()
        assert (big[key] - small[key]).abs().max() <= 1e-3 * moved + 1e-7, key


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_epoch(tables, value):
    trainer = make_trainer(tiny_config(), *tables)
    tables[0].translation[3, 1], before = value, float(tables[0].translation[3, 1])
    try:
        trainer.epoch = 4
        trainer._plan = lambda epoch: [[0], [3, 0], [1]]
        with pytest.raises(NonFiniteLoss, match=r"epoch 5: the loss is \w+; .* after epoch 4 is"):
            trainer.train_epoch()
    finally:
        tables[0].translation[3, 1] = before


def test_a_loss_that_is_not_finite_in_the_last_step_is_seen_too(tables, monkeypatch):
    trainer = make_trainer(tiny_config(), *tables)
    monkeypatch.setattr(trainer, "_plan", lambda epoch: [[0]])
    torch.nn.init.constant_(trainer.model.head[-1].bias, math.nan)
    with pytest.raises(NonFiniteLoss, match="epoch 1: the loss is nan"):
        trainer.train_epoch()


def test_a_gradient_that_is_not_finite_stops_too(tables):
    trainer = make_trainer(tiny_config(), *tables)
    trainer.model.head[0].weight.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NonFiniteLoss, match="epoch 1: the norm of the gradient is nan"):
        trainer.train_epoch()


def test_the_confidence_is_calibrated_on_what_validation_finds_right(tables, monkeypatch):
    trainer = make_trainer(tiny_config(), *tables)
    be_sure(trainer.model, 0.7)
    asked = []
    monkeypatch.setattr(
        "partloc.training.trainer.fit_platt", lambda *given: asked.append(given) or (2.0, 1.0)
    )
    trainer.validate()
    ((log_odds, right),) = asked
    assert_close(log_odds, torch.full((len(trainer.val_table),), 0.7))
    assert right.shape == log_odds.shape and right.dtype == torch.bool
    assert_close(trainer.model.confidence(log_odds[:1]), torch.tensor([2.4]).sigmoid())


def test_a_validation_loss_that_is_not_finite_is_never_the_best(tables):
    trainer = make_trainer(tiny_config(), *tables)
    with torch.no_grad():
        trainer.model.head[-1].bias[0] = math.nan
    with pytest.raises(NonFiniteLoss, match="validation loss is nan"):
        trainer.validate()


def test_divergence_keeps_the_state_of_the_last_good_epoch(tables, tmp_path):
    trainer = make_trainer(tiny_config(train={"num_epochs": 5}), *tables)
    plan = trainer._plan
    trainer._plan = lambda epoch: plan(epoch) if epoch < 2 else [[0]] * 11
    train_epoch = trainer.train_epoch

    def diverge():
        if trainer.epoch == 2:
            torch.nn.init.constant_(trainer.model.head[-1].bias, math.nan)
        return train_epoch()

    trainer.train_epoch = diverge
    folder = RunFolder(tmp_path, "f" * 16)
    with pytest.raises(NonFiniteLoss):
        trainer.fit(folder)
    state = folder.load_state()
    assert state["epoch"] == 2
    assert all(torch.isfinite(value).all() for value in state["model"].values())


# -- how the weights move ----------------------------------------------------------------------


def test_norms_biases_and_tables_do_not_decay_and_the_backbone_is_slower(tables):
    config = tiny_config(
        train={"weight_decay": 0.1, "learning_rate": 1e-3, "backbone_lr_factor": 0.1}
    )
    model = make_trainer(config, *tables).model.requires_grad_()  # as where there is a camera
    groups = {}
    for group in make_optimizer(model, config.train).param_groups:
        for parameter in group["params"]:
            groups[parameter] = (group["lr"], group["weight_decay"])
    learned = dict(model.named_parameters())
    assert set(groups) == set(learned.values())
    for name, parameter in learned.items():
        rate, decay = groups[parameter]
        begun = name.startswith(("backbone.", "depth_net."))
        assert rate == pytest.approx(1e-4 if begun else 1e-3), name
        still = parameter.ndim < 2 or "pos_embed" in name or "cls_token" in name
        assert decay == (0.0 if still else 0.1), name
    undecayed = {name for name, p in learned.items() if groups[p][1] == 0}
    assert {"backbone.vit.cls_token", "backbone.vit.pos_embed"} <= undecayed


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine():
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


def test_a_warm_up_longer_than_the_training_is_cut():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    config = tiny_config(train={"num_epochs": 1, "warmup_epochs": 9.0}).train
    assert make_schedule(optimizer, 1, config).get_last_lr()[0] == 1.0


def test_a_frozen_backbone_neither_moves_nor_costs_a_backward_pass(tables):
    config = tiny_config(train=STILL | {"freeze_backbone": True})
    trainer = answering(make_trainer(config, *tables))
    backbone = trainer.model.backbone
    seen = []
    backbone.register_forward_hook(
        lambda module, _inputs, outputs: seen.append((module.training, outputs[0].requires_grad))
    )
    before = {key: w.clone() for key, w in trainer.model.state_dict().items()}
    trainer.train_epoch()
    assert set(seen) == {(False, False)}
    assert all(parameter.grad is None for parameter in backbone.parameters())
    after = trainer.model.state_dict()
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved and not any(key.startswith("backbone.") for key in moved)


@pytest.mark.parametrize(
    ("setting", "kept"),
    [(True, {Kept.INPUT}), (False, {Kept.EVERYTHING}), ("auto", {Kept.EVERYTHING})],
)
def test_gradient_checkpointing_is_passed_on_and_changes_nothing(tables, setting, kept):
    plain = answering(make_trainer(tiny_config(train=STILL), *tables))
    plain.train_epoch()
    train = STILL | {"use_gradient_checkpointing": setting}
    trainer = answering(make_trainer(tiny_config(train=train), *tables))
    trainer.train_epoch()
    assert set(trainer.model.backbone.kept) == kept
    for one, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert_close(one, other)


def test_a_small_budget_makes_the_encoder_compute_again(tables):
    train = STILL | {"use_gradient_checkpointing": "auto"}
    config = tiny_config(train=train, machine={"memory_budget_gb": 1e-3})
    trainer = answering(make_trainer(config, *tables))
    trainer.train_epoch()
    assert Kept.INPUT in trainer.model.backbone.kept


# -- all epochs --------------------------------------------------------------------------------


def test_training_learns_to_tell_two_parts_apart(tables, toy_split):
    """The constant answer, where training starts, is wrong for at least one of them."""
    manifest = read_manifest(toy_split / "train.csv")
    two = manifest[manifest.part_path.str.contains("desk-top|desk-drawer")]
    table = PairTable(two, tables[0].data_dir)
    config = tiny_config(train={"num_epochs": 60, "learning_rate": 2e-3})
    trainer = make_trainer(config, table, without_validation(table))
    losses = []
    for trainer.epoch in range(60):
        losses.append(trainer.train_epoch()["loss"])
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_crops_are_jittered_while_an_encoder_learns(tables, frozen):
    trainer = make_trainer(
        tiny_config(train={"crop_jitter": 0.3, "freeze_backbone": frozen}), *tables
    )
    encode, seen = trainer.model.encode, []

    def watched(images, precision=None, jitter=None):
        seen.append(0.0 if jitter is None else jitter[:, 0].max().item())
        return encode(images, precision, jitter)

    trainer.model.encode = watched
    trainer.train_epoch()
    assert set(seen) == {0.0} if frozen else 0.2 < max(seen) < 0.3
    seen.clear()
    trainer.validate()
    assert set(seen) == {0.0}


def test_the_weights_of_the_best_epoch_are_exported(tables, tmp_path):
    trainer = make_trainer(tiny_config(train={"num_epochs": 4}), *tables)
    validate, wanted = trainer.validate, iter((0.4, 0.2, 0.3, 0.3))
    trainer.validate = lambda: validate() | {"pose_loss": next(wanted)}
    folder = RunFolder(tmp_path / "runs", "f" * 16)
    trainer.fit(folder)
    assert trainer.best_epoch == 2

    trainer.load_best(folder)
    write_outputs(trainer, tmp_path / "models", tmp_path / "metrics")
    trainer.model = load_model(tmp_path / "models" / "best_model.pth")
    error = trainer.history[1]["val_translation_error"]
    assert validate()["translation_error"] == pytest.approx(error, rel=1e-6)
    assert error != pytest.approx(trainer.history[3]["val_translation_error"], rel=1e-6)


def test_starting_weights_that_no_epoch_betters_are_exported(tables, tmp_path):
    begin = tmp_path / "begin.pth"
    save_model(begin, make_trainer(tiny_config(), *tables).model, {})
    config = tiny_config(model={"start_from": str(begin)}, train={"num_epochs": 3})
    trainer = make_trainer(config, *tables)
    validate, wanted = trainer.validate, iter((0.1, 0.4, 0.3, 0.2))
    trainer.validate = lambda: validate() | {"pose_loss": next(wanted)}
    folder = RunFolder(tmp_path / "runs", "f" * 16)
    trainer.fit(folder)
    assert trainer.best_epoch == 0

    resumed = make_trainer(config, *tables)
    resumed.restore(folder.load_state())
    assert resumed.best_epoch == 0
    resumed.load_best(folder)
    write_outputs(resumed, tmp_path / "models", tmp_path / "metrics")
    figures = json.loads((tmp_path / "metrics" / "train.json").read_text())
    assert figures["best_epoch"] == 0 and figures["best_val_pose_loss"] == 0.1
    assert figures["start"]["val_pose_loss"] == 0.1 and "train_loss" not in figures["start"]
    assert [record["epoch"] for record in figures["history"]] == [1, 2, 3]
    assert all("train_loss" in record for record in figures["history"])  # or no curve is drawn
    trainer.model = load_model(tmp_path / "models" / "best_model.pth")
    error = trainer.history[0]["val_translation_error"]
    assert validate()["translation_error"] == pytest.approx(error)


def test_without_a_validation_set_the_last_epoch_is_exported(tables, tmp_path):
    trainer = make_trainer(tiny_config(), tables[0], without_validation(tables[1]))
    folder = RunFolder(tmp_path, "f" * 16)
    trainer.fit(folder)
    assert trainer.best_epoch == 2
    trainer.load_best(folder)
    write_outputs(trainer, tmp_path / "models", tmp_path / "metrics")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_training_ends_with_the_same_weights(tables, tmp_path, dropout):
    config = tiny_config(model={"dropout": dropout}, train={"num_epochs": 4})
    straight = make_trainer(config, *tables)
    straight.fit(RunFolder(tmp_path, "a" * 16))

    folder = RunFolder(tmp_path, "b" * 16)
    for stop in (1, 3, 4):
        resumed = make_trainer(config, *tables)
        if state := folder.load_state():
            resumed.model.load_state_dict(state["model"])
            resumed.restore(state)
        resumed.config = tiny_config(model={"dropout": dropout}, train={"num_epochs": stop})
        resumed.fit(folder)
    assert resumed.history == straight.history
    for key, expected in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], expected), key


# -- what a run is known by --------------------------------------------------------------------


def test_the_fingerprint_holds_what_determines_the_weights_and_nothing_else(toy_split, tmp_path):
    def fingerprint(**groups):
        return fingerprint_of(tiny_config(**groups), toy_split)

    plain = fingerprint()
    assert plain == fingerprint(machine={"device": "auto", "num_workers": 7})
    assert plain == fingerprint(data={"data_dir": "elsewhere", "output_dir": "there"})
    assert plain == fingerprint(demo={"num_models": 9})
    changes = [
        {"data": {"image_size": 42}},
        {"model": {"dropout": 0.2}},
        {"augment": {"hue": 0.0}},
        {"train": {"num_epochs": 3}},
        {"train": {"w_scale": 2.0}},
    ]
    assert len({plain, *(fingerprint(**change) for change in changes)}) == 1 + len(changes)


def test_the_fingerprint_holds_the_split_and_the_starting_weights(toy_split, tmp_path, monkeypatch):
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_bytes((toy_split / f"{name}.csv").read_bytes())
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"1")
    config = tiny_config(model={"weights": str(weights)})
    found = {fingerprint_of(config, tmp_path)}
    depth = tmp_path / "depth.pth"
    depth.write_bytes(run.DEPTH_WEIGHTS.read_bytes())
    monkeypatch.setattr(run, "DEPTH_WEIGHTS", depth)
    for path in (tmp_path / "train.csv", tmp_path / "val.csv", weights, depth):
        path.write_bytes(path.read_bytes() + b"\n")
        found.add(fingerprint_of(config, tmp_path))
    assert len(found) == 5


def test_nothing_to_train_on_is_told_with_the_file(toy_split, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train.csv: .* run the stages index and split"):
        read_tables(tmp_path, tmp_path)
    header = (toy_split / "train.csv").read_text().splitlines()[0] + "\n"
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text(header)
    with pytest.raises(ValueError, match="train.csv: no samples"):
        read_tables(tmp_path, tmp_path)
