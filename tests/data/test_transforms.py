"""Every image is resized and normalised in the same way; augmentation changes colours only."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from partloc.data.transforms import (
    COLOR_CHANGES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    Preprocessing,
)

# Settings that disable a kind of change; the other kinds keep the strength of "strong".
NO_COLOR_CHANGE = {"color_jitter": 0.0, "hue": 0.0, "gray_probability": 0.0}
NO_BLUR_OR_NOISE = {"blur_probability": 0.0, "noise_std": 0.0}
NO_CHANGE = NO_COLOR_CHANGE | NO_BLUR_OR_NOISE
LUMA_WEIGHTS = torch.tensor([0.299, 0.587, 0.114])


def make_augmentation(settings: dict) -> Augmentation:
    return Augmentation(COLOR_CHANGES["strong"]._replace(**settings))


def uniform_images(*colors, side=32):
    """Images of one colour each, (I, 3, side, side) uint8."""
    return torch.tensor(colors, dtype=torch.uint8)[:, :, None, None].repeat(1, 1, side, side)


# -- preprocessing -----------------------------------------------------------------------------


def test_an_image_becomes_a_square_normalised_as_on_imagenet():
    image = Image.new("RGB", (90, 40), (255, 0, 51))
    pixels = Preprocessing(28)(image)
    assert pixels.shape == (3, 28, 28) and pixels.dtype == torch.float32
    for channel, value in enumerate((1.0, 0.0, 0.2)):
        expected = (value - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert_close(pixels[channel], torch.full((28, 28), expected))


def test_resizing_preserves_relative_positions():
    pixels = np.zeros((400, 200, 3), np.uint8)
    pixels[:100, 100:] = 255  # the top quarter of the right half
    resized = Preprocessing(32).resize(Image.fromarray(pixels)).float() / 255
    assert resized[:, :7, 17:].min() > 0.99
    assert resized[:, 9:].max() < 0.01 and resized[:, :, :15].max() < 0.01


# -- color changes, shared by images with the same color seed ----------------------------------


def test_equal_colours_stay_equal_in_images_with_the_same_color_seed():
    """Even if one image is mostly white and the other is not."""
    images = uniform_images((250, 250, 250), (200, 60, 30))
    images[0, :, 8:12, 8:12] = images[1, :, :4, :4]
    augmentation = make_augmentation({"gray_probability": 0.0} | NO_BLUR_OR_NOISE)
    num_changed = 0
    for seed in range(20):
        whole, part = augmentation(images, (seed, seed), (seed, seed + 1))
        assert_close(whole[:, 9, 9], part[:, 9, 9])
        num_changed += not torch.allclose(part, images[1] / 255, atol=0.02)
    assert num_changed >= 18


@pytest.mark.parametrize("strength", [{"hue": 0.1}, {"color_jitter": 0.1}])
def test_hue_and_saturation_change_the_colour_but_not_the_luma(strength):
    augmentation = make_augmentation(NO_CHANGE | strength)
    color = torch.tensor([0.6, 0.4, 0.3])
    # The matrix applies hue and saturation; gain and offset apply brightness and contrast.
    colors = torch.stack(
        [augmentation._sample_color_transform(seed)[0] @ color for seed in range(9)]
    )
    assert_close(colors @ LUMA_WEIGHTS, (LUMA_WEIGHTS @ color).expand(9), atol=1e-3, rtol=0)
    assert (colors - colors[0]).abs().amax() > 0.01


def test_the_hue_rotates_up_to_the_opposite_colour():
    augmentation = make_augmentation(NO_CHANGE | {"hue": 0.5})
    color = torch.tensor([120.0, 100.0, 90.0])
    opposite = 2 * color @ LUMA_WEIGHTS - color
    images = uniform_images(color.tolist()).repeat(200, 1, 1, 1)
    augmented = 255 * augmentation(images, range(200), range(200))[:, :, 0, 0]
    assert (augmented - opposite).abs().amax(1).min() < 1


def test_images_with_the_same_color_seed_become_grey_together():
    images = uniform_images((200, 60, 30), (10, 220, 90))
    augmentation = make_augmentation(NO_CHANGE | {"gray_probability": 0.5})
    is_gray = [
        [bool((image[0] == image[1]).all()) for image in augmentation(images, (seed, seed), (0, 1))]
        for seed in range(20)
    ]
    assert {tuple(pair) for pair in is_gray} == {(True, True), (False, False)}


# -- noise and blur, independent with different noise seeds ------------------------------------


def test_images_with_different_noise_seeds_have_independent_noise():
    images = uniform_images((128, 128, 128), (128, 128, 128))
    whole, part = make_augmentation(NO_CHANGE | {"noise_std": 0.1})(images, (0, 0), (1, 2))
    whole_noise, part_noise = whole - 128 / 255, part - 128 / 255
    assert whole_noise.std() > 0.005 and part_noise.std() > 0.005
    correlation = (whole_noise * part_noise).mean() / (whole_noise.std() * part_noise.std())
    assert abs(correlation) < 0.1


def test_images_with_different_noise_seeds_are_blurred_independently():
    images = uniform_images((0, 0, 0), (0, 0, 0))
    images[:, :, 10:20, 10:20] = 255
    augmentation = make_augmentation(NO_CHANGE | {"blur_probability": 0.5})
    is_blurred = set()
    for seed in range(20):
        augmented = augmentation(images, (0, 0), (seed, seed + 100))
        is_blurred.add(tuple(bool(((i > 0.1) & (i < 0.9)).any()) for i in augmented))
    assert len(is_blurred) == 4


# -- all changes -------------------------------------------------------------------------------


def test_augmentation_does_not_move_content():
    images = uniform_images((255, 255, 255), (255, 255, 255))
    images[:, :, 5:12, 18:29] = uniform_images((30, 60, 90))[..., :7, :11]
    square = torch.zeros(32, 32, dtype=torch.bool)
    square[5:12, 18:29] = True
    augmentation = make_augmentation({"blur_probability": 0.5, "gray_probability": 0.5})
    for seed in range(30):
        for image in augmentation(images, (seed, seed), (seed, seed + 1)):
            intensity = image.mean(0)
            is_dark = intensity < (intensity[0, 0] + intensity[8, 23]) / 2
            assert (is_dark != square).float().mean() < 0.01


def test_augmentation_does_not_use_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    make_augmentation({})(uniform_images((1, 2, 3)), (0,), (1,))
    assert torch.equal(torch.get_rng_state(), before)
