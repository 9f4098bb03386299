"""What a resumed training needs, and the clock by which it is saved."""

import time
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from partloc.config import TrainConfig
from partloc.distributed import DistributedContext, restore_rng_states, rng_states
from partloc.model.locator import PartLocator
from partloc.model.model_file import save_model
from partloc.training.history import Record, best_metric
from partloc.training.losses import LossTerms
from partloc.training.run_folder import RunFolder

# Increase it when a change makes older states useless.
STATE_FORMAT = 11
# With several processes: optimiser steps from one agreement on the time to the next.
STEPS_PER_CLOCK = 20


class TrainingState:
    """Everything that the next optimiser step depends on; `content` and `restore` are inverse.

    epoch: number of finished epochs. epoch_steps: optimiser steps since then. loss_sums: sum of
    each loss term over this process's pairs since then, on the device. history: a record per epoch.
    best_weights: of the best epoch so far, on the CPU, on the main process only; empty before the
    first one. code: the source code that trains.
    """

    def __init__(
        self,
        config: TrainConfig,
        context: DistributedContext,
        model: PartLocator,
        optimizer: Optimizer,
        schedule: LRScheduler,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.config, self.context, self.model = config, context, model
        self.optimizer, self.schedule, self.scaler = optimizer, schedule, scaler
        self.epoch, self.epoch_steps, self.history = 0, 0, list[Record]()
        self.loss_sums = torch.zeros(len(LossTerms._fields), device=context.device)
        self.best_weights: dict[str, Tensor] = {}
        self.code: dict[str, str] = {}
        self._saved_at = time.monotonic()

    @property
    def is_complete(self) -> bool:
        """Whether no epoch remains."""
        return self.epoch >= self.config.num_epochs

    @property
    def best_epoch(self) -> int:
        """The best epoch so far, see `history.best_metric`; 0 for the starting weights."""
        return best_metric(self.history)["epoch"]

    @property
    def info(self) -> dict[str, Any]:
        """What the model file of the best epoch says about its training."""
        return {"best_epoch": self.best_epoch, "torch": str(torch.__version__)}

    def finish_epoch(self, record: Record) -> bool:
        """Add a record to the history. The main process keeps the weights if they are the best.

        Returns: whether they are.
        """
        self.history.append(record)
        is_best = self.best_epoch == self.epoch
        if is_best and self.context.is_main:
            weights = self.model.state_dict()
            self.best_weights = {key: value.cpu().clone() for key, value in weights.items()}
        return is_best

    def load_best(self) -> None:
        """Load the weights of the best epoch; on the main process."""
        self.model.load_state_dict(self.best_weights)

    def publish_best(self, folder: RunFolder) -> None:
        """Write the model file of the best epoch so far to `folder`; on the main process."""
        save_model(folder.best_model, self.model, self.info, weights=self.best_weights)

    # -- saving and restoring --------------------------------------------------------------------

    def is_due(self) -> bool:
        """Whether train.state_every_minutes have passed; the main process's clock decides."""
        if self.context.world_size > 1 and self.epoch_steps % STEPS_PER_CLOCK:
            return False
        interval_s = 60 * self.config.state_every_minutes
        is_due: bool = self.context.broadcast(time.monotonic() - self._saved_at >= interval_s)
        return is_due

    def save(self, folder: RunFolder) -> None:
        """Save the state to `folder`; every process must call this."""
        content = self.content()
        if self.context.is_main:
            folder.save_state(self.schedule.last_epoch, content)
        self._saved_at = time.monotonic()

    def content(self) -> dict[str, Any]:
        """The state as tensors and plain values; every process must call this.

        It includes the best weights so far, whose epoch `best_metric` names.
        """
        return {
            "code": self.code,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "epoch_steps": self.epoch_steps,
            "is_complete": self.is_complete,
            "loss_sums": self.context.gather(self.loss_sums.cpu()),
            "best_metric": best_metric(self.history) if self.history else None,
            "best_weights": self.best_weights,
            "history": self.history,
            "rng_states": self.context.gather(rng_states(self.context.device)),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Restore all of a state but the weights.

        The model must have them before the optimiser is built: they contain the camera, on which
        the set of trainable parameters depends.
        """
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        if content["scaler"]:  # empty if it was written without float16
            self.scaler.load_state_dict(content["scaler"])
        self.epoch, self.history = content["epoch"], content["history"]
        self.epoch_steps = content["epoch_steps"]
        sums = content["loss_sums"]
        if len(sums) != self.context.world_size:  # then the main process has the total
            sums = [sum(sums), *[torch.zeros_like(sums[0])] * (self.context.world_size - 1)]
        self.loss_sums = sums[self.context.rank].to(self.context.device)
        if self.context.is_main:
            self.best_weights = content["best_weights"]
        if self.context.rank < len(content["rng_states"]):
            restore_rng_states(content["rng_states"][self.context.rank], self.context.device)
