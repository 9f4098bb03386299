"""Error figures of a set of predictions, and the constant answer that they are held against.

Shapes: N samples, K twins of a part.
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

CLOSE = 0.15  # relative scale error that counts as right
BOOTSTRAP_STREAM = 4  # of chance, as in plan
RESAMPLES = 1000


def assigned_errors(placed: PartPose, truth: PartPose, groups: Sequence[np.ndarray]) -> Tensor:
    """Distances, (N,), when each place of a group of equal parts is to be taken once.

    placed, truth: (N, 3); groups: rows that belong together, each row in one of them. Which of
    the equal parts is which does not count: the answers are matched with the true places so that
    the distances' sum is the least. Source: Kuhn (1955), solved by scipy.
    """
    errors = torch.empty(len(truth.translation))
    for rows in groups:
        # By products of matrices, as from 26 rows on, equal places would be apart.
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(placed.translation[rows], truth.translation[rows], 2.0, exact)
        answers, places = linear_sum_assignment(distances.double().numpy())
        errors[rows[answers]] = distances[answers, places]
    return errors


def bootstrap(
    errors: dict[str, Tensor], models: Sequence[str], seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """95 % intervals of mean and median: what other test models, as many, might have given.

    errors: (N,) each. Models are drawn, not samples, since the parts of a model are seen in one
    picture and go right or wrong together.
    Source: the percentile bootstrap of clusters, Davison and Hinkley (1997), sections 3.8, 5.3.
    """
    _, which = np.unique(np.asarray(models), return_inverse=True)
    rows_of = [np.flatnonzero(which == number) for number in range(which.max() + 1)]
    chance = np.random.default_rng([seed, BOOTSTRAP_STREAM])
    values = torch.stack(list(errors.values()), 1).double().numpy()  # (N, F)
    drawn = np.empty((RESAMPLES, 2, values.shape[1]))
    for sample in drawn:
        chosen = chance.integers(len(rows_of), size=len(rows_of))
        seen = values[np.concatenate([rows_of[number] for number in chosen])]
        sample[:] = seen.mean(0), np.median(seen, 0)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)  # (2, F) each
    return {
        name: {
            figure: {"low": low[i, column], "high": high[i, column]}
            for i, figure in enumerate(("mean", "median"))
        }
        for column, name in enumerate(errors)
    }


def errors_of(
    predicted: PartPose, truth: PartPose, twins: PartPose, viewing: Tensor | None = None
) -> dict[str, Tensor]:
    """What `summarize` needs of each answer, (N,) each: all errors but `assigned_errors`.

    viewing: (3,) unit vector along which the camera looks; the error to the nearest twin is then
    also told apart into across the image and along the view.
    """
    errors = {
        "translation_error": labelled_errors(predicted, truth),
        "twin_aware_error": nearest_twin_errors(predicted, twins),
        "relative_scale_error": relative_scale_errors(predicted, truth),
        "absolute_scale_error": (predicted.scale - truth.scale).abs().squeeze(-1),
        "log_scale_error": (predicted.scale / truth.scale).log().abs().squeeze(-1),
    }
    if viewing is not None:
        errors["across_image"], errors["along_view"] = errors_apart(predicted, twins, viewing)
    return errors


def summarize(errors: dict[str, Tensor]) -> dict[str, Any]:
    """The figures that metrics/evaluate.json reports, for N >= 1 samples.

    errors: of `errors_of`; assigned_error, unarranged_error (the same, had each place been judged
        by itself), and nearest_across: where they are known.
    """
    twin_aware = spread(errors["twin_aware_error"])
    for name in ("across_image", "along_view"):
        if name in errors:
            figures = {"mean": errors[name].mean(), "median": errors[name].quantile(0.5)}
            twin_aware |= {f"{name}_{key}": value.item() for key, value in figures.items()}
    if "nearest_across" in errors:
        twin_aware["sources"] = error_sources(errors)
    translation = {**spread(errors["translation_error"]), "twin_aware": twin_aware}
    for kind in ("assigned", "unarranged"):
        if f"{kind}_error" in errors:
            translation[kind] = spread(errors[f"{kind}_error"])
    relative = errors["relative_scale_error"]
    return {
        "translation_error": translation,
        "scale_error": {
            "absolute_mean": errors["absolute_scale_error"].mean().item(),
            "relative_mean": relative.mean().item(),
            "relative_median": relative.quantile(0.5).item(),
            "log_ratio_mean": errors["log_scale_error"].mean().item(),
            "within_15pct": (relative < CLOSE).float().mean().item(),
        },
    }


def errors_apart(predicted: PartPose, twins: PartPose, viewing: Tensor) -> tuple[Tensor, Tensor]:
    """The error to the nearest twin, across the image and along the view: (N,) each.

    viewing: (3,) unit vector along which the camera looks.
    """
    offsets = predicted.translation[:, None] - twins.translation  # (N, K, 3)
    nearest = torch.linalg.vector_norm(offsets, dim=-1).argmin(1)  # (N,)
    offset = offsets[torch.arange(len(offsets)), nearest]  # (N, 3)
    along = offset @ viewing  # (N,)
    across = torch.linalg.vector_norm(offset - along[:, None] * viewing, dim=-1)
    return across, along.abs()


def nearest_across(hypotheses: PartPose, twins: PartPose, viewing: Tensor) -> Tensor:
    """Of all that was considered, (N, K, 3), the least error across the image, (N,)."""
    each = (PartPose(*fields) for fields in zip(*(f.unbind(1) for f in hypotheses), strict=True))
    return torch.stack([errors_apart(one, twins, viewing)[0] for one in each], 1).amin(1)


def error_sources(errors: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Where the error to the nearest twin comes from: which samples, and their part in the mean.

    in_place: less than RIGHT_TOLERANCE off across the image, so that what is off is mostly the depth;
    other_chosen: another place was chosen though such a one was considered; not_proposed: none was.
    Parts of the mean add up to the mean over all samples.
    """
    placed, offered = (
        errors["across_image"] < RIGHT_TOLERANCE,
        errors["nearest_across"] < RIGHT_TOLERANCE,
    )
    kinds = {"in_place": placed, "other_chosen": ~placed & offered, "not_proposed": ~offered}
    error = errors["twin_aware_error"]
    return {
        name: {
            "share": chosen.float().mean().item(),
            "part_of_mean": (error * chosen).mean().item(),
        }
        for name, chosen in kinds.items()
    }


def spread(errors: Tensor) -> dict[str, float]:
    """Mean and quantiles of errors (N,), and the share below RIGHT_TOLERANCE."""
    return {
        "mean": errors.mean().item(),
        "median": errors.quantile(0.5).item(),
        "p90": errors.quantile(0.9).item(),
        "within_0.05": (errors < RIGHT_TOLERANCE).float().mean().item(),
    }


def constant_answer(training: PartPose, count: int) -> PartPose:
    """The baseline: the median training pose, whatever the images show; (count, 3), (count, 1)."""
    return PartPose(
        training.translation.quantile(0.5, dim=0).expand(count, 3),
        training.scale.quantile(0.5, dim=0).expand(count, 1),
    )
