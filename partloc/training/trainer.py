"""The resumable training loop.

The trained weights are a function of configuration, split and seed: batches depend on (seed,
epoch), augmentation on (seed, epoch, rows), and the states of all other random-number generators
are saved after each epoch. An interrupted and resumed run therefore ends with the same weights as
an uninterrupted one.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from partloc.config import Config
from partloc.data.dataset import Batch, PairDataset, make_loader
from partloc.data.sampler import PlannedBatchSampler, plan_epoch, plan_sequential
from partloc.data.table import PairTable
from partloc.data.transforms import Augmentation
from partloc.distributed import (
    DistributedContext,
    peak_memory_gb,
    restore_rng_states,
    rng_states,
    training_dtype,
)
from partloc.model.backbone import ActivationPolicy
from partloc.model.locator import PartLocator
from partloc.model.model_file import save_model
from partloc.training.activation_memory import MemoryPlanner
from partloc.training.finite_check import MAX_SKIPPED_STEPS, DeferredFiniteCheck, require_finite
from partloc.training.history import Record, best_metric, format_record, make_record
from partloc.training.losses import LossTerms
from partloc.training.objective import Objective
from partloc.training.optim import MAX_GRADIENT_NORM, make_optimizer, make_schedule
from partloc.training.run_folder import RunFolder
from partloc.training.tensorboard import TensorBoardLog
from partloc.training.token_cache import CachedPairDataset, TokenCache
from partloc.training.validation import (
    ValidationResults,
    calibrate_confidence,
    predict_validation_set,
    summarize_results,
)

# Increase it when a change makes older states useless.
STATE_FORMAT = 10


class Trainer:
    """Trains a model on a split; `state` and `restore` hold all that a resumed run needs.

    epoch: number of finished epochs. history: a record per epoch. val_results: of the last
    validation, None without one.
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
        self.epoch, self.history = 0, list[Record]()
        self.val_results: ValidationResults | None = None
        self.model = model.to(context.device)
        model.set_trainable(config.train, model.has_camera)
        self.optimizer = make_optimizer(model, config.train)
        steps = math.ceil(len(self._plan_epoch(0)) / config.train.accumulation_steps)
        self.schedule = make_schedule(self.optimizer, steps, config.train)
        self.dtype = training_dtype(config.train.use_amp, context.device)
        scales = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=scales)
        self.finite_check = DeferredFiniteCheck(MAX_SKIPPED_STEPS if scales else 0)
        self.objective = Objective(config.train, model, self.dtype)
        self.memory_planner = self._set_up_checkpointing()
        is_distributed = context.world_size > 1
        self.parallel = DistributedDataParallel(model) if is_distributed else None
        self.network = self.parallel or self.model
        self.train_batches = PlannedBatchSampler(train_table, context.rank, context.world_size)
        self.val_batches = PlannedBatchSampler(val_table, context.rank, context.world_size)
        # A frozen encoder sees each image as the token cache does, without random changes.
        frozen = config.train.freeze_backbone
        augments = config.augment.is_active and not frozen
        augmentation = Augmentation(config.augment) if augments else None
        jitter = 0.0 if frozen else config.train.crop_jitter
        self.train_loader = self._make_loader(self.train_batches, augmentation, jitter)
        self.val_loader = self._make_loader(self.val_batches)

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

    def _make_loader(
        self,
        batches: PlannedBatchSampler,
        augmentation: Augmentation | None = None,
        jitter: float = 0.0,
    ) -> DataLoader:
        dataset = PairDataset(
            batches.table,
            self.model.preprocessing,
            self.config.data.max_image_pixels,
            augmentation,
            self.config.seed,
            jitter,
        )
        num_workers = self.config.machine.num_workers
        return make_loader(dataset, batches, num_workers, self.context.device)

    def use_token_cache(self, folder: Path) -> None:
        """Read the tokens of a frozen encoder from a cache in `folder` instead of images.

        EncodedImages that the cache does not hold are computed and added first.

        Raises: as `TokenCache.fill`.
        """
        cache = TokenCache(folder, self.model, self.dtype)
        cache.fill(
            [self.train_table, self.val_table],
            self.config.data.max_image_pixels,
            self.config.machine.num_workers,
            self.context.is_main,
        )
        loaders = self.train_loader, self.val_loader
        self.train_loader, self.val_loader = (
            # Without workers, which would only copy memory.
            make_loader(
                CachedPairDataset(cast(PairDataset, loader.dataset), cache),
                batches,
                0,
                self.context.device,
            )
            for loader, batches in zip(loaders, (self.train_batches, self.val_batches), strict=True)
        )

    # -- one epoch -------------------------------------------------------------------------------

    def train_epoch(self) -> dict[str, float]:
        """Train one epoch; return the mean of each loss term.

        Raises: NonFiniteLossError, at the latest one step after a loss or gradient norm that is not
            finite; with float16 only after MAX_SKIPPED_STEPS such gradients.
        """
        self.model.train()
        self.model.encoder.backbone.train(not self.config.train.freeze_backbone)
        plan = self._plan_epoch(self.epoch)
        self.train_batches.set_plan(self.epoch, plan)
        sums = torch.zeros(len(LossTerms._fields), device=self.context.device)
        window_size = self.config.train.accumulation_steps
        self.finite_check.epoch = self.epoch
        with self._progress_bar() as progress:
            batches = iter(self.train_loader)
            for start in range(0, len(plan), window_size):
                window = plan[start : start + window_size]
                num_pairs = sum(len(batch) for batch in window)
                local_pairs = sum(len(self.train_batches.local_share(batch)) for batch in window)
                step_sums = self.accumulate_gradients(batches, window)
                sums += step_sums
                local_loss = step_sums[0] / max(1, local_pairs)
                metrics = self.finite_check.add(local_loss, self.update_weights())
                progress.update(num_pairs)
                texts = {name: f"{value:.3f}" for name, value in metrics.items()}
                progress.set_postfix(texts, refresh=False)
            self.finite_check.read()
        means = sum(self.context.gather(sums.cpu())) / len(self.train_table)
        return dict(zip(LossTerms._fields, means.tolist(), strict=True))

    def _progress_bar(self) -> tqdm:
        return tqdm(
            total=len(self.train_table),
            desc=f"epoch {self.epoch + 1}/{self.config.train.num_epochs}",
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
        require_finite("validation loss", metrics["loss"], self.epoch)
        return metrics

    # -- all epochs ------------------------------------------------------------------------------

    def fit(self, folder: RunFolder) -> None:
        """Train the remaining epochs; after each one the state is saved to `folder`."""
        log, first_epoch = None, self.epoch + 1 if self.history else 0
        if self.context.is_main:
            log = TensorBoardLog(folder.tensorboard, first_epoch, self.config, self.val_table)
        if self.config.model.start_from and not self.history and len(self.val_table):
            # The starting weights solve the task already; training on few models may not help.
            self._finish_epoch(folder, log, make_record(0, {}, self.validate()))
        while self.epoch < self.config.train.num_epochs:
            start = time.perf_counter()
            train = self.train_epoch()
            pairs_per_s = len(self.train_table) / (time.perf_counter() - start)
            val = self.validate()
            self.epoch += 1
            learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
            record = make_record(self.epoch, train, val, learning_rate=learning_rate)
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
        self.history.append(record)
        state = self.state()
        if log is None:
            return
        line, machine_metrics = format_record(record, self.config.train.num_epochs), {}
        if pairs_per_s is not None:
            memory_gb = peak_memory_gb(self.context.device)
            line += f"  {pairs_per_s:.1f} pairs/s  {memory_gb:.1f} GB"
            machine_metrics = {"pairs_per_s": pairs_per_s, "peak_memory_gb": memory_gb}
        camera = self.model.pinhole_camera
        log.write_epoch(self.history, self.val_results, camera, **machine_metrics)
        is_best = self.best_epoch == self.epoch
        if is_best:
            folder.save_best(self.epoch, partial(save_model, model=self.model, info=self.info))
        folder.save_state(self.epoch, state)
        if is_best:
            folder.publish_best(self.epoch)
        tqdm.write(line, file=sys.stderr)

    @property
    def best_epoch(self) -> int:
        """The best epoch so far, see `history.best_metric`; 0 for the starting weights."""
        return best_metric(self.history)["epoch"]

    @property
    def info(self) -> dict[str, Any]:
        """What the model file of the best epoch says about its training."""
        return {"best_epoch": self.best_epoch, "torch": str(torch.__version__)}

    def load_best(self, folder: RunFolder) -> None:
        """Load the weights of the best epoch. Raises: CheckpointError if damaged."""
        self.model.load_state_dict(folder.load_best(self.best_epoch)["weights"])

    # -- state -----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on; every process must call this.

        `best_metric` names the best epoch so far, whose model file belongs to the state.
        """
        return {
            "format": STATE_FORMAT,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "best_metric": best_metric(self.history),
            "history": self.history,
            "rng_states": self.context.gather(rng_states(self.context.device)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore all of a state but the weights.

        The model must have them before the trainer is built: they contain the camera, on which
        the set of trainable parameters depends.
        """
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty if it was written without float16
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.history = state["epoch"], state["history"]
        if self.context.rank < len(state["rng_states"]):
            restore_rng_states(state["rng_states"][self.context.rank], self.context.device)
