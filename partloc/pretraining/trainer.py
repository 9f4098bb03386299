"""Training of the whole network on rendered batches.

The learning rate is constant and the written weights are averaged, so that a training needs no end:
it can continue after any number of steps.

Shapes: B images, U parts.
"""

import copy
import sys
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from partloc.config import TrainConfig
from partloc.model.encoder import EncodedImages
from partloc.model.prediction import Prediction
from partloc.model.proposals import ProposalLocator
from partloc.pose import RIGHT_TOLERANCE, PartPose, nearest_twin_errors
from partloc.pretraining.batches import RenderedBatch
from partloc.pretraining.depth_maps import crop_depth_maps, depth_map_losses
from partloc.training.losses import training_loss
from partloc.training.optim import MAX_GRADIENT_NORM, make_optimizer
from partloc.training.run_folder import RunFolder

# The depth network learns from depth maps, which show more than the poses.
CONFIG = TrainConfig(learning_rate=2.0e-4, backbone_lr_factor=1.0, w_depth=0.0)
W_DEPTH_MAPS = 0.2  # weight of the depth maps' loss
WARMUP_STEPS = 200
AVERAGE_DECAY = 0.999  # of the averaged weights, per step
TOKEN_DROPOUT = 0.1  # fraction of the wholes whose tokens are zero
STEPS_PER_RECORD = 500  # from one validation to the next
SECONDS_PER_STATE = 300  # from one saved state to the next


class PretrainingTrainer:
    """Trains a model; `start` has the weights it began with, `average` the averaged ones.

    step, pairs: how many optimiser steps and pairs the training has had.
    history: a record of each validation.
    """

    def __init__(self, model: ProposalLocator, validation: list[RenderedBatch]) -> None:
        self.model, self.validation = model, validation
        self.camera = model.pinhole_camera
        self.start = copy.deepcopy(model).eval().requires_grad_(False)
        self.average = copy.deepcopy(self.start)
        model.token_dropout = TOKEN_DROPOUT
        model.requires_grad_(True)
        self.optimizer = make_optimizer(model, CONFIG)
        self.step, self.pairs = 0, 0
        self.history: list[dict[str, float]] = []

    def train(self, batches: Iterable[RenderedBatch], folder: RunFolder, stop: int) -> None:
        """Train on `batches` until step `stop`; the state is saved regularly and at the end."""
        if not self.history:
            self._add_record({})
        saved = time.monotonic()
        progress = tqdm(
            batches, "steps", initial=self.step, total=stop, unit="step", disable=None, leave=False
        )
        sums: dict[str, float] = {}
        for batch in progress:
            for name, value in self.update_weights(batch).items():
                sums[name] = sums.get(name, 0.0) + value / STEPS_PER_RECORD
            if self.step % STEPS_PER_RECORD == 0:
                self._add_record(sums)
                sums = {}
            if self.step == stop or time.monotonic() - saved > SECONDS_PER_STATE:
                folder.save_state(self.step, self.state())
                saved = time.monotonic()

    def update_weights(self, batch: RenderedBatch) -> dict[str, float]:
        """Run one optimiser step; return the mean loss and the depth error before it.

        Raises: FloatingPointError if the gradient is not finite.
        """
        torch.manual_seed(self.step)  # of the token dropout
        for group in self.optimizer.param_groups:
            group["lr"] = CONFIG.learning_rate * min(1, (self.step + 1) / WARMUP_STEPS)
        self.model.train()
        loss, depth_error = batch_loss(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        if not norm.isfinite():
            raise FloatingPointError(f"step {self.step}: the norm of the gradient is {norm}")
        self.optimizer.step()
        self.step += 1
        self.pairs += len(batch.whole_of_part)
        self._update_average()
        return {"train_loss": loss.item(), "train_depth_error": depth_error.item()}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(AVERAGE_DECAY, (self.step + 1) / (self.step + 10))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for average, value in pairs:
            average.lerp_(value, 1 - decay)

    def _add_record(self, sums: dict[str, float]) -> None:
        metrics = validate(self.average, self.validation)
        self.history.append({"step": self.step, "pairs": self.pairs} | sums | metrics)
        text = "  ".join(f"{name} {value:.4g}" for name, value in self.history[-1].items())
        tqdm.write(text, file=sys.stderr)

    @torch.no_grad()
    def finished_model(self, start_share: float = 0.0) -> ProposalLocator:
        """The averaged weights with the camera that the model had before.

        start_share: from 0 to 1, the share of the starting weights in the result. A mixture keeps
        more of what these can do on other images.
        Source: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022 (WiSE-FT).
        """
        finished = copy.deepcopy(self.average)
        for weight, start in zip(finished.parameters(), self.start.parameters(), strict=True):
            weight.lerp_(start, start_share)
        if self.camera is not None:
            finished.set_camera(self.camera)
        return finished

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "pairs": self.pairs,
            "history": self.history,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.pairs, self.history = state["step"], state["pairs"], state["history"]


def batch_loss(model: ProposalLocator, batch: RenderedBatch) -> tuple[Tensor, Tensor]:
    """Mean loss of poses and depth maps, and mean error of the depth maps, () each."""
    gt_pose = PartPose(*(field[:, 0] for field in batch.poses))
    encoded, prediction = predict_batch(model, batch, batch.jitter, gt_pose)
    terms = training_loss(prediction, batch.poses, model.project(batch.poses), CONFIG)
    nll, error = _depth_losses(encoded, batch)
    return terms.loss.mean() + W_DEPTH_MAPS * nll.mean(), error.detach().mean()


def predict_batch(
    model: ProposalLocator,
    batch: RenderedBatch,
    jitter: Tensor | None = None,
    gt_pose: PartPose | None = None,
) -> tuple[EncodedImages, Prediction]:
    """Encode the images of a batch with its camera, and predict its parts."""
    model.set_camera(batch.camera)
    encoded = model.encode(batch.images, jitter=jitter)
    index = torch.arange(len(batch.images))
    wholes, parts = (encoded.select(i) for i in index.tensor_split([batch.num_wholes]))
    return encoded, model.predict(wholes, parts, batch.whole_of_part, gt_pose)


def _depth_losses(encoded: EncodedImages, batch: RenderedBatch) -> tuple[Tensor, Tensor]:
    maps = crop_depth_maps(batch.depths, encoded.crop, batch.camera.image_scale)
    return depth_map_losses(encoded.thumbnail[:, 3:], maps)


@torch.inference_mode()
def validate(model: ProposalLocator, batches: list[RenderedBatch]) -> dict[str, float]:
    """Errors on validation batches, also without tokens; of the depth maps in half crop sides."""
    metrics: dict[str, float] = {}
    gate = model.token_gate.clone()
    for suffix, factor in (("", 1.0), ("_without_tokens", 0.0)):
        model.token_gate.copy_(factor * gate)
        errors, depth_errors = [], []
        for batch in batches:
            encoded, prediction = predict_batch(model, batch)
            errors.append(nearest_twin_errors(prediction.pose, batch.poses))
            depth_errors.append(_depth_losses(encoded, batch)[1])
        error = torch.cat(errors)
        metrics[f"translation_error{suffix}"] = error.mean().item()
        metrics[f"median{suffix}"] = error.median().item()
        metrics[f"right{suffix}"] = (error < RIGHT_TOLERANCE).float().mean().item()
        metrics["depth_error"] = torch.cat(depth_errors).mean().item()
    model.token_gate.copy_(gate)
    return metrics
