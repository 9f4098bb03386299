"""What a confidence is worth: of the answers given with 0.8, four in five shall be right.

The network's own odds come from models that it was trained on, where it is more often right. Two
numbers, fitted on models that were not trained on, turn them into the probability that the
translation is less than RIGHT_TOLERANCE off.

Shapes: N answers, B bins.
"""

from typing import Any

from torch import Tensor

BINS = 10


def reliability(confidence: Tensor, right: Tensor) -> dict[str, Any]:
    """Bins of equal width: mean confidence beside the share that was right; and their distance.

    confidence: (N,), 0..1; right: (N,) bool. expected_error: the mean distance, weighted by the
    answers in a bin. Source: Guo et al., arXiv:1706.04599, eq. 3.
    """
    which = (confidence * BINS).long().clamp(max=BINS - 1)
    bins, distance = [], 0.0
    for number in which.unique().tolist():
        inside = which == number
        said, was = confidence[inside].mean().item(), right[inside].float().mean().item()
        bins.append({"confidence": said, "right": was, "answers": int(inside.sum())})
        distance += abs(said - was) * int(inside.sum()) / len(confidence)
    return {"expected_error": distance, "bins": bins}
