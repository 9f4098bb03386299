"""The network as a whole, with both methods: encoding, cross-attention, confidence."""

import pytest
import torch
from torch.testing import assert_close
from toys import make_small_model, randomize_output_layers

from partloc.data.transforms import Preprocessing, crop_jitter_from_uniform
from partloc.model.build import build_locator
from partloc.model.crop import content_crops
from partloc.model.proposals import ProposalLocator
from partloc.model.regression import DirectRegression

METHODS = {0: DirectRegression, 8: ProposalLocator}  # by match_size
PARAMETER_ORDER = (
    "token_gate",
    "encoder.backbone",
    "projection",
    "cross_attention.layers",
    "cross_attention.output",
    "template_matching",
    "depth_net",
    "overlay",
    "close_up",
    "position_decoder",
    "pose_head",
    "confidence_head",
)


def random_images(count: int) -> torch.Tensor:
    """(count, 3, 56, 56)."""
    return torch.randn(count, 3, 56, 56)


@pytest.mark.parametrize(("match_size", "method"), METHODS.items())
def test_match_size_chooses_the_method(match_size, method):
    config = make_small_model(match_size=match_size).config
    assert type(build_locator(config, Preprocessing(56))) is method


def test_the_order_of_the_parameters_is_fixed():
    """It determines the random initialisation and the rounding of the gradient's norm."""
    names = [name for name, _ in make_small_model().named_parameters()]
    prefixes = [next(p for p in PARAMETER_ORDER if name.startswith(p)) for name in names]
    assert tuple(dict.fromkeys(prefixes)) == PARAMETER_ORDER
    assert prefixes == sorted(prefixes, key=PARAMETER_ORDER.index)


@pytest.mark.parametrize("match_size", METHODS)
def test_encoded_images_have_the_announced_shapes(match_size):
    model = make_small_model(match_size=match_size)
    encoded = model.encode(random_images(2))
    assert [field.shape[1:] for field in encoded] == list(model.encoded_shapes)


@pytest.mark.parametrize("match_size", METHODS)
def test_images_and_encoded_images_give_equal_predictions(match_size):
    model = make_small_model(match_size=match_size)
    randomize_output_layers(model)
    images, whole_of_part = random_images(3), torch.tensor([0, 0])
    expected = model(images[:1], images[1:], whole_of_part)
    encoded = model.encode(images)
    wholes, parts = encoded.select(torch.tensor([0])), encoded.select(torch.tensor([1, 2]))
    prediction = model(wholes, parts, whole_of_part)
    assert_close(prediction.hypotheses, expected.hypotheses)
    assert_close(prediction.log_weight, expected.log_weight)


def test_crops_are_jittered_only_on_request():
    torch.manual_seed(0)
    images = torch.ones(2, 3, 128, 128)
    images[0, :, 48:80, 32:96] = torch.rand(3, 32, 64)
    images[1, :, 50:80, 20:68] = 0.2
    model = make_small_model()
    tight = model.encode(images).crop
    assert_close(tight, content_crops(images))
    jitters = [crop_jitter_from_uniform(torch.rand(len(images), 4), 0.3) for _ in range(8)]
    crops = torch.stack([model.encode(images, jitter=jitter).crop for jitter in jitters])
    assert (crops[..., 2] >= tight[:, 2] - 1e-6).all() and (crops != tight).any((0, 2)).all()


def test_only_the_backbone_runs_in_half_precision():
    """Fourier transforms and distances are not computed in bfloat16."""
    model = make_small_model()
    images = torch.rand(2, 3, 56, 56)
    exact = model.encode(images)
    rounded = model.encode(images, torch.bfloat16)
    assert all(field.dtype == torch.float32 for field in rounded)
    assert torch.equal(rounded.image, exact.image)
    assert not torch.equal(rounded.tokens, exact.tokens)
    assert (rounded.tokens - exact.tokens).norm() < 0.02 * exact.tokens.norm()
    model(images, images, torch.arange(2), None, torch.bfloat16).pose.scale.sum().backward()


@pytest.mark.parametrize("match_size", METHODS)
def test_the_confidence_loss_trains_only_the_confidence_head(match_size):
    model = make_small_model(match_size=match_size).train()
    randomize_output_layers(model, std=1.0)
    images = random_images(2)
    prediction = model(images[:1], images[1:], torch.tensor([0]))
    assert prediction.confidence_logit.shape == prediction.log_weight.shape
    prediction.confidence_logit.sum().backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {"confidence_head.linear.weight", "confidence_head.linear.bias"}
    assert model.confidence_head.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", [{}, {"match_size": 0}, {"cross_attention_layers": 0}])
def test_a_prediction_does_not_depend_on_the_rest_of_its_batch(changes):
    model = make_small_model(**changes)
    randomize_output_layers(model, std=1.0)
    wholes, parts = random_images(2), random_images(3)
    together = model(wholes, parts, torch.tensor([0, 1, 1])).pose
    for i, whole in enumerate([0, 1, 1]):
        alone = model(wholes[whole, None], parts[i, None], torch.tensor([0])).pose
        assert_close(together.translation[i], alone.translation[0], atol=1e-5, rtol=1e-4)
        assert_close(together.scale[i], alone.scale[0], atol=1e-5, rtol=1e-4)
    assert (together.scale > 0).all()
