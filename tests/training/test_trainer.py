"""The training loop: accumulation, divergence, freezing, resuming, and that it learns."""

import math
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from torch.testing import assert_close
from toys import (
    SINGLE_PROCESS,
    assert_every_term_is_used,
    make_trainer,
    randomize_output_layers,
    tiny_config,
)
from tqdm import tqdm

from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.distributed import DistributedContext
from partloc.model.backbone import ActivationPolicy
from partloc.training import run
from partloc.training import trainer as trainer_module
from partloc.training.finite_check import DeferredFiniteCheck, NonFiniteLossError
from partloc.training.history import best_metric
from partloc.training.run import write_outputs
from partloc.training.run_folder import RunFolder
from partloc.training.trainer import Trainer

NO_WARMUP = {"learning_rate": 1e-3, "warmup_epochs": 0.0}


def make_randomized_trainer(tables, **groups) -> Trainer:
    """A trainer of a model whose predictions and gradients are not zero."""
    trainer = make_trainer(tiny_config(**groups), *tables)
    torch.manual_seed(1)
    randomize_output_layers(trainer.model)
    return trainer


def empty_table(table: PairTable) -> PairTable:
    empty = object.__new__(PairTable)
    empty.__dict__ |= table.__dict__ | {"models": table.models[:0]}
    return empty


# -- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_four_accumulated_batches_of_two_equal_one_batch_of_eight(tables, sampling):
    """Including a short last window (5 of 13 samples, as 2 + 2 + 1), augmentation, and equal parts,
    each of which is predicted at its own true position."""
    results = []
    for batch_size, steps in ((8, 1), (2, 4)):
        train = {"batch_size": batch_size, "accumulation_steps": steps, "sampling": sampling}
        trainer = make_randomized_trainer(tables, train=NO_WARMUP | train)
        # Otherwise AdamW makes full steps of gradients that are nothing but rounding errors.
        for group in trainer.optimizer.param_groups:
            group["eps"] = 1e-2
        losses = trainer.train_epoch()
        assert trainer.schedule.last_epoch == 2
        results.append((losses, trainer.model.state_dict()))
    (expected_losses, expected), (losses, weights) = results
    assert_every_term_is_used(losses)
    assert expected_losses == pytest.approx(losses, rel=1e-5)
    start = make_randomized_trainer(tables).model.state_dict()
    for key in expected:
        change = (expected[key] - start[key]).abs().max()
        assert (expected[key] - weights[key]).abs().max() <= 1e-3 * change + 1e-7, key


def test_a_frozen_backbone_has_no_gradient_and_does_not_change(tables):
    trainer = make_randomized_trainer(tables, train=NO_WARMUP | {"freeze_backbone": True})
    backbone = trainer.model.encoder.backbone
    modes = []
    backbone.register_forward_hook(
        lambda module, _inputs, outputs: modes.append((module.training, outputs[0].requires_grad))
    )
    before = {key: w.clone() for key, w in trainer.model.state_dict().items()}
    trainer.train_epoch()
    assert set(modes) == {(False, False)}
    assert all(parameter.grad is None for parameter in backbone.parameters())
    after = trainer.model.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed and not any(key.startswith("encoder.backbone.") for key in changed)


def test_gradient_checkpointing_changes_no_result(tables):
    trained = []
    for setting, policy in (
        (False, ActivationPolicy.EVERYTHING),
        (True, ActivationPolicy.ATTENTION),
        ("auto", ActivationPolicy.EVERYTHING),
    ):
        train = NO_WARMUP | {"use_gradient_checkpointing": setting}
        trainer = make_randomized_trainer(tables, train=train)
        trainer.train_epoch()
        assert set(trainer.model.encoder.backbone.activation_policies) == {policy}
        trained.append(trainer.model)
    for weights in zip(*(model.parameters() for model in trained), strict=True):
        for found in weights[1:]:
            assert_close(found, weights[0])


def test_a_small_memory_budget_makes_the_encoder_recompute(tables):
    train = NO_WARMUP | {"use_gradient_checkpointing": "auto"}
    trainer = make_randomized_trainer(tables, train=train, machine={"memory_budget_gb": 1e-3})
    trainer.train_epoch()
    assert ActivationPolicy.INPUT in trainer.model.encoder.backbone.activation_policies


# -- divergence --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_epoch(tables, value):
    # Without matching: on a CPU, grid_sample crashes in the backward pass at a position of NaN.
    trainer = make_trainer(tiny_config(model={"match_size": 0}), *tables)
    tables[0].translation[3, 1], before = value, float(tables[0].translation[3, 1])
    message = r"epoch 5: the loss is \w+; the last saved state is kept"
    try:
        trainer.state.epoch = 4
        trainer._plan_epoch = lambda epoch: [[0], [3, 0], [1]]
        with pytest.raises(NonFiniteLossError, match=message):
            trainer.train_epoch()
    finally:
        tables[0].translation[3, 1] = before


def test_a_loss_that_is_not_finite_in_the_last_step_is_detected(tables):
    trainer = make_trainer(tiny_config(), *tables)
    trainer._plan_epoch = lambda epoch: [[0]]
    torch.nn.init.constant_(trainer.model.pose_head.output.bias, math.nan)
    with pytest.raises(NonFiniteLossError, match="epoch 1: the loss is nan"):
        trainer.train_epoch()


def test_a_gradient_that_is_not_finite_stops_the_epoch(tables):
    trainer = make_trainer(tiny_config(), *tables)
    trainer.model.pose_head.hidden[0].weight.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NonFiniteLossError, match="epoch 1: the gradient norm is nan"):
        trainer.train_epoch()


@pytest.fixture
def half_precision_trainer(tables, monkeypatch) -> Trainer:
    """A trainer with float16's gradient scaler, which a GPU without bfloat16 has; 5 steps an epoch.

    Training stops after 8 skipped steps instead of MAX_SKIPPED_STEPS.
    """
    monkeypatch.setattr(trainer_module, "training_dtype", lambda *_: torch.float16)
    monkeypatch.setattr(trainer_module, "MAX_SKIPPED_STEPS", 8)
    trainer = make_trainer(tiny_config(), *tables)
    trainer.objective.dtype = None  # the CPU computes in full precision
    assert trainer.scaler.is_enabled()
    trainer._plan_epoch = lambda epoch: [[0]] * 5
    return trainer


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # of skipped steps
def test_gradients_that_stay_non_finite_in_float16_stop_the_training(half_precision_trainer):
    """Also if no epoch alone has enough steps; the loss is finite all the time."""
    trainer = half_precision_trainer
    trainer.model.pose_head.hidden[0].weight.register_hook(lambda grad: grad * math.nan)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.train_epoch()
    trainer.state.epoch = 1
    message = (
        "epoch 2: the gradients of 8 consecutive steps.* last saved state is kept. Try train.use"
    )
    with pytest.raises(NonFiniteLossError, match=message):
        trainer.train_epoch()
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_single_overflows_in_float16_do_not_stop_the_training(half_precision_trainer):
    trainer, calls = half_precision_trainer, []

    def overflow_often(grad):
        calls.append(len(calls) % 4)
        return grad * (math.inf if calls[-1] else 1.0)

    trainer.model.pose_head.hidden[0].weight.register_hook(overflow_often)
    for trainer.state.epoch in range(3):
        trainer.train_epoch()
    assert len(calls) - calls.count(0) > 8 > trainer.finite_check.skipped_steps


def test_divergence_keeps_the_state_of_the_last_finished_epoch(tables, tmp_path):
    trainer = make_trainer(tiny_config(train={"num_epochs": 5}), *tables)
    plan_epoch = trainer._plan_epoch
    trainer._plan_epoch = lambda epoch: plan_epoch(epoch) if epoch < 2 else [[0]] * 11
    train_epoch = trainer.train_epoch

    def diverge(folder):
        if trainer.state.epoch == 2:
            torch.nn.init.constant_(trainer.model.pose_head.output.bias, math.nan)
        return train_epoch(folder)

    trainer.train_epoch = diverge
    folder = RunFolder(tmp_path, "f" * 16)
    with pytest.raises(NonFiniteLossError):
        trainer.fit(folder)
    state = folder.load_state()
    assert state["epoch"] == 2
    assert state["best_metric"] == best_metric(trainer.state.history)
    best = state["best_metric"]
    assert best["value"] == trainer.state.history[best["epoch"] - 1][best["name"]]
    assert all(torch.isfinite(value).all() for value in state["model"].values())


# -- epochs ------------------------------------------------------------------------------------


class FirstOfTwo(DistributedContext):
    """The context of the first of two processes, which does not communicate."""

    def gather(self, value):
        return [value]


def test_the_progress_bar_shows_the_mean_loss_of_the_pairs_of_this_process(tables, monkeypatch):
    monkeypatch.setattr(trainer_module, "DistributedDataParallel", lambda model: model)

    def shown_loss(context, rows) -> float:
        trainer = run.make_trainer(
            tiny_config(train={"augmentation": "none"}), context, tables, None
        )
        trainer._plan_epoch = lambda epoch: [rows]
        with (
            patch.object(tqdm, "set_postfix") as set_postfix,
            patch.object(
                DeferredFiniteCheck, "add", lambda check, loss, norm: {"loss": loss.item()}
            ),
        ):
            trainer.train_epoch()
        (texts,) = set_postfix.call_args.args
        return float(texts["loss"])

    local = shown_loss(FirstOfTwo(0, 2, torch.device("cpu")), [0, 4, 9, 10])
    assert local == shown_loss(SINGLE_PROCESS, [0, 4]) != shown_loss(SINGLE_PROCESS, [9, 10])


def test_training_distinguishes_two_parts(tables, toy_split):
    """The constant prediction, with which training starts, is wrong for at least one of them."""
    manifest = read_manifest(toy_split / "train.csv")
    two = manifest[manifest.part_path.str.contains("desk-top|desk-drawer")]
    table = PairTable(two, tables[0].data_dir)
    config = tiny_config(train={"num_epochs": 60, "learning_rate": 2e-3})
    trainer = make_trainer(config, table, empty_table(table))
    losses = []
    for trainer.state.epoch in range(60):
        losses.append(trainer.train_epoch()["loss"])
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("freezes", [False, True])
def test_crops_are_jittered_in_training_unless_the_encoder_is_frozen(tables, freezes):
    trainer = make_trainer(
        tiny_config(train={"crop_jitter": 0.3, "freeze_backbone": freezes}), *tables
    )
    encode, strengths = trainer.model.encode, []

    def record_jitter(images, precision=None, jitter=None):
        strengths.append(0.0 if jitter is None else jitter[:, 0].max().item())
        return encode(images, precision, jitter)

    trainer.model.encode = record_jitter
    trainer.train_epoch()
    assert set(strengths) == {0.0} if freezes else 0.2 < max(strengths) < 0.3
    strengths.clear()
    trainer.validate()
    assert set(strengths) == {0.0}


@pytest.mark.parametrize(
    ("name", "freezes", "strength"),
    [
        *(("strong", False, 0.3), ("light", False, 0.1)),
        *(("none", False, None), ("strong", True, None)),
    ],
)
def test_images_are_augmented_in_training_unless_the_encoder_is_frozen(
    tables, name, freezes, strength
):
    settings = {"augmentation": name, "freeze_backbone": freezes}
    trainer = make_trainer(tiny_config(train=settings), *tables)
    augmentation = trainer.train_loader.dataset.augmentation
    assert (augmentation and augmentation.changes.color_jitter) == strength
    assert trainer.val_loader.dataset.augmentation is None


def test_the_last_epoch_is_the_best_without_a_validation_set(tables, tmp_path):
    trainer = make_trainer(tiny_config(), tables[0], empty_table(tables[1]))
    folder = RunFolder(tmp_path, "f" * 16)
    trainer.fit(folder)
    assert trainer.state.best_epoch == 2
    trainer.state.load_best()
    write_outputs(trainer, tmp_path / "models", tmp_path / "reports")


def assert_equal(found, expected) -> None:
    """Assert that nested values have the same bits."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        for pair in zip(found, expected, strict=True):
            assert_equal(*pair)
    else:
        assert found == expected


class Killed(BaseException):
    """Ends a training like a signal."""


def test_a_training_that_is_killed_within_an_epoch_resumes_at_the_very_batch(tables, tmp_path):
    """With the same bits in weights, optimiser, generators, metrics and best model, wherever it is
    killed: after the first step, during the validation, after it, and in the second epoch."""
    config = tiny_config(
        model={"dropout": 0.3},
        train={"batch_size": 2, "accumulation_steps": 2, "crop_jitter": 0.3, "sampling": "balanced"}
        | {"state_every_minutes": 1e-9},
    )
    uninterrupted = make_trainer(config, *tables)
    uninterrupted.state.is_due = lambda: False
    uninterrupted.fit(RunFolder(tmp_path, "a" * 16))
    assert uninterrupted.schedule.last_epoch == 8

    folder, num_windows = RunFolder(tmp_path, "b" * 16), []
    for killed_at in ("step 1", "validation", "epoch 1", "step 6", None):
        trainer = run.make_trainer(config, SINGLE_PROCESS, tables, folder.load_state())
        accumulate, validate = trainer.accumulate_gradients, trainer.validate

        def count_and_accumulate(batches, window, accumulate=accumulate):
            num_windows.append(len(window))
            return accumulate(batches, window)

        def validate_or_die(killed_at=killed_at, validate=validate):
            if killed_at == "validation":
                raise Killed
            return validate()

        def save_or_die(step, state, killed_at=killed_at):
            RunFolder.save_state(folder, step, state)
            saved = f"step {step}" if state["epoch_steps"] else f"epoch {state['epoch']}"
            if saved == killed_at:
                raise Killed

        trainer.accumulate_gradients, trainer.validate = count_and_accumulate, validate_or_die
        folder.save_state = save_or_die
        with pytest.raises(Killed) if killed_at else nullcontext():
            trainer.fit(folder)
    assert num_windows == [2, 2, 2, 1] * 2  # no batch twice
    expected, found = uninterrupted.state.content(), trainer.state.content()
    for state in (expected, found):
        for record in state["history"]:
            assert_every_term_is_used(record, prefix="train_")
    assert expected["history"] == found["history"]
    for key in ("model", "best_weights", "loss_sums", "rng_states"):
        assert_equal(found[key], expected[key])
    assert_equal(found["optimizer"]["state"], expected["optimizer"]["state"])
    best = [(tmp_path / name / "best_model.pth").read_bytes() for name in ("a" * 16, "b" * 16)]
    assert best[0] == best[1]


def test_weights_that_are_not_finite_are_not_saved_within_an_epoch(tables, tmp_path):
    train = {"batch_size": 2, "state_every_minutes": 1e-9}
    trainer = make_trainer(tiny_config(train=train), *tables)
    steps = []

    def poison(grad):
        steps.append(len(steps))
        return grad * math.nan if len(steps) == 3 else grad

    trainer.model.pose_head.hidden[0].weight.register_hook(poison)
    folder = RunFolder(tmp_path, "f" * 16)
    with pytest.raises(NonFiniteLossError, match="epoch 1: the gradient norm is nan"):
        trainer.fit(folder)
    state = folder.load_state()
    assert state["epoch_steps"] == 2
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_sums_of_another_number_of_processes_keep_their_total(tables):
    state = make_trainer(tiny_config(), *tables).state.content()
    trainer = make_trainer(tiny_config(), *tables)
    trainer.state.restore(state | {"loss_sums": [torch.full_like(state["loss_sums"][0], 2.0)] * 3})
    assert trainer.state.loss_sums.tolist() == [6.0] * len(trainer.state.loss_sums)
