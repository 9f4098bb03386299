"""A prediction is a weighted set of hypotheses; the answer is the one of the highest weight."""

import torch
from torch.testing import assert_close

from partloc.model.depth_net import DepthReading
from partloc.model.prediction import Prediction
from partloc.pose import PartPose


def make_prediction() -> Prediction:
    """Two pairs with two hypotheses each."""
    poses = PartPose(torch.arange(12.0).view(2, 2, 3), torch.arange(1.0, 5.0).view(2, 2, 1))
    weights, logits = torch.tensor([[0.2, 0.8], [0.9, 0.1]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    return Prediction(poses, weights.log(), logits)


def test_the_answer_is_the_hypothesis_of_the_highest_weight():
    prediction = make_prediction()
    assert_close(prediction.pose.translation, torch.tensor([[3.0, 4, 5], [6, 7, 8]]))
    assert_close(prediction.pose.scale, torch.tensor([[2.0], [3.0]]))
    assert_close(prediction.best_confidence_logit, torch.tensor([2.0, 3.0]))


def test_selected_pairs_keep_the_positions_that_all_pairs_share():
    positions, reading = torch.rand(7, 3), DepthReading(*torch.rand(3, 2, 5))
    prediction = make_prediction()._replace(positions=positions, depth_error=reading)
    selected = prediction.select(torch.tensor([1, 1, 0]))
    assert_close(selected.pose.translation[:, 0], torch.tensor([6.0, 6.0, 3.0]))
    assert_close(selected.depth_error.depth, reading.depth[[1, 1, 0]])
    assert selected.positions is positions
    assert selected.gt_prediction is None
