"""Predictions for a table by a network in memory."""

import pandas as pd
import pytest
import torch
from samples import make_samples, write_images
from toys import make_untrained_model

from partloc.data.images import ImageError
from partloc.data.table import PairTable
from partloc.inference.predictor import Predictor
from partloc.inference.table_predictor import predict_table
from partloc.pose import PartPose


@pytest.fixture
def samples(tmp_path) -> pd.DataFrame:
    samples = make_samples()
    write_images(tmp_path, samples)
    return samples


def predict(samples: pd.DataFrame, data_dir) -> PartPose:
    """The most probable poses, in the order of the table."""
    predictor, table = Predictor(make_untrained_model(), "cpu"), PairTable(samples, data_dir)
    translation, scale = torch.zeros(len(table), 3), torch.zeros(len(table), 1)
    for chunk in predict_table(predictor, table):
        pose = chunk.hypotheses.best_pose
        translation[chunk.rows], scale[chunk.rows] = pose.translation, pose.scale
    return PartPose(translation, scale)


def test_the_pose_of_a_row_does_not_depend_on_other_rows(tmp_path, samples):
    together = predict(samples, tmp_path)
    assert together.translation.std(0).min() > 1e-3
    rows = [5, 0, 10]
    alone = predict(samples.iloc[rows], tmp_path)
    for field, expected in zip(alone, together, strict=True):
        torch.testing.assert_close(field, expected[rows], atol=1e-5, rtol=1e-4)


def test_predictions_come_model_by_model(tmp_path, samples):
    predictor, table = Predictor(make_untrained_model(), "cpu"), PairTable(samples, tmp_path)
    rows = [chunk.rows.tolist() for chunk in predict_table(predictor, table)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_the_values_are_those_of_the_predictor(tmp_path, samples):
    predictor, table = Predictor(make_untrained_model(), "cpu"), PairTable(samples, tmp_path)
    chunk = next(predict_table(predictor, table))
    results = predictor.predict(
        tmp_path / samples.whole_path[0], [tmp_path / path for path in samples.part_path[:4]]
    )
    for row, result in enumerate(results):
        best = result.hypotheses.log_weight.argmax()
        assert torch.equal(chunk.hypotheses.log_weight[row], result.hypotheses.log_weight)
        torch.testing.assert_close(chunk.confidence[row], result.confidence[best])
        assert chunk.assigned.translation[row].tolist() == pytest.approx(result.best.translation)


@pytest.mark.parametrize("name", ["m1-c", "m1-whole"])
def test_an_unreadable_image_is_an_error_that_names_it(tmp_path, samples, name):
    (tmp_path / f"m1/{name}.png").write_bytes(b"no image")
    predictor, table = Predictor(make_untrained_model(), "cpu"), PairTable(samples, tmp_path)
    with pytest.raises(ImageError, match=f"{name}.png"):
        list(predict_table(predictor, table))
