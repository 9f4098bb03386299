"""Platt scaling: confidences that hold on models that were not trained on.

Shapes: N answers.
"""

import numpy as np
from torch import Tensor

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
