"""Error figures of a set of predictions, and the constant answer that they are held against.

Shapes: N samples, K twins of a part.
"""

import json
import os
from pathlib import Path
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


def summarize(predicted: PartPose, truth: PartPose, twins: PartPose) -> dict[str, Any]:
    """The figures that metrics/evaluate.json reports, for N >= 1 samples."""
    absolute = (predicted.scale - truth.scale).abs().squeeze(-1)
    relative = relative_scale_errors(predicted, truth)
    return {
        "translation_error": {
            **_spread(translation_errors(predicted, truth)),
            "twin_aware": _spread(twin_translation_errors(predicted, twins)),
        },
        "scale_error": {
            "absolute_mean": absolute.mean().item(),
            "relative_mean": relative.mean().item(),
            "relative_median": relative.quantile(0.5).item(),
            "within_15pct": (relative < CLOSE).float().mean().item(),
        },
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


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Sorted and rounded to 6 decimals, so that equal runs give equal bytes; replaced whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _as_text(_rounded(value)) + "\n"
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _as_text(value: Any, indent: str = "") -> str:
    """JSON with one line for each key, and for each record of a list: a series stays readable."""
    if isinstance(value, dict) and value:
        deeper = indent + "  "
        lines = [f"{json.dumps(key)}: {_as_text(value[key], deeper)}" for key in sorted(value)]
        return "{\n" + deeper + f",\n{deeper}".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        lines = [json.dumps(item, sort_keys=True, ensure_ascii=False) for item in value]
        return "[\n" + indent + "  " + f",\n{indent}  ".join(lines) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
