"""Is a saved state whole? Its checksum says only that the file is the one that was written."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from partloc.training.losses import LossTerms

STATE_TYPES: dict[str, type] = {
    **dict.fromkeys(("code", "model", "optimizer", "schedule", "scaler", "best_weights"), dict),
    **dict.fromkeys(("loss_sums", "history", "rng_states"), list),
    **dict.fromkeys(("epoch", "epoch_steps"), int),
    "is_complete": bool,
}


class StateError(ValueError):
    """A state that cannot be restored."""


def state_problem(
    state: dict[str, Any], weights: Mapping[str, Tensor], num_epochs: int
) -> str | None:
    """Why a training cannot continue from `TrainingState.content`, or None.

    Optimiser, schedule and random states are examined only for numbers that are not finite;
    see `restoring`.

    Args:
        weights: of a network of the same architecture, of any values.
        num_epochs: of the whole training.
    """
    for key, kind in STATE_TYPES.items():
        value = state.get(key)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            found = type(state[key]).__name__ if key in state else "none"
            return f"{key}: expected a {kind.__name__}, found {found}"
    return (
        _progress_problem(state, num_epochs)
        or _weights_problem("model", state["model"], weights)
        or _best_weights_problem(state, weights)
        or _finite_problem(state)
    )


def _best_weights_problem(state: dict[str, Any], weights: Mapping[str, Tensor]) -> str | None:
    """There are none before the first epoch has ended."""
    if not (state["best_weights"] or state["history"]):
        return None
    return _weights_problem("best_weights", state["best_weights"], weights)


def _progress_problem(state: dict[str, Any], num_epochs: int) -> str | None:
    """Epochs, records and sums that do not fit together."""
    epoch, history = state["epoch"], state["history"]
    if not 0 <= epoch <= num_epochs or state["is_complete"] != (epoch == num_epochs):
        return f"epoch {epoch}, complete: {state['is_complete']}, of {num_epochs} epochs"
    if state["epoch_steps"] < 0:
        return f"epoch_steps {state['epoch_steps']}"
    last = history[-1] if history else {"epoch": 0}
    if not isinstance(last, dict) or last.get("epoch") != epoch:
        return f"history: its last record is not that of epoch {epoch}"
    for sums in state["loss_sums"]:
        if not isinstance(sums, Tensor) or sums.shape != (len(LossTerms._fields),):
            return f"loss_sums: expected {len(LossTerms._fields)} sums of each process"
    return None


def _weights_problem(
    name: str, found: dict[str, Any], expected: Mapping[str, Tensor]
) -> str | None:
    for key in sorted(map(str, found.keys() | expected.keys())):
        value = found.get(key)
        if not isinstance(value, Tensor) or key not in expected:
            return f"{name}: {key!r:.80} is not a weight of the network, or is missing"
        if value.shape != expected[key].shape:
            shapes = f"shape {list(value.shape)}, expected {list(expected[key].shape)}"
            return f"{name}: {key!r}: {shapes}"
    return None


def _finite_problem(value: Any, path: str = "") -> str | None:
    """The path of the first number in nested values that is not finite."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        problems = (_finite_problem(item, f"{path}/{key}") for key, item in items)
        return next(filter(None, problems), None)
    if isinstance(value, Tensor):
        is_finite = bool(torch.isfinite(value).all())
    else:
        is_finite = not isinstance(value, float) or math.isfinite(value)
    return None if is_finite else f"{path[1:]}: not a finite number"


@contextmanager
def restoring(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Turn the errors of restoring a state of another form into StateError.

    optimizer: whose averages must have the shapes of its parameters, which torch does not compare.
    """
    try:
        yield
        for parameter, averages in optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if averages[name].shape != parameter.shape:
                    found, expected = list(averages[name].shape), list(parameter.shape)
                    raise ValueError(f"optimizer: {name} of shape {found}, expected {expected}")
    except (AttributeError, LookupError) as error:
        raise StateError(f"damaged: {type(error).__name__} {error}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise StateError(f"damaged: {str(error).splitlines()[0]}") from error
