"""Validation: losses and error metrics on the validation set, and confidence calibration.

Shapes: N validation samples, P pairs of a batch, L loss terms.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from partloc.config import TrainConfig
from partloc.data.dataset import Batch
from partloc.data.sampler import PlannedBatchSampler
from partloc.distributed import DistributedContext
from partloc.model.locator import PartLocator
from partloc.pose import (
    RIGHT_TOLERANCE,
    labelled_errors,
    nearest_twin_errors,
    relative_scale_errors,
)
from partloc.training.calibration import fit_platt
from partloc.training.losses import LossTerms
from partloc.training.objective import Objective


class ValidationResults(NamedTuple):
    """Results of N samples, on the CPU, sorted by the row of the table.

    rows: (N,). losses: (N, L), fields of LossTerms. labelled_errors, translation_errors: (N,),
    whole-model units, to the labelled pose and to the nearest twin. relative_scale_errors: (N,).
    poses: (N, 4), predicted translation and scale. confidence_logits: (N,), uncalibrated, of the
    returned hypothesis.
    """

    rows: Tensor
    losses: Tensor
    labelled_errors: Tensor
    translation_errors: Tensor
    relative_scale_errors: Tensor
    poses: Tensor
    confidence_logits: Tensor


@torch.inference_mode()
def predict_validation_set(
    objective: Objective,
    batches: PlannedBatchSampler,
    loader: DataLoader,
    context: DistributedContext,
) -> ValidationResults:
    """Predict all planned batches; each process predicts its share and returns all results.

    batches: with the plan set. loader: over `batches`.
    """
    objective.model.eval()
    results = []
    for planned, batch in zip(batches.plan, loader, strict=True):
        # A process without a pair of its own has predicted one of another process.
        num_pairs = len(batches.local_share(planned))
        found = predict_batch(objective, batch.to(context.device))
        results.append([values[:num_pairs] for values in found])
    local = [torch.cat(values) for values in zip(*results, strict=True)]
    gathered = [torch.cat(values) for values in zip(*context.gather(local), strict=True)]
    order = gathered[0].argsort()
    return ValidationResults(*(values[order] for values in gathered))


def predict_batch(objective: Objective, batch: Batch) -> ValidationResults:
    """Predict the P pairs of a batch."""
    prediction = objective.predict(objective.model, batch)
    results = ValidationResults(
        batch.rows,
        torch.stack(objective.loss_terms(prediction, batch), 1),
        labelled_errors(prediction.pose, batch.pose),
        nearest_twin_errors(prediction.pose, batch.twin_poses),
        relative_scale_errors(prediction.pose, batch.pose),
        torch.cat(prediction.pose, 1),
        prediction.best_confidence_logit,
    )
    return ValidationResults(*(values.cpu() for values in results))


def calibrate_confidence(model: PartLocator, results: ValidationResults) -> None:
    """Set the model's Platt scaling; it stays as it is if there are too few samples."""
    fit = fit_platt(results.confidence_logits, results.translation_errors < RIGHT_TOLERANCE)
    if fit is not None:
        model.confidence_head.slope.fill_(fit[0])
        model.confidence_head.offset.fill_(fit[1])


def summarize_results(results: ValidationResults, config: TrainConfig) -> dict[str, float]:
    """Return the mean of each loss term, the pose loss, and the mean errors."""
    terms = LossTerms(*results.losses.mean(0).tolist())
    pose_loss = config.w_trans * terms.translation_loss + config.w_scale * terms.scale_loss
    return {
        **terms._asdict(),
        "pose_loss": pose_loss,
        "translation_error": results.translation_errors.mean().item(),
        "labelled_error": results.labelled_errors.mean().item(),
        "relative_scale_error": results.relative_scale_errors.mean().item(),
    }
