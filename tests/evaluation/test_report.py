"""The pictures of single cases."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor

from partloc.evaluation.report import (
    CLOSE_UP_ZOOM,
    FOUND_COLOR,
    PICTURE_PX,
    TRUE_COLOR,
    _marked,
    choose_cases,
    draw_case,
    write_samples,
)
from partloc.files import write_table
from partloc.synthetic.camera import project


def make_predictions(count: int = 40) -> pd.DataFrame:
    """Errors 0.01, 0.02, ... in the table's order."""
    return pd.DataFrame(
        {
            "model": "möbel",
            "part": [f"p{i:02d}" for i in range(count)],
            "whole_path": "whole.png",
            "part_path": "part.png",
            **{"tx": 0.1, "ty": -0.2, "tz": 0.1, "scale": 0.4},
            **{"predicted_tx": -0.2, "predicted_ty": 0.3, "predicted_tz": 0.0},
            **{"predicted_scale": 0.2, "relative_scale_error": 0.5},
            "translation_error": np.arange(1, count + 1) / 100,
            "twin_aware_error": np.arange(1, count + 1) / 100,
            "twin_group": [f"p{i:02d}" for i in range(count)],
            "twins": 0,
        }
    )


def test_the_worst_the_middle_and_the_best_are_chosen():
    cases = choose_cases(make_predictions(41))
    assert [cases[f"worst-{i}"] for i in range(1, 7)] == [40, 39, 38, 37, 36, 35]
    assert [cases[f"best-{i}"] for i in range(1, 4)] == [0, 1, 2]
    assert [cases[f"typical-{i}"] for i in range(1, 7)] == [17, 18, 19, 20, 21, 22]
    assert len(cases) == 15


@pytest.mark.parametrize("count", [1, 2, 5, 8, 14])
def test_a_small_table_gives_fewer_cases_and_none_twice(count):
    rows = list(choose_cases(make_predictions(count)).values())
    assert sorted(rows) == list(range(count))


def test_of_look_alikes_only_one_is_drawn():
    predictions = make_predictions(10)
    predictions["twin_group"] = "p00"
    assert len(choose_cases(predictions)) == 1


def center_of(picture: Image.Image, color: str) -> np.ndarray:
    """Middle of all pixels of a colour, (u, v) in 0..1."""
    rows, columns = np.nonzero((np.asarray(picture) == ImageColor.getrgb(color)).all(-1))
    box = [columns.min() + columns.max() + 1, rows.min() + rows.max() + 1]
    return np.array(box) / 2 / picture.size


@pytest.mark.parametrize("size", [(100, 100), (300, 100), (50, 90)])
def test_marks_stand_where_the_camera_sees_the_places(size):
    predictions = make_predictions(1)
    picture = _marked(Image.new("RGB", size, "white"), predictions.loc[0], predictions[1:])
    uv, _ = project(np.array([[0.1, -0.2, 0.1], [-0.2, 0.3, 0.0]]))
    assert max(picture.size) == PICTURE_PX * CLOSE_UP_ZOOM
    # The line between the two ends at the green mark, so the green box is the circle's alone.
    assert center_of(picture, TRUE_COLOR) == pytest.approx(uv[0], abs=0.01)
    alone = predictions.loc[0].copy()
    alone[["tx", "ty", "tz", "scale"]] = [-0.2, 0.3, 0.0, 0.1]
    picture = _marked(Image.new("RGB", size, "white"), alone, predictions[1:])
    assert center_of(picture, FOUND_COLOR) == pytest.approx(uv[1], abs=0.01)


def test_a_place_outside_the_picture_is_no_error():
    case = make_predictions(1).loc[0].copy()
    case[["predicted_tx", "predicted_ty", "predicted_tz", "predicted_scale"]] = [4, -3, 9, 7.0]
    draw_case("worst-1", case, make_predictions(0), *[Image.new("RGB", (9, 7))] * 2)


def test_equal_runs_give_equal_pictures_and_old_ones_are_removed(tmp_path):
    for name in ("whole.png", "part.png"):
        Image.new("RGB", (64, 48), "steelblue").save(tmp_path / name)

    def draw(count: int) -> dict[str, bytes]:
        write_table(tmp_path / "rows.csv", make_predictions(count))
        write_samples(tmp_path / "samples", tmp_path / "rows.csv", tmp_path)
        return {file.name: file.read_bytes() for file in Path(tmp_path, "samples").iterdir()}

    assert len(draw(20)) == 15
    first = draw(7)
    assert len(first) == 7
    assert draw(7) == first


def test_a_case_is_drawn_with_its_twins_of_a_table_read_in_pieces(tmp_path, monkeypatch):
    for name in ("whole.png", "part.png"):
        Image.new("RGB", (64, 48), "steelblue").save(tmp_path / name)
    rows = make_predictions(40).assign(model=[f"{number // 4:02d}" for number in range(40)])
    rows.loc[[37, 38], "twin_group"] = "p37"
    write_table(tmp_path / "rows.csv", rows)
    drawn = {}

    def noted(name: str, case: pd.Series, twins: pd.DataFrame, *_pictures) -> Image.Image:
        drawn[name] = case.model, case.part, twins.part.tolist()
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("partloc.evaluation.report.ROWS_AT_ONCE", 3)
    monkeypatch.setattr("partloc.evaluation.report.draw_case", noted)
    write_samples(tmp_path / "samples", tmp_path / "rows.csv", tmp_path)
    assert len(drawn) == 15
    assert drawn["worst-1"] == ("09", "p39", [])
    assert drawn["worst-2"] == ("09", "p37", ["p38"])
    assert drawn["best-1"] == ("00", "p00", [])
