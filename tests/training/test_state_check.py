"""A state is examined as a whole before a training continues from it."""

import copy
import math

import pytest
import torch
from toys import SINGLE_PROCESS, make_trainer, tiny_config

from partloc.system.files import CheckpointError
from partloc.training.run import run_training
from partloc.training.run_folder import RunFolder
from partloc.training.state_check import StateError, restoring, state_problem

CONFIG = tiny_config(model={"depth_maps": False}, train={"num_epochs": 2, "batch_size": 8})


@pytest.fixture(scope="module")
def trainer(tables, tmp_path_factory):
    """After one of two epochs."""
    trainer = make_trainer(CONFIG, *tables)
    folder = RunFolder(tmp_path_factory.mktemp("runs"), "0123456789abcdef")
    folder.path.mkdir()
    trainer.state.epoch = 1
    train = trainer.train_epoch()
    trainer.state.epoch = 0
    trainer.state.history.append({"epoch": 1, "train_loss": train["loss"], "val_pose_loss": 1.0})
    trainer.state.epoch, trainer.state.best_weights = 1, dict(trainer.model.state_dict())
    return trainer


def find_problem(trainer, state) -> str | None:
    return state_problem(state, trainer.model.state_dict(), CONFIG.train.num_epochs)


def changed(state: dict, *keys, value) -> dict:
    """A copy with another value; a weight is named by `first`."""
    copied = inner = copy.deepcopy(state)
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return copied


def test_a_state_of_the_training_is_usable(trainer):
    assert find_problem(trainer, trainer.state.content()) is None
    with restoring(trainer.optimizer):
        trainer.state.restore(trainer.state.content())


@pytest.mark.parametrize("key", ["code", "model", "optimizer", "epoch", "is_complete", "history"])
@pytest.mark.parametrize("value", [None, "text", 1.5])
def test_a_value_of_another_type_is_named(trainer, key, value):
    problem = find_problem(trainer, changed(trainer.state.content(), key, value=value))
    assert problem.startswith(f"{key}: expected a ")
    assert find_problem(trainer, {k: v for k, v in trainer.state.content().items() if k != key})


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("epoch",), -1),
        (("epoch",), 3),
        (("is_complete",), True),
        (("epoch_steps",), -2),
        (("history",), []),
        (("history",), [1.0]),
        (("history", 0, "val_pose_loss"), math.nan),
        (("loss_sums", 0), torch.zeros(99)),
        (("best_weights",), {}),
        (("model", "unknown"), torch.zeros(1)),
        (("schedule", "last_epoch"), math.inf),
    ],
)
def test_values_that_do_not_fit_together_are_a_problem(trainer, keys, value):
    assert find_problem(trainer, changed(trainer.state.content(), *keys, value=value))


@pytest.mark.parametrize("group", ["model", "best_weights"])
def test_a_weight_must_have_its_shape_and_be_finite(trainer, group):
    state = trainer.state.content()
    for key in [*state[group]][::40]:
        weight = state[group][key]
        if not weight.is_floating_point():
            continue
        for value in (torch.zeros(*weight.shape, 2), "text", torch.full_like(weight, math.nan)):
            problem = find_problem(trainer, {**state, group: {**state[group], key: value}})
            assert key in problem and group in problem


def test_an_optimiser_of_another_form_is_not_restored(trainer, tables):
    state, other = trainer.state.content(), make_trainer(CONFIG, *tables)
    first = next(iter(state["optimizer"]["state"]))
    for wrong in (
        changed(state, "optimizer", "param_groups", value=[]),
        changed(state, "optimizer", "state", first, "exp_avg", value=torch.zeros(3, 5, 7)),
        changed(state, "rng_states", value=[{}]),
        changed(state, "schedule", value={}),
    ):
        with pytest.raises(StateError, match="^damaged: "), restoring(other.optimizer):
            other.state.restore(wrong)


def test_a_training_refuses_a_state_that_cannot_be_restored(trainer, toy_split, tmp_path):
    """Its file is named. One whose content is found to be damaged is passed over instead."""
    images = str(toy_split.parents[1] / "images")
    data = CONFIG.data.model_copy(update={"data_dir": images})
    config = CONFIG.model_copy(update={"data": data})

    def run(step: int, state: dict) -> str:
        from partloc.training.fingerprint import read_inputs

        inputs = read_inputs(config, toy_split)
        folder = RunFolder(tmp_path / "runs", inputs.fingerprint)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.save_state(step, state | {"code": inputs.code})
        with pytest.raises(CheckpointError) as caught:
            run_training(config, SINGLE_PROCESS, toy_split, tmp_path / "runs", True, lambda _: None)
        return str(caught.value)

    state = trainer.state.content()
    message = run(2, changed(state, "optimizer", "param_groups", value=[]))
    assert "state-000000002.pth: damaged: " in message
    message = run(3, changed(state, "epoch", value=-1))
    assert "state-000000002.pth: damaged: " in message  # the older one was taken
