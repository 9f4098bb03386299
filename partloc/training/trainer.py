"""The resumable training loop.

The trained weights are a function of configuration, split and seed: batches depend on (seed,
epoch), augmentation on (seed, epoch, rows), and the states of all other random-number generators
are saved after each epoch, and regularly within it. An interrupted and resumed run therefore ends
with the same weights as an uninterrupted one.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from partloc.config import Config
from partloc.data.dataset import Batch
from partloc.data.sampler import PlannedBatchSampler, plan_epoch, plan_sequential
from partloc.data.table import PairTable
from partloc.distributed import (
    DistributedContext,
    peak_memory_gb,
    training_dtype,
)
from partloc.model.backbone import ActivationPolicy
from partloc.model.locator import PartLocator
from partloc.training.activation_memory import MemoryPlanner
from partloc.training.finite_check import MAX_SKIPPED_STEPS, DeferredFiniteCheck, require_finite
from partloc.training.history import Record, format_record, make_record
from partloc.training.loaders import make_pair_loader, with_token_cache
from partloc.training.losses import LossTerms
from partloc.training.objective import Objective
from partloc.training.optim import MAX_GRADIENT_NORM, make_optimizer, make_schedule
from partloc.training.run_folder import RunFolder
from partloc.training.tensorboard import TensorBoardLog
from partloc.training.token_cache import TokenCache
from partloc.training.training_state import TrainingState
from partloc.training.validation import (
    ValidationResults,
    calibrate_confidence,
    predict_validation_set,
    summarize_results,
)


class Trainer:
    """Trains a model on a split; `state` has all that a resumed run needs.

    val_results: of the last validation, None without one.
    """

    def __init__(
        self,
        config: Config,
        model: PartLocator,
        train_table: PairTable,
        val_table: PairTable,
        context: DistributedContext,
    ) -> None:
        """val_table: may be empty, then the last epoch counts as the best one."""
        self.config, self.context = config, context
        self.train_table, self.val_table = train_table, val_table
        self.val_results: ValidationResults | None = None
        self.model = model.to(context.device)
        model.set_trainable(config.train, model.has_camera)
        self.optimizer = make_optimizer(model, config.train)
        steps = math.ceil(len(self._plan_epoch(0)) / config.train.accumulation_steps)
        self.schedule = make_schedule(self.optimizer, steps, config.train)
        self.dtype = training_dtype(config.train.use_amp, context.device)
        scales = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=scales)
        training = model, self.optimizer, self.schedule, self.scaler
        self.state = TrainingState(config.train, context, *training)
        self.finite_check = DeferredFiniteCheck(MAX_SKIPPED_STEPS if scales else 0)
        self.objective = Objective(config.train, model, self.dtype)
        self.memory_planner = self._set_up_checkpointing()
        is_distributed = context.world_size > 1
        self.parallel = DistributedDataParallel(model) if is_distributed else None
        self.network = self.parallel or self.model
        self.train_batches = PlannedBatchSampler(train_table, context.rank, context.world_size)
        self.val_batches = PlannedBatchSampler(val_table, context.rank, context.world_size)
        settings = config, model.preprocessing, context.device
        self.train_loader = make_pair_loader(self.train_batches, *settings, trains=True)
        self.val_loader = make_pair_loader(self.val_batches, *settings)

    def _set_up_checkpointing(self) -> MemoryPlanner | None:
        """Apply train.use_gradient_checkpointing; return a planner if it is decided per batch."""
        mode = self.config.train.use_gradient_checkpointing
        if self.config.train.freeze_backbone or not mode:
            return None
        if mode == "auto":
            budget_gb = self.config.machine.memory_budget_gb
            return MemoryPlanner(self.model, self.config.train, self.dtype, budget_gb)
        backbone = self.model.encoder.backbone
        backbone.activation_policies = (ActivationPolicy.ATTENTION,) * backbone.num_blocks
        return None

    def _plan_epoch(self, epoch: int) -> list[list[int]]:
        return plan_epoch(self.train_table, self.config.train, self.config.seed, epoch)

    def use_token_cache(self, folder: Path) -> None:
        """Read the tokens of a frozen encoder from a cache in `folder` instead of images.

        Images that the cache does not hold are computed and added first.

        Raises: as `TokenCache.fill`.
        """
        cache = TokenCache(folder, self.model, self.dtype)
        cache.fill(
            [self.train_table, self.val_table],
            self.config.data.max_image_pixels,
            self.config.machine.num_workers,
            self.context.is_main,
        )
        device = self.context.device
        self.train_loader = with_token_cache(self.train_loader, cache, device)
        self.val_loader = with_token_cache(self.val_loader, cache, device)

    # -- one epoch -------------------------------------------------------------------------------

    def train_epoch(self, folder: RunFolder | None = None) -> dict[str, float]:
        """Train an epoch, or the rest of it after `restore`; return the mean of each loss term.

        folder: where the state is saved every train.state_every_minutes.
        Raises: NonFiniteLossError, at the latest one step after a loss or gradient norm that is not
            finite; with float16 only after MAX_SKIPPED_STEPS such gradients.
        """
        state = self.state
        self.model.train()
        self.model.encoder.backbone.train(not self.config.train.freeze_backbone)
        plan = self._plan_epoch(state.epoch)
        window_size = self.config.train.accumulation_steps
        first = state.epoch_steps * window_size
        self.train_batches.set_plan(state.epoch, plan, first)
        self.finite_check.epoch = state.epoch
        with self._progress_bar(sum(map(len, plan[:first]))) as progress:
            batches = iter(self.train_loader)
            for start in range(first, len(plan), window_size):
                window = plan[start : start + window_size]
                num_pairs = sum(len(batch) for batch in window)
                local_pairs = sum(len(self.train_batches.local_share(batch)) for batch in window)
                step_sums = self.accumulate_gradients(batches, window)
                state.loss_sums += step_sums
                local_loss = step_sums[0] / max(1, local_pairs)
                metrics = self.finite_check.add(local_loss, self.update_weights())
                progress.update(num_pairs)
                texts = {name: f"{value:.3f}" for name, value in metrics.items()}
                progress.set_postfix(texts, refresh=False)
                state.epoch_steps += 1
                if folder and state.is_due():
                    self.finite_check.read()  # weights that are not finite must not be saved
                    state.save(folder)
            self.finite_check.read()
        means = sum(self.context.gather(state.loss_sums.cpu())) / len(self.train_table)
        state.epoch_steps, state.loss_sums = 0, torch.zeros_like(state.loss_sums)
        return dict(zip(LossTerms._fields, means.tolist(), strict=True))

    def _progress_bar(self, initial: int) -> tqdm:
        return tqdm(
            initial=initial,
            total=len(self.train_table),
            desc=f"epoch {self.state.epoch + 1}/{self.config.train.num_epochs}",
            unit="pair",
            leave=False,
            disable=None if self.context.is_main else True,
        )

    def accumulate_gradients(self, batches: Iterator[Batch], window: list[list[int]]) -> Tensor:
        """Accumulate the gradients of a window of planned batches, as if they were one batch.

        Each loss is a sum over pairs divided by the number of pairs of the window, so short
        batches have the right weight. DistributedDataParallel averages over the processes, hence
        the factor `world_size`.

        Returns: the sum of each loss term over this process's pairs, on the device.
        """
        num_pairs = sum(len(planned) for planned in window)
        sums = torch.zeros(len(LossTerms._fields), device=self.context.device)
        for i, planned in enumerate(window):
            share = self.train_batches.local_share(planned)
            batch = next(batches).to(self.context.device)
            if self.memory_planner:
                num_images = len(batch.wholes) + len(batch.parts)
                self.memory_planner.prepare(num_images, len(batch.parts))
            is_last = i == len(window) - 1
            with nullcontext() if self.parallel is None or is_last else self.parallel.no_sync():
                prediction = self.objective.predict(self.network, batch)
                terms = self.objective.loss_terms(prediction, batch)
                weight = self.context.world_size / num_pairs if share else 0.0
                self.scaler.scale(terms.loss.sum() * weight).backward()
            if share:
                sums += torch.stack([term.detach().sum() for term in terms])
        return sums

    def update_weights(self) -> Tensor:
        """Clip the gradients and step the optimiser and the schedule; return the gradient norm.

        With float16 some gradients overflow: the scaler then skips the step.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        return norm

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Predict the validation set, calibrate the model's confidence on it, return its metrics.

        Returns: empty without a validation set. Raises: NonFiniteLossError.
        """
        if not len(self.val_table):
            return {}
        self.val_batches.set_plan(0, plan_sequential(self.val_table, self.config.train.batch_size))
        results = self.val_results = predict_validation_set(
            self.objective, self.val_batches, self.val_loader, self.context
        )
        calibrate_confidence(self.model, results)
        metrics = summarize_results(results, self.config.train)
        require_finite("validation loss", metrics["loss"], self.state.epoch)
        return metrics

    # -- all epochs ------------------------------------------------------------------------------

    def fit(self, folder: RunFolder) -> None:
        """Train the remaining epochs; the state is saved to `folder` after each one and within."""
        state = self.state
        if state.is_complete:
            return
        log, first_epoch = None, state.epoch + 1 if state.history else 0
        if self.context.is_main:
            log = TensorBoardLog(folder.tensorboard, first_epoch, self.config, self.val_table)
        if self.config.model.start_from and not state.history and len(self.val_table):
            # The starting weights solve the task already; training on few models may not help.
            self._finish_epoch(folder, log, make_record(0, {}, self.validate()))
        while not state.is_complete:
            start, num_pairs = time.perf_counter(), self._remaining_pairs()
            train = self.train_epoch(folder)
            pairs_per_s = num_pairs / (time.perf_counter() - start)
            val = self.validate()
            state.epoch += 1
            learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
            record = make_record(state.epoch, train, val, learning_rate=learning_rate)
            self._finish_epoch(folder, log, record, pairs_per_s)
        if log:
            log.close()

    def _finish_epoch(
        self,
        folder: RunFolder,
        log: TensorBoardLog | None,
        record: Record,
        pairs_per_s: float | None = None,
    ) -> None:
        """Add the record to the history, log it, save the state; every process calls this.

        The line on stderr comes last, so that whatever it has reported is safe on the disk.
        pairs_per_s: training speed; None for epoch 0.
        """
        is_best = self.state.finish_epoch(record)
        if log is None:
            self.state.save(folder)
            return
        line, machine_metrics = format_record(record, self.config.train.num_epochs), {}
        if pairs_per_s is not None:
            memory_gb = peak_memory_gb(self.context.device)
            line += f"  {pairs_per_s:.1f} pairs/s  {memory_gb:.1f} GB"
            machine_metrics = {"pairs_per_s": pairs_per_s, "peak_memory_gb": memory_gb}
        camera = self.model.pinhole_camera
        log.write_epoch(self.state.history, self.val_results, camera, **machine_metrics)
        self.state.save(folder)
        if is_best:
            self.state.publish_best(folder)
        tqdm.write(line, file=sys.stderr)

    def _remaining_pairs(self) -> int:
        """Number of pairs that the current epoch still has to train on."""
        settings = self.config.train
        num_done = self.state.epoch_steps * settings.accumulation_steps * settings.batch_size
        return max(0, len(self.train_table) - num_done)
