"""Any plain background becomes white, and everything else stays."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from partloc.data.background import load_image, paint_white, prepare_image

SIDE = 128
RED, DARK = (190, 60, 50), (60, 50, 90)


def draw_object(background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """A red box with a dark leg and a hole, antialiased, (SIDE, SIDE, 3)."""
    image = Image.new("RGB", (4 * SIDE, 4 * SIDE), background)
    pen = ImageDraw.Draw(image)
    pen.rectangle([150, 130, 370, 290], fill=RED)
    pen.rectangle([200, 170, 260, 230], fill=background)
    pen.polygon([(300, 290), (330, 290), (350, 420), (330, 420)], fill=DARK)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def mean_difference(image: np.ndarray) -> float:
    """From the object on white, in levels."""
    return float(np.abs(image.astype(int) - draw_object()).mean())


def compressed(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file))


def with_gradient(image: np.ndarray) -> np.ndarray:
    shade = np.linspace(0, 25, SIDE)[None, :, None] * (image.min(-1) > 250)[..., None]
    return (image - shade).astype(np.uint8)


def with_vignette(image: np.ndarray) -> np.ndarray:
    x, y = np.meshgrid(*2 * [np.linspace(-1, 1, SIDE)])
    shade = (0.08 * (x**2 + y**2) * (image.min(-1) > 250))[..., None]
    return (image * (1 - shade)).astype(np.uint8)


def with_shadow(image: np.ndarray) -> np.ndarray:
    white = image.min(-1) > 250
    shadow = ndimage.gaussian_filter(np.roll(~white, (6, 5), (0, 1)).astype(float), 5)
    return (image * (1 - 0.3 * shadow * white)[..., None]).astype(np.uint8)


def with_logo(image: np.ndarray) -> np.ndarray:
    changed = image.copy()
    changed[-16:-4, 2:20] = (20, 90, 200)
    return changed


def with_frame(image: np.ndarray) -> np.ndarray:
    changed = image.copy()
    changed[[0, -1]], changed[:, [0, -1]] = 0, 0
    return changed


@pytest.mark.parametrize("color", [(0, 0, 0), (128, 128, 128), (230, 230, 230), (40, 90, 160)])
def test_a_plain_background_of_any_colour_becomes_white(color):
    painted, background = paint_white(draw_object(color))
    assert background.is_plain
    assert background.color == pytest.approx(color, abs=1)
    assert mean_difference(painted) < 0.5  # unpainted: 20 and more
    assert (painted[SIDE // 2 - 14, SIDE // 2 - 6] > 250).all()  # also inside the hole


def test_a_dark_face_beside_a_bright_one_is_no_mixture_with_black():
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[40:90, 40:70] = RED
    image[40:90, 70:74] = [value // 3 for value in RED]
    painted, _ = paint_white(image)
    np.testing.assert_array_equal(painted[40:90, 40:74], image[40:90, 40:74])


@pytest.mark.parametrize(
    "change", [with_gradient, with_vignette, with_shadow, with_logo, with_frame]
)
def test_a_background_that_is_not_quite_plain_becomes_white(change):
    changed = change(draw_object())
    painted, background = paint_white(changed)
    assert background.is_plain
    assert mean_difference(painted) < max(0.5, 0.5 * mean_difference(changed))


@pytest.mark.parametrize("color", [(0, 0, 0), (128, 128, 128), (40, 90, 160)])
def test_compression_noise_leaves_little_of_a_background(color):
    image = compressed(draw_object(color))
    assert mean_difference(paint_white(image)[0]) < 0.1 * mean_difference(image)


def test_an_image_on_white_is_returned_as_it_is():
    image = draw_object()
    assert paint_white(image)[0] is image


def test_without_a_plain_background_nothing_changes():
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    painted, background = paint_white(noise)
    assert not background.is_plain
    assert painted is noise


def test_a_part_of_the_object_in_a_corner_is_kept():
    """Only small patches that are apart from the object count as a logo."""
    image = np.full((SIDE, SIDE, 3), 200, np.uint8)
    image[40:124, 40:124] = RED
    painted, _ = paint_white(image)
    assert (painted[40:124, 40:124] == RED).all()


def test_a_wide_image_shows_the_object_at_the_size_of_a_square_one():
    image = draw_object((0, 0, 0))
    wide = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    wide[:, SIDE // 2 : -SIDE // 2] = image
    square, _ = prepare_image(Image.fromarray(wide))
    assert square.size == (SIDE, SIDE)
    assert mean_difference(np.asarray(square)) < 0.5


def test_a_wide_object_and_a_high_image_are_padded_with_white():
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[10:30, 5:95] = RED
    square = np.asarray(prepare_image(Image.fromarray(wide))[0])
    assert square.shape == (100, 100, 3)
    assert (square[30 + 10 : 30 + 30, 5:95] == RED).all() and (square[:30] == 255).all()
    high = np.asarray(prepare_image(Image.fromarray(wide.swapaxes(0, 1)))[0])
    assert high.shape == (100, 100, 3) and (high[5:95, 40:60] == RED).all()


def test_an_image_file_is_decoded_painted_and_made_square(tmp_path):
    Image.fromarray(draw_object((0, 0, 0))[:, :100]).save(tmp_path / "part.png")
    image = load_image(tmp_path / "part.png")
    assert image.size == (SIDE, SIDE)
    assert np.asarray(image)[0, 0].tolist() == [255, 255, 255]
