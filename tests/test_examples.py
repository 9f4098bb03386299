"""The example images are small, complete, and can be drawn anew."""

import json

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image

from examples.draw import NAME, draw
from partloc.data.twins import group_twins, make_thumbnail

FOLDER = ROOT / "examples" / NAME
MAX_BYTES = 200_000


def test_the_examples_are_one_whole_and_four_parts_two_of_them_twins():
    paths = {path.stem.removeprefix(f"{NAME}-"): path for path in FOLDER.glob("*.png")}
    assert len(paths) == 5 and "whole" in paths
    assert sum(path.stat().st_size for path in (ROOT / "examples").rglob("*.*")) < MAX_BYTES
    images = {name: Image.open(path).convert("RGB") for name, path in paths.items()}
    thumbnails = {name: make_thumbnail(image) for name, image in images.items() if name != "whole"}
    groups = [*group_twins(thumbnails).values()]
    assert sorted(groups.count(group) for group in {*groups}) == [1, 1, 2]


def test_the_script_draws_the_examples_anew(tmp_path):
    draw(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in FOLDER.iterdir())
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text()) == json.loads((FOLDER / path.name).read_text())
    for path in tmp_path.glob("*.png"):
        drawn, kept = (np.asarray(Image.open(file)) for file in (path, FOLDER / path.name))
        # OpenGL drivers may round differently.
        assert np.abs(drawn.astype(float) - kept).mean() == pytest.approx(0, abs=1)
