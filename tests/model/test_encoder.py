"""Images are cropped, encoded and pooled; encoded images can be selected and rounded."""

import torch
from torch.nn import functional as F
from torch.testing import assert_close
from toys import tiny_config

from partloc.data.transforms import Preprocessing
from partloc.model.attention import TokenPool
from partloc.model.crop import resample_crops
from partloc.model.encoder import (
    UNIT_CHANNELS,
    EncodedImages,
    ImageEncoder,
    TokenProjection,
)


def make_encoder(downsample_size: int) -> ImageEncoder:
    """An untrained encoder for images of 56 pixels, 4 x 4 patches."""
    torch.manual_seed(0)
    config = tiny_config(model={"downsample_size": downsample_size}).model
    return ImageEncoder(config, Preprocessing(56, 64)).eval()


def test_tokens_are_those_of_the_crop_pooled():
    encoder = make_encoder(downsample_size=2)
    images, crops = torch.rand(2, 3, 64, 64), torch.tensor([[0.2, -0.1, -0.5], [0.0, 0.0, 0.0]])
    tokens = encoder(images, crops)
    assert tokens.shape == (2, 2 * 2, encoder.backbone.embed_dim)
    _, patches = encoder.backbone(resample_crops(images, crops, 56))
    assert_close(tokens, TokenPool(4, 2)(patches))


def test_there_are_at_most_as_many_tokens_as_patches():
    encoder = make_encoder(downsample_size=32)
    assert encoder.tokens_per_side == 4
    assert encoder(torch.rand(1, 3, 64, 64), torch.zeros(1, 3)).shape[1] == 4 * 4


def test_padding_with_background_changes_only_the_crop():
    """The same content in an image of twice the size gives the same tokens."""
    torch.manual_seed(0)
    encoder, image = make_encoder(downsample_size=4), torch.ones(1, 3, 64, 64)
    image[:, :, 20:44, 16:48] = torch.rand(1, 3, 24, 32)
    padded = F.pad(image, (32,) * 4, value=1.0)
    crops = encoder.find_crops(image), encoder.find_crops(padded)
    assert_close(crops[0][:, 2].exp(), 2 * crops[1][:, 2].exp(), atol=0.01, rtol=0)
    cropped = resample_crops(image, crops[0], 56), resample_crops(padded, crops[1], 56)
    assert_close(*cropped, atol=0.05, rtol=0)
    tokens, tokens_padded = encoder(image, crops[0]), encoder(padded, crops[1])
    assert_close(tokens, tokens_padded, atol=0.05, rtol=0.05)


def test_encoded_images_are_selected_and_rounded_field_by_field():
    torch.manual_seed(0)
    encoded = EncodedImages(*torch.rand(4, 3, 4))
    selected = encoded.select(torch.tensor([2, 0, 2]))
    for field, original in zip(selected, encoded, strict=True):
        assert torch.equal(field, original[[2, 0, 2]])
    for field, original in zip(encoded.compact().float(), encoded, strict=True):
        assert field.dtype == torch.float32
        assert_close(field, original, rtol=2**-8, atol=0)
    assert encoded.compact().tokens.dtype == torch.bfloat16
    assert encoded.compact().image.dtype == torch.float16


def test_the_projection_starts_as_principal_components_of_training_tokens():
    torch.manual_seed(0)
    mixing = torch.randn(24, 24)
    samples = torch.randn(4000, 24) @ mixing + torch.randn(24)
    projection = TokenProjection(24, 20)
    projection.fit(samples)
    projected = projection(samples)
    assert_close(projected.mean(0), torch.zeros(20), atol=1e-3, rtol=0)
    covariance = projected.T.cov()
    variance = covariance.diagonal()
    assert_close(covariance, variance.diag(), atol=1e-3, rtol=0)
    assert (variance.diff() <= 1e-4).all()
    assert_close(variance[:UNIT_CHANNELS].mean(), torch.tensor(1.0), atol=1e-3, rtol=0)
    # Most of the distances between tokens is kept.
    kept = torch.pdist(projected[:100]) / torch.pdist(samples[:100])
    assert kept.std() < 0.05 * kept.mean()


def test_equal_samples_give_equal_projections_and_missing_channels_are_zero():
    samples = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    first, second = TokenProjection(6, 8), TokenProjection(6, 8)
    first.fit(samples)
    second.fit(samples.flip(0))
    assert_close(first.weight, second.weight, atol=1e-5, rtol=0)
    assert not first(samples)[:, 6:].any()
