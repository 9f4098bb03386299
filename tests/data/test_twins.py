"""Twins are parts with nearly equal images."""

import numpy as np
from folders import make_image
from PIL import Image

from partloc.data.twins import group_twins, make_thumbnail, thumbnail_difference


def add_noise(image: Image.Image, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-2, 3, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def test_noise_makes_a_small_difference_and_a_thinner_bar_a_large_one():
    bar, thinner = (Image.new("RGB", (128, 128), "white") for _ in range(2))
    bar.paste("gray", (60, 8, 66, 120))
    thinner.paste("gray", (60, 8, 64, 120))
    thumbnail = make_thumbnail(bar)
    assert thumbnail_difference(thumbnail, thumbnail) == 0
    assert thumbnail_difference(thumbnail, make_thumbnail(add_noise(bar, 1))) < 0.015
    assert thumbnail_difference(thumbnail, make_thumbnail(thinner)) > 0.1


def test_a_chain_of_small_differences_does_not_join_its_ends():
    thumbnails = {}
    for step in range(4):
        image = Image.new("RGB", (64, 64), "white")
        image.paste((100 + 3 * step,) * 3, (16, 16, 48, 48))
        thumbnails[f"part-{step}"] = make_thumbnail(image)
    groups = group_twins(thumbnails, tolerance=0.02)  # consecutive parts differ by 0.012
    assert list(groups.values()) == ["part-0", "part-0", "part-2", "part-2"]


def test_groups_are_named_after_their_first_member_in_any_order():
    thumbnails = {name: make_thumbnail(make_image(name[0])) for name in ("b2", "a2", "b1", "a1")}
    expected = {"a1": "a1", "a2": "a1", "b1": "b1", "b2": "b1"}
    assert group_twins(thumbnails, 0.015) == expected
    assert group_twins(dict(reversed(thumbnails.items())), 0.015) == expected


def test_blank_images_differ_only_in_colour():
    white, black = (make_thumbnail(Image.new("RGB", (9, 9), c)) for c in ("white", "black"))
    assert thumbnail_difference(white, white) == 0
    assert thumbnail_difference(white, black) == 1
