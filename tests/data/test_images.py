"""Any picture becomes 8-bit upright RGB, or one error that says why not."""

import io
import warnings

import numpy as np
import pytest
from folders import huge_png, make_image
from PIL import Image, ImageFile, ImageOps

from partloc.data.images import ImageError, load_rgb, open_rgb
from partloc.data.transforms import Preprocessing
from partloc.data.twins import group_twins, make_thumbnail, thumbnail_difference


def as_bytes(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, int, int]:
    image = open_rgb(data, "image")
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def test_a_clear_pixel_is_white_and_a_half_clear_one_half_white():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 128))
    assert pixel(as_bytes(image)) == (255, 255, 255)
    assert pixel(as_bytes(image), 1) == pytest.approx((227, 127, 127), abs=1)


def test_what_is_decoded_and_resized_is_what_plain_pillow_gives():
    """Starting weights and unfinished trainings have seen these pixels: none may change."""
    values = np.random.default_rng(0).integers(0, 256, (90, 70, 4), dtype=np.uint8)
    clear = Image.fromarray(values)
    turned = Image.Exif()
    turned[0x0112] = 6
    for image, options in (
        (clear, {}),
        (clear.convert("RGB"), {}),
        (clear.convert("RGB"), {"exif": turned}),
        (clear.convert("L"), {}),
        (clear.convert("LA"), {}),
        (clear.convert("RGB").quantize(16), {"transparency": 3}),
    ):
        data = as_bytes(image, **options)
        plain = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA")
        plain = Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain)
        plain = plain.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        found = Preprocessing(32).resize(open_rgb(data, "image")).permute(1, 2, 0)
        assert np.array_equal(found, plain)


def test_every_shade_of_every_alpha_lies_on_white_as_pillow_composes_it():
    shade, alpha = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2)
    image = Image.fromarray(np.stack([shade, shade, shade, alpha], -1))
    plain = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    assert np.array_equal(open_rgb(as_bytes(image), "image"), plain)


def test_an_upright_rgb_picture_is_not_copied_after_its_decode(monkeypatch):
    data = as_bytes(Image.new("RGB", (4, 4), "red"))
    monkeypatch.setattr(Image.Image, "copy", lambda image: pytest.fail("a copy of a large picture"))
    assert open_rgb(data, "image").size == (4, 4)


def test_grey_with_alpha_lies_on_white():
    assert pixel(as_bytes(Image.new("LA", (1, 1), (0, 0)))) == (255, 255, 255)


def test_the_clear_colour_of_a_palette_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = as_bytes(image, transparency=0)
    assert pixel(data) == (255, 255, 255)
    assert pixel(data, 1) == (40, 50, 60)


def test_a_palette_whose_colours_each_have_an_alpha_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = as_bytes(image, transparency=bytes([0, 255]))
    assert [pixel(data), pixel(data, 1)] == [(255, 255, 255), (40, 50, 60)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_shades(kind):
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    image = open_rgb(as_bytes(Image.fromarray(values), kind), "image")
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_32_bit_grey_within_16_bit_is_read_and_beyond_is_refused():
    values = np.array([[0, 65535]], np.int32)
    assert pixel(as_bytes(Image.fromarray(values), "TIFF"), 1) == (255, 255, 255)
    with pytest.raises(ImageError, match="expected 0 to 65535"):
        open_rgb(as_bytes(Image.fromarray(values + 5), "TIFF"), "image")


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK"])
def test_other_modes_become_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    white = Image.new("RGB", (2, 2), "white").convert(mode)
    assert pixel(as_bytes(white, kind)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_camera_that_was_held_sideways_gives_an_upright_image(kind):
    image = Image.new("RGB", (16, 8), "white")
    image.paste("black", (0, 0, 8, 8))  # black on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise: left becomes top
    upright = open_rgb(as_bytes(image, kind, exif=exif), "image")
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2)) < (60, 60, 60) < upright.getpixel((4, 13))


def test_a_sideways_16_bit_image_is_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = as_bytes(Image.fromarray(np.zeros((4, 8), np.uint16)), exif=exif)
    assert open_rgb(data, "image").size == (4, 8)


@pytest.mark.parametrize("width, height", [(9000, 9000), (60_000, 60_000)])
def test_a_huge_image_is_refused_before_it_is_decoded_and_without_a_warning(width, height):
    pixels = f"{width} x {height} = {width * height:,} pixels, the limit is 64,000,000"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=f"^huge.png: {pixels}$") as caught:
            open_rgb(huge_png(width, height), "huge.png")
    assert caught.value.reason == "oversized image"


def test_our_limit_alone_counts(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's would refuse 100 pixels
    data = as_bytes(Image.new("RGB", (10, 10)))
    assert open_rgb(data, "image", max_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match="the limit is 99"):
        open_rgb(data, "image", max_pixels=99)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.95, 0.999])
def test_a_file_that_was_cut_off_is_refused_wherever_it_was_cut(kept):
    data = as_bytes(Image.effect_noise((64, 64), 50).convert("RGB"))
    with pytest.raises(ImageError, match="^cut.png: ") as caught:
        open_rgb(data[: int(len(data) * kept)], "cut.png")
    assert caught.value.reason == "truncated image"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_cut_jpeg_is_refused():
    data = as_bytes(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    with pytest.raises(ImageError) as caught:
        open_rgb(data[: len(data) // 2], "cut.jpg")
    assert caught.value.reason == "truncated image"


def test_every_error_names_the_file(tmp_path):
    bad = tmp_path / "bad.png"
    for content, why in ((b"", "empty"), (b"text", "not an image of PNG")):
        bad.write_bytes(content)
        with pytest.raises(ImageError, match=why) as caught:
            load_rgb(bad)
        assert str(bad) in str(caught.value)
        assert caught.value.reason == "unreadable image"
    with pytest.raises(ImageError, match="No such file"):
        load_rgb(tmp_path / "none.png")
    with pytest.raises(ImageError, match="directory"):
        load_rgb(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_the_content_tells_the_format_not_the_name(tmp_path, kind):
    path = tmp_path / "image.png"
    path.write_bytes(as_bytes(Image.new("RGB", (8, 8), "red"), kind))
    assert load_rgb(path).getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=3)


def noisy(image: Image.Image, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-2, 3, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def test_the_same_picture_with_noise_is_near_and_a_thinner_bar_is_far():
    bar, thinner = (Image.new("RGB", (128, 128), "white") for _ in range(2))
    bar.paste("gray", (60, 8, 66, 120))
    thinner.paste("gray", (60, 8, 64, 120))
    assert thumbnail_difference(make_thumbnail(bar), make_thumbnail(bar)) == 0
    assert thumbnail_difference(make_thumbnail(bar), make_thumbnail(noisy(bar, 1))) < 0.015
    assert thumbnail_difference(make_thumbnail(bar), make_thumbnail(thinner)) > 0.1


def test_a_chain_of_small_steps_does_not_join_its_ends():
    shades = {}
    for step in range(4):
        image = Image.new("RGB", (64, 64), "white")
        image.paste((100 + 3 * step,) * 3, (16, 16, 48, 48))
        shades[f"part-{step}"] = make_thumbnail(image)
    groups = group_twins(shades, tolerance=0.02)  # a step is 0.012
    assert list(groups.values()) == ["part-0", "part-0", "part-2", "part-2"]


def test_twins_are_named_after_the_first_whatever_the_order():
    pictures = {name: make_thumbnail(make_image(name[0])) for name in ("b2", "a2", "b1", "a1")}
    expected = {"a1": "a1", "a2": "a1", "b1": "b1", "b2": "b1"}
    assert group_twins(pictures, 0.015) == expected
    assert group_twins(dict(reversed(pictures.items())), 0.015) == expected


def test_two_blank_pictures_are_alike_and_black_is_not_white():
    white, black = (make_thumbnail(Image.new("RGB", (9, 9), c)) for c in ("white", "black"))
    assert thumbnail_difference(white, white) == 0
    assert thumbnail_difference(white, black) == 1
