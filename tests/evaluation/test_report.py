"""Images of single cases."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from samples import SIDE_CAMERA, make_predictions

from partloc.evaluation.report import choose_cases, write_samples
from partloc.system.files import write_table


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


def test_equal_runs_give_equal_images_and_old_ones_are_deleted(tmp_path):
    for name in ("whole.png", "part.png"):
        Image.new("RGB", (64, 48), "steelblue").save(tmp_path / name)

    def draw(count: int) -> dict[str, bytes]:
        write_table(tmp_path / "rows.csv", make_predictions(count))
        write_samples(tmp_path / "samples", tmp_path / "rows.csv", tmp_path, SIDE_CAMERA)
        return {file.name: file.read_bytes() for file in Path(tmp_path, "samples").iterdir()}

    assert len(draw(20)) == 15
    first = draw(7)
    assert len(first) == 7
    assert draw(7) == first


def test_images_of_an_earlier_run_stay_until_all_others_are_written(tmp_path, monkeypatch):
    for name in ("whole.png", "part.png"):
        Image.new("RGB", (64, 48), "steelblue").save(tmp_path / name)
    write_table(tmp_path / "rows.csv", make_predictions(7))
    arguments = (tmp_path / "samples", tmp_path / "rows.csv", tmp_path, SIDE_CAMERA)
    write_samples(*arguments)
    before = {file.name: file.read_bytes() for file in Path(tmp_path, "samples").iterdir()}

    def fail(*_args):
        raise OSError("No space left on device")

    monkeypatch.setattr("partloc.evaluation.report.draw_case", fail)
    with pytest.raises(OSError, match="No space left"):
        write_samples(*arguments)
    after = {file.name: file.read_bytes() for file in Path(tmp_path, "samples").iterdir()}
    assert after == before


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
