"""The network: shapes, starting points, and that attention and matching start as similarity."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from toys import randomize_output_layers

from partloc.config import ModelConfig
from partloc.data.transforms import Preprocessing
from partloc.model.attention import (
    CrossAttention,
    TokenPool,
    bin_centers,
    pooling_matrix,
    position_encoding,
)
from partloc.model.camera import PinholeCamera
from partloc.model.depth_net import MAP_SIDE as SIDE_PX
from partloc.model.locator import PartLocator
from partloc.model.prediction import Prediction
from partloc.model.refinement import CloseUpNet, OverlayNet
from partloc.model.template_matching import TemplateMatching, edges
from partloc.pose import PartPose

MAP_SIDE = 56  # pixels, 4 x 4 patches


def small_model(**changes) -> PartLocator:
    torch.manual_seed(0)
    settings = {
        "backbone_name": "dinov2_vitt14",
        "pretrained": False,
        "downsample_size": 4,
        "cross_attention_layers": 1,
        "cross_attention_dim": 48,
        "mlp_hidden_dim": 32,
        "match_size": 8,
        "hypotheses": 3,
        "dropout": 0.0,
    }
    return PartLocator(ModelConfig(**{**settings, **changes}), Preprocessing(MAP_SIDE)).eval()


def test_pooling_73_to_32_is_the_adaptive_average_with_its_overlapping_bins():
    patches = torch.randn(2, 73 * 73, 3)
    expected = F.adaptive_avg_pool2d(patches.transpose(1, 2).unflatten(2, (73, 73)), 32)
    assert_close(TokenPool(73, 32)(patches), expected.flatten(2).transpose(1, 2))
    weights = pooling_matrix(73, 32)
    assert {int(row.count_nonzero()) for row in weights} == {3, 4}
    assert_close(weights.sum(1), torch.ones(32))


def test_positions_belong_to_the_true_centres_of_the_bins():
    centres = bin_centers(73, 32)
    assert_close(centres, -centres.flip(0))
    assert centres[0].item() == pytest.approx(3 / 73 - 1)  # the first bin holds patches 0 to 2
    code = position_encoding(centres, 16)
    assert code.shape == (1024, 16)
    assert len(code.unique(dim=0)) == 1024


def test_attention_starts_as_similarity_and_positions_touch_only_what_is_answered():
    torch.manual_seed(0)
    layer = CrossAttention(48, 3, 0.0)
    assert_close(layer.query.weight, layer.key.weight)
    assert_close(layer.query.weight @ layer.query.weight.T, torch.eye(48), atol=1e-5, rtol=0)
    tokens, seen = torch.randn(1, 9, 48), []
    attend = F.scaled_dot_product_attention

    def spy(query, key, value):
        seen.append((query @ key.transpose(-2, -1)).mean(1))
        return attend(query, key, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        at_origin = layer(tokens, tokens, torch.zeros(9, 48))
        elsewhere = layer(tokens, tokens, torch.randn(9, 48))
    assert (seen[0].argmax(-1) == torch.arange(9)).all()
    assert_close(seen[0], seen[1])
    assert not torch.allclose(at_origin, elsewhere)


def test_both_starts_of_attention_can_be_left_out_for_comparison():
    random = small_model(similar_start=False)
    assert not torch.allclose(random.layers[0].query.weight, random.layers[0].key.weight)
    assert small_model().position.any() and not small_model(position="none").position.any()


def test_equal_parts_share_one_answer_and_its_gradient():
    """A part that is seen once but counts twice: as if it were computed twice."""
    wholes, parts = torch.randn(1, 3, MAP_SIDE, MAP_SIDE), torch.randn(2, 3, MAP_SIDE, MAP_SIDE)
    gradients = []
    for shown, whole_of_part, part_of_pair in (
        (parts, [0, 0], [0, 1, 0]),
        (parts[[0, 1, 0]], [0, 0, 0], [0, 1, 2]),
    ):
        model = small_model()
        randomize_output_layers(model, std=0.1)
        found = model(wholes, shown, torch.tensor(whole_of_part)).pick(torch.tensor(part_of_pair))
        weights = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
        (found.hypotheses.translation * weights).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_copy_of_a_part_is_found_where_it_was_pasted_and_in_its_size():
    torch.manual_seed(0)
    match = TemplateMatching(16)
    noise = torch.rand(1, 3, 24, 24)
    part = torch.ones(1, 3, 64, 64)
    part[:, :, 8:56, 8:56] = F.interpolate(noise, (48, 48))
    whole = torch.ones(1, 3, 64, 64)
    whole[:, :, 4 * 4 : 4 * 10, 4 * 8 : 4 * 14] = F.interpolate(part, (24, 24), mode="area")
    found = match(whole, part, torch.tensor([0]), proposals=3)
    assert 6 in match.sizes
    true = torch.tensor([(8 + 3) / 8 - 1, (4 + 3) / 8 - 1, math.log(6 / 16)])
    assert_close(match.positions[found.log_probability.argmax(1)][0], true)
    assert_close(found.proposals[0, 0], true, atol=0.05, rtol=0)
    assert found.log_weight[0, 0] > found.log_weight[0, 1] > found.log_weight[0, 2]
    assert found.log_weight.exp().sum() <= 1


def test_two_copies_are_two_proposals():
    torch.manual_seed(0)
    match, noise = TemplateMatching(16), torch.rand(1, 3, 24, 24)
    part = torch.ones(1, 3, 64, 64)
    part[:, :, 8:56, 8:56] = F.interpolate(noise, (48, 48))
    whole, copy = torch.ones(1, 3, 64, 64), F.interpolate(part, (24, 24), mode="area")
    whole[:, :, 4:28, 4:28], whole[:, :, 36:60, 36:60] = copy, copy
    found = match(whole, part, torch.tensor([0]), proposals=2).proposals[0, :, :2]
    expected = torch.tensor([[-0.5, -0.5], [0.5, 0.5]])
    assert_close(found[found[:, 0].argsort()], expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("brightness", [-1.0, 0.5])
def test_edges_are_the_same_whatever_the_contrast(brightness):
    picture = torch.zeros(1, 3, 16, 16)
    picture[:, :, :, 8:] = 1.0
    found = edges(picture)
    assert_close(found[0, :, 8, 7], torch.tensor([1.0, 1.0, 0.0]), atol=0.02, rtol=0)  # upright
    assert_close(found[0, :, 8, 2], torch.zeros(3))
    assert_close(edges(brightness * picture), found, atol=0.05, rtol=0)
    assert_close(edges(picture.mT)[0, :, 7, 8], torch.tensor([1.0, -1.0, 0.0]), atol=0.02, rtol=0)


def test_the_two_diagonals_are_different_edges():
    falling = (torch.ones(16, 16).triu() - 0.5).expand(1, 3, -1, -1)  # along down = right
    assert_close(edges(falling)[0, :, 8, 8], torch.tensor([1.0, 0.0, -1.0]), atol=0.02, rtol=0)
    rising = falling.flip(-1)
    assert_close(edges(rising)[0, :, 8, 7], torch.tensor([1.0, 0.0, 1.0]), atol=0.02, rtol=0)


def test_the_overlay_shows_the_part_where_it_was_proposed():
    torch.manual_seed(0)
    overlay = OverlayNet(8)
    shown = []
    overlay.layers.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    wholes, parts = torch.rand(1, 5, SIDE_PX, SIDE_PX), torch.rand(1, 5, SIDE_PX, SIDE_PX)
    same, half = [0.0, 0.0, 0.0], [0.5, -0.5, math.log(0.5)]  # whole frame; its upper right quarter
    depth = torch.tensor([[0.0], [0.25]])
    assert overlay(wholes, parts, torch.tensor([[same, half]]), depth).shape == (1, 2, 8)
    assert_close(shown[0][:, :3], wholes[:, :3].expand(2, -1, -1, -1))
    assert_close(shown[0][0, 3:6], parts[0, :3], atol=1e-5, rtol=0)
    quarter = F.avg_pool2d(parts[:, :3], 2)[0]
    middle = SIDE_PX // 2
    assert_close(shown[0][1, 3:6, :middle, middle:], quarter, atol=1e-5, rtol=0)
    inside = torch.zeros(SIDE_PX, SIDE_PX)
    inside[:middle, middle:] = 1
    assert_close(shown[0][1, 10], inside)
    differ = (shown[0][1, :3] - shown[0][1, 3:6]).abs() * shown[0][1, 9]
    assert_close(shown[0][1, 6:9], differ)
    assert shown[0][1, 9, middle:].max() == 0  # outside its own picture nothing is the part
    # The depth maps: the whole's from the part's middle, the part's as large as it is, and how
    # they differ.
    mask, around, own, beyond = shown[0][1, [9, 11, 12, 13]]
    assert_close(around, wholes[0, 3] - 0.25)
    rise = 0.5 * F.avg_pool2d(parts[:, 3:4], 2)[0, 0]
    assert_close(own[:middle, middle:], rise * mask[:middle, middle:], atol=1e-5, rtol=0)
    assert_close(beyond, around * mask - own)


def test_the_close_up_shows_the_part_with_a_margin_round_it():
    torch.manual_seed(0)
    closeup = CloseUpNet(8)
    shown = []
    closeup.layers.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    whole = torch.zeros(1, 3, 64, 64)
    whole[:, :, 16:32, 32:48] = 1  # centre at 0.25 right, -0.25 down; half side 0.25
    depths = torch.full((1, 2, SIDE_PX, SIDE_PX), 0.4)
    part, part_depths = torch.rand(1, 3, 64, 64), torch.rand(1, 2, SIDE_PX, SIDE_PX)
    places = torch.tensor([[[0.25, -0.25, math.log(0.25)], [0.25, -0.25, math.log(0.5)]]])
    look = closeup.look(whole, depths, part, part_depths, places)
    assert closeup(look, places, torch.tensor([[0.3], [0.3]])).shape == (1, 2, 8)
    # At its own size it fills the inside, 40 of 64 pixels; at twice the size half of it.
    for looked, side in zip(shown[0], (40, 20), strict=True):
        assert looked[0].sum().item() == pytest.approx(side**2, rel=0.05)
        assert looked[10].sum() == 40**2
    assert_close(shown[0][0, 3:6], shown[0][1, 3:6])
    # Depth counts in half sides of the part.
    assert_close(shown[0][:, 11, 0, 0], torch.tensor([0.1 / 0.25, 0.1 / 0.5]))


def test_the_close_up_is_as_sharp_as_its_pixels_are_small():
    """Stripes a pixel wide are seen where a small part is proposed, and are grey round a large one,
    as they are on the part, whose picture fills the frame."""
    stripes = (torch.arange(256) % 2).float().expand(1, 3, 256, 256)
    flat = torch.zeros(1, 2, SIDE_PX, SIDE_PX)
    places = torch.tensor([[[0.0, 0.0, math.log(size)] for size in (0.05, 0.25, 0.7)]])
    look = CloseUpNet(8).look(stripes, flat, stripes, flat, places)
    small, middling, large = look.whole
    assert small.max() - small.min() > 0.9 and middling.max() - middling.min() > 0.5
    assert_close(large, torch.full_like(large, 0.5), atol=1e-3, rtol=0)
    assert_close(look.part, torch.full_like(look.part, 0.5), atol=1e-3, rtol=0)


def test_before_it_learns_it_answers_with_the_prior_or_through_the_fitted_camera():
    model = small_model()
    model.center.copy_(torch.tensor([0.1, 0.2, 0.3, -1.0]))
    images = torch.randn(2, 3, MAP_SIDE, MAP_SIDE)
    pose = model(images[:1], images[1:], torch.tensor([0])).pose
    assert_close(pose.translation, torch.tensor([[0.1, 0.2, 0.3]]))
    assert_close(pose.scale, torch.tensor([[-1.0]]).exp())

    slope, offset = torch.tensor([[1.0, 0, 0], [0, 0, -1.0]]), torch.tensor([0.1, 0.0])
    assert not model.has_camera
    model.set_camera(PinholeCamera(slope, offset, torch.tensor(0.3), 1.0))
    assert model.has_camera
    place = torch.tensor([[0.3, -0.2, -0.5]])
    gt_pose = model.pinhole_camera.unproject(place, torch.tensor([[0.1]]))
    found = model(images[:1], images[1:], torch.tensor([0]), gt_pose)
    assert_close(model.project(found.gt_prediction), place)
    assert found.gt_prediction.translation[0, 1] != 0  # its depth map laid over that of the whole
    assert_close(model.pinhole_camera.forward, torch.tensor([0.0, 1.0, 0.0]))
    model.depth_net = None
    flat = model(images[:1], images[1:], torch.tensor([0]), gt_pose)
    assert_close(flat.gt_prediction.translation, torch.tensor([[0.2, 0.0, 0.2]]))
    assert found.depth_error is not None and flat.depth_error is None


def test_fewer_hypotheses_are_learned_from_than_are_answered():
    model = small_model(hypotheses=10)
    pictures = torch.randn(2, 1, 3, MAP_SIDE, MAP_SIDE)
    pair = *pictures, torch.zeros(1, dtype=torch.long)
    answered = model(*pair)
    learned = model.train()(*pair)
    assert answered.log_weight.shape == (1, 10) and learned.log_weight.shape == (1, 8)
    # The most probable places are proposed first, however many there are.
    assert_close(learned.proposals, answered.proposals[:, :8])


def test_guides_are_answered_beside_the_hypotheses_and_change_none_of_them():
    model = small_model()
    randomize_output_layers(model, std=1.0)
    wholes, parts = torch.randn(1, 3, MAP_SIDE, MAP_SIDE), torch.randn(2, 3, MAP_SIDE, MAP_SIDE)
    which = torch.tensor([0, 0])
    plain = model(wholes, parts, which)
    gt_pose = PartPose(torch.tensor([[0.1, 0.2, -0.1], [0.0, 0.0, -0.2]]), torch.full((2, 1), 0.3))
    gt_prediction = model(wholes, parts, which, gt_pose)
    assert plain.hypotheses.translation.shape == (2, 3, 3)
    assert_close(plain.log_weight.exp().sum(1), torch.ones(2))
    assert_close(plain.hypotheses.translation, gt_prediction.hypotheses.translation)
    assert_close(plain.log_weight, gt_prediction.log_weight)
    assert plain.gt_prediction is None
    assert gt_prediction.gt_prediction.translation.shape == (2, 3)


def test_the_answer_is_the_hypothesis_of_the_highest_share():
    poses = PartPose(torch.arange(12.0).view(2, 2, 3), torch.arange(1.0, 5.0).view(2, 2, 1))
    shares, odds = torch.tensor([[0.2, 0.8], [0.9, 0.1]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = Prediction(poses, shares.log(), odds)
    assert_close(found.pose.translation, torch.tensor([[3.0, 4, 5], [6, 7, 8]]))
    assert_close(found.pose.scale, torch.tensor([[2.0], [3.0]]))
    assert_close(found.best_confidence_logit, torch.tensor([2.0, 3.0]))
    assert_close(small_model().best_confidence(found), torch.tensor([2.0, 3.0]).sigmoid())


@pytest.mark.parametrize("match_size", [0, 8])
def test_how_sure_it_is_moves_nothing_else(match_size):
    model = small_model(match_size=match_size).train()
    randomize_output_layers(model, std=1.0)
    images = torch.randn(2, 3, MAP_SIDE, MAP_SIDE)
    found = model(images[:1], images[1:], torch.tensor([0]))
    assert found.confidence_logit.shape == found.log_weight.shape
    found.confidence_logit.sum().backward()
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert moved == {"sure.weight", "sure.bias"}
    assert model.confidence_head.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", [{}, {"match_size": 0}, {"cross_attention_layers": 0}])
def test_each_pair_is_answered_for_itself_whatever_shares_its_batch(changes):
    model = small_model(**changes)
    randomize_output_layers(model, std=1.0)
    wholes, parts = torch.randn(2, 3, MAP_SIDE, MAP_SIDE), torch.randn(3, 3, MAP_SIDE, MAP_SIDE)
    together = model(wholes, parts, torch.tensor([0, 1, 1])).pose
    for i, whole in enumerate([0, 1, 1]):
        alone = model(wholes[whole, None], parts[i, None], torch.tensor([0])).pose
        assert_close(together.translation[i], alone.translation[0], atol=1e-5, rtol=1e-4)
        assert_close(together.scale[i], alone.scale[0], atol=1e-5, rtol=1e-4)
    assert (together.scale > 0).all()


def test_a_scale_near_zero_stays_positive_and_keeps_a_finite_gradient():
    model = small_model(match_size=0)
    with torch.no_grad():
        model.pose_head.output.bias[3] = -50.0
    images = torch.randn(2, 3, MAP_SIDE, MAP_SIDE)
    scale = model(images[:1], images[1:], torch.tensor([0])).pose.scale
    scale.log().sum().backward()
    assert 0 < scale.item() < 1e-2
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_an_answer_lies_in_the_whole_but_learns_from_beyond_it():
    model = small_model()
    raw = torch.tensor([[[0.9, -0.6, 0.2, 0.4]]], requires_grad=True)
    translation, scale = model._pose(raw)
    assert_close(translation, torch.tensor([[[0.5, -0.5, 0.2]]]))
    assert scale.item() == 1
    translation, scale = model.train()._pose(raw)
    assert_close(translation, raw[..., :3])
    (translation.sum() + scale.sum()).backward()
    assert (raw.grad > 0).all()


def test_half_precision_is_the_encoders_alone():
    """Transforms and distances have no bf16; three digits of a feature are enough."""
    model = small_model()
    images = torch.rand(2, 3, MAP_SIDE, MAP_SIDE)
    exact = model.encode(images)
    rough = model.encode(images, torch.bfloat16)
    assert all(field.dtype == torch.float32 for field in rough)
    assert torch.equal(rough.image, exact.image)
    assert not torch.equal(rough.patches, exact.patches)
    assert (rough.patches - exact.patches).norm() < 0.02 * exact.patches.norm()
    model(images, images, torch.arange(2), None, torch.bfloat16).pose.scale.sum().backward()
