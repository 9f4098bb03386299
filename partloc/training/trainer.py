"""The resumable training loop.

What ends up in the weights is a function of configuration, split and seed: batches come from
(seed, epoch), augmentation from (seed, epoch, rows), and the state of the remaining generators is
saved with each epoch. A run that was interrupted therefore ends like one that was not.

Shapes: P pairs of a batch.
"""

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from partloc.config import Config
from partloc.data.dataset import Batch, PairDataset, make_loader
from partloc.data.sampler import PlannedBatches, plan_epoch, plan_in_order
from partloc.data.table import PairTable
from partloc.data.transforms import Augmentation
from partloc.distributed import (
    Team,
    amp_dtype,
    generator_states,
    peak_memory_gb,
    restore_generators,
)
from partloc.model.backbone import Kept
from partloc.model.locator import PartLocator, Tokens
from partloc.model.prediction import Prediction
from partloc.pose import (
    NEAR,
    PartPose,
    relative_scale_errors,
    translation_errors,
    twin_translation_errors,
)
from partloc.training.activation_memory import Planner
from partloc.training.calibration import fit_platt
from partloc.training.history import Record, best_epoch, line_of, record_of, write_scalars
from partloc.training.losses import LossParts, targets_of, training_loss
from partloc.training.optim import make_optimizer, make_schedule
from partloc.training.run_folder import RunFolder
from partloc.training.token_cache import StoredPairs, TokenStore

# Raise it when a change of the loop makes older states useless.
STATE_FORMAT = 8


class NonFiniteLoss(FloatingPointError):
    """Training diverged; the state of the last finished epoch is kept."""


class LaggingCheck:
    """Looks at the figures of a step when the next one is on its way, so that a GPU never waits."""

    def __init__(self, require_finite: Callable[[str, float], None]) -> None:
        self.require_finite = require_finite
        self.names: list[str] = []
        self.values: Tensor | None = None
        self.copied: torch.cuda.Event | None = None

    def add(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """Those of the step before, all finite; empty for the first one."""
        seen = self.look()
        self.names, values = list(figures), torch.stack(list(figures.values()))
        self.values = values
        if values.is_cuda:
            self.values = torch.empty(len(values), pin_memory=True)
            self.values.copy_(values, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()
        return seen

    def look(self) -> dict[str, float]:
        """The last figures that were added."""
        if self.values is None:
            return {}
        if self.copied:
            self.copied.synchronize()
        seen = dict(zip(self.names, self.values.tolist(), strict=True))
        for name, value in seen.items():
            self.require_finite(name, value)
        return seen


class Trainer:
    """Trains one model on one split; all that a resumed run needs is in `state` and back."""

    def __init__(
        self,
        config: Config,
        model: PartLocator,
        train_table: PairTable,
        val_table: PairTable,
        team: Team,
    ) -> None:
        self.config, self.team = config, team
        self.model = model.to(team.device)
        self.frozen = frozen = config.train.freeze_backbone
        model.set_learning(config.train, model.knows_view)
        if config.machine.compile:
            model.backbone.compile()
        self.train_table, self.val_table = train_table, val_table
        self.optimizer = make_optimizer(model, config.train)
        steps = math.ceil(len(self._plan(0)) / config.train.accumulation_steps)
        self.schedule = make_schedule(self.optimizer, steps, config.train)
        self.dtype = amp_dtype(config.train.use_amp, team.device)
        self.planner = None
        if not frozen and config.train.use_gradient_checkpointing == "auto":
            self.planner = Planner(model, self.dtype, config.machine.memory_budget_gb)
        elif not frozen and config.train.use_gradient_checkpointing:
            model.backbone.kept = (Kept.INPUT,) * model.backbone.num_blocks
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=self.dtype == torch.float16)
        self.knows_view = model.knows_view
        self.epoch, self.history = 0, list[Record]()
        self.parallel = DistributedDataParallel(model) if team.size > 1 else model
        self.train_batches = PlannedBatches(train_table, team.rank, team.size)
        self.val_batches = PlannedBatches(val_table, team.rank, team.size)
        augmentation = Augmentation(config.augment) if config.augment.changes else None
        jitter = 0.0 if frozen else config.train.crop_jitter
        self.train_loader = self._loader(self.train_batches, augmentation, jitter)
        self.val_loader = self._loader(self.val_batches)

    def _plan(self, epoch: int) -> list[list[int]]:
        return plan_epoch(self.train_table, self.config.train, self.config.seed, epoch)

    def _loader(
        self,
        batches: PlannedBatches,
        augmentation: Augmentation | None = None,
        jitter: float = 0.0,
    ) -> Any:
        config = self.config
        dataset = PairDataset(
            batches.table,
            self.model.preprocessing,
            config.data.max_image_pixels,
            augmentation,
            config.seed,
            min(config.train.cached_variants, config.train.num_epochs) if self.frozen else None,
            jitter,
        )
        return make_loader(dataset, batches, config.machine.num_workers, self.team.device)

    def use_store(self, folder: Path) -> None:
        """Of a frozen encoder: compute the tokens of all pictures that `folder` does not hold, and
        read them from there in each epoch, instead of pictures.

        Raises: as `TokenStore.fill`.
        """
        store = TokenStore(folder, self.model, self.dtype)
        loaders = self.train_loader, self.val_loader
        workers = self.config.machine.num_workers
        store.fill([loader.dataset for loader in loaders], workers, self.team.leads)
        self.train_loader, self.val_loader = (
            # A worker would copy what is in memory already.
            make_loader(StoredPairs(loader.dataset, store), batches, 0, self.team.device)
            for loader, batches in zip(loaders, (self.train_batches, self.val_batches), strict=True)
        )

    # -- one epoch -------------------------------------------------------------------------------

    def train_epoch(self) -> dict[str, float]:
        """One pass over the plan.

        Raises: NonFiniteLoss, at the latest one step after a loss that is not finite.
        """
        self.model.train()
        self.model.backbone.train(not self.frozen)
        plan = self._plan(self.epoch)
        self.train_batches.set_plan(self.epoch, plan)
        sums = torch.zeros(len(LossParts._fields), device=self.team.device)
        every = self.config.train.accumulation_steps
        check = LaggingCheck(self._require_finite)
        bar = tqdm(
            total=len(self.train_table),
            desc=f"epoch {self.epoch + 1}/{self.config.train.num_epochs}",
            unit="pair",
            leave=False,
            disable=None if self.team.leads else True,
        )
        with bar:
            loader = iter(self.train_loader)
            for start in range(0, len(plan), every):
                window = plan[start : start + every]
                pairs = sum(len(batch) for batch in window)
                step_sums = self._accumulate(loader, window, pairs)
                sums += step_sums
                seen = check.add({"loss": step_sums[0] / pairs} | self._step())
                bar.update(pairs)
                bar.set_postfix({name: f"{seen[name]:.3f}" for name in seen}, refresh=False)
            check.look()
        means = sum(self.team.gather(sums.cpu())) / len(self.train_table)
        return dict(zip(LossParts._fields, means.tolist(), strict=True))

    def _accumulate(self, loader: Any, window: list[list[int]], pairs: int) -> Tensor:
        """Add up the gradients of a window of batches, as if it were one batch of `pairs`.

        Each loss is a sum over its pairs divided by the window's pairs, so short batches weigh
        what they should; DDP takes the mean over processes, hence the factor `size`.
        Returns: sums of this process's losses, on the device.
        """
        sums = torch.zeros(len(LossParts._fields), device=self.team.device)
        for i, planned in enumerate(window):
            share = self.train_batches.share_of(planned)
            batch: Batch = next(loader).to(self.team.device)
            last = i == len(window) - 1
            wait = nullcontext() if last or self.team.size == 1 else self.parallel.no_sync()
            if self.planner:
                images = len(batch.wholes) + len(batch.parts)
                self.planner.prepare(images, len(batch.parts))
            with wait:
                losses = self._losses(batch)
                weight = self.team.size / pairs if share else 0.0
                self.scaler.scale(losses.loss.sum() * weight).backward()
            if share:
                sums += torch.stack([term.detach().sum() for term in losses])
        return sums

    def _losses(self, batch: Batch) -> LossParts:
        return self._compare(self._predict(self.parallel, batch), batch)

    def _predict(self, model: nn.Module, batch: Batch) -> Prediction:
        guides = None
        if self.knows_view:
            guides = PartPose(*(field[batch.pair_of_part] for field in batch.pose))
        wholes, parts = batch.wholes, batch.parts
        if self.frozen:
            wholes, parts = self._frozen_tokens(wholes), self._frozen_tokens(parts)
        found = model(wholes, parts, batch.whole_of_part, guides, self.dtype, batch.jitter)
        return found.pick(batch.part_of_pair)

    @torch.no_grad()
    def _frozen_tokens(self, seen: Tensor | Tokens) -> Tokens:
        """Read or computed, they are the same: both have the store's precision."""
        if not isinstance(seen, Tokens):
            seen = self.model.encode(seen, self.dtype).compact()
        return seen.float()

    def _compare(self, predicted: Prediction, batch: Batch) -> LossParts:
        targets = targets_of(batch.pose, batch.twins, self.config.train.twin_aware)
        places = self.model.place_of(targets) if self.knows_view else None
        # Equal pictures are asked once, at the place of the first of them.
        asked = batch.pair_of_part[batch.part_of_pair]
        guides = PartPose(*(field[asked] for field in targets))
        return training_loss(predicted, targets, places, self.config.train, guides)

    def _step(self) -> dict[str, Tensor]:
        """Move the weights. Returns the norm of the gradient where it must be finite."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        # With fp16 some overflow is expected: the scaler then leaves the step out.
        return {} if self.scaler.is_enabled() else {"norm of the gradient": norm}

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"epoch {self.epoch + 1}: the {what} is {value}; the state after epoch "
                f"{self.epoch} is kept. Try a lower train.learning_rate or train.use_amp: false"
            )

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Losses and error figures on the validation set, empty without one; the confidence is
        calibrated on it."""
        if not len(self.val_table):
            return {}
        self.model.eval()
        plan = plan_in_order(self.val_table, self.config.train.batch_size)
        self.val_batches.set_plan(0, plan)
        mine = []
        for planned, batch in zip(plan, self.val_loader, strict=True):
            share = self.val_batches.share_of(planned)
            judged = self._judge(batch.to(self.team.device))
            mine.append([values[: len(share)] for values in judged])
        mine = [torch.cat(values) for values in zip(*mine, strict=True)]
        rows, *found = (torch.cat(parts) for parts in zip(*self.team.gather(mine), strict=True))
        order = rows.argsort()
        losses, translation, twin_aware, scale, log_odds = (each[order] for each in found)
        fit = fit_platt(log_odds, twin_aware < NEAR)
        if fit is not None:
            self.model.confidence_slope.fill_(fit[0])
            self.model.confidence_offset.fill_(fit[1])
        means = losses.mean(0).tolist()
        self._require_finite("validation loss", means[0])
        parts = LossParts(*means)
        weights = self.config.train
        pose = weights.w_trans * parts.translation_loss + weights.w_scale * parts.scale_loss
        return {
            **parts._asdict(),
            "pose_loss": pose,
            "translation_error": translation.mean().item(),
            "twin_aware_error": twin_aware.mean().item(),
            "relative_scale_error": scale.mean().item(),
        }

    def _judge(self, batch: Batch) -> tuple[Tensor, ...]:
        """What validation keeps of a batch, on the CPU: rows (P,), losses (P, 8); errors of
        translation, to the nearest twin and of scale, (P,) each; the answers' log odds (P,).
        """
        predicted = self._predict(self.model, batch)
        losses = torch.stack(self._compare(predicted, batch), 1)
        errors = (
            translation_errors(predicted.pose, batch.pose),
            twin_translation_errors(predicted.pose, batch.twins),
            relative_scale_errors(predicted.pose, batch.pose),
        )
        found = (batch.rows, losses, *errors, predicted.answer_log_odds)
        return tuple(value.cpu() for value in found)

    # -- all epochs ------------------------------------------------------------------------------

    def fit(self, folder: RunFolder) -> None:
        """Train what is left of num_epochs; after each epoch the state is on the disk."""
        writer = (
            SummaryWriter(folder.tensorboard, purge_step=self.epoch + 1)
            if self.team.leads
            else None
        )
        if self.config.model.start_from and not self.history and len(self.val_table):
            # They know the task already; few models may teach them nothing, or worse.
            self._keep(folder, writer, record_of(0, {}, self.validate()))
        while self.epoch < self.config.train.num_epochs:
            start = time.perf_counter()
            train = self.train_epoch()
            speed = len(self.train_table) / (time.perf_counter() - start)
            val = self.validate()
            self.epoch += 1
            record = record_of(self.epoch, train, val, learning_rate=self._rate())
            self._keep(folder, writer, record, speed)
        if writer:
            writer.close()

    def _keep(
        self,
        folder: RunFolder,
        writer: SummaryWriter | None,
        record: Record,
        speed: float | None = None,
    ) -> None:
        """Enter the record and put the state on the disk; last, since what is told is safe, tell.

        speed: pairs a second; None where none were learned from.
        """
        self.history.append(record)
        state = self.state()
        if writer is None:
            return
        if self.best_epoch == self.epoch:
            folder.save_best(self.epoch, state["model"])
        folder.save_state(self.epoch, state)
        line, figures = line_of(record, self.config.train.num_epochs), {}
        if speed is not None:
            memory = peak_memory_gb(self.team.device)
            line += f"  {speed:.1f} pairs/s  {memory:.1f} GB"
            figures = {"samples_per_s": speed, "peak_memory_gb": memory}
        write_scalars(writer, record, **figures)
        tqdm.write(line, file=sys.stderr)

    @property
    def best_epoch(self) -> int:
        """See `history.best_epoch`; 0 for a model file's weights as they came."""
        return best_epoch(self.history)

    def load_best(self, folder: RunFolder) -> None:
        """Give the model the weights of the best epoch. Raises: CheckpointError if damaged."""
        self.model.load_state_dict(folder.load_best(self.best_epoch))

    def _rate(self) -> float:
        return max(group["lr"] for group in self.optimizer.param_groups)

    # -- state -----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on; every process must call it."""
        return {
            "format": STATE_FORMAT,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "generators": self.team.gather(generator_states(self.team.device)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there, with a model that has the weights already; they say what learns."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty when written where no fp16 was used
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.history = state["epoch"], state["history"]
        if self.team.rank < len(state["generators"]):
            restore_generators(state["generators"][self.team.rank], self.team.device)
