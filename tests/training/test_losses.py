"""The loss: hand-computed values, invariance to the order of twins, and shape checks."""

import math

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from toys import randomize_output_layers, single_hypothesis, tiny_config

from partloc.data.transforms import Preprocessing
from partloc.model.build import build_locator
from partloc.model.camera import PinholeCamera
from partloc.model.prediction import Prediction
from partloc.pose import PartPose
from partloc.training.losses import (
    MATCH_STD,
    MIXTURE_SCALE,
    LossTerms,
    loss_targets,
    match_loss,
    rank_loss,
    training_loss,
)


def make_poses(*rows) -> PartPose:
    """(B, 3) and (B, 1) from rows of x, y, z, scale."""
    values = torch.tensor(rows)
    return PartPose(values[:, :3], values[:, 3:])


def make_targets(*samples) -> PartPose:
    """(B, T, 3) and (B, T, 1) from a list of x, y, z, scale per sample."""
    values = torch.tensor(samples)
    return PartPose(values[..., :3], values[..., 3:])


def compute_terms(predicted: PartPose, targets: PartPose, **train) -> LossTerms:
    """The loss terms of a single hypothesis, the confidence term of weight 0."""
    config = tiny_config(train={"w_trans": 1.0, "w_scale": 1.0, "w_confidence": 0.0} | train).train
    return training_loss(single_hypothesis(predicted), targets, None, config)


# -- the pose ----------------------------------------------------------------------------------


def test_translation_is_summed_over_axes_and_scale_is_logarithmic():
    terms = compute_terms(
        make_poses([0.1, -0.2, 0.3, 0.2]),
        make_targets([[0.0, 0.0, 0.0, 0.4]]),
        w_trans=2.0,
        w_scale=3.0,
    )
    assert_close(terms.translation_loss, torch.tensor([0.6]))
    assert_close(terms.scale_loss, torch.tensor([math.log(2)]))
    assert_close(terms.loss, torch.tensor([2 * 0.6 + 3 * math.log(2)]))


def test_the_l1_scale_loss_is_the_difference():
    predicted, target = make_poses([0.0, 0, 0, 0.2]), make_targets([[0.0, 0, 0, 0.5]])
    terms = compute_terms(predicted, target, scale_loss="l1")
    assert_close(terms.scale_loss, torch.tensor([0.3]))


def test_twice_too_large_costs_the_same_as_twice_too_small():
    target = make_targets([[0.0, 0, 0, 0.4]])
    large, small = make_poses([0.0, 0, 0, 0.8]), make_poses([0.0, 0, 0, 0.2])
    assert_close(compute_terms(large, target).loss, compute_terms(small, target).loss)


def test_any_twin_is_right_but_a_mixture_of_two_is_not():
    twins = make_targets([[-0.4, 0.0, 0.0, 0.1], [0.4, 0.0, 0.0, 0.4]])
    for pose in ([-0.4, 0.0, 0.0, 0.1], [0.4, 0.0, 0.0, 0.4]):
        assert_close(compute_terms(make_poses(pose), twins).loss, torch.zeros(1))
    # The translation of one twin with the scale of the other.
    mixed = compute_terms(make_poses([0.4, 0.0, 0.0, 0.1]), twins, w_scale=0.1)
    assert_close(mixed.translation_loss, torch.zeros(1))
    assert_close(mixed.scale_loss, torch.tensor([math.log(4)]))


def test_the_order_of_twins_does_not_matter():
    twins = torch.randn(5, 3, 4).exp()
    predicted = make_poses(*torch.rand(5, 4).tolist())
    forward, backward = (PartPose(t[..., :3], t[..., 3:]) for t in (twins, twins.flip(1)))
    terms = compute_terms(predicted, forward), compute_terms(predicted, backward)
    for a, b in zip(*terms, strict=True):
        assert_close(a, b)


def test_without_twin_awareness_only_the_labelled_pose_is_right():
    label, twins = make_poses([0.4, 0, 0, 0.2]), make_targets([[0.4, 0, 0, 0.2], [-0.4, 0, 0, 0.2]])
    predicted = make_poses([-0.4, 0.0, 0.0, 0.2])
    aware = compute_terms(predicted, loss_targets(label, twins, True))
    unaware = compute_terms(predicted, loss_targets(label, twins, False))
    assert_close(aware.loss, torch.zeros(1))
    assert_close(unaware.translation_loss, torch.tensor([0.8]))


def test_each_sample_has_its_own_loss_and_gradient():
    translation = torch.zeros(2, 3, requires_grad=True)
    scale = torch.full((2, 1), 0.5, requires_grad=True)
    targets = make_targets([[0.1, 0.2, 0.3, 0.25]], [[-0.1, -0.2, -0.3, 1.0]])
    compute_terms(PartPose(translation, scale), targets).loss.sum().backward()
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
        compute_terms(PartPose(torch.zeros(4, 3), torch.ones(4, 1)), targets)


@pytest.mark.parametrize("scale_loss", ["l1", "log"])
@pytest.mark.parametrize("num_twins", [1, 4])
def test_without_additional_terms_the_loss_of_one_hypothesis_is_the_weighted_l1_error(
    scale_loss, num_twins
):
    """w_trans * |t - t*|_1 + w_scale * |s - s*| of the network itself, to the nearest twin."""
    torch.manual_seed(0)
    others = ("w_match", "w_rank", "w_depth", "w_confidence", "w_gt_pose")
    train = {"w_trans": 1.5, "w_scale": 0.7, "scale_loss": scale_loss} | dict.fromkeys(others, 0.0)
    config = tiny_config(model={"hypotheses": 1, "match_size": 8}, train=train)
    model = build_locator(config.model, Preprocessing.from_config(config.data)).train()
    randomize_output_layers(model)
    model.set_camera(PinholeCamera(torch.eye(3)[:2], torch.zeros(2), torch.tensor(0.1), 1.0))
    pose = PartPose(torch.rand(6, 3) - 0.5, 0.1 + 0.8 * torch.rand(6, 1))
    twins = PartPose(torch.rand(6, num_twins, 3) - 0.5, 0.1 + 0.8 * torch.rand(6, num_twins, 1))
    images = torch.rand(6, 3, 28, 28)
    prediction = model(images, images.flip(0), torch.arange(6), pose)
    terms = training_loss(prediction, twins, model.project(twins), config.train)

    predicted, expected = prediction.pose, []
    for b in range(6):
        costs = []
        for t in range(num_twins):
            scales = predicted.scale[b, 0], twins.scale[b, t, 0]
            if scale_loss == "log":
                scales = [scale.log() for scale in scales]
            offset = predicted.translation[b] - twins.translation[b, t]
            l1 = abs(offset[0]) + abs(offset[1]) + abs(offset[2])
            costs.append(1.5 * l1 + 0.7 * abs(scales[0] - scales[1]))
        expected.append(min(costs))
    assert (terms.match_loss > 0).all() and (terms.gt_pose_loss > 0).all()  # computed, of weight 0
    assert_close(terms.loss, torch.stack(expected), rtol=1e-6, atol=1e-6)


# -- the mixture and its confidence ------------------------------------------------------------


def test_one_right_hypothesis_of_high_weight_suffices():
    right, wrong = [0.0, 0.0, 0.0, 0.2], [0.9, 0.0, 0.0, 0.2]
    target, hypotheses = make_targets([right]), make_targets([right, wrong])

    def terms_with_weight(weight: float) -> LossTerms:
        log_weight = torch.tensor([[weight, 1 - weight]]).log()
        prediction = Prediction(hypotheses, log_weight, torch.tensor([[50.0, -50.0]]))
        return training_loss(prediction, target, None, tiny_config().train)

    high, even, low = (terms_with_weight(weight) for weight in (0.99, 0.5, 0.01))
    assert high.loss < even.loss < low.loss
    assert even.loss.item() == pytest.approx(MIXTURE_SCALE * math.log(2), abs=1e-3)
    # The reported error is that of the hypothesis with the highest weight.
    assert_close(high.translation_loss, torch.zeros(1))
    assert_close(low.translation_loss, torch.tensor([0.9]))


def test_the_confidence_loss_has_its_weight():
    pose, target = make_poses([0.0, 0, 0, 0.2]), make_targets([[0.0, 0, 0, 0.2]])
    terms = compute_terms(pose, target, w_confidence=0.5)
    assert_close(terms.loss, torch.tensor([0.5 * math.log(2)]))  # of a logit of 0


def test_the_confidence_loss_is_weighted_by_the_mixture_without_changing_it():
    """Two hypotheses are at twins, the third is wrong; all have a confidence of 0.8."""
    translation = torch.tensor([[[0.1, 0.0, 0.0], [0.5, 0.0, 0.0], [0.9, 0.0, 0.0]]])
    hypotheses = PartPose(translation, torch.ones(1, 3, 1))
    twins = PartPose(torch.tensor([[[0.12, 0.0, 0.0], [0.5, 0.04, 0.0]]]), torch.ones(1, 2, 1))
    logits = torch.full((1, 3), math.log(4.0), requires_grad=True)
    log_weight = torch.tensor([[0.5, 0.3, 0.2]]).log().requires_grad_()
    prediction = Prediction(hypotheses, log_weight, logits)
    loss = training_loss(prediction, twins, None, tiny_config().train).confidence_loss
    assert_close(loss, torch.tensor([-0.8 * math.log(0.8) - 0.2 * math.log(0.2)]))
    (gradient,) = torch.autograd.grad(loss.sum(), log_weight, allow_unused=True)
    assert gradient is None


# -- the ground-truth position -----------------------------------------------------------------


def test_the_loss_of_the_prediction_at_the_ground_truth_position_is_added():
    pose, target = make_poses([0.0, 0, 0, 0.2]), make_targets([[0.0, 0, 0, 0.2]])
    prediction = single_hypothesis(pose)._replace(gt_prediction=make_poses([0.1, 0.1, 0.0, 0.2]))
    train = {"w_trans": 2.0, "w_confidence": 0.0, "w_gt_pose": 0.5}
    terms = training_loss(prediction, target, None, tiny_config(train=train).train)
    assert_close(terms.gt_pose_loss, torch.tensor([0.4]))
    assert_close(terms.loss, 0.5 * terms.gt_pose_loss)


# -- matching ----------------------------------------------------------------------------------


def test_the_match_loss_is_the_negative_log_likelihood_of_any_valid_position():
    positions = torch.tensor([[0.0, 0.0, -1.0], [9.0, 9.0, -1.0], [-9.0, 9.0, -1.0]])
    log_probability = torch.tensor([[0.5, 0.25, 0.25]]).log()
    one, two = positions[None, :1], positions[None, :2]
    assert_close(match_loss(positions, log_probability, one), torch.tensor([math.log(2)]))
    # Probability at the other twin counts too.
    assert_close(match_loss(positions, log_probability, two), torch.tensor([-math.log(0.75)]))


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        # A view, e.g. an expanded one, takes no memory.
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.untyped_storage().nbytes() // result.itemsize)
        return result


def test_the_memory_of_the_match_loss_does_not_grow_with_the_number_of_twins():
    torch.manual_seed(0)
    positions, log_probability = torch.randn(500, 3), torch.randn(4, 500).log_softmax(1)
    sizes = []
    for num_twins in (1, 200):
        targets = torch.randn(4, num_twins, 3)
        with LargestTensor() as largest:
            loss = match_loss(positions, log_probability, targets)
        sizes.append(largest.size)
        offset = (positions[:, None] - targets[:, None]) / torch.tensor(MATCH_STD)
        log_density = -offset.square().sum(-1).amin(-1) / 2
        assert_close(loss, -(log_probability + log_density).logsumexp(1), rtol=1e-6, atol=1e-6)
    assert sizes[0] == sizes[1] == 4 * 500 * 3


def test_the_match_loss_has_its_weight():
    pose, targets = make_poses([0.0, 0, 0, 0.2]), make_targets([[0.0, 0, 0, 0.2]])
    prediction = single_hypothesis(pose)._replace(
        positions=torch.zeros(1, 3),
        log_probability=torch.tensor([[0.5]]).log(),
        proposals=torch.zeros(1, 1, 3),
        crops=torch.zeros(1, 6),  # uncropped images
    )
    config = tiny_config(train={"w_match": 0.5, "w_confidence": 0.0}).train
    terms = training_loss(prediction, targets, torch.zeros(1, 1, 3), config)
    assert_close(terms.match_loss, torch.tensor([math.log(2)]))
    assert_close(terms.loss, 0.5 * terms.match_loss)


def test_the_rank_loss_prefers_weight_on_proposals_near_a_valid_position():
    proposals = torch.tensor([[[0.0, 0, 0], [0.5, 0, 0], [0.0, 0, 0]]])
    targets = torch.tensor([[[0.5, 0, 0], [0.5, 0.9, 0]]])  # two twins
    right_weights = torch.tensor([[0.1, 0.8, 0.1]]).log()
    wrong_weights = torch.tensor([[0.8, 0.1, 0.1]]).log()
    right, wrong = (rank_loss(proposals, w, targets) for w in (right_weights, wrong_weights))
    assert_close(right, torch.tensor([-math.log(0.8)]), atol=0.2, rtol=0)
    assert wrong > right + 1.5
    far = torch.tensor([[[0.0, 2.0, 0]]])  # no proposal is near, so their order does not count
    assert rank_loss(proposals, right_weights, far).item() < 1e-6
