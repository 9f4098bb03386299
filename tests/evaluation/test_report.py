"""Images of single cases."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageColor, ImageDraw

from partloc.evaluation.report import (
    LABEL_COLOR,
    OVERSAMPLING,
    PREDICTION_COLOR,
    WHOLE_PX,
    _font,
    choose_cases,
    draw_case,
    draw_marks,
    project_pose,
    write_samples,
)
from partloc.files import write_table
from partloc.model.camera import PinholeCamera

# Looks along y; z is up, and half of the image's side is one model unit at the whole's centre.
CAMERA = PinholeCamera(
    torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]), torch.zeros(2), torch.tensor(0.5), 1.0
)
POSES = {
    **{"tx": 0.1, "ty": -0.2, "tz": 0.1, "scale": 0.4},
    **{"predicted_tx": -0.2, "predicted_ty": 0.3, "predicted_tz": 0.0, "predicted_scale": 0.2},
}


def make_predictions(count: int = 40) -> pd.DataFrame:
    """Errors 0.01, 0.02, ... in the order of the table."""
    errors = np.arange(1, count + 1) / 100
    return pd.DataFrame(
        {
            "model": "möbel",
            "part": [f"p{i:02d}" for i in range(count)],
            "whole_path": "whole.png",
            "part_path": "part.png",
            **POSES,
            "translation_error": errors,
            "labelled_error": errors,
            "relative_scale_error": 0.5,
            "twin_group": [f"p{i:02d}" for i in range(count)],
            "twins": 0,
        }
    )


def test_the_worst_the_typical_and_the_best_cases_are_chosen():
    cases = choose_cases(make_predictions(41))
    assert [cases[f"worst-{i}"] for i in range(1, 7)] == [40, 39, 38, 37, 36, 35]
    assert [cases[f"best-{i}"] for i in range(1, 4)] == [0, 1, 2]
    assert [cases[f"typical-{i}"] for i in range(1, 7)] == [17, 18, 19, 20, 21, 22]
    assert len(cases) == 15


@pytest.mark.parametrize("count", [1, 2, 5, 8, 14])
def test_a_small_table_gives_fewer_cases_and_none_twice(count):
    rows = list(choose_cases(make_predictions(count)).values())
    assert sorted(rows) == list(range(count))


def test_only_one_of_a_group_of_twins_is_drawn():
    predictions = make_predictions(10)
    predictions["twin_group"] = "p00"
    assert len(choose_cases(predictions)) == 1


def center_of(image: Image.Image, color: str) -> np.ndarray:
    """Centre of the bounding box of all pixels of a colour, (x, y) in 0..1."""
    rows, columns = np.nonzero((np.asarray(image) == ImageColor.getrgb(color)).all(-1))
    box = [columns.min() + columns.max() + 1, rows.min() + rows.max() + 1]
    return np.array(box) / 2 / image.size


@pytest.mark.parametrize("size", [(100, 100), (300, 100), (50, 90)])
def test_marks_are_where_the_camera_sees_the_poses(size):
    predictions, white = make_predictions(1), Image.new("RGB", size, "white")
    image = draw_marks(white, predictions.loc[0], predictions[1:], CAMERA)
    # The position across the image, by the distance relative to that of the whole's centre.
    labelled, predicted = np.array([0.1, -0.1]) / 0.9, np.array([-0.2, 0.0]) / 1.15
    assert max(image.size) == WHOLE_PX * OVERSAMPLING
    # The line between both marks ends at the green one, whose box is therefore the circle's.
    assert center_of(image, LABEL_COLOR) == pytest.approx((labelled + 1) / 2, abs=0.01)
    case = predictions.loc[0].copy()
    case[["tx", "ty", "tz", "scale"]] = [-0.2, 0.3, 0.0, 0.1]
    image = draw_marks(white, case, predictions[1:], CAMERA)
    assert center_of(image, PREDICTION_COLOR) == pytest.approx((predicted + 1) / 2, abs=0.01)


def test_a_circle_is_as_wide_as_the_part_appears():
    mark = project_pose(np.array([0.0, 0.0, 0.0, 0.4]), CAMERA, (100, 80))
    assert mark == pytest.approx((50, 40, 10))  # 0.4 of half the width is 20 pixels
    nearer = project_pose(np.array([0.0, -1.0, 0.0, 0.4]), CAMERA, (100, 80))
    assert nearer.radius == pytest.approx(20)


def test_a_pose_behind_the_camera_is_not_drawn():
    assert project_pose(np.array([0.0, -1.95, 0.0, 0.4]), CAMERA, (100, 80)) is None
    assert project_pose(np.array([0.0, -3.0, 0.0, 0.4]), CAMERA, (100, 80)) is None
    orthographic = CAMERA._replace(inverse_distance=torch.zeros(()))
    assert project_pose(np.array([0.0, -3.0, 0.0, 0.4]), orthographic, (100, 80)) is not None


def test_a_pose_outside_the_image_is_no_error():
    case = make_predictions(1).loc[0].copy()
    case[["predicted_tx", "predicted_ty", "predicted_tz", "predicted_scale"]] = [4, -3, 9, 7.0]
    draw_case("worst-1", case, make_predictions(0), *[Image.new("RGB", (9, 7))] * 2, CAMERA)


def test_without_a_camera_no_pose_is_drawn_and_the_image_says_so():
    case = make_predictions(1).loc[0]
    images = [Image.new("RGB", (90, 90), "white")] * 2
    sheets = [
        np.asarray(draw_case("best-1", case, make_predictions(0), *images, camera))
        for camera in (CAMERA, None)
    ]
    whole = [sheet[:, : WHOLE_PX + 16] for sheet in sheets]
    assert len(np.unique(whole[0])) > len(np.unique(whole[1]))
    assert (whole[1][20:-20, 20:] >= 208).all()  # white, and the frame
    note = (slice(WHOLE_PX - 20, None), slice(WHOLE_PX + 40, None))
    assert (sheets[0][note] != sheets[1][note]).any()


def test_the_font_has_letters_beyond_ascii():
    unknown = _font(20).getmask("\ufffe")
    for letter in "üéßøłšğЖα…":
        mask = _font(20).getmask(letter)
        assert bytes(mask) != bytes(unknown)
    canvas = Image.new("L", (100, 40))
    ImageDraw.Draw(canvas).text((0, 0), "é", 255, _font(20))
    assert np.asarray(canvas).any()


def test_equal_runs_give_equal_images_and_old_ones_are_deleted(tmp_path):
    for name in ("whole.png", "part.png"):
        Image.new("RGB", (64, 48), "steelblue").save(tmp_path / name)

    def draw(count: int) -> dict[str, bytes]:
        write_table(tmp_path / "rows.csv", make_predictions(count))
        write_samples(tmp_path / "samples", tmp_path / "rows.csv", tmp_path, CAMERA)
        return {file.name: file.read_bytes() for file in Path(tmp_path, "samples").iterdir()}

    assert len(draw(20)) == 15
    first = draw(7)
    assert len(first) == 7
    assert draw(7) == first


def test_a_case_has_its_twins_though_the_table_is_read_in_chunks(tmp_path, monkeypatch):
    for name in ("whole.png", "part.png"):
        Image.new("RGB", (64, 48), "steelblue").save(tmp_path / name)
    rows = make_predictions(40).assign(model=[f"{number // 4:02d}" for number in range(40)])
    rows.loc[[37, 38], "twin_group"] = "p37"
    write_table(tmp_path / "rows.csv", rows)
    drawn = {}

    def record(name: str, case: pd.Series, twins: pd.DataFrame, *_) -> Image.Image:
        drawn[name] = case.model, case.part, twins.part.tolist()
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("partloc.evaluation.report.CHUNK_ROWS", 3)
    monkeypatch.setattr("partloc.evaluation.report.draw_case", record)
    write_samples(tmp_path / "samples", tmp_path / "rows.csv", tmp_path, None)
    assert len(drawn) == 15
    assert drawn["worst-1"] == ("09", "p39", [])
    assert drawn["worst-2"] == ("09", "p37", ["p38"])
    assert drawn["best-1"] == ("00", "p00", [])
