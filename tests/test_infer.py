"""Inference: one whole, a folder of models, a split table."""

import json
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toys import answering_model

from partloc.checkpoint import CheckpointError, save_model
from partloc.config import DataConfig
from partloc.files import write_table
from partloc.images import ImageError
from partloc.index import LayoutError, build_index
from partloc.infer import (
    Found,
    Hypothesis,
    Predictor,
    find_jobs,
    predict_jobs,
    refuse_overwriting,
    write_answers,
)
from partloc.model import Tokens
from partloc.view import View

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "stages/infer.py")
PARTS = [f"part-{number}" for number in range(10)]  # more than one batch


@pytest.fixture(scope="module")
def checkpoint(one_thread, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "best_model.pth"
    save_model(path, answering_model(), {})
    return path


@pytest.fixture
def predictor(checkpoint) -> Predictor:
    return Predictor(checkpoint, "cpu")


def noise(seed: int, size: tuple[int, int] = (60, 50)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """Two models in the users' layout, without labels; one name is not ASCII."""
    root = tmp_path / "data"
    for number, (model, parts) in enumerate({"stühle-1.5": PARTS, "lamp": ["foot"]}.items()):
        (root / model).mkdir(parents=True)
        for i, part in enumerate(["whole", *parts]):
            noise(100 * number + i).save(root / model / f"{model}-{part}.png")
    return root


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


def test_the_whole_is_encoded_once(predictor, data_dir, monkeypatch):
    seen = []
    encode = predictor.model.encode

    def counting(images: torch.Tensor) -> Tokens:
        seen.append(len(images))
        return encode(images)

    monkeypatch.setattr(predictor.model, "encode", counting)
    jobs, _ = find_jobs(data_dir)
    predict_jobs(predictor, jobs, data_dir)
    assert seen == [1, 1, 1, 8, 2]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_any_mode_and_size_is_answered(predictor, tmp_path, mode):
    picture = Image.fromarray(np.arange(35 * 9, dtype=np.uint16).reshape(35, 9) * 200)
    if mode != "I;16":
        picture = noise(1, (9, 35)).convert("RGB").convert(mode)
    path = tmp_path / ("part.tif" if mode == "CMYK" else "part.png")
    picture.save(path)
    noise(2, (301, 77)).save(tmp_path / "whole.jpg")
    (found,) = predictor.predict(tmp_path / "whole.jpg", [path])
    assert np.isfinite(found.best.pose).all() and found.best.pose[3] > 0
    assert 0 <= found.best.confidence <= 1


def test_a_folder_gets_the_answers_that_single_questions_get(predictor, data_dir, tmp_path):
    jobs, skipped = find_jobs(data_dir)
    answers, unreadable = predict_jobs(predictor, jobs, data_dir)
    assert (skipped, unreadable) == ([], [])
    write_answers(tmp_path / "out", answers, [])
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    assert len(table) == 11 and table.model.is_monotonic_increasing
    for row in table.itertuples():
        (found,) = predictor.predict(data_dir / row.whole_path, [data_dir / row.part_path])
        answered = [row.tx, row.ty, row.tz, row.scale, row.confidence]
        assert answered == pytest.approx(numbers(found), abs=2e-5)
        label = json.loads((tmp_path / f"out/{row.model}/{row.model}-{row.part}.json").read_text())
        # JSON keeps six significant digits, the table six decimals.
        assert label["translation"] == pytest.approx([row.tx, row.ty, row.tz], rel=1e-5)
        assert label["scale"] == pytest.approx([row.scale] * 3, rel=1e-5)
        assert label["rotation"] == [1, 0, 0, 0]
        assert label["confidence"] == pytest.approx(row.confidence, rel=1e-5)


def test_answers_can_be_used_as_labels(predictor, data_dir, tmp_path):
    answers, _ = predict_jobs(predictor, find_jobs(data_dir)[0], data_dir)
    inside = Hypothesis([0.1, -0.5, 0.5, 0.5], 0.9)
    sane = [answer._replace(found=Found(inside, [inside])) for answer in answers]
    write_answers(tmp_path / "out", sane, [], everything=True)
    for model in ("lamp", "stühle-1.5"):
        shutil.copytree(data_dir / model, tmp_path / "out" / model, dirs_exist_ok=True)
    index = build_index(DataConfig(data_dir=str(tmp_path / "out")))
    assert len(index.manifest) == 11 and index.report.empty


def test_pictures_that_cannot_be_used_are_skipped_and_told(predictor, data_dir, tmp_path):
    good = predict_jobs(predictor, find_jobs(data_dir)[0], data_dir)[0]
    chairs = data_dir / "stühle-1.5"
    cut = (chairs / "stühle-1.5-part-3.png").read_bytes()[:60]
    (chairs / "stühle-1.5-part-3.png").write_bytes(cut)
    (chairs / "stühle-1.5-part-5.png").write_bytes(b"text")
    (chairs / "unrelated.png").write_bytes(b"")
    (chairs / "stühle-1.5-part-0.json").write_text("{ a label that nobody reads")
    for model, files in {"orphan": ["leg"], "broken": ["whole", "leg"]}.items():
        (data_dir / model).mkdir()
        for file in files:
            noise(7).save(data_dir / model / f"{model}-{file}.png")
    (data_dir / "broken/broken-whole.png").write_bytes(b"")

    jobs, skipped = find_jobs(data_dir)
    answers, unreadable = predict_jobs(predictor, jobs, data_dir)
    reasons = sorted((item.file.split("/")[1], item.reason) for item in skipped + unreadable)
    assert reasons == [
        ("broken-leg.png", "whole unusable"),
        ("orphan-leg.png", "whole missing"),
        ("stühle-1.5-part-3.png", "truncated image"),
        ("stühle-1.5-part-5.png", "unreadable image"),
        ("unrelated.png", "foreign file"),
    ]
    kept = {(a.model, a.part): numbers(a.found) for a in good if a.part not in ("part-3", "part-5")}
    assert {(a.model, a.part) for a in answers} == set(kept)
    for answer in answers:
        assert numbers(answer.found) == pytest.approx(kept[answer.model, answer.part], abs=2e-5)
    write_answers(tmp_path / "out", answers, skipped + unreadable)
    assert len(pd.read_csv(tmp_path / "out/skipped.csv")) == 5


def test_extensions_may_be_in_capitals(predictor, data_dir):
    lamp = data_dir / "lamp"
    (lamp / "lamp-foot.png").rename(lamp / "lamp-foot.PNG")
    answers, skipped = predict_jobs(predictor, find_jobs(data_dir)[0], data_dir)
    assert len(answers) == 11 and not skipped


def test_a_folder_without_models_explains_the_layout(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(LayoutError, match="chair-whole.png"):
            find_jobs(folder)


def test_answers_never_replace_the_labels(data_dir):
    for inside in (data_dir, data_dir / "out", data_dir / "../data"):
        with pytest.raises(ValueError, match="replace the labels"):
            refuse_overwriting(inside, data_dir)
    refuse_overwriting(data_dir / "../data-out", data_dir)


def test_equal_pictures_are_encoded_once_and_get_distinct_places(predictor, data_dir, monkeypatch):
    chairs = data_dir / "stühle-1.5"
    # A camera, and small parts, so that places in the image are places in space.
    predictor.model.center[3] = -3.0
    predictor.model.set_view(View(torch.tensor([[1.0, 0, 0], [0, 0, -1.0]]), torch.zeros(2), 1.0))
    for number in (1, 2):
        shutil.copy(chairs / "stühle-1.5-part-0.png", chairs / f"stühle-1.5-part-{number}.png")
    located = []
    locate = predictor._locate
    monkeypatch.setattr(
        predictor, "_locate", lambda *asked: located.append(len(asked[1])) or locate(*asked)
    )
    parts = [chairs / f"stühle-1.5-part-{number}.png" for number in range(3)]
    legs = predictor.predict(chairs / "stühle-1.5-whole.png", parts)
    assert located == [1]
    assert len({tuple(leg.best.pose) for leg in legs}) == 3
    considered = [leg.hypotheses for leg in legs]
    assert considered[0] == considered[1] == considered[2]
    assert {tuple(leg.best.pose) for leg in legs} <= {tuple(item.pose) for item in considered[0]}
    assert considered[0][0].confidence == max(item.confidence for item in considered[0])


def test_single_questions_name_the_picture_that_cannot_be_read(
    run_stage, checkpoint, predictor, tmp_path
):
    (tmp_path / "bad.png").write_bytes(b"text")
    noise(1).save(tmp_path / "good.png")
    with pytest.raises(ImageError, match="bad.png"):
        predictor.predict(tmp_path / "bad.png", [tmp_path / "good.png"])
    asked = ["--checkpoint", checkpoint, "--whole", "good.png", "--part"]
    run = run_stage(*asked, "bad.png")
    assert run.code == 2 and "bad.png" in run.err and run.out == ""


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="partloc-model-3"):
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
        (["--whole", "w.png", "--part", "p.png"], "models/best_model.pth: no such file; train it"),
    ],
)
def test_mistaken_arguments_are_told_in_words(run_stage, arguments, message):
    run = run_stage(*arguments)
    assert run.code == 2 and run.out == ""
    assert message in run.err
    assert "Traceback" not in run.err


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
