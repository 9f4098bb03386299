"""What a confidence is worth: of the answers given with 0.8, four in five shall be right.

The network's own odds come from models that it was trained on, where it is more often right. Two
numbers, fitted on models that were not trained on, turn them into the probability that the
translation is less than NEAR off.

Shapes: N answers, B bins.
"""

from typing import Any

import numpy as np
from torch import Tensor

BINS = 10
# Fewer answers than this, or none right, or none wrong, tell nothing reliable.
LEAST = 20


def fit_platt(log_odds: Tensor, right: Tensor) -> tuple[float, float] | None:
    """Slope and offset, so that sigmoid(slope * log_odds + offset) is the share that is right.

    log_odds: (N,); right: (N,) bool. None when there are too few of either kind.
    Source: Platt (1999), with his targets, which keep a small set from certainty; the slope is
    held above zero, so that the order of the answers stays.
    """
    good, bad = int(right.sum()), int((~right).sum())
    if good + bad < LEAST or not good or not bad:
        return None
    target = np.where(right.numpy(), (good + 1) / (good + 2), 1 / (bad + 2))
    value = log_odds.double().numpy()

    def surprise(weights: np.ndarray) -> float:
        """Cross-entropy for the logarithm of the slope, and the offset."""
        score = np.exp(weights[0]) * value + weights[1]
        return float(np.mean(np.logaddexp(0, score) - target * score))

    # Half a second to load, which an answer need not wait for.
    from scipy.optimize import minimize

    log_slope, offset = minimize(surprise, np.zeros(2), bounds=[(-4, 4), (-20, 20)]).x
    return float(np.exp(log_slope)), float(offset)


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
