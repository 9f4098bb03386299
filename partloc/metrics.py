"""Error figures of a set of predictions, and the constant answer that they are held against.

Shapes: N samples, K twins of a part.
"""

from typing import Any

import torch
from torch import Tensor

from partloc.pose import PartPose

NEAR = 0.05  # translation error that counts as right, whole-model units
CLOSE = 0.15  # relative scale error that counts as right


def translation_errors(predicted: PartPose, truth: PartPose) -> Tensor:
    """Euclidean distances, (N,), whole-model units. Both translations (N, 3)."""
    return torch.linalg.vector_norm(predicted.translation - truth.translation, dim=-1)


def twin_translation_errors(predicted: PartPose, twins: PartPose) -> Tensor:
    """Distances to the nearest place of the twin group, (N,). twins.translation (N, K, 3)."""
    distances = torch.linalg.vector_norm(
        predicted.translation[:, None] - twins.translation, dim=-1
    )  # (N, K)
    return distances.amin(1)


def relative_scale_errors(predicted: PartPose, truth: PartPose) -> Tensor:
    """|s - s*| / s*, (N,), no unit."""
    return ((predicted.scale - truth.scale).abs() / truth.scale).squeeze(-1)


def summarize(
    predicted: PartPose, truth: PartPose, twins: PartPose, viewing: Tensor | None = None
) -> dict[str, Any]:
    """The figures that metrics/evaluate.json reports, for N >= 1 samples.

    viewing: (3,) unit vector along which the camera looks; the error to the nearest twin is then
    also told apart into across the image and along the view.
    """
    absolute = (predicted.scale - truth.scale).abs().squeeze(-1)
    relative = relative_scale_errors(predicted, truth)
    return {
        "translation_error": {
            **_spread(translation_errors(predicted, truth)),
            "twin_aware": {
                **_spread(twin_translation_errors(predicted, twins)),
                **({} if viewing is None else _apart(predicted, twins, viewing)),
            },
        },
        "scale_error": {
            "absolute_mean": absolute.mean().item(),
            "relative_mean": relative.mean().item(),
            "relative_median": relative.quantile(0.5).item(),
            "within_15pct": (relative < CLOSE).float().mean().item(),
        },
    }


def _apart(predicted: PartPose, twins: PartPose, viewing: Tensor) -> dict[str, float]:
    offsets = predicted.translation[:, None] - twins.translation  # (N, K, 3)
    nearest = torch.linalg.vector_norm(offsets, dim=-1).argmin(1)  # (N,)
    offset = offsets[torch.arange(len(offsets)), nearest]  # (N, 3)
    along = offset @ viewing  # (N,)
    across = torch.linalg.vector_norm(offset - along[:, None] * viewing, dim=-1)
    return {
        "across_image_mean": across.mean().item(),
        "across_image_median": across.quantile(0.5).item(),
        "along_view_mean": along.abs().mean().item(),
        "along_view_median": along.abs().quantile(0.5).item(),
    }


def _spread(errors: Tensor) -> dict[str, float]:
    return {
        "mean": errors.mean().item(),
        "median": errors.quantile(0.5).item(),
        "p90": errors.quantile(0.9).item(),
        "within_0.05": (errors < NEAR).float().mean().item(),
    }


def constant_answer(training: PartPose, count: int) -> PartPose:
    """The baseline: the median training pose, whatever the images show; (count, 3), (count, 1)."""
    return PartPose(
        training.translation.quantile(0.5, dim=0).expand(count, 3),
        training.scale.quantile(0.5, dim=0).expand(count, 1),
    )
