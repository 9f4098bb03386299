"""Errors of a network on a table of samples, and rows that an earlier call has measured."""

import json
from pathlib import Path
from typing import Any

from partloc.config import Config
from partloc.data.table import PairTable
from partloc.evaluation.accumulator import ErrorAccumulator
from partloc.evaluation.metrics import median_pose
from partloc.inference.predictor import Predictor
from partloc.inference.table_predictor import predict_table
from partloc.model.locator import PartLocator
from partloc.pose import PartPose


def accumulate_errors(
    model: PartLocator, config: Config, known: PairTable, test: PairTable
) -> ErrorAccumulator:
    """Predict all samples of `test`; the baseline is the median pose of `known`."""
    accumulator = ErrorAccumulator(test)
    baseline = median_pose(PartPose(known.translation, known.scale))
    predictor = Predictor(model, config.machine.device, config.data.max_image_pixels)
    for chunk in predict_table(predictor, test):
        accumulator.update(chunk, baseline, model.pinhole_camera)
    return accumulator


def read_earlier_rows(path: Path | None) -> dict[str, dict[str, Any]]:
    """Rows of an earlier result file by fingerprint."""
    if path is None or not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["fingerprint"]: row for row in rows}
