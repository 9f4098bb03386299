"""The loss: L1 by hand, blind to which twin is which, and no broadcast that hides a mistake."""

import math

import pytest
import torch
from torch.testing import assert_close
from toys import sure_of, tiny_config

from partloc.model.prediction import Prediction
from partloc.pose import PartPose
from partloc.training.losses import (
    SOFTNESS,
    SURENESS,
    match_loss,
    rank_loss,
    targets_of,
    training_loss,
)


def poses(*rows):
    """(B, 3) and (B, 1) from rows of x, y, z, scale."""
    values = torch.tensor(rows)
    return PartPose(values[:, :3], values[:, 3:])


def places(*samples):
    """(B, K, 3) and (B, K, 1)."""
    values = torch.tensor(samples)
    return PartPose(values[..., :3], values[..., 3:])


def loss(predicted, targets, **train):
    """Without the surprise at which hypotheses are right, which has a test of its own."""
    train = {"w_trans": 1.0, "w_scale": 1.0} | train
    found = training_loss(sure_of(predicted), targets, None, tiny_config(train=train).train)
    return found._replace(loss=found.loss - SURENESS * found.sure_loss)


def test_translation_is_the_sum_of_the_axes_and_scale_its_logarithm():
    found = loss(
        poses([0.1, -0.2, 0.3, 0.2]), places([[0.0, 0.0, 0.0, 0.4]]), w_trans=2.0, w_scale=3.0
    )
    assert_close(found.translation_loss, torch.tensor([0.6]))
    assert_close(found.scale_loss, torch.tensor([math.log(2)]))
    assert_close(found.loss, torch.tensor([2 * 0.6 + 3 * math.log(2)]))


def test_the_plain_scale_loss_is_the_difference():
    found = loss(poses([0.0, 0, 0, 0.2]), places([[0.0, 0, 0, 0.5]]), scale_loss="plain")
    assert_close(found.scale_loss, torch.tensor([0.3]))


def test_twice_too_big_costs_the_same_as_twice_too_small():
    target = places([[0.0, 0, 0, 0.4]])
    big, small = poses([0.0, 0, 0, 0.8]), poses([0.0, 0, 0, 0.2])
    assert_close(loss(big, target).loss, loss(small, target).loss)


def test_any_twin_is_right_and_they_are_never_mixed():
    twins = places([[-0.4, 0.0, 0.0, 0.1], [0.4, 0.0, 0.0, 0.4]])
    for place in ([-0.4, 0.0, 0.0, 0.1], [0.4, 0.0, 0.0, 0.4]):
        assert_close(loss(poses(place), twins).loss, torch.zeros(1))
    # The translation of one twin with the scale of the other is wrong.
    mixed = loss(poses([0.4, 0.0, 0.0, 0.1]), twins, w_scale=0.1)
    assert_close(mixed.translation_loss, torch.zeros(1))
    assert_close(mixed.scale_loss, torch.tensor([math.log(4)]))


def test_the_order_of_twins_does_not_matter():
    twins = torch.randn(5, 3, 4).exp()
    predicted = poses(*torch.rand(5, 4).tolist())
    forward, backward = (PartPose(t[..., :3], t[..., 3:]) for t in (twins, twins.flip(1)))
    for one, other in zip(loss(predicted, forward), loss(predicted, backward), strict=True):
        assert_close(one, other)


def test_without_twin_awareness_only_the_own_place_counts():
    own, twins = poses([0.4, 0.0, 0.0, 0.2]), places([[0.4, 0, 0, 0.2], [-0.4, 0, 0, 0.2]])
    answer = poses([-0.4, 0.0, 0.0, 0.2])
    assert_close(loss(answer, targets_of(own, twins, True)).loss, torch.zeros(1))
    assert_close(loss(answer, targets_of(own, twins, False)).translation_loss, torch.tensor([0.8]))


def test_each_sample_has_its_own_loss_and_gradient():
    translation = torch.zeros(2, 3, requires_grad=True)
    scale = torch.full((2, 1), 0.5, requires_grad=True)
    targets = places([[0.1, 0.2, 0.3, 0.25]], [[-0.1, -0.2, -0.3, 1.0]])
    loss(PartPose(translation, scale), targets).loss.sum().backward()
    assert_close(translation.grad, torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    assert_close(scale.grad, torch.tensor([[2.0], [-2.0]]))  # of |log s|: 1 / s


@pytest.mark.parametrize(
    "targets",
    [
        PartPose(torch.zeros(4, 3), torch.ones(4, 1)),
        PartPose(torch.zeros(4, 2, 3), torch.ones(4, 1, 1)),
        PartPose(torch.zeros(1, 2, 3), torch.ones(1, 2, 1)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(targets):
    with pytest.raises(ValueError, match=r"expected \(B, H, 3\).*found .*\(4, 1, 3\)"):
        loss(PartPose(torch.zeros(4, 3), torch.ones(4, 1)), targets)


def test_of_several_hypotheses_one_right_and_trusted_is_enough():
    right, wrong = [0.0, 0.0, 0.0, 0.2], [0.9, 0.0, 0.0, 0.2]
    target = places([right])
    both = places([right, wrong])

    def cost(trust):
        share = torch.tensor([[trust, 1 - trust]]).log()
        found = Prediction(both, share, torch.tensor([[50.0, -50.0]]))
        return training_loss(found, target, None, tiny_config().train)

    assert cost(0.99).loss < cost(0.5).loss < cost(0.01).loss
    assert cost(0.5).loss.item() == pytest.approx(SOFTNESS * math.log(2), abs=1e-3)
    # What is reported is the error of the answer, the more trusted one.
    assert_close(cost(0.99).translation_loss, torch.zeros(1))
    assert_close(cost(0.01).translation_loss, torch.tensor([0.9]))


def test_each_hypothesis_may_be_right_and_counts_by_its_share():
    """Two twins' places and one wrong: odds of four in five for all are a surprise at the last."""
    found = PartPose(
        torch.tensor([[[0.1, 0.0, 0.0], [0.5, 0.0, 0.0], [0.9, 0.0, 0.0]]]), torch.ones(1, 3, 1)
    )
    twins = PartPose(torch.tensor([[[0.12, 0.0, 0.0], [0.5, 0.04, 0.0]]]), torch.ones(1, 2, 1))
    odds = torch.full((1, 3), math.log(4.0), requires_grad=True)
    share = torch.tensor([[0.5, 0.3, 0.2]]).log().requires_grad_()
    loss = training_loss(Prediction(found, share, odds), twins, None, tiny_config().train).sure_loss
    assert_close(loss, torch.tensor([-0.8 * math.log(0.8) - 0.2 * math.log(0.2)]))
    (change,) = torch.autograd.grad(loss.sum(), share, allow_unused=True)
    assert change is None  # what is chosen stays


def test_the_answer_at_the_true_place_is_added_to_the_loss():
    pose, target = poses([0.0, 0, 0, 0.2]), places([[0.0, 0, 0, 0.2]])
    guided = sure_of(pose)._replace(guided=poses([0.1, 0.1, 0.0, 0.2]))
    config = tiny_config(train={"w_trans": 2.0}).train
    found = training_loss(guided, target, None, config)
    assert_close(found.guided_loss, torch.tensor([0.4]))
    assert_close(found.loss - SURENESS * found.sure_loss, found.guided_loss)


def test_matching_is_charged_the_surprise_at_any_place_that_would_be_right():
    grid = torch.tensor([[0.0, 0.0, -1.0], [9.0, 9.0, -1.0], [-9.0, 9.0, -1.0]])
    certainty = torch.tensor([[0.5, 0.25, 0.25]]).log()
    one, two = grid[None, :1], grid[None, :2]
    assert_close(match_loss(grid, certainty, one), torch.tensor([math.log(2)]))
    # Probability on the other twin is as good.
    assert_close(match_loss(grid, certainty, two), torch.tensor([-math.log(0.75)]))


def test_matching_counts_with_its_weight():
    grid, certainty = torch.zeros(1, 3), torch.tensor([[0.5]]).log()
    pose, targets = poses([0.0, 0, 0, 0.2]), places([[0.0, 0, 0, 0.2]])
    config = tiny_config(train={"w_match": 0.5}).train
    proposals = torch.zeros(1, 1, 3)
    matched = {"places": grid, "log_probability": certainty, "proposals": proposals}
    matched["crops"] = torch.zeros(1, 6)  # whole pictures
    prediction = sure_of(pose)._replace(**matched)
    found = training_loss(prediction, targets, torch.zeros(1, 1, 3), config)
    assert_close(found.match_loss, torch.tensor([math.log(2)]))
    assert_close(found.loss - SURENESS * found.sure_loss, 0.5 * found.match_loss)


def test_the_proposals_near_a_right_place_shall_be_the_probable_ones():
    proposals = torch.tensor([[[0.0, 0, 0], [0.5, 0, 0], [0.0, 0, 0]]])
    targets = torch.tensor([[[0.5, 0, 0], [0.5, 0.9, 0]]])  # two twins
    sure_right = torch.tensor([[0.1, 0.8, 0.1]]).log()
    sure_wrong = torch.tensor([[0.8, 0.1, 0.1]]).log()
    right, wrong = (rank_loss(proposals, sure, targets) for sure in (sure_right, sure_wrong))
    assert_close(right, torch.tensor([-math.log(0.8)]), atol=0.2, rtol=0)
    assert wrong > right + 1.5
    far = torch.tensor([[[0.0, 2.0, 0]]])  # no proposal is near it, so their order does not count
    assert rank_loss(proposals, sure_right, far).item() < 1e-6


def test_the_guided_answer_is_compared_with_the_place_it_was_asked_at():
    """Of two equal pictures, only one is asked, at the first one's place."""
    first, second = [0.3, 0.0, 0.0, 0.2], [-0.3, 0.0, 0.0, 0.2]
    targets, guides = places([first], [second]), places([first], [first])
    guided = sure_of(poses(first, second))._replace(guided=poses(first, first))
    config = tiny_config(train={"twin_aware": False}).train
    assert_close(training_loss(guided, targets, None, config, guides).guided_loss, torch.zeros(2))
