"""The Python interface: images in any form, plain results, and the model that comes with it."""

import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from answer_schema import is_valid, require_valid
from checkout import ROOT
from PIL import Image
from toys import noise_image, run_python, set_constant_confidence

import partloc
from partloc import ImageError, Locator, PoseEstimate
from partloc.inference.image_loader import IMAGES_AHEAD

EXAMPLE = ROOT / "examples/bench"


@pytest.fixture
def locator(checkpoint) -> Locator:
    return Locator(checkpoint, "cpu")


@pytest.fixture
def images(tmp_path) -> tuple[Path, Path]:
    """The paths of a whole and of a part."""
    for name, seed in (("whole", 1), ("part", 2)):
        noise_image(seed).save(tmp_path / f"{name}.png")
    return tmp_path / "whole.png", tmp_path / "part.png"


# -- results -----------------------------------------------------------------------------------


def test_one_image_gives_one_result_and_an_iterable_a_list(locator, images):
    whole, part = images
    one = locator.locate(str(whole), str(part))
    assert isinstance(one, PoseEstimate)
    assert locator.locate(whole, [part]) == [one]
    assert locator.locate(whole, (path for path in [part])) == [one]
    assert locator.locate(whole, []) == []


def test_a_result_is_plain_numbers_and_all_hypotheses_in_descending_order(locator, images):
    one = locator.locate(*images)
    assert [type(value) for value in (*one.translation, one.scale, one.confidence)] == [float] * 5
    assert len(one.hypotheses) == locator.predictor.model.num_hypotheses
    best = one.hypotheses[0]
    assert (best.translation, best.scale) == (one.translation, one.scale)
    with pytest.raises(AttributeError):
        one.scale = 1.0
    assert hash(one) == hash(locator.locate(*images))


def test_the_dictionary_of_a_result_is_an_answer_of_the_schema(locator, images):
    answer = locator.locate(*images).to_dict()
    require_valid(json.loads(json.dumps(answer)))
    assert [*answer] == ["translation", "scale", "confidence", "hypotheses"]
    short = locator.locate(*images).to_dict(with_hypotheses=False)
    assert [*short] == ["translation", "scale", "confidence"]


@pytest.mark.parametrize(
    "change", [{"scale": 0}, {"scale": [1, 1, 1]}, {"confidence": 1.1}, {"rotation": [1, 0, 0, 0]}]
)
def test_the_schema_rejects_other_objects(change):
    answer = {"translation": [0, 0, 0.5], "scale": 0.5, "confidence": 0.5}
    assert is_valid(answer) and is_valid([answer, answer])
    assert not is_valid(answer | change)
    assert not is_valid({"scale": 0.5, "confidence": 0.5})


def test_equal_parts_get_distinct_positions_unless_they_need_not(locator, images):
    whole, part = images
    distinct = locator.locate(whole, [part, part])
    assert distinct[0].translation != distinct[1].translation
    equal = locator.locate(whole, [part, part], distinct=False)
    assert equal == [locator.locate(whole, part)] * 2


def test_a_busy_background_is_reported(locator, images, tmp_path):
    for name in ("whole", "part"):
        image = Image.new("RGB", (60, 60), "white")
        image.paste((190, 60, 50), (15, 15, 40, 40))
        image.save(tmp_path / f"plain-{name}.png")
    set_constant_confidence(locator.predictor.model, 0.0)
    busy = locator.locate(*images)
    plain = locator.locate(tmp_path / "plain-whole.png", tmp_path / "plain-part.png")
    assert plain.plain_background and not busy.plain_background
    assert busy.confidence < plain.confidence


# -- images ------------------------------------------------------------------------------------


def test_a_path_an_image_an_array_and_a_file_give_the_same_result(locator, images):
    whole, path = images
    expected = locator.locate(whole, path)
    image = Image.open(path)
    assert locator.locate(Image.open(whole), image) == expected
    assert locator.locate(whole, np.asarray(image.convert("RGB"))) == expected
    with path.open("rb") as file:
        assert locator.locate(whole, file) == expected
    assert locator.locate(whole, io.BytesIO(path.read_bytes())) == expected


def test_arrays_of_all_common_kinds_are_images(locator, images):
    gray = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    rgb = np.stack([gray] * 3, -1)
    expected = locator.locate(images[0], rgb)
    opaque = np.concatenate([rgb, np.full_like(gray, 255)[..., None]], -1)
    for array in (
        gray,
        gray[..., None],
        opaque,
        gray.astype(np.uint16) * 257,
        rgb[:, ::-1][:, ::-1],
    ):
        assert locator.locate(images[0], array) == expected


def test_transparency_is_white(locator, images):
    rgba = np.zeros((50, 60, 4), np.uint8)
    rgba[10:40, 20:30] = (200, 40, 40, 255)
    rgb = np.full((50, 60, 3), 255, np.uint8)
    rgb[10:40, 20:30] = (200, 40, 40)
    assert locator.locate(images[0], rgba) == locator.locate(images[0], rgb)


def test_a_generator_may_close_or_overwrite_what_it_has_yielded(locator, images):
    whole, path = images
    buffer = np.asarray(Image.open(path).convert("RGB")).copy()
    arrays = [buffer.copy(), buffer[::-1].copy()]

    def parts() -> Iterator:
        with path.open("rb") as file:
            yield file
        with Image.open(path) as image:
            yield image
        for array in arrays:
            buffer[:] = array
            yield buffer
        buffer[:] = 0

    results = locator.locate(whole, parts(), distinct=False)
    assert results[0] == results[1] == results[2] == locator.locate(whole, path)
    assert results[3] != results[0]


def test_a_generator_is_drawn_only_as_far_as_images_are_soon_needed(locator, images, monkeypatch):
    whole, path = images
    drawn, largest_lead, read = [], [], locator.predictor._encode

    def encode(pixels: list) -> object:
        largest_lead.append(len(drawn))
        return read(pixels)

    monkeypatch.setattr(locator.predictor, "_encode", encode)

    def parts() -> Iterator[Image.Image]:
        for number in range(32):
            drawn.append(number)
            yield noise_image(number)

    assert len(locator.locate(whole, parts())) == 32
    assert largest_lead[0] <= 8 + IMAGES_AHEAD + 2


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        (3, TypeError, "parts: expected a path, a Pillow image, .* iterable of these, found int"),
        (b"png", TypeError, "found bytes"),
        ([3], TypeError, "part 1: expected a path, .* found int"),
        ([torch.zeros(3, 8, 8)], TypeError, "part 1: .* found Tensor"),
        (np.zeros((8, 8, 3)), TypeError, "part 1: expected pixels of uint8 .* found float64"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"part 1: expected .* found \(3, 8, 8\)"),
        (np.zeros((0, 8), np.uint8), ValueError, r"found \(0, 8\)"),
        (io.StringIO("text"), TypeError, r"part 1: .* mode 'rb', read\(\) returned str"),
        (io.BytesIO(b"text"), ImageError, "part 1: not an image"),
        (Image.new("F", (8, 8)), ImageError, "part 1: floating-point pixels"),
        ("gone.png", ImageError, "gone.png: No such file"),
    ],
)
def test_something_else_than_an_image_is_explained(locator, images, part, error, message):
    with pytest.raises(error, match=message):
        locator.locate(images[0], part)


def test_the_limit_of_pixels_holds_for_all_kinds_of_images(checkpoint, images):
    locator = Locator(checkpoint, "cpu", max_pixels=3200)
    for part in (Image.new("RGB", (60, 60)), np.zeros((60, 60), np.uint8)):
        with pytest.raises(ImageError, match="part 1: 60 x 60 = 3,600 pixels, the limit is 3,200"):
            locator.locate(images[0], part)


# -- the model ---------------------------------------------------------------------------------


def test_the_shipped_model_answers_an_example():
    locator = Locator.from_pretrained(device="cpu")
    parts = sorted(path for path in EXAMPLE.glob("*.png") if "whole" not in path.name)
    results = locator.locate(EXAMPLE / "bench-whole.png", parts)
    assert len(results) == 4
    errors = []
    for path, result in zip(parts, results, strict=True):
        label = json.loads(path.with_suffix(".json").read_text("utf-8"))
        errors.append(np.linalg.norm(np.subtract(result.translation, label["translation"])))
    assert np.median(errors) < 0.15


def test_a_model_is_chosen_by_name_or_path(checkpoint):
    default = Locator.from_pretrained()
    assert Locator.from_pretrained("dinov2_vitt14").checkpoint == default.checkpoint
    assert Locator.from_pretrained(str(checkpoint)).checkpoint == checkpoint
    with pytest.raises(FileNotFoundError, match="dinov2: no such model file; .* dinov2_vitt14"):
        Locator.from_pretrained("dinov2")


# -- the camera --------------------------------------------------------------------------------


def test_a_given_camera_tells_where_the_answers_are(tmp_path):
    """Seen from the other side, the same images are answered in turned coordinates."""
    images = EXAMPLE / "bench-whole.png", EXAMPLE / "bench-side-1.png"
    answers = [
        Locator.from_pretrained(device="cpu", camera=(azimuth, 30.0, 30.0)).locate(*images)
        for azimuth in (45.0, -135.0)
    ]
    first, turned = (answer.translation for answer in answers)
    assert np.abs(first[:2]).max() > 0.2
    assert np.allclose(first[:2], np.negative(turned[:2]), atol=0.05)
    assert np.isclose(first[2], turned[2], atol=0.05)
    own = Locator.from_pretrained(device="cpu")
    assert own.camera.describe_frame() == "right-handed frame with z upward"


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        ((45, 91, 30), "camera: elevation 91; expected -90 to 90 degrees"),
        ((45, 30, -1), "camera: field of view -1; expected 0 to 120 degrees"),
        ((float("nan"), 30, 30), "camera: azimuth nan; expected -360 to 360 degrees"),
    ],
)
def test_an_impossible_camera_is_refused(camera, message):
    with pytest.raises(ValueError, match=message):
        Locator.from_pretrained(device="cpu", camera=camera)


# -- the package -------------------------------------------------------------------------------


def test_importing_the_package_is_cheap():
    code = "import partloc, sys; dir(partloc); sys.exit('torch' in sys.modules)"
    assert run_python(ROOT, "-c", code).returncode == 0


def test_the_package_lists_what_it_offers():
    assert {"Locator", "PoseEstimate", "ImageError", "CheckpointError"} <= {*dir(partloc)}
    with pytest.raises(AttributeError, match="no attribute 'Locater'"):
        _ = partloc.Locater


# An entry of None in sys.modules makes an import fail like that of a missing package.
WITHOUT_EXTRAS = """
import sys
sys.modules |= dict.fromkeys(["dvc", "pandas", "pyvista", "ruamel", "tensorboard", "vtk"])
from partloc.__main__ import main
main()
"""


def run_without_extras(*arguments: str | Path) -> subprocess.CompletedProcess:
    return run_python(ROOT, "-c", WITHOUT_EXTRAS, *arguments)


def test_prediction_needs_no_extra(checkpoint, data_dir, tmp_path):
    """For a folder; the test of the wheel asks for one whole."""
    model = ("--checkpoint", checkpoint, "--device", "cpu")
    folder = run_without_extras("infer", "--data-dir", data_dir, "--output", tmp_path / "o", *model)
    assert folder.returncode == 0, folder.stderr
    assert len([*tmp_path.glob("o/*/*.json")]) == 11


@pytest.mark.parametrize(
    ("command", "package", "extra"), [("train", "pandas", "train"), ("render", "pyvista", "demo")]
)
def test_a_missing_extra_is_named(command, package, extra):
    run = run_without_extras(command)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert f"needs the package {package}; install partloc[{extra}]" in run.stderr


def test_a_split_without_the_packages_that_read_it_ends_without_a_traceback():
    split = run_without_extras("infer", "--split", ROOT / "README.md", "--output", "o")
    assert split.returncode == 2 and "Traceback" not in split.stderr
