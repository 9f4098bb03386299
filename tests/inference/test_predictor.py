"""Inference: one whole and its parts; the stage."""

import json
import math
import runpy
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toys import PARTS, noise_image, set_constant_confidence

from partloc.config import DataConfig
from partloc.data.images import ImageError
from partloc.data.index import build_index
from partloc.distributed import inference_dtype, training_dtype
from partloc.files import CheckpointError, write_table
from partloc.inference import predictor as infer
from partloc.inference.assignment import assign
from partloc.inference.predictor import PICTURES_AHEAD, Found, Predictor, reading_ahead
from partloc.model.camera import PinholeCamera
from partloc.model.model_file import MODEL_FORMAT

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "stages/infer.py")
# What the answer to one question needs not.
ABSENT = (
    *("dvc", "matplotlib", "pandas", "pyvista", "scipy", "tensorboard", "vtk"),
    *(
        "partloc.evaluation.evaluate",
        "partloc.inference.folder",
        "partloc.data.index",
        "partloc.evaluation.metrics",
        "partloc.evaluation.report",
    ),
    *("partloc.training.run", "partloc.data.split", "partloc.training.trainer"),
)


def numbers(found: Found) -> list[float]:
    return [*found.best.pose, found.best.confidence]


def test_several_parts_get_the_answers_that_each_gets_alone(predictor, data_dir):
    folder = data_dir / "stühle-1.5"
    whole = folder / "stühle-1.5-whole.png"
    parts = [folder / f"stühle-1.5-{part}.png" for part in PARTS]
    together = torch.tensor([numbers(found) for found in predictor.predict(whole, parts)])
    alone = torch.tensor([numbers(predictor.predict(whole, [part])[0]) for part in parts])
    assert together.shape == (10, 5)
    assert together.std(0).min() > 1e-3  # answers differ, so order matters
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_the_confidence_is_what_the_network_says_of_being_right_as_calibrated(predictor, data_dir):
    set_constant_confidence(predictor.model, math.log(3))
    predictor.model.confidence_head.slope.fill_(2.0)
    folder = data_dir / "stühle-1.5"
    (found,) = predictor.predict(
        folder / "stühle-1.5-whole.png", [folder / "stühle-1.5-part-0.png"]
    )
    assert {each.confidence for each in (found.best, *found.hypotheses)} == {0.9}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_any_mode_and_size_is_answered(predictor, tmp_path, mode):
    picture = Image.fromarray(np.arange(35 * 9, dtype=np.uint16).reshape(35, 9) * 200)
    if mode != "I;16":
        picture = noise_image(1, (9, 35)).convert("RGB").convert(mode)
    path = tmp_path / ("part.tif" if mode == "CMYK" else "part.png")
    picture.save(path)
    noise_image(2, (301, 77)).save(tmp_path / "whole.jpg")
    (found,) = predictor.predict(tmp_path / "whole.jpg", [path])
    assert np.isfinite(found.best.pose).all() and found.best.pose[3] > 0
    assert 0 <= found.best.confidence <= 1


def test_equal_pictures_are_encoded_once_and_get_distinct_places(predictor, data_dir, monkeypatch):
    chairs = data_dir / "stühle-1.5"
    # A camera, and small parts, so that places in the image are places in space.
    predictor.model.center[3] = -3.0
    slope = torch.tensor([[1.0, 0, 0], [0, 0, -1.0]])
    predictor.model.set_camera(PinholeCamera(slope, torch.zeros(2), torch.zeros(()), 1.0))
    for number in (1, 2):
        shutil.copy(chairs / "stühle-1.5-part-0.png", chairs / f"stühle-1.5-part-{number}.png")
    located = []
    locate = predictor._locate
    monkeypatch.setattr(
        predictor, "_locate", lambda *asked: located.append(len(asked[1].cls)) or locate(*asked)
    )
    assigned = []
    monkeypatch.setattr(
        infer, "assign", lambda *asked: assigned.append(assign(*asked)) or assigned[-1]
    )
    parts = [chairs / f"stühle-1.5-part-{number}.png" for number in range(3)]
    legs = predictor.predict(chairs / "stühle-1.5-whole.png", parts)
    assert located == [1]
    assert len({tuple(leg.best.pose) for leg in legs}) == 3
    considered = [leg.hypotheses for leg in legs]
    assert considered[0] == considered[1] == considered[2]
    known = {tuple(item.pose): item.confidence for item in considered[0]}
    (placed,) = assigned
    sure = placed.confidence_logit.sigmoid().tolist()
    for leg, number, likely in zip(legs, placed.number.tolist(), sure, strict=True):
        if number >= 0:
            assert known[tuple(leg.best.pose)] == leg.best.confidence
        else:  # a place that mirrors one that was proposed
            assert tuple(map(abs, leg.best.pose[:3])) in {tuple(map(abs, p[:3])) for p in known}
            assert leg.best.confidence == pytest.approx(likely, abs=1e-6)
    assert -1 < placed.number.max() and placed.number.min() == -1
    (alone,) = predictor.predict(chairs / "stühle-1.5-whole.png", parts[:1])
    assert alone.hypotheses == considered[0] and alone.best == alone.hypotheses[0]


def test_the_next_pictures_are_read_while_the_last_is_used():
    begun, used = [], threading.Event()

    def read(number: int) -> int:
        begun.append(number)
        if number == PICTURES_AHEAD:
            used.set()
        return number

    reading = reading_ahead(read, range(100))
    assert next(reading) == 0
    assert used.wait(10)  # nothing more is asked for, and yet they are read
    assert max(begun) == PICTURES_AHEAD
    assert list(reading) == list(range(1, 100))


def test_what_goes_wrong_while_reading_is_raised_where_it_is_used():
    reading = reading_ahead(lambda number: 1 / number, [1, 0, 1])
    assert next(reading) == 1
    with pytest.raises(ZeroDivisionError):
        next(reading)


def test_a_cpu_with_bf16_encodes_in_it_and_trains_without(predictor, monkeypatch):
    cpu, images = torch.device("cpu"), torch.rand(2, 3, 56, 56)
    with torch.inference_mode():
        full = predictor.model.encode(images, inference_dtype(cpu))
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
        half = predictor.model.encode(images, inference_dtype(cpu))
    assert inference_dtype(cpu) is torch.bfloat16 and training_dtype(True, cpu) is None
    assert half.patches.dtype is torch.float32
    apart = (half.patches - full.patches).abs()
    assert 0 < apart.mean() < 0.02 * full.patches.abs().mean()


def test_single_questions_name_the_picture_that_cannot_be_read(
    run_stage, checkpoint, predictor, tmp_path
):
    (tmp_path / "bad.png").write_bytes(b"text")
    noise_image(1).save(tmp_path / "good.png")
    with pytest.raises(ImageError, match="bad.png"):
        predictor.predict(tmp_path / "bad.png", [tmp_path / "good.png"])
    asked = ["--checkpoint", checkpoint, "--whole", "good.png", "--part"]
    run = run_stage(*asked, "bad.png")
    assert run.code == 2 and "bad.png" in run.err and run.out == ""


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=MODEL_FORMAT):
        Predictor(tmp_path / "other.pth")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run_stage(monkeypatch, capfd, tmp_path):
    """Runs the stage's script, without params.yaml, in this process: torch loads once."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        code = 0
        try:
            runpy.run_path(SCRIPT, run_name="__main__")
        except SystemExit as end:
            code = end.code
        return Ended(code, *capfd.readouterr())

    return run


def test_stdout_is_one_json_object_or_a_list_of_them(run_stage, checkpoint, data_dir):
    lamp, chairs = data_dir / "lamp", data_dir / "stühle-1.5"
    asked = ["--checkpoint", checkpoint, "--device", "cpu", "--whole", lamp / "lamp-whole.png"]
    first, second = lamp / "lamp-foot.png", chairs / "stühle-1.5-part-1.png"
    one = run_stage(*asked, "--part", first)
    assert one.code == 0, one.err
    answer = json.loads(one.out)
    assert list(answer) == ["translation", "scale", "confidence"]
    assert len(answer["translation"]) == 3
    assert one.out.count("\n") == 1
    values = [*answer["translation"], answer["scale"], answer["confidence"]]
    assert values == [round(value, 6) for value in values]

    both = json.loads(run_stage(*asked, "--part", second, "--part", first).out)
    assert [item["part"] for item in both] == [str(second), str(first)]
    assert both[1]["translation"] == pytest.approx(answer["translation"], abs=2e-5)
    assert both[1]["scale"] == pytest.approx(answer["scale"], abs=2e-5)
    assert both[0]["translation"] != pytest.approx(answer["translation"], abs=1e-4)

    everything = json.loads(run_stage(*asked, "--part", first, "--all").out)
    assert {key: everything[key] for key in answer} == answer
    assert everything["hypotheses"][0] == answer and len(everything["hypotheses"]) > 1


def test_the_stage_answers_the_rows_of_a_split_table(run_stage, checkpoint, data_dir, tmp_path):
    index = data_dir.parent / "labelled"
    shutil.copytree(data_dir, index)
    for part in PARTS[:2]:
        label = {"translation": [0, 0, 0], "rotation": [1, 0, 0, 0], "scale": [0.5] * 3}
        (index / f"stühle-1.5/stühle-1.5-{part}.json").write_text(json.dumps(label))
    write_table(tmp_path / "test.csv", build_index(DataConfig(data_dir=str(index))).manifest)
    (tmp_path / "params.yaml").write_text("data: {data_dir: data}\nmachine: {device: cpu}\n")
    run = run_stage("--split", "test.csv", "--output", "out", "--checkpoint", checkpoint)
    assert run.code == 0, run.err
    assert run.out == "" and "2 parts of 1 models" in run.err
    answers = pd.read_csv(tmp_path / "out/predictions.csv")
    assert answers.part.tolist() == PARTS[:2]
    assert len(list((tmp_path / "out").rglob("*.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --whole and --part, or --data-dir"),
        (["--whole", "w.png"], "--part is missing"),
        (["--part", "p.png"], "--whole is missing"),
        (["--whole", "w.png", "--part", "p.png", "--data-dir", "d"], "exclude --data-dir"),
        (["--whole", "w.png", "--part", "p.png", "--output", "o"], "exclude --data-dir"),
        (["--data-dir", "d"], "--output is missing"),
        (["--split", "t.csv"], "--output is missing"),
        (["--data-dir", "d", "--output", "o", "--config", "c.yaml"], "--config goes with --split"),
        (["--max-image-pixels", "-5"], "invalid positive_int value: '-5'"),
        (["--whole", "w.png", "--part", "p.png"], "models/best_model.pth: no such file; train it"),
    ],
)
def test_mistaken_arguments_are_told_in_words(run_stage, arguments, message):
    run = run_stage(*arguments)
    assert run.code == 2 and run.out == ""
    assert message in run.err
    assert "Traceback" not in run.err


def test_a_question_about_one_part_waits_for_nothing_that_it_does_not_need(checkpoint, data_dir):
    """Each of these takes up to half a second to load, and the collector of garbage over one: the
    thousands of objects that imports leave are frozen, so that it passes them over."""
    pictures = [str(data_dir / f"lamp/lamp-{name}.png") for name in ("whole", "foot")]
    question = ["--checkpoint", str(checkpoint), "--whole", pictures[0], "--part", pictures[1]]
    code = (
        f"import gc, json, runpy, sys; sys.argv = ['infer', *{question!r}]\n"
        f"runpy.run_path({SCRIPT!r}, run_name='__main__')\n"
        f"print(json.dumps([sorted(sys.modules), gc.get_freeze_count(), gc.isenabled()]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    answer, found = map(json.loads, run.stdout.splitlines())
    modules, frozen, collecting = found
    assert answer.keys() == {"translation", "scale", "confidence"}
    assert not {*ABSENT} & {*modules}
    assert frozen > 100_000 and collecting


def test_help_does_not_wait_for_torch():
    code = (
        f"import runpy, sys; sys.argv = ['infer', '--help']\n"
        f"try: runpy.run_path({SCRIPT!r}, run_name='__main__')\n"
        f"except SystemExit: sys.exit('torch' in sys.modules)"
    )
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and "--whole chair-whole.png" in run.stdout
    assert time.perf_counter() - start < 5  # 0.1 s on an idle machine
