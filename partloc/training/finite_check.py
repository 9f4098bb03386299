"""Detects a diverged training: losses and gradient norms that are not finite."""

import math

import torch
from torch import Tensor

# Consecutive steps that the gradient scaler of float16 may skip. It halves the scale of the loss at
# each skipped step, from 2^16 to 2^-34: then the gradients overflow without any scale.
MAX_SKIPPED_STEPS = 50


class NonFiniteLossError(FloatingPointError):
    """Training diverged; the last saved state is kept."""


def require_finite(name: str, value: float, epoch: int) -> None:
    """Raise NonFiniteLossError if `value` is NaN or infinite.

    name: of the value, for the message. epoch: number of finished epochs.
    """
    if not math.isfinite(value):
        raise NonFiniteLossError(
            f"epoch {epoch + 1}: the {name} is {value}; the last saved state is kept. "
            "Try a lower train.learning_rate or train.use_amp: false"
        )


class DeferredFiniteCheck:
    """Checks the metrics of a step while the next step runs, so that the GPU never waits.

    epoch: number of finished epochs, for messages. skipped_steps: number of consecutive steps, up
    to the last one, whose gradients were not finite.
    """

    def __init__(self, max_skipped_steps: int) -> None:
        """max_skipped_steps: MAX_SKIPPED_STEPS with a gradient scaler, 0 without one."""
        self.max_skipped_steps = max_skipped_steps
        self.epoch = self.skipped_steps = 0
        self.values: Tensor | None = None
        self.copied: torch.cuda.Event | None = None

    def add(self, loss: Tensor, gradient_norm: Tensor) -> dict[str, float]:
        """Start copying scalars from the device; return those of the previous step, checked.

        Returns: as `read`. Raises: NonFiniteLossError.
        """
        previous = self.read()
        self.values = values = torch.stack([loss, gradient_norm])
        if values.is_cuda:
            self.values = torch.empty(len(values), pin_memory=True)
            self.values.copy_(values, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()
        return previous

    def read(self) -> dict[str, float]:
        """Wait for the last metrics and return them, checked; empty if all have been read.

        Raises: NonFiniteLossError.
        """
        if self.values is None:
            return {}
        if self.copied:
            self.copied.synchronize()
        loss, gradient_norm = self.values.tolist()
        self.values = None
        require_finite("loss", loss, self.epoch)
        self._check_gradient(gradient_norm)
        return {"loss": loss, "gradient norm": gradient_norm}

    def _check_gradient(self, norm: float) -> None:
        if not self.max_skipped_steps:
            require_finite("gradient norm", norm, self.epoch)
        self.skipped_steps = 0 if math.isfinite(norm) else self.skipped_steps + 1
        if self.max_skipped_steps and self.skipped_steps >= self.max_skipped_steps:
            raise NonFiniteLossError(
                f"epoch {self.epoch + 1}: the gradients of {self.skipped_steps} consecutive steps "
                "are not finite in float16, so the weights no longer change; the last saved state "
                "is kept. Try train.use_amp: false, a lower train.learning_rate, or a GPU with "
                "bfloat16"
            )
