"""The bytes of the report page: complete, offline, small, and the same for the same run."""

import csv
import json
import re
import sys
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import FRONT_CAMERA, make_samples, write_images

from partloc.commands import infer
from partloc.inference.prediction_files import ModelInfo, attention_dtype
from partloc.report_page import page as page_module
from partloc.report_page.case import MAX_CASES, Case, case_record, kind_of_model, select_cases
from partloc.report_page.images import PageImages
from partloc.report_page.page import Content, write_page

INFO = ModelInfo(FRONT_CAMERA, 1.0, 0.0, "0" * 64)
HYPOTHESES = np.array([[0.1, 0.0, 0.0, 0.2, 0.0, 0.0]])


def make_case(model: str, part: str = "leg", hypotheses: np.ndarray = HYPOTHESES) -> Case:
    pose = np.array([0.1, 0.0, 0.0, 0.2])
    return Case(model, part, "whole.png", f"{part}.png", pose, 0.5, hypotheses)


def read_data(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(data)


def write_noise(folder: Path, *names: str) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 200, (256, 256, 3), np.uint8)).save(folder / name)


# -- content -----------------------------------------------------------------------------------


def test_the_same_run_gives_the_same_bytes(make_page):
    first = make_page(FRONT_CAMERA).read_bytes()
    assert make_page(FRONT_CAMERA).read_bytes() == first


def test_the_page_links_to_nothing_and_has_the_licences(page):
    html = page.read_text(encoding="utf-8")
    outside_scripts = re.sub(r"(?s)<script.*?</script>|<pre>.*?</pre>", "", html)
    assert not re.search(r"https?://|<link(?! rel=\"icon\" href=\"data:)", outside_scripts)
    for library in ("vega 5.33.1", "vega-lite 5.23.0", "three 0.149.0"):
        assert library in html
    assert "ISC License" in html or "Permission is hereby granted" in html


def test_the_headline_figures_have_the_constant_answer_and_the_goals_beside_them(page):
    text = re.sub(r"<[^>]+>|\s+", " ", page.read_text(encoding="utf-8").partition("<script")[0])
    text = re.sub(r"\s+", " ", text)
    error = np.arange(12).mean() / 50
    assert re.search(
        rf"translation error, mean {error:.2f}\d .*? constant answer 0\.\d+ goal 0.05", text
    )
    assert re.search(r"relative scale error, mean 0% .*? constant answer \d+% goal 15%", text)


def test_the_charts_cover_every_part(page):
    charts = read_data(page)["charts"]
    for name in ("kind", "scale", "twins"):
        assert sum(group["count"] for group in charts[name]) == 12
    twins, others = charts["twins"]
    assert (twins["group"], others["group"]) == ("with twins", "without twins")
    (visible,) = charts["visible"]  # the share of one part is not known
    assert (visible["group"], visible["count"]) == ("0.75 to 1", 11)
    assert charts["loss"][0] == {"epoch": 0, "loss": 1.0, "samples": "validation"}
    assert {row["source"] for row in charts["sources"]} == {
        "correct position",
        "wrong choice",
        "not proposed",
    }


def test_a_mark_is_where_the_camera_sees_the_pose():
    record = case_record(make_case("chair-01"), INFO)
    assert record["mark"][:2] == [0.55, 0.5]
    assert case_record(make_case("chair-01"), INFO._replace(camera=None))["mark"] is None


@pytest.mark.parametrize(("side", "shown", "at"), [(8, 8, 1), (32, 16, 0), (33, 11, 0)])
def test_what_the_part_attended_to_is_small_and_lies_on_the_crop_of_the_whole(side, shown, at):
    attention = np.zeros(1, attention_dtype(side))
    attention["weight"][0, 1, 1], attention["crop"] = 40, (0.2, -0.2, 0.5)
    record = case_record(make_case("chair-01")._replace(attention=attention[0]), INFO)["attention"]
    assert record["square"] == [0.35, 0.15, 0.5] and record["side"] == shown
    weights = np.frombuffer(b64decode(record["weights"]), np.uint8).reshape(shown, shown)
    assert weights[at, at] == 255 and np.count_nonzero(weights) == 1
    assert "attention" not in case_record(make_case("chair-01"), INFO)


def test_a_name_cannot_become_code_of_the_page(tmp_path):
    write_noise(tmp_path, "whole.png", "leg.png")
    name = "</script><script>alert(1)</script>"
    write_page(tmp_path / "p.html", Content(name, [make_case(name)], 1), INFO, tmp_path, 10**6)
    assert name not in (tmp_path / "p.html").read_text(encoding="utf-8")
    assert read_data(tmp_path / "p.html")["cases"][0]["model"] == name


def test_hypotheses_at_one_place_are_listed_once():
    """The more probable one; weights are those of the whole mixture."""
    rows = [
        [0, 0, 0, 0.2, np.log(0.2), 0],
        [0.01, 0, 0, 0.2, np.log(0.5), 0],
        [0.3, 0, 0, 0.2, np.log(0.3), 0],
    ]
    listed = case_record(make_case("chair", hypotheses=np.array(rows)), INFO)["hypotheses"]
    assert [(h["pose"][0], h["weight"], h["confidence"]) for h in listed] == [
        (0.01, 0.5, 0.5),
        (0.3, 0.3, 0.5),
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("chair-0601", "chair"), ("câmera.6x6-0219", "câmera.6x6"), ("al5d", "al5d"), ("17", "17")],
)
def test_the_kind_of_a_model_is_its_name_without_the_number(name, kind):
    assert kind_of_model(name) == kind


# -- size --------------------------------------------------------------------------------------


def test_a_large_run_shows_the_worst_cases_and_a_random_sample():
    error = np.random.default_rng(0).permutation(5000) / 5000
    rows = select_cases(error, seed=3)
    assert len(rows) == MAX_CASES == len(set(rows)) and (np.diff(rows) > 0).all()
    worst = np.sort(error[rows])[MAX_CASES // 2 :]
    assert (worst == np.sort(error)[-(MAX_CASES // 2) :]).all()
    assert 0.4 < np.sort(error[rows])[: MAX_CASES // 2].mean() < 0.55
    assert (select_cases(error, seed=3) == rows).all()
    assert (select_cases(error, seed=4) != rows).any()
    assert (select_cases(error[:MAX_CASES], seed=3) == np.arange(MAX_CASES)).all()


def test_images_become_smaller_until_the_page_fits(tmp_path, monkeypatch):
    names = [f"{number}.png" for number in range(8)]
    write_noise(tmp_path, "whole.png", *names)
    cases = [make_case("chair", name.removesuffix(".png")) for name in names]
    sizes = []
    for limit in (4_900_000, 800_000):
        monkeypatch.setattr(page_module, "MAX_BYTES", limit)
        write_page(tmp_path / "p.html", Content("t", cases, 8), INFO, tmp_path, 10**6)
        sizes.append((tmp_path / "p.html").stat().st_size)
        assert sizes[-1] <= limit
    assert sizes[1] < sizes[0]


def test_equal_images_are_in_the_page_once(tmp_path):
    write_noise(tmp_path, "whole.png", "leg.png")
    (tmp_path / "leg-2.png").write_bytes((tmp_path / "leg.png").read_bytes())
    images = PageImages(["whole.png"] * 2, ["leg.png", "leg-2.png"], tmp_path, 10**6)
    assert images.index == {"whole.png": 0, "leg.png": 1, "leg-2.png": 1}
    assert len(images.uris(10**6)) == 2


# -- the command `infer` -----------------------------------------------------------------------


def test_infer_writes_the_page_of_its_predictions(checkpoint, tmp_path, monkeypatch, capfd):
    samples = make_samples(models=2)
    write_images(tmp_path / "data", samples)
    folders = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    arguments = ["infer", *folders, "--checkpoint", str(checkpoint), "--device", "cpu", "--report"]
    monkeypatch.setattr(sys, "argv", arguments)
    infer.main()
    assert "out/report.html" in capfd.readouterr().err
    with (tmp_path / "out/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cases = read_data(tmp_path / "out/report.html")["cases"]
    assert [(c["model"], c["part"]) for c in cases] == [(r["model"], r["part"]) for r in rows]
    assert [c["pose"][0] for c in cases] == [round(float(r["tx"]), 3) for r in rows]
    assert not any("truth" in case for case in cases)
    assert all(len(case["attention"]["weights"]) > 4 for case in cases)


def test_a_report_of_one_whole_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["infer", "--whole", "a.png", "--part", "b.png", "--report"])
    with pytest.raises(SystemExit, match="2"):
        infer.main()
    assert "--report is for --data-dir or --split" in capsys.readouterr().err
