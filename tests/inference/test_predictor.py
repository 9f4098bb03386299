"""Prediction for one whole, and the command `infer`."""

import json
import math
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from answer_schema import require_valid
from PIL import Image
from toys import PARTS, ROOT, noise_image, run_python, set_constant_confidence

from partloc.commands import infer
from partloc.config import DataConfig
from partloc.data.images import ImageError
from partloc.data.index import build_index
from partloc.distributed import inference_dtype, training_dtype
from partloc.inference.checkpoint import SHIPPED_MODELS
from partloc.inference.predictor import NO_BACKGROUND_PENALTY, PartResult, Predictor
from partloc.model.camera import PinholeCamera
from partloc.model.model_file import MODEL_FORMAT
from partloc.system.files import CheckpointError, locked_folder, write_table

# What a prediction for one part does not need.
UNNEEDED_MODULES = (
    *("dvc", "pandas", "pyvista", "ruamel", "tensorboard", "vtk"),
    *("partloc.inference.folder", "partloc.data.index", "partloc.data.split"),
    *("partloc.evaluation.evaluate", "partloc.evaluation.metrics", "partloc.evaluation.report"),
    *("partloc.training.run", "partloc.training.trainer"),
)


def best_values(result: PartResult) -> list[float]:
    return [*result.best.translation, result.best.scale, result.best.confidence]


def test_several_parts_get_the_poses_that_each_gets_alone(predictor, data_dir):
    folder = data_dir / "stühle-1.5"
    whole = folder / "stühle-1.5-whole.png"
    parts = [folder / f"stühle-1.5-{part}.png" for part in PARTS]
    together = torch.tensor([best_values(result) for result in predictor.predict(whole, parts)])
    alone = torch.tensor([best_values(predictor.predict(whole, [part])[0]) for part in parts])
    assert together.shape == (10, 5)
    assert together.std(0).min() > 1e-3  # poses differ, so order matters
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_an_answer_that_is_not_finite_is_an_error_that_names_the_file(
    run_infer, tmp_path, checkpoint
):
    """With weights that are finite, but overflow in the network."""
    content = torch.load(checkpoint, weights_only=True)
    weight = torch.full_like(content["weights"]["pose_head.hidden.1.weight"], 3e38)
    weights = content["weights"] | {"pose_head.hidden.1.weight": weight}
    torch.save(content | {"weights": weights}, tmp_path / "model.pth")
    whole, part = write_boxes(tmp_path)
    arguments = ("--checkpoint", "model.pth", "--device", "cpu", "--whole", whole, "--part", part)
    run = run_infer(*arguments)
    assert (run.status, run.out) == (2, "")
    assert run.err.splitlines() == [
        "camera: not known; translations are in the frame of the training labels",
        "error: model.pth: its predictions are not finite numbers; train it again",
    ]


def write_boxes(folder: Path, background: str = "white") -> tuple[Path, Path]:
    """A whole and a part on a plain background."""
    for name, width in (("whole", 30), ("part", 12)):
        image = Image.new("RGB", (60, 60), background)
        image.paste((190, 60, 50), (15, 15, 15 + width, 40))
        image.save(folder / f"{name}.png")
    return folder / "whole.png", folder / "part.png"


def test_a_confidence_is_the_calibrated_output_of_the_network(predictor, tmp_path):
    set_constant_confidence(predictor.model, math.log(3))
    predictor.model.confidence_head.slope.fill_(2.0)
    whole, part = write_boxes(tmp_path)
    (result,) = predictor.predict(whole, [part])
    poses = [result.best, *result.sorted_hypotheses()]
    assert {pose.confidence for pose in poses} == {0.9}


def test_without_a_plain_background_the_confidence_is_lower(predictor, data_dir, tmp_path):
    set_constant_confidence(predictor.model, math.log(3))
    whole, part = write_boxes(tmp_path)
    (on_plain,) = predictor.predict(whole, [part])
    folder = data_dir / "lamp"
    (on_noise,) = predictor.predict(folder / "lamp-whole.png", [folder / "lamp-foot.png"])
    assert on_plain.on_plain and not on_noise.on_plain
    assert on_plain.best.confidence == 0.75
    expected = 1 / (1 + math.exp(NO_BACKGROUND_PENALTY - math.log(3)))
    assert on_noise.best.confidence == pytest.approx(expected, abs=1e-6)


def test_predictions_do_not_depend_on_the_colour_of_a_plain_background(predictor, tmp_path):
    results = []
    for background in ("white", "black", "gray"):
        (tmp_path / background).mkdir()
        whole, part = write_boxes(tmp_path / background, background)
        (result,) = predictor.predict(whole, [part])
        results.append([*result.best.translation, result.best.scale])
    assert results[1] == pytest.approx(results[0], abs=1e-4)
    assert results[2] == pytest.approx(results[0], abs=1e-4)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_images_may_have_any_mode_and_size(predictor, tmp_path, mode):
    image = Image.fromarray(np.arange(35 * 9, dtype=np.uint16).reshape(35, 9) * 200)
    if mode != "I;16":
        image = noise_image(1, (9, 35)).convert("RGB").convert(mode)
    path = tmp_path / ("part.tif" if mode == "CMYK" else "part.png")
    image.save(path)
    noise_image(2, (301, 77)).save(tmp_path / "whole.jpg")
    (result,) = predictor.predict(tmp_path / "whole.jpg", [path])
    assert np.isfinite(result.best.translation).all() and result.best.scale > 0
    assert 0 <= result.best.confidence <= 1


def test_equal_images_are_predicted_once_and_get_distinct_hypotheses(
    predictor, data_dir, monkeypatch
):
    chairs = data_dir / "stühle-1.5"
    # A camera and small parts make distinct image positions distinct in space.
    predictor.model.prior.center[3] = -3.0
    slope = torch.tensor([[1.0, 0, 0], [0, 0, -1.0]])
    predictor.model.set_camera(PinholeCamera(slope, torch.zeros(2), torch.zeros(()), 1.0))
    for number in (1, 2):
        shutil.copy(chairs / "stühle-1.5-part-0.png", chairs / f"stühle-1.5-part-{number}.png")
    batch_sizes, predict = [], predictor.model.predict
    monkeypatch.setattr(
        predictor.model,
        "predict",
        lambda *args: batch_sizes.append(len(args[1].tokens)) or predict(*args),
    )
    parts = [chairs / f"stühle-1.5-part-{number}.png" for number in range(3)]
    legs = predictor.predict(chairs / "stühle-1.5-whole.png", parts)
    assert batch_sizes == [1]
    assert len({tuple(leg.best.translation) for leg in legs}) == 3
    hypotheses = [leg.sorted_hypotheses() for leg in legs]
    assert hypotheses[0] == hypotheses[1] == hypotheses[2]
    assert all(leg.best in hypotheses[0] for leg in legs)
    (alone,) = predictor.predict(chairs / "stühle-1.5-whole.png", parts[:1])
    assert alone.sorted_hypotheses() == hypotheses[0] and alone.best == hypotheses[0][0]


def test_a_whole_without_readable_parts_gives_their_errors(predictor, tmp_path):
    noise_image(1).save(tmp_path / "whole.png")
    assert predictor.predict(tmp_path / "whole.png", []) == []
    (error,) = predictor.predict(tmp_path / "whole.png", [tmp_path / "gone.png"])
    assert isinstance(error, ImageError) and "gone.png" in str(error)


def test_a_cpu_with_bf16_encodes_in_it_and_trains_without(predictor, monkeypatch):
    cpu, images = torch.device("cpu"), torch.rand(2, 3, 56, 56)
    with torch.inference_mode():
        full = predictor.model.encode(images, inference_dtype(cpu))
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
        half = predictor.model.encode(images, inference_dtype(cpu))
    assert inference_dtype(cpu) is torch.bfloat16 and training_dtype(True, cpu) is None
    assert half.tokens.dtype is torch.float32
    difference = (half.tokens - full.tokens).abs()
    assert 0 < difference.mean() < 0.02 * full.tokens.abs().mean()


def test_the_error_for_an_unreadable_image_names_it(run_infer, checkpoint, predictor, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"text")
    noise_image(1).save(tmp_path / "good.png")
    with pytest.raises(ImageError, match="bad.png"):
        predictor.predict(tmp_path / "bad.png", [tmp_path / "good.png"])
    arguments = ["--checkpoint", checkpoint, "--whole", "good.png", "--part"]
    run = run_infer(*arguments, "bad.png")
    assert run.status == 2 and "bad.png" in run.err and run.out == ""


def test_another_kind_of_file_is_no_checkpoint(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=MODEL_FORMAT):
        Predictor(tmp_path / "other.pth")


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def run_infer(run_command):
    """Runs the command in a folder without params.yaml."""
    return partial(run_command, infer)


def test_stdout_is_one_json_object_or_a_list_of_them(run_infer, checkpoint, data_dir):
    lamp, chairs = data_dir / "lamp", data_dir / "stühle-1.5"
    arguments = ["--checkpoint", checkpoint, "--device", "cpu"]
    arguments += ["--whole", lamp / "lamp-whole.png"]
    first, second = lamp / "lamp-foot.png", chairs / "stühle-1.5-part-1.png"
    one = run_infer(*arguments, "--part", first)
    assert one.status == 0, one.err
    pose = json.loads(one.out)
    assert list(pose) == ["translation", "scale", "confidence"]
    assert len(pose["translation"]) == 3
    assert one.out.count("\n") == 1
    values = [*pose["translation"], pose["scale"], pose["confidence"]]
    assert values == [round(value, 6) for value in values]

    both = json.loads(run_infer(*arguments, "--part", second, "--part", first).out)
    assert [item["part"] for item in both] == [str(second), str(first)]
    assert both[1]["translation"] == pytest.approx(pose["translation"], abs=2e-5)
    assert both[1]["scale"] == pytest.approx(pose["scale"], abs=2e-5)
    assert both[0]["translation"] != pytest.approx(pose["translation"], abs=1e-4)

    require_valid(pose)
    require_valid(both)
    detailed = json.loads(run_infer(*arguments, "--part", first, "--all").out)
    assert {key: detailed[key] for key in pose} == pose
    require_valid(detailed)
    assert detailed["hypotheses"][0] == pose and len(detailed["hypotheses"]) > 1


def test_the_stage_predicts_the_rows_of_a_split_table(run_infer, checkpoint, data_dir, tmp_path):
    labelled = data_dir.parent / "labelled"
    shutil.copytree(data_dir, labelled)
    for part in PARTS[:2]:
        label = {"translation": [0, 0, 0], "rotation": [1, 0, 0, 0], "scale": [0.5] * 3}
        (labelled / f"stühle-1.5/stühle-1.5-{part}.json").write_text(json.dumps(label))
    write_table(tmp_path / "test.csv", build_index(DataConfig(data_dir=str(labelled))).manifest)
    (tmp_path / "params.yaml").write_text("data: {data_dir: data}\nmachine: {device: cpu}\n")
    run = run_infer("--split", "test.csv", "--output", "out", "--checkpoint", checkpoint)
    assert run.status == 0, run.err
    assert run.out == "" and "2 parts of 1 models" in run.err
    predictions = pd.read_csv(tmp_path / "out/predictions.csv")
    assert predictions.part.tolist() == PARTS[:2]
    assert len(list((tmp_path / "out").glob("*/*.json"))) == 2


def test_a_split_of_the_pipeline_is_found_by_its_name(run_infer, checkpoint, data_dir, tmp_path):
    """In a folder whose name a shell would change."""
    output_dir = tmp_path / 'out $HOME `touch X` " $(touch Y)'
    label = {"translation": [0, 0, 0], "rotation": [1, 0, 0, 0], "scale": [0.5] * 3}
    (data_dir / "lamp/lamp-foot.json").write_text(json.dumps(label))
    manifest = build_index(DataConfig(data_dir=str(data_dir))).manifest
    write_table(output_dir / "split/test.csv", manifest)
    values = {
        "data": {"data_dir": str(data_dir), "output_dir": str(output_dir)},
        "machine": {"device": "cpu"},
    }
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    run = run_infer("--split", "test", "--checkpoint", checkpoint)
    assert run.status == 0, run.err
    assert (output_dir / "infer/lamp/lamp-foot.json").is_file()
    run = run_infer("--split", "val", "--output", "out", "--checkpoint", checkpoint)
    assert run.status == 2 and "val.csv: no such file; run the previous stages" in run.err


def test_a_folder_that_another_process_writes_into_is_refused(
    run_infer, checkpoint, data_dir, tmp_path
):
    arguments = ("--data-dir", data_dir, "--output", "out", "--checkpoint", checkpoint)
    with locked_folder(tmp_path / "out"):
        run = run_infer(*arguments, "--device", "cpu")
        assert run.status == 2 and "error: out: another process is writing" in run.err
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert run_infer(*arguments, "--device", "cpu").status == 0
    assert not (tmp_path / "out/.lock").exists()


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
        (["--data-dir", "d", "--output", "o", "--config", "c.yaml"], "--config is for --split"),
        (["--max-image-pixels", "-5"], "invalid positive_int value: '-5'"),
        (["--whole", "w.png", "--part", "p.png"], "w.png: no such file"),
    ],
)
def test_wrong_arguments_are_explained(run_infer, arguments, message):
    run = run_infer(*arguments)
    assert run.status == 2 and run.out == ""
    assert message in run.err
    assert "Traceback" not in run.err


def test_without_a_model_file_the_shipped_one_answers_and_says_so(run_infer, data_dir):
    lamp = data_dir / "lamp"
    images = ["--whole", lamp / "lamp-whole.png", "--part", lamp / "lamp-foot.png"]
    run = run_infer(*images, "--device", "cpu")
    assert run.status == 0
    message, camera, *warnings = run.err.splitlines()
    assert message == "no models/best_model.pth: using the shipped model dinov2_vitt14.pth"
    frame = "translations are in a right-handed frame with z upward"
    assert camera == f"camera: of the model file; {frame}"
    assert all(warning.startswith("warning: ") for warning in warnings)
    require_valid(json.loads(run.out))
    shipped = SHIPPED_MODELS["dinov2_vitt14"]
    explicit = run_infer(*images, "--device", "cpu", "--checkpoint", shipped)
    assert explicit.out == run.out and "shipped" not in explicit.err


def test_while_dvc_trains_anew_the_model_of_the_last_training_answers_and_is_named(
    run_infer, data_dir, checkpoint, tmp_path
):
    """DVC has deleted models/best_model.pth; the copy of it answers, not the shipped model."""
    copy = tmp_path / "runs/train/best_model.pth"
    copy.parent.mkdir(parents=True)
    shutil.copy(checkpoint, copy)
    lamp = data_dir / "lamp"
    images = ["--whole", lamp / "lamp-whole.png", "--part", lamp / "lamp-foot.png"]
    run = run_infer(*images, "--device", "cpu")
    message = "using runs/train/best_model.pth, the model of the last finished training"
    assert run.status == 0 and f"no models/best_model.pth: {message}" in run.err.splitlines()
    explicit = run_infer(*images, "--device", "cpu", "--checkpoint", checkpoint)
    assert run.out == explicit.out
    copy.unlink()
    copy.mkdir()
    run = run_infer(*images, "--device", "cpu")
    assert run.status == 0 and "using the shipped model" in run.err and run.out != explicit.out


def test_no_model_stands_in_for_one_that_is_named_or_measured(run_infer, data_dir, tmp_path):
    lamp = data_dir / "lamp"
    images = ["--whole", lamp / "lamp-whole.png", "--part", lamp / "lamp-foot.png"]
    run = run_infer(*images, "--checkpoint", "models/best_model.pth")
    assert run.status == 2 and "models/best_model.pth: no such file; train it" in run.err
    (tmp_path / "test.csv").write_text("")
    run = run_infer("--split", "test.csv", "--output", "out")
    assert run.status == 2 and "models/best_model.pth: no such file; train it" in run.err


def test_a_prediction_for_one_part_loads_no_module_that_it_does_not_need(checkpoint, data_dir):
    """Each of these takes up to half a second to load. Garbage collection would take over one,
    so the thousands of objects that imports create are excluded from it."""
    images = [str(data_dir / f"lamp/lamp-{name}.png") for name in ("whole", "foot")]
    arguments = ["--checkpoint", str(checkpoint), "--whole", images[0], "--part", images[1]]
    code = (
        "import gc, json, sys; from partloc.commands import infer; infer.main()\n"
        "print(json.dumps([sorted(sys.modules), gc.get_freeze_count(), gc.isenabled()]))"
    )
    run = run_python(ROOT, "-c", code, *arguments)
    assert run.returncode == 0, run.stderr
    pose, state = map(json.loads, run.stdout.splitlines())
    modules, num_frozen_objects, gc_is_enabled = state
    assert pose.keys() == {"translation", "scale", "confidence"}
    assert not {*UNNEEDED_MODULES} & {*modules}
    assert num_frozen_objects > 100_000 and gc_is_enabled


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from partloc.commands import infer\n"
        "try: infer.main()\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    start = time.perf_counter()
    run = run_python(ROOT, "-c", code, "--help")
    assert run.returncode == 0 and "--whole chair-whole.png" in run.stdout
    assert time.perf_counter() - start < 5  # 0.1 s on an idle machine
