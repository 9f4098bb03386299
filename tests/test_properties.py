"""Images, labels, tables and parameters of any content are usable, or an error names the file.

No other exception, which would end a run over a folder.

PARTLOC_EXAMPLES=2000 tests each property with so many random examples.
"""

import io
import json
import math
import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import make_label, write_folder
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML

from partloc.config import Config, ConfigError, DataConfig, load_config
from partloc.data.background import prepare_image
from partloc.data.images import (
    NOT_REGULAR,
    OVERSIZED,
    TRUNCATED,
    UNREADABLE,
    ImageError,
    open_rgb,
)
from partloc.data.index import MANIFEST_COLUMNS, build_index
from partloc.data.labels import LABEL_ERRORS, LABEL_WARNINGS, read_label
from partloc.data.layout import SampleError, normalize_name
from partloc.data.split import read_manifest
from partloc.inference.jobs import find_jobs, read_jobs
from partloc.system.files import write_table

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
FORMATS = {  # and the modes that they can hold
    "PNG": MODES,
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": MODES[:-1],
    "WEBP": ("RGB", "RGBA"),
    "JPEG": ("L", "RGB"),
}


@pytest.fixture(autouse=True)
def ignored_warnings():
    """Of decoders, about damaged files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# -- images ------------------------------------------------------------------------------------


@st.composite
def images(draw, max_side: int = 24) -> Image.Image:
    """Of random modes and sizes: noise, or a box on a plain background."""
    mode = draw(st.sampled_from(MODES))
    width, height = (draw(st.integers(1, max_side)) for _ in "xy")
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if draw(st.booleans()):
        pixels[: draw(st.integers(0, height))] = rng.integers(0, 256, 4)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(pixels[..., :2].copy().view(np.uint16)[..., 0])
    return image.convert("RGB").quantize(16) if mode == "P" else image.convert(mode)


def encode(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    options = {"lossless": True} if file_format == "WEBP" else {}
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@st.composite
def image_files(draw) -> tuple[Image.Image, bytes, str]:
    file_format = draw(st.sampled_from(list(FORMATS)))
    image = draw(images())
    assume(image.mode in FORMATS[file_format])
    return image, encode(image, file_format), file_format


@st.composite
def damaged_files(draw) -> bytes:
    """An image file with changed, inserted or removed bytes."""
    data = bytearray(draw(image_files())[1])
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 6))
        data[position : position + length] = draw(st.binary(max_size=6))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@given(image_files())
def test_a_valid_image_is_decoded_to_its_pixels_on_white(file):
    image, data, file_format = file
    decoded = open_rgb(data, "image")
    if image.mode == "I;16":
        expected = (np.asarray(image).astype(int) + 128) // 257
        assert (np.asarray(decoded) == expected[..., None]).all()
        return
    expected = Image.new("RGBA", image.size, "white")
    expected.alpha_composite(image.convert("RGBA"))
    difference = np.asarray(decoded).astype(int) - np.asarray(expected.convert("RGB"))
    if file_format != "JPEG":
        assert abs(difference).max() <= 1


@given(st.one_of(damaged_files(), st.binary(max_size=200)))
def test_any_bytes_are_an_image_or_an_error_with_its_reason(data):
    try:
        image = open_rgb(data, "image", max_pixels=10_000)
    except ImageError as error:
        assert error.reason in (UNREADABLE, TRUNCATED, OVERSIZED)
        assert str(error).startswith("image: ") and "\n" not in str(error)
        return
    assert image.mode == "RGB" and image.width * image.height <= 10_000


@given(images(max_side=90))
@example(Image.new("RGB", (3000, 1), "red"))
@example(Image.new("RGB", (1, 3000)))
@example(Image.new("RGB", (1, 1)))
def test_any_image_is_prepared(image):
    rgb = open_rgb(encode(image, "PNG"), "image")
    prepared, background = prepare_image(rgb)
    assert prepared.mode == "RGB" and prepared.width == prepared.height
    assert 0 <= background.border_fraction <= 1


# -- labels ------------------------------------------------------------------------------------

# torch may flush subnormal numbers to zero in this process, and hypothesis then refuses them.
floats = partial(st.floats, allow_subnormal=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
VECTORS = st.lists(floats(-1, 1) | st.integers(-1, 1), min_size=3, max_size=3)
LABELS = st.fixed_dictionaries(
    {},
    optional={
        "translation": VECTORS | JSON_VALUES,
        "scale": floats(0, 1.2).map(lambda value: [value] * 3) | VECTORS | JSON_VALUES,
        "rotation": st.lists(floats(-1, 1), min_size=4, max_size=4) | JSON_VALUES,
        "model_name": st.text(max_size=8) | JSON_VALUES,
        "part_name": JSON_VALUES,
    },
)


@given(st.one_of(LABELS.map(json.dumps).map(str.encode), st.binary(max_size=50)))
@example(b'{"translation": [1e999, 0, 0], "scale": [1, 1, 1]}')
@example(b'{"a": "\\ud800"}')
@example(b"9" * 5000)
def test_any_label_gives_a_pose_in_range_or_a_reason(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m-a.json")
        path.write_bytes(data)
        try:
            (*translation, scale), found = read_label(path, "m", "a")
        except SampleError as error:
            assert error.reason in (*LABEL_ERRORS, NOT_REGULAR)
            assert len(str(error)) < 300
            return
    assert all(-0.55 <= value <= 0.55 for value in translation)
    assert 0 < scale <= 1.05
    assert {reason for reason, _ in found} <= {*LABEL_WARNINGS}


# -- names and tables --------------------------------------------------------------------------

NAMES = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1, max_size=12
)


@given(NAMES, NAMES)
@example("-", "whole")
@example("%s", "{root}")
@example("a,b", '"')
def test_a_folder_with_any_names_is_indexed_or_reported(model, part):
    assume(model not in (".", ".."))
    with tempfile.TemporaryDirectory() as root:
        write_folder(Path(root), {"other": ["a"]})
        try:
            write_folder(Path(root), {model: [part]} if model != "other" else {})
        except OSError:
            return  # the file system does not allow this name
        index = build_index(DataConfig(data_dir=root))
        samples = list(zip(index.manifest.model, index.manifest.part, strict=True))
        assert ("other", "a") in samples and len(samples) <= 2
        if len(samples) == 2:
            assert (normalize_name(model), normalize_name(part)) in samples
        for name, table in index._asdict().items():
            write_table(Path(root, f"{name}.csv"), table)
        table = read_manifest(Path(root, "manifest.csv"))
        assert table.values.tolist() == index.manifest.values.tolist()
        predicted = {(job.model, name) for job in find_jobs(Path(root)) for name, _ in job.parts}
        assert {*samples} <= predicted
        assert {
            (job.model, n) for job in read_jobs(Path(root, "manifest.csv")) for n, _ in job.parts
        }


CELLS = st.one_of(
    st.text(max_size=10),
    st.sampled_from(["../x.png", "/x.png", "nan", "inf", "-1e400", "9" * 30, "0.5", "a/b.png", ""]),
)


@given(
    st.binary(max_size=80)
    | st.lists(st.lists(CELLS, min_size=15, max_size=15), max_size=3).map(
        lambda rows: (
            pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS))
            .to_csv(index=False)
            .encode("utf-8", "surrogateescape")
        )
    )
)
def test_any_table_is_read_or_refused_by_its_name(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test.csv")
        path.write_bytes(data)
        try:
            jobs = read_jobs(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            return
    assert all(".." not in Path(part).parts for job in jobs for _, part in job.parts)


# -- parameters --------------------------------------------------------------------------------

VALUES = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
KEYS = [("seed",)] + [(group, key) for group in VALUES if group != "seed" for key in VALUES[group]]
PARAM_VALUES = st.one_of(JSON_VALUES, st.sampled_from(["", " ", "a\0", 1e300, -1, 2**70, math.nan]))


@given(st.sampled_from(KEYS), PARAM_VALUES)
def test_any_value_of_a_parameter_is_used_or_refused_by_its_key(keys, value):
    values = {group: dict(v) if isinstance(v, dict) else v for group, v in VALUES.items()}
    (values if len(keys) == 1 else values[keys[0]])[keys[-1]] = value
    try:
        config = load_text(json.dumps(values))
    except ConfigError as error:
        assert ".".join(keys[:-1] or keys) in str(error) and len(str(error)) < 1000
    else:
        assert isinstance(config, Config)


@given(st.text(max_size=40) | JSON_VALUES.map(json.dumps))
@example("&a [*a]")
@example("a: &a [x]\nb: &b [*a, *a]\ndata: [*b, *b]")
@example("2001-13-45")
@example("[" * 3000)
@example("!!python/object/apply:os.system [x]")
def test_any_text_is_a_configuration_or_an_error_that_names_the_file(text):
    try:
        load_text(text)
    except ConfigError:
        return


def load_text(text: str) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            return load_config(path)
        except ConfigError as error:
            assert str(error).startswith(f"{path}: ")
            raise


def test_a_valid_label_is_read_as_it_is(tmp_path):
    """So that the properties above do not hold for errors only."""
    (tmp_path / "m-a.json").write_text(json.dumps(make_label()))
    assert read_label(tmp_path / "m-a.json", "m", "a") == ((-0.2, 0.0, 0.2, 0.2), [])
