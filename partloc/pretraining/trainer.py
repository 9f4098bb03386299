"""How the small networks that come with the code are taught: steps, state, weights. For
`make pretrain`."""

import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from partloc.distributed import Team
from partloc.files import save_atomically, write_hash, write_json
from partloc.training.run_folder import RunFolder


class Teacher(ABC):
    """So many steps of an optimiser on a network; all that a resumed run needs is in `state`.

    epoch: steps from one saved state to the next. name: in messages.
    """

    def __init__(self, name: str, net: nn.Module, steps: int, epoch: int, team: Team) -> None:
        self.name, self.net, self.team = name, net, team
        self.steps, self.epoch = steps, epoch
        self.step, self.history = 0, list[dict[str, float]]()
        self.optimizer: torch.optim.Optimizer
        self.schedule: LRScheduler

    @abstractmethod
    def loss(self) -> Tensor:
        """() of the batch of `self.step`."""

    @abstractmethod
    def judge(self) -> dict[str, float]:
        """Figures on what is held back."""

    def train(self, folder: RunFolder) -> None:
        """What is left of the steps; every `epoch` of them the state is on the disk.

        Raises: ValueError when the loss is no longer finite.
        """
        while self.step < self.steps:
            self.net.train()
            until, losses = min(self.step + self.epoch, self.steps), []
            bar = tqdm(range(self.step, until), self.name, leave=False, disable=None)
            for self.step in bar:
                losses.append(self.move())
            self.step = until
            mean = torch.stack(losses).double().mean().item()
            if not np.isfinite(mean):
                raise ValueError(f"{self.name}: the loss is {mean} before step {until}")
            self.history.append({"step": until, "train_loss": mean} | self.judge())
            if self.team.leads:
                folder.save_state(until, self.state())
                told = "  ".join(f"{k} {v:.3f}" for k, v in self.history[-1].items() if k != "step")
                tqdm.write(f"step {until}/{self.steps}  {told}", file=sys.stderr)

    def move(self) -> Tensor:
        """One step. Returns: the loss before it, ()."""
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "history": self.history,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.history = state["step"], state["history"]

    def write(self, out: Path, figures: dict[str, Any]) -> None:
        """The weights in half precision, with their checksum, and the figures, beside them."""
        weights = self.net.state_dict()
        save_atomically(out, {name: value.cpu().half() for name, value in weights.items()})
        write_hash(out)
        write_json(out.with_suffix(".json"), figures | {"history": self.history})
        print(f"written: {out}, {out.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
