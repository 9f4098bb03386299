"""Training of the depth network on rendered objects whose depth is known.

Shapes: N images, S side of a depth map in pixels, B batch.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from partloc.config import AugmentConfig, TrainConfig, digest
from partloc.data.transforms import Augmentation, Preprocessing
from partloc.distributed import DistributedContext, seed_everything
from partloc.files import save_tensors, write_checksum, write_json
from partloc.model.depth_net import MAP_SIDE, DepthNet
from partloc.pretraining.depth_samples import DepthSamples, read_samples
from partloc.pretraining.settings import PretrainingConfig
from partloc.training.optim import MAX_GRADIENT_NORM, make_optimizer
from partloc.training.run_folder import RunFolder

STATE_FORMAT_VERSION = 4  # increase it when the meaning of a saved state changes
BATCHES_STREAM = 10  # of random numbers, distinct from those of other modules

BATCH_SIZE = 512  # images
WHOLE_FRACTION = 0.75  # of a batch; the depth of whole models is harder to predict than of parts
IMAGES_PER_COLOR_SEED = 4  # images that share a colour augmentation
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05  # of AdamW
WARMUP_FRACTION = 0.05  # of all steps
STEPS_PER_EPOCH = 1000  # from one validation and saved state to the next
VAL_FRACTION = 0.02  # of the models, the last ones


def train_depth(
    config: PretrainingConfig, folder: Path, root: Path, context: DistributedContext, out: Path
) -> None:
    """Train on the samples in `folder`; a training interrupted in `root` is resumed.

    The main process writes the weights in half precision to `out`, and beside it their checksum
    and a JSON file with the history.

    Raises: ValueError if the loss is not finite; CheckpointError if another process trains.
    """
    keys = ("depth_models", "depth_steps")
    settings = {key: getattr(config.pretrain, key) for key in keys}
    sizes = config.demo.image_size, config.data.read_size
    run = RunFolder(root, digest([STATE_FORMAT_VERSION, config.seed, settings, sizes]))
    with context.on_main(run.locked()):
        state = context.broadcast(run.load_state() if context.is_main else None)
        seed_everything(config.seed)
        samples = read_samples(folder, config)
        trainer = DepthTrainer(config, DepthNet(), samples, context)
        if state is not None:
            trainer.restore(state)
        trainer.train(run)
        if context.is_main:
            trainer.write_weights(out)
            summary = {"seed": config.seed, **settings, "images": len(samples.models)}
            summary |= {"unit": "half sides of a crop", "history": trainer.history}
            write_json(out.with_suffix(".json"), summary)


class DepthTrainer:
    """Trains the depth network for pretrain.depth_steps optimiser steps."""

    def __init__(
        self,
        config: PretrainingConfig,
        net: DepthNet,
        samples: DepthSamples,
        context: DistributedContext,
    ) -> None:
        self.net, self.context = net.to(context.device), context
        self.steps, self.step = config.pretrain.depth_steps, 0
        self.history: list[dict[str, float]] = []
        self.samples, self.seed = samples, config.seed
        self.preprocessing = Preprocessing(config.data.read_size)
        self.augmentation = Augmentation(AugmentConfig())
        self.parallel = DistributedDataParallel(self.net) if context.world_size > 1 else self.net
        settings = TrainConfig(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.optimizer = make_optimizer(self.net, settings)
        total = self.steps + 1  # the schedule computes one more rate than there are steps
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, LEARNING_RATE, total, pct_start=max(WARMUP_FRACTION, 2 / total)
        )
        is_val = samples.models >= (1 - VAL_FRACTION) * (samples.models[-1] + 1)
        kinds = {"wholes": samples.is_whole, "parts": ~samples.is_whole}
        self.train_rows = {name: np.flatnonzero(kind & ~is_val) for name, kind in kinds.items()}
        self.val_rows = {name: np.flatnonzero(kind & is_val) for name, kind in kinds.items()}

    def train(self, folder: RunFolder) -> None:
        """Run the remaining steps; validate and save the state after each epoch."""
        while self.step < self.steps:
            self.net.train()
            end, losses = min(self.step + STEPS_PER_EPOCH, self.steps), []
            progress = tqdm(range(self.step, end), "depth", leave=False, disable=None)
            for self.step in progress:
                losses.append(self.update_weights())
            self.step = end
            train_loss = torch.stack(losses).double().mean().item()
            if not np.isfinite(train_loss):
                raise ValueError(f"depth: the loss is {train_loss} before step {end}")
            self.history.append({"step": end, "train_loss": train_loss} | self.validate())
            if self.context.is_main:
                folder.save_state(end, self.state())
                self._print_record()

    def update_weights(self) -> Tensor:
        """Run one optimiser step and return the loss before it, ()."""
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def loss(self) -> Tensor:
        """Mean loss, (), of this process's part of the batch, which depends on seed and step."""
        rng = np.random.default_rng([self.seed, BATCHES_STREAM, self.step])
        num_wholes = round(WHOLE_FRACTION * BATCH_SIZE)
        counts = {"wholes": num_wholes, "parts": BATCH_SIZE - num_wholes}
        rows = np.concatenate(
            [rng.choice(self.train_rows[name], count) for name, count in counts.items()]
        )
        color_seeds = rng.integers(2**31, size=BATCH_SIZE // IMAGES_PER_COLOR_SEED)
        color_seeds = np.repeat(color_seeds, IMAGES_PER_COLOR_SEED)
        noise_seeds = rng.integers(2**31, size=BATCH_SIZE)
        permutation = rng.permutation(BATCH_SIZE)
        local = np.array_split(permutation, self.context.world_size)[self.context.rank]
        images = torch.from_numpy(self.samples.images[rows[local]]).to(self.context.device)
        images = self.augmentation(images, color_seeds[local].tolist(), noise_seeds[local].tolist())
        nll, _ = self._losses(self.parallel, rows[local], images)
        return nll.mean()

    def _losses(self, net: nn.Module, rows: np.ndarray, images: Tensor) -> tuple[Tensor, Tensor]:
        device = self.context.device
        crops = torch.from_numpy(self.samples.crops[rows]).to(device)
        depths = torch.from_numpy(self.samples.depths[rows]).float().to(device)
        prediction = net(self.preprocessing.normalize(images.to(device)), crops)
        return depth_map_losses(prediction, depths)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Mean error on the validation models, and that of predicting 0; half sides of a crop."""
        self.net.eval()
        metrics = {}
        for name, rows in self.val_rows.items():
            errors = []
            for batch in np.split(rows, range(BATCH_SIZE, len(rows), BATCH_SIZE)):
                images = torch.from_numpy(self.samples.images[batch])
                errors.append(self._losses(self.net, batch, images)[1].cpu())
            depths = torch.from_numpy(self.samples.depths[rows]).float()
            zeros = torch.zeros(1, 2, 1, 1).expand(len(rows), -1, MAP_SIDE, MAP_SIDE)
            metrics[f"{name}_error"] = torch.cat(errors).mean().item()
            metrics[f"{name}_constant_error"] = depth_map_losses(zeros, depths)[1].mean().item()
        return metrics

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "history": self.history,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.history = state["step"], state["history"]

    def write_weights(self, out: Path) -> None:
        """Write the weights in half precision, and their checksum beside them."""
        weights = self.net.state_dict()
        save_tensors(out, {name: value.cpu().half() for name, value in weights.items()})
        write_checksum(out)
        print(f"written: {out}, {out.stat().st_size / 1e6:.1f} MB", file=sys.stderr)

    def _print_record(self) -> None:
        record = self.history[-1]
        metrics = "  ".join(f"{key} {value:.3f}" for key, value in record.items() if key != "step")
        tqdm.write(f"step {record['step']}/{self.steps}  {metrics}", file=sys.stderr)


def depth_map_losses(prediction: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood and absolute error, means over the foreground, (B,) each.

    Args:
        prediction: (B, 2, S, S), depth and log error of the network.
        depths: (B, 1, S, S), NaN on the background.
    Source: the negative log-likelihood of a Laplace density, as in Kendall and Gal
        (arXiv:1703.04977).
    """
    foreground = ~depths.isnan()
    depth, log_error = prediction.split(1, 1)
    error = (depth - depths.nan_to_num()).abs() * foreground
    nll = error * (-log_error).exp() + log_error * foreground
    count = foreground.sum((1, 2, 3)).clamp(min=1)
    return nll.sum((1, 2, 3)) / count, error.sum((1, 2, 3)) / count
