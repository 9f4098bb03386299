"""Platt scaling: calibrates the predicted confidence on the validation set.

Shapes: N predictions.
"""

import numpy as np
from torch import Tensor

MIN_PREDICTIONS = 20  # a fit to fewer is unreliable


def fit_platt(logits: Tensor, is_right: Tensor) -> tuple[float, float] | None:
    """Fit slope and offset so that sigmoid(slope * logit + offset) is the probability of success.

    Args:
        logits: confidence logits, (N,).
        is_right: whether each prediction is right, (N,) bool.
    Returns: slope and offset; None if there are fewer than MIN_PREDICTIONS, or all are right, or
        all are wrong. The slope is positive, so the order of the predictions stays.
    Source: Platt (1999), with his smoothed targets, which keep a small set from certainty.
    """
    right, wrong = int(is_right.sum()), int((~is_right).sum())
    if right + wrong < MIN_PREDICTIONS or not right or not wrong:
        return None
    target = np.where(is_right.numpy(), (right + 1) / (right + 2), 1 / (wrong + 2))
    values = logits.double().numpy()

    def cross_entropy(parameters: np.ndarray) -> float:
        """parameters: log(slope), offset."""
        scores = np.exp(parameters[0]) * values + parameters[1]
        return float(np.mean(np.logaddexp(0, scores) - target * scores))

    # The import takes half a second, which only training should pay.
    from scipy.optimize import minimize

    log_slope, offset = minimize(cross_entropy, np.zeros(2), bounds=[(-4, 4), (-20, 20)]).x
    return float(np.exp(log_slope)), float(offset)
