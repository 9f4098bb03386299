"""Detects a diverged training: losses and gradient norms that are not finite."""

import math

import torch
from torch import Tensor


class NonFiniteLossError(FloatingPointError):
    """Training diverged; the state of the last finished epoch is kept."""


def require_finite(name: str, value: float, epoch: int) -> None:
    """Raise NonFiniteLossError if `value` is NaN or infinite.

    name: of the value, for the message. epoch: number of finished epochs.
    """
    if not math.isfinite(value):
        raise NonFiniteLossError(
            f"epoch {epoch + 1}: the {name} is {value}; the state after epoch {epoch} is kept. "
            "Try a lower train.learning_rate or train.use_amp: false"
        )


class DeferredFiniteCheck:
    """Checks the metrics of a step while the next step runs, so that the GPU never waits."""

    def __init__(self, epoch: int) -> None:
        """epoch: number of finished epochs, for the message."""
        self.epoch = epoch
        self.names: list[str] = []
        self.values: Tensor | None = None
        self.copied: torch.cuda.Event | None = None

    def add(self, metrics: dict[str, Tensor]) -> dict[str, float]:
        """Start copying scalars from the device; return those of the previous step, checked.

        Returns: empty for the first step. Raises: NonFiniteLossError.
        """
        previous = self.read()
        self.names, values = list(metrics), torch.stack(list(metrics.values()))
        self.values = values
        if values.is_cuda:
            self.values = torch.empty(len(values), pin_memory=True)
            self.values.copy_(values, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()
        return previous

    def read(self) -> dict[str, float]:
        """Wait for the last metrics and return them, checked. Raises: NonFiniteLossError."""
        if self.values is None:
            return {}
        if self.copied:
            self.copied.synchronize()
        metrics = dict(zip(self.names, self.values.tolist(), strict=True))
        for name, value in metrics.items():
            require_finite(name, value, self.epoch)
        return metrics
