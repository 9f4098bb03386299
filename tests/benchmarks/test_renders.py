"""The looks of other tools: images, labels, and the benchmark that compares them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import looks
from benchmarks.looks import LOOKS, write_models
from benchmarks.metric_tables import renders_table
from partloc.config import DataConfig
from partloc.data.index import build_index
from partloc.model.camera import PinholeCamera
from partloc.pose import PartPose
from partloc.synthetic.dataset import sample_model
from partloc.synthetic.render import render_image
from partloc.synthetic.scene import scene_geometry


@pytest.fixture
def small_looks(monkeypatch):
    """All looks with images of 64 pixels."""
    monkeypatch.setattr(looks, "LOOKS", {n: replace(look, size=64) for n, look in LOOKS.items()})


@pytest.mark.parametrize("name", LOOKS)
def test_every_look_is_a_usable_folder(name, small_looks, tmp_path):
    write_models(tmp_path, name, 0, range(3, 4))
    index = build_index(DataConfig(data_dir=str(tmp_path)), workers=1)
    assert len(index.manifest) >= 4
    assert len(index.manifest) == len(list(tmp_path.rglob("*.json")))


def test_the_demos_look_is_the_demo(small_looks, tmp_path):
    """Opacity is found by rendering twice; on white the image is again that of the renderer."""
    write_models(tmp_path, "demo", 0, range(5, 6))
    (path,) = tmp_path.rglob("*-whole.png")
    triangles, colors, _ = scene_geometry(sample_model(0, 5).parts)
    expected = render_image(triangles, colors, 64).astype(int)
    found = np.asarray(Image.open(path)).astype(int)
    assert np.abs(found - expected).max() <= 2


def test_the_labels_of_a_mirrored_frame_are_mirrored(small_looks, tmp_path):
    for name in ("demo", "left-handed", "y up"):
        write_models(tmp_path / name, name, 0, range(5, 6))
    paths = sorted(path.relative_to(tmp_path / "demo") for path in tmp_path.glob("demo/*/*.json"))
    for path in paths:
        plain, mirrored, y_up = (
            json.loads((tmp_path / name / path).read_text())["translation"]
            for name in ("demo", "left-handed", "y up")
        )
        assert mirrored == [plain[1], plain[0], plain[2]]
        assert y_up == [plain[1], plain[2], plain[0]]


def test_the_backgrounds_surround_the_object(small_looks, tmp_path):
    corners = {}
    for name in ("black", "blue", "transparent", "gradient of 10 %", "frame of 1 px"):
        write_models(tmp_path / name, name, 0, range(5, 6))
        (path,) = (tmp_path / name).rglob("*-whole.png")
        image = Image.open(path)
        corners[name] = image.getpixel((0, 0)), image.getpixel((5, image.height - 5))
    assert corners["black"] == ((0, 0, 0),) * 2
    assert corners["blue"] == ((70, 110, 170),) * 2
    assert corners["transparent"][0][3] == 0
    assert corners["gradient of 10 %"][0][0] - corners["gradient of 10 %"][1][0] > 15
    assert corners["frame of 1 px"] == ((0, 0, 0), (255, 255, 255))


def test_the_true_camera_of_a_look_is_the_one_that_rendered():
    camera = LOOKS["azimuth 60, elevation 60"].camera
    pinhole = PinholeCamera.from_view(camera.azimuth_deg, camera.elevation_deg, camera.fov_deg)
    points = np.random.default_rng(0).random((20, 3)) - 0.5
    uv, _ = camera.project(points)
    pose = PartPose(torch.from_numpy(points).float(), torch.ones(20, 1))
    found = pinhole.project(pose)
    assert np.allclose(found[:, :2], 2 * uv - 1, atol=1e-5)


def test_the_table_has_a_row_for_each_look():
    error = {"mean": 0.05, "median": 0.02, "interval_95": {"low": 0.04, "high": 0.06}}
    figures = {
        "translation_error": error,
        "relative_scale_error": error,
        "right": 0.7,
        "confidence": 0.6,
        "expected_calibration_error": 0.1,
    }
    rows = [
        {"look": "demo", "shipped": figures, "camera_given": figures, "agreement": 0.52},
        {"look": "black", "shipped": figures, "trained": figures},
    ]
    table = renders_table(rows).splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| demo", "| black"]
    assert table[2].startswith("| demo | 0.050 (100 %) | ") and "| 52 % |" in table[2]
