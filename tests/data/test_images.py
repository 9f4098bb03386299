"""Image files are decoded to upright 8-bit RGB, or raise an ImageError that names the problem."""

import io
import os
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from folders import huge_png, png_header, png_of_chunks, png_without_palette
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from partloc.data.images import ImageError, load_rgb, open_rgb
from partloc.data.transforms import Preprocessing


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode_pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, int, int]:
    """The color of one pixel of an encoded image."""
    image = open_rgb(data, "image")
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def test_transparency_is_composited_on_white():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 128))
    assert decode_pixel(encode(image)) == (255, 255, 255)
    assert decode_pixel(encode(image), 1) == pytest.approx((227, 127, 127), abs=1)


def test_decoding_and_resizing_equal_plain_pillow():
    """Pretrained weights and interrupted trainings depend on these pixel values."""
    values = np.random.default_rng(0).integers(0, 256, (90, 70, 4), dtype=np.uint8)
    rgba = Image.fromarray(values)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    for image, options in (
        (rgba, {}),
        (rgba.convert("RGB"), {}),
        (rgba.convert("RGB"), {"exif": rotated}),
        (rgba.convert("L"), {}),
        (rgba.convert("LA"), {}),
        (rgba.convert("RGB").quantize(16), {"transparency": 3}),
    ):
        data = encode(image, **options)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA")
        expected = Image.alpha_composite(Image.new("RGBA", expected.size, "white"), expected)
        expected = expected.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        resized = Preprocessing(32).resize(open_rgb(data, "image")).permute(1, 2, 0)
        assert np.array_equal(resized, expected)


def test_compositing_equals_pillow_for_every_shade_and_alpha():
    shade, alpha = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2)
    image = Image.fromarray(np.stack([shade, shade, shade, alpha], -1))
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    assert np.array_equal(open_rgb(encode(image), "image"), expected)


def test_an_upright_rgb_image_is_not_copied_after_decoding(monkeypatch):
    data = encode(Image.new("RGB", (4, 4), "red"))
    monkeypatch.setattr(Image.Image, "copy", lambda image: pytest.fail("the image was copied"))
    assert open_rgb(data, "image").size == (4, 4)


def test_transparent_grey_is_composited_on_white():
    assert decode_pixel(encode(Image.new("LA", (1, 1), (0, 0)))) == (255, 255, 255)


def test_the_transparent_palette_colour_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = encode(image, transparency=0)
    assert decode_pixel(data) == (255, 255, 255)
    assert decode_pixel(data, 1) == (40, 50, 60)


def test_a_palette_with_alpha_is_composited_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = encode(image, transparency=bytes([0, 255]))
    assert [decode_pixel(data), decode_pixel(data, 1)] == [(255, 255, 255), (40, 50, 60)]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_to_8_bits(file_format):
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    image = open_rgb(encode(Image.fromarray(values), file_format), "image")
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_32_bit_grey_is_accepted_only_within_the_16_bit_range():
    values = np.array([[0, 65535]], np.int32)
    assert decode_pixel(encode(Image.fromarray(values), "TIFF"), 1) == (255, 255, 255)
    with pytest.raises(ImageError, match="expected 0 to 65535"):
        open_rgb(encode(Image.fromarray(values + 5), "TIFF"), "image")


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK"])
def test_other_modes_are_converted_to_rgb(mode):
    file_format = "TIFF" if mode == "CMYK" else "PNG"
    white = Image.new("RGB", (2, 2), "white").convert(mode)
    assert decode_pixel(encode(white, file_format)) == (255, 255, 255)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(file_format):
    image = Image.new("RGB", (16, 8), "white")
    image.paste("black", (0, 0, 8, 8))  # black on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise: left becomes top
    upright = open_rgb(encode(image, file_format, exif=exif), "image")
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2)) < (60, 60, 60) < upright.getpixel((4, 13))


def test_exif_orientation_is_applied_to_16_bit_images():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(np.zeros((4, 8), np.uint16)), exif=exif)
    assert open_rgb(data, "image").size == (4, 8)


@pytest.mark.parametrize("width, height", [(9000, 9000), (60_000, 60_000)])
def test_an_oversized_image_is_rejected_before_decoding_without_a_warning(width, height):
    pixels = f"{width} x {height} = {width * height:,} pixels, the limit is 64,000,000"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=f"^huge.png: {pixels}$") as caught:
            open_rgb(huge_png(width, height), "huge.png")
    assert caught.value.reason == "oversized image"


def test_only_max_pixels_limits_the_size(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow would reject 100 pixels
    data = encode(Image.new("RGB", (10, 10)))
    assert open_rgb(data, "image", max_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match="the limit is 99"):
        open_rgb(data, "image", max_pixels=99)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.7, 0.95, 0.999])
def test_a_png_truncated_anywhere_is_rejected(fraction):
    data = encode(Image.effect_noise((64, 64), 50).convert("RGB"))
    with pytest.raises(ImageError, match="^cut.png: ") as caught:
        open_rgb(data[: int(len(data) * fraction)], "cut.png")
    assert caught.value.reason == "truncated image"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_truncated_jpeg_is_rejected():
    data = encode(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    with pytest.raises(ImageError) as caught:
        open_rgb(data[: len(data) // 2], "cut.jpg")
    assert caught.value.reason == "truncated image"


def test_error_messages_name_the_file(tmp_path):
    bad = tmp_path / "bad.png"
    for content, message in ((b"", "empty"), (b"text", "not an image of PNG")):
        bad.write_bytes(content)
        with pytest.raises(ImageError, match=message) as caught:
            load_rgb(bad)
        assert str(bad) in str(caught.value)
        assert caught.value.reason == "unreadable image"
    with pytest.raises(ImageError, match="No such file"):
        load_rgb(tmp_path / "none.png")
    with pytest.raises(ImageError, match="directory"):
        load_rgb(tmp_path)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_the_format_is_detected_from_the_content(tmp_path, file_format):
    path = tmp_path / "image.png"
    path.write_bytes(encode(Image.new("RGB", (8, 8), "red"), file_format))
    assert load_rgb(path).getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=3)


# -- damaged, unusual and large files ----------------------------------------------------------


def png_with_key(bits: int, color_type: int, key: int | tuple, pixels: list) -> bytes:
    """A PNG of one row. pixels: samples of `bits` bits; key: the transparent one."""
    samples = np.array(pixels).ravel()
    row = "".join(f"{value:0{bits}b}" for value in samples)
    row = int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big")
    transparent = b"".join(value.to_bytes(2, "big") for value in np.atleast_1d(key).tolist())
    return png_of_chunks(
        png_header(len(pixels), 1, bits, color_type),
        (b"tRNS", transparent),
        (b"IDAT", zlib.compress(b"\0" + row)),
    )


@pytest.mark.parametrize(
    ("bits", "key", "other", "level"),
    [(1, 1, 0, 0), (2, 1, 2, 170), (4, 8, 7, 119), (8, 128, 127, 127), (16, 32768, 32512, 127)],
)
def test_the_transparent_grey_is_white_at_every_bit_depth(bits, key, other, level):
    data = png_with_key(bits, 0, key, [key, other])
    assert decode_pixel(data) == (255, 255, 255)
    assert decode_pixel(data, 1) == (level, level, level)


def test_the_transparent_colour_is_white_and_its_neighbours_are_not():
    """At 16 bits, also a colour that differs in the lower byte only."""
    key = (21845, 32767, 16383)
    for near in ((21846, 32767, 16383), (21845, 32767, 16382)):
        data = png_with_key(16, 2, key, [key, near])
        assert decode_pixel(data) == (255, 255, 255)
        assert decode_pixel(data, 1) == (85, 127, 63)
    data = png_with_key(8, 2, (10, 20, 30), [(10, 20, 30), (10, 20, 31)])
    assert [decode_pixel(data), decode_pixel(data, 1)] == [(255,) * 3, (10, 20, 31)]


def test_large_and_damaged_metadata_do_not_matter():
    image = Image.effect_noise((16, 16), 50).convert("RGB")
    expected = np.asarray(image)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a" * 2_000_000, zip=True)
    data = encode(image, pnginfo=info)
    profile = encode(image, icc_profile=bytes(3_000_000))
    damaged = bytearray(encode(image, pnginfo=info))
    damaged[damaged.index(b"zTXt") + 20] ^= 1
    end = encode(image)[:-12] + b"\0\0\0\4teXtabcd\0\0\0\0" + encode(image)[-12:]
    for content in (data, profile, bytes(damaged), end):
        assert np.array_equal(open_rgb(content, "image"), expected)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_only_the_orientation_of_the_exif_data_matters(file_format):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 12345.5
    image = Image.new("RGB", (16, 8), "white")
    image.paste("black", (0, 0, 8, 8))
    data = encode(image, file_format, exif=exif)
    for order in ("<", ">"):
        data = data.replace(struct.pack(f"{order}II", 24691, 2), struct.pack(f"{order}iI", -1, 0))
    if file_format == "PNG":
        start = data.index(b"eXIf")
        content = data[start : data.index(b"IDAT") - 8]
        checksum = zlib.crc32(content).to_bytes(4, "big")
        data = data.replace(data[start : start + len(content) + 4], content + checksum)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        upright = open_rgb(data, "image")
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2)) < (60, 60, 60) < upright.getpixel((4, 13))


def test_no_error_of_a_decoder_passes(monkeypatch):
    data = encode(Image.new("RGB", (4, 4)))
    for error in (AssertionError(), RecursionError("deep"), AttributeError("x"), BufferError("y")):

        def failing(*_args, error=error):
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", failing)
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", failing)
        with pytest.raises(ImageError, match="^image: ") as caught:
            open_rgb(data, "image")
        assert caught.value.reason == "unreadable image"


def test_an_indexed_image_without_a_palette_is_rejected():
    with pytest.raises(ImageError, match="^image: ") as caught:
        open_rgb(png_without_palette(), "image")
    assert caught.value.reason == "unreadable image"


def test_only_regular_files_of_limited_size_are_read(tmp_path):
    pipe, large, socket_path = tmp_path / "pipe.png", tmp_path / "large.png", tmp_path / "s.png"
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.truncate(10**11)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(socket_path))
    for path in (pipe, socket_path, Path("/dev/zero"), tmp_path):
        with pytest.raises(ImageError, match=f"^{path}: .*expected a regular file") as caught:
            load_rgb(path)
        assert caught.value.reason == "not a regular file"
    server.close()
    with pytest.raises(ImageError, match="file of 100,000,000,000 bytes, the limit is 5") as caught:
        load_rgb(large)
    assert caught.value.reason == "oversized image"
    with pytest.raises(ImageError, match="null"):
        load_rgb("a\0b.png")
