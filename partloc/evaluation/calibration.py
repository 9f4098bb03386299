"""Reliability of confidences: of the predictions with confidence 0.8, four in five should be right.

Shapes: N predictions.
"""

from typing import Any

from torch import Tensor

NUM_BINS = 10


def reliability(confidence: Tensor, is_right: Tensor) -> dict[str, Any]:
    """Accuracy beside the mean confidence, in bins of equal width.

    confidence: (N,), 0 to 1. is_right: (N,) bool.
    Source: expected calibration error, Guo et al. (arXiv:1706.04599), eq. 3.
    """
    bin_of_prediction = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    bins, calibration_error = [], 0.0
    for number in bin_of_prediction.unique().tolist():
        inside = bin_of_prediction == number
        count = int(inside.sum())
        mean_confidence = confidence[inside].mean().item()
        accuracy = is_right[inside].float().mean().item()
        bins.append({"confidence": mean_confidence, "accuracy": accuracy, "count": count})
        calibration_error += abs(mean_confidence - accuracy) * count / len(confidence)
    return {"expected_calibration_error": calibration_error, "bins": bins}
