"""Predictions for the rows of a table by a network in memory; no files are written.

Shapes: n parts of one model; K hypotheses per part; F fields of a hypothesis.
"""

from collections.abc import Iterator

import numpy as np
import torch
from tqdm import tqdm

from partloc.data.images import ImageError
from partloc.data.table import PairTable
from partloc.inference.hypotheses import Hypotheses
from partloc.inference.prediction_files import TablePredictions
from partloc.inference.predictor import ModelImages, ModelResult, PartResult, Predictor
from partloc.pose import PartPose


def predict_table(predictor: Predictor, table: PairTable) -> Iterator[TablePredictions]:
    """Predict all rows of a table, model by model.

    Raises: ImageError for an image that cannot be read.
    """
    rows_by_model, data_dir = table.rows_by_model(), table.data_dir
    models = (
        ModelImages(
            data_dir / table.whole_paths[rows[0]],
            [data_dir / path for path in table.part_paths[rows]],
        )
        for rows in rows_by_model
    )
    results = predictor.predict_models(models)
    with tqdm(desc="predict", total=len(table), unit="part", disable=None) as progress:
        for rows, result in zip(rows_by_model, results, strict=True):
            yield _stack_results(predictor, rows, _require_images(result))
            progress.update(len(rows))


def _require_images(result: ModelResult) -> list[PartResult]:
    """Raises: ImageError if the whole or a part could not be read."""
    parts = []
    for item in [result] if isinstance(result, ImageError) else result:
        if isinstance(item, ImageError):
            raise item
        parts.append(item)
    return parts


def _stack_results(
    predictor: Predictor, rows: np.ndarray, results: list[PartResult]
) -> TablePredictions:
    values = torch.stack([result.hypotheses.to_tensor() for result in results])  # (n, K, F)
    hypotheses = Hypotheses.from_tensor(values)
    logits = hypotheses.best_confidence_logit.to(predictor.device)
    confidence = predictor.model.confidence(logits).cpu()
    poses = torch.tensor([[*result.best.translation, result.best.scale] for result in results])
    return TablePredictions(rows, hypotheses, confidence, PartPose(*poses.split([3, 1], 1)))
