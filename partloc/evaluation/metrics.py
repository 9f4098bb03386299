"""Error metrics of predictions, and the constant prediction that serves as their baseline.

A twin of a part is a part of the same model that looks identical. `translation_error` is the
distance to the nearest twin, `labelled_error` to the part's own label, and `assigned_error` to the
twin that is left when the predictions of equal parts are matched one to one.

Shapes: N samples; K twins of a part, itself included; H hypotheses.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from partloc.pose import (
    RIGHT_TOLERANCE,
    PartPose,
    labelled_errors,
    nearest_twin_errors,
    relative_scale_errors,
)

RELATIVE_SCALE_TOLERANCE = 0.15  # largest relative scale error that counts as right
BOOTSTRAP_SAMPLES = 1000
BOOTSTRAP_STREAM = 4  # of random numbers; sampler and dataset have others


# -- errors of each sample ---------------------------------------------------------------------


def pose_errors(
    predicted: PartPose, labelled: PartPose, twins: PartPose, view_direction: Tensor | None = None
) -> dict[str, Tensor]:
    """Errors of N predictions by name, (N,) each.

    Args:
        predicted, labelled: (N, 3) and (N, 1). twins: (N, K, 3) and (N, K, 1).
        view_direction: (3,) unit vector, if the camera is known; the translation error is then
            also split into across_image and along_view.
    """
    errors = {
        "translation_error": nearest_twin_errors(predicted, twins),
        "labelled_error": labelled_errors(predicted, labelled),
        "relative_scale_error": relative_scale_errors(predicted, labelled),
        "absolute_scale_error": (predicted.scale - labelled.scale).abs().squeeze(-1),
        "log_scale_error": (predicted.scale / labelled.scale).log().abs().squeeze(-1),
    }
    if view_direction is not None:
        across, along = split_errors(predicted, twins, view_direction)
        errors |= {"across_image": across, "along_view": along}
    return errors


def assigned_errors(
    assigned: PartPose, labelled: PartPose, twin_groups: Sequence[np.ndarray]
) -> Tensor:
    """Translation errors (N,) when each label of a twin group counts for one prediction.

    Predictions and labels are matched so that the sum of their distances is minimal.
    twin_groups: rows of each group; every row is in one of them.
    Source: the assignment problem (Kuhn, 1955), solved by scipy.
    """
    errors = torch.empty(len(labelled.translation))
    for rows in twin_groups:
        # From 26 rows on, the default mode multiplies matrices, and equal points have a distance.
        mode = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(assigned.translation[rows], labelled.translation[rows], 2.0, mode)
        predictions, labels = linear_sum_assignment(distances.double().numpy())
        errors[rows[predictions]] = distances[predictions, labels]
    return errors


def split_errors(
    predicted: PartPose, twins: PartPose, view_direction: Tensor
) -> tuple[Tensor, Tensor]:
    """The error to the nearest twin, split into across the image and along the view: (N,) each."""
    offsets = predicted.translation[:, None] - twins.translation  # (N, K, 3)
    nearest = torch.linalg.vector_norm(offsets, dim=-1).argmin(1)  # (N,)
    offset = offsets[torch.arange(len(offsets)), nearest]  # (N, 3)
    along = offset @ view_direction  # (N,)
    across = torch.linalg.vector_norm(offset - along[:, None] * view_direction, dim=-1)
    return across, along.abs()


def best_across_image(hypotheses: PartPose, twins: PartPose, view_direction: Tensor) -> Tensor:
    """The smallest error across the image of all hypotheses (N, H, 3), (N,)."""
    poses = [PartPose(*fields) for fields in zip(*(f.unbind(1) for f in hypotheses), strict=True)]
    across = [split_errors(pose, twins, view_direction)[0] for pose in poses]
    return torch.stack(across, 1).amin(1)


def median_pose(labelled: PartPose) -> PartPose:
    """The baseline: the median pose of N training samples, (1, 3) and (1, 1)."""
    return PartPose(*(field.quantile(0.5, dim=0, keepdim=True) for field in labelled))


# -- summaries ---------------------------------------------------------------------------------


def summarize(errors: dict[str, Tensor]) -> dict[str, Any]:
    """The metrics of N >= 1 samples.

    errors: of `pose_errors`; if known also assigned_error, and best_across_image, for the sources
        of the translation error.
    """
    translation = error_statistics(errors["translation_error"])
    for name in ("across_image", "along_view"):
        if name in errors:
            translation[f"{name}_mean"] = errors[name].mean().item()
            translation[f"{name}_median"] = errors[name].quantile(0.5).item()
    if "best_across_image" in errors:
        translation["sources"] = error_sources(errors)
    metrics = {
        "translation_error": translation,
        "labelled_error": error_statistics(errors["labelled_error"]),
    }
    if "assigned_error" in errors:
        metrics["assigned_error"] = error_statistics(errors["assigned_error"])
    relative = errors["relative_scale_error"]
    metrics["relative_scale_error"] = {
        "mean": relative.mean().item(),
        "median": relative.quantile(0.5).item(),
        "within_0.15": (relative < RELATIVE_SCALE_TOLERANCE).float().mean().item(),
    }
    for name in ("absolute_scale_error", "log_scale_error"):
        metrics[name] = {"mean": errors[name].mean().item()}
    return metrics


def error_statistics(errors: Tensor) -> dict[str, Any]:
    """Mean, median and 90 % quantile of translation errors (N,), and the fraction that is right."""
    return {
        "mean": errors.mean().item(),
        "median": errors.quantile(0.5).item(),
        "p90": errors.quantile(0.9).item(),
        "within_0.05": (errors < RIGHT_TOLERANCE).float().mean().item(),
    }


def error_sources(errors: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Which samples the translation error comes from: their fraction, and contribution to the mean.

    correct_position: the error across the image is below RIGHT_TOLERANCE, so the rest is depth.
    wrong_choice: it is not, but that of another hypothesis is. not_proposed: that of none is.
    The contributions add up to the mean of all samples.
    """
    correct = errors["across_image"] < RIGHT_TOLERANCE
    proposed = errors["best_across_image"] < RIGHT_TOLERANCE
    sources = {
        "correct_position": correct,
        "wrong_choice": ~correct & proposed,
        "not_proposed": ~proposed,
    }
    return {
        name: {
            "fraction": is_source.float().mean().item(),
            "mean_contribution": (errors["translation_error"] * is_source).mean().item(),
        }
        for name, is_source in sources.items()
    }


def bootstrap(
    errors: dict[str, Tensor], models: Sequence[str], seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """95 % confidence intervals of mean and median over the choice of the test models.

    Models are resampled, not samples, because the errors of the parts of one model are correlated.
    errors: (N,) each. models: (N,) names.
    Source: the percentile bootstrap of clusters, Davison and Hinkley (1997), sections 3.8, 5.3.
    """
    _, model_ids = np.unique(np.asarray(models), return_inverse=True)
    rows_by_model = [np.flatnonzero(model_ids == number) for number in range(model_ids.max() + 1)]
    rng = np.random.default_rng([seed, BOOTSTRAP_STREAM])
    values = torch.stack(list(errors.values()), 1).double().numpy()  # (N, E)
    statistics = np.empty((BOOTSTRAP_SAMPLES, 2, values.shape[1]))
    for sample in statistics:
        chosen = rng.integers(len(rows_by_model), size=len(rows_by_model))
        resampled = values[np.concatenate([rows_by_model[number] for number in chosen])]
        sample[:] = resampled.mean(0), np.median(resampled, 0)
    low, high = np.quantile(statistics, [0.025, 0.975], axis=0)  # (2, E) each
    return {
        name: {
            statistic: {"low": low[i, column], "high": high[i, column]}
            for i, statistic in enumerate(("mean", "median"))
        }
        for column, name in enumerate(errors)
    }
