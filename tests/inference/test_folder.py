"""Predictions for a folder of models, and their files."""

import json
import os
import resource
import shutil
import weakref
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from answer_schema import require_valid
from toys import PARTS, SINGLE_PROCESS, noise_image

from partloc.inference.estimate import PoseEstimate
from partloc.inference.folder import (
    ModelOutcome,
    PartPrediction,
    Summary,
    predict_jobs,
    require_outside,
    write_predictions,
)
from partloc.inference.hypotheses import HYPOTHESIS_FIELDS, Hypotheses
from partloc.inference.image_loader import IMAGES_AHEAD
from partloc.inference.jobs import SkippedFile, find_jobs
from partloc.inference.prediction_files import read_attention
from partloc.inference.predictor import ModelImages, PartResult
from partloc.model.encoder import EncodedImages

POSE = PoseEstimate((0.1, -0.5, 0.5), 0.5, 0.9)
NUM_HYPOTHESES = 1
# One hypothesis, the pose above.
RESULT = PartResult(
    POSE,
    Hypotheses.from_tensor(torch.tensor([[0.1, -0.5, 0.5, 0.5, 0.0, 2.2]])),
    torch.tensor([0.9]),
)


def make_prediction(part: str) -> PartPrediction:
    return PartPrediction("lamp", part, "lamp/lamp-whole.png", f"lamp/lamp-{part}.png", RESULT)


def predictions_of(outcomes: Iterable[ModelOutcome]) -> list[PartPrediction]:
    return [prediction for outcome in outcomes for prediction in outcome.predictions]


def best_values(result: PartResult) -> list[float]:
    return [*result.best.translation, result.best.scale, result.best.confidence]


def all_values(prediction: PartPrediction) -> tuple:
    """Everything that is known of a prediction, comparable."""
    result = prediction.result
    hypotheses = result.hypotheses.to_tensor().tolist()
    return (*prediction[:4], result.best, hypotheses, result.confidence.tolist())


@pytest.fixture
def predict_and_write(predictor, data_dir, tmp_path):
    """Predicts the whole data folder into tmp_path/out."""

    def run(**options) -> Summary:
        outcomes = predict_jobs(predictor, find_jobs(data_dir), data_dir)
        num_hypotheses = predictor.model.num_hypotheses
        options = {"attention_side": predictor.model.attention_side} | options
        return write_predictions(
            tmp_path / "out", outcomes, num_hypotheses, SINGLE_PROCESS, **options
        )

    return run


# -- prediction --------------------------------------------------------------------------------


def test_a_model_gets_the_same_bits_whatever_else_is_in_the_folder(predictor, data_dir):
    jobs = find_jobs(data_dir)
    together = predictions_of(predict_jobs(predictor, jobs, data_dir))
    alone = [p for job in jobs for p in predictions_of(predict_jobs(predictor, [job], data_dir))]
    assert list(map(all_values, together)) == list(map(all_values, alone))


def test_the_whole_is_encoded_once(predictor, data_dir, monkeypatch):
    batch_sizes = []
    encode = predictor.model.encode

    def counting(images: torch.Tensor, precision: torch.dtype | None) -> EncodedImages:
        batch_sizes.append(len(images))
        return encode(images, precision)

    monkeypatch.setattr(predictor.model, "encode", counting)
    list(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    assert batch_sizes == [2, 8, 3]  # the whole is in a batch with the first parts


def test_no_more_images_are_read_than_are_soon_needed(predictor, data_dir, monkeypatch):
    read, load = [], predictor._read
    monkeypatch.setattr(predictor, "_read", lambda source: read.append(source) or load(source))
    lamp = find_jobs(data_dir)[0]
    outcomes = predict_jobs(predictor, [lamp] * 16, data_dir)
    first = next(outcomes)
    assert 2 <= len(read) <= 2 + IMAGES_AHEAD
    expected = all_values(first.predictions[0])
    assert [all_values(p) for p in predictions_of(outcomes)] == [expected] * 15
    assert len(read) == 32


def test_unusable_images_are_skipped_and_reported(predictor, data_dir, predict_and_write, tmp_path):
    before = predictions_of(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    chairs = data_dir / "stühle-1.5"
    truncated = (chairs / "stühle-1.5-part-3.png").read_bytes()[:60]
    (chairs / "stühle-1.5-part-3.png").write_bytes(truncated)
    (chairs / "stühle-1.5-part-5.png").write_bytes(b"text")
    (chairs / "unrelated.png").write_bytes(b"")
    (chairs / "stühle-1.5-part-0.json").write_text("{ a label, which is not read")
    for model, files in {"orphan": ["leg"], "broken": ["whole", "leg"]}.items():
        (data_dir / model).mkdir()
        for file in files:
            noise_image(7).save(data_dir / model / f"{model}-{file}.png")
    (data_dir / "broken/broken-whole.png").write_bytes(b"")

    after = predictions_of(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    expected = {
        (p.model, p.part): best_values(p.result)
        for p in before
        if p.part not in ("part-3", "part-5")
    }
    assert {(p.model, p.part) for p in after} == set(expected)
    for prediction in after:
        key = prediction.model, prediction.part
        assert best_values(prediction.result) == pytest.approx(expected[key], abs=2e-5)
    summary = predict_and_write()
    table = pd.read_csv(tmp_path / "out/skipped.csv")
    assert list(zip(table.file.str.split("/").str[1], table.reason, strict=True)) == [
        ("broken-leg.png", "whole unusable"),
        ("orphan-leg.png", "whole missing"),
        ("stühle-1.5-part-3.png", "truncated image"),
        ("stühle-1.5-part-5.png", "unreadable image"),
        ("unrelated.png", "unexpected file"),
    ]
    assert "9 parts of 2 models predicted" in str(summary)
    assert "1 skipped: truncated image; e.g. stühle-1.5/stühle-1.5-part-3.png: " in str(summary)


def test_unusable_names_and_broken_links_are_skipped_like_in_the_index(
    data_dir, predict_and_write, tmp_path
):
    lamp = data_dir / "lamp"
    for name in ("lamp-sha\udcffde.png", "lamp-twice.png", "lamp-twice.PNG"):
        shutil.copy(lamp / "lamp-foot.png", lamp / name)
    (data_dir / "gone").symlink_to("nowhere")
    (data_dir / "new\nline").mkdir()
    summary = predict_and_write()
    assert summary.parts == 11 and summary.models == 2
    assert summary.skipped == {"unusable name": 2, "duplicate name": 1, "broken link": 1}
    assert len(pd.read_csv(tmp_path / "out/skipped.csv")) == 4


def test_a_folder_that_cannot_be_listed_affects_no_other_model(predictor, data_dir, monkeypatch):
    listdir = os.listdir

    def failing(path):
        if str(path).endswith("lamp"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", failing)
    outcomes = list(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    assert len(predictions_of(outcomes)) == len(PARTS)
    (skipped,) = [file for outcome in outcomes for file in outcome.skipped]
    assert skipped == SkippedFile("lamp", "lamp", "unreadable folder", "Permission denied")


# -- files -------------------------------------------------------------------------------------


def test_the_files_hold_the_poses_that_single_predictions_give(
    predictor, data_dir, predict_and_write, tmp_path
):
    predict_and_write()
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    hypotheses = np.load(tmp_path / "out/hypotheses.npy")
    assert len(table) == 11 and table.model.is_monotonic_increasing
    assert hypotheses.dtype == np.float32
    assert hypotheses.shape == (11, predictor.model.num_hypotheses, len(HYPOTHESIS_FIELDS))
    for number, row in enumerate(table.itertuples()):
        (result,) = predictor.predict(data_dir / row.whole_path, [data_dir / row.part_path])
        written = [row.tx, row.ty, row.tz, row.scale, row.confidence]
        assert written == pytest.approx(best_values(result), abs=2e-5)
        single = result.hypotheses.to_tensor().numpy()
        np.testing.assert_allclose(hypotheses[number], single, atol=1e-3)
        answer = json.loads((tmp_path / f"out/{row.model}/{row.model}-{row.part}.json").read_text())
        # JSON has six significant digits, the table six decimals.
        assert answer["translation"] == pytest.approx([row.tx, row.ty, row.tz], rel=1e-5)
        assert answer["scale"] == pytest.approx(row.scale, rel=1e-5)
        require_valid(answer)
        assert (answer["model"], answer["part"]) == (row.model, row.part)
        assert answer["confidence"] == pytest.approx(row.confidence, rel=1e-5)


def test_predictions_are_written_one_by_one_and_not_kept(tmp_path):
    class WeakList(list):
        """A list that a weak reference can point to."""

    def outcomes() -> Iterator[ModelOutcome]:
        references = []
        for number, part in enumerate(PARTS):
            predictions = WeakList([make_prediction(part)])
            references.append(weakref.ref(predictions))
            yield ModelOutcome(predictions, [])
            del predictions
            assert (tmp_path / f"lamp/lamp-{part}.json").is_file()
            assert [reference() for reference in references[:number]] == [None] * number

    summary = write_predictions(tmp_path, outcomes(), NUM_HYPOTHESES, SINGLE_PROCESS)
    assert summary.parts == len(PARTS)
    assert pd.read_csv(tmp_path / "predictions.csv").part.tolist() == PARTS


def test_a_run_that_fails_leaves_the_files_of_the_last_one(tmp_path):
    outcome = ModelOutcome([make_prediction("foot")], [])
    write_predictions(tmp_path, [outcome], NUM_HYPOTHESES, SINGLE_PROCESS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}

    def failing() -> Iterator[ModelOutcome]:
        skipped = SkippedFile("lamp", "lamp/lamp-foot.png", "unreadable image", "text")
        yield ModelOutcome([], [skipped])
        raise MemoryError("too large")

    with pytest.raises(MemoryError, match="^too large$"):
        write_predictions(tmp_path, failing(), NUM_HYPOTHESES, SINGLE_PROCESS)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_the_error_for_a_full_disk_names_the_table(tmp_path):
    outcomes = [ModelOutcome([make_prediction(f"part-{n}")], []) for n in range(200)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"predictions\.csv: cannot be written: .*too large"):
            write_predictions(tmp_path, outcomes, NUM_HYPOTHESES, SINGLE_PROCESS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["lamp"]


def test_no_file_is_written_through_a_link_that_leads_out_of_the_folder(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/lamp").symlink_to(tmp_path / "labels")
    outcome = ModelOutcome([make_prediction("foot")], [])
    with pytest.raises(ValueError, match="out/lamp: leads out of the folder of predictions"):
        write_predictions(tmp_path / "out", [outcome], NUM_HYPOTHESES, SINGLE_PROCESS)
    assert not [*(tmp_path / "labels").iterdir()]


def test_the_attention_maps_are_those_of_single_predictions(
    predictor, data_dir, predict_and_write, tmp_path
):
    predict_and_write()
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    attention = read_attention(tmp_path / "out", len(table))
    side = predictor.model.encoder.tokens_per_side
    assert attention.shape == (11,) and attention["weight"].shape == (11, side, side)
    assert (attention["weight"].max((1, 2)) == 255).all()
    assert (attention["crop"][:, 2] > 0).all() and (attention["crop"][:, 2] <= 1).all()
    row = table.iloc[5]
    images = [ModelImages(data_dir / row.whole_path, [data_dir / row.part_path])]
    ((result,),) = predictor.predict_models(images, with_attention=True)
    difference = attention[5]["weight"].astype(int) - result.attention.weight.numpy()
    assert np.abs(difference).max() <= 1
    ((plain,),) = predictor.predict_models(images)
    assert plain.attention is None


def test_maps_of_an_earlier_model_do_not_stay(predict_and_write, tmp_path):
    predict_and_write()
    predict_and_write(attention_side=None)
    assert not (tmp_path / "out/attention.npy").exists()
    assert read_attention(tmp_path / "out", 11) is None


def test_a_name_of_the_greatest_length_is_answered(predict_and_write, data_dir, tmp_path):
    lamp = data_dir / "lamp"
    part = "x" * (254 - len("lamp-.png"))
    (lamp / "lamp-foot.png").rename(lamp / f"lamp-{part}.png")
    assert predict_and_write().parts == 11
    assert (tmp_path / f"out/lamp/lamp-{part}.json").is_file()


def test_no_prediction_at_all_gives_empty_tables(tmp_path):
    write_predictions(tmp_path, [], NUM_HYPOTHESES, SINGLE_PROCESS)
    assert pd.read_csv(tmp_path / "predictions.csv").empty
    assert np.load(tmp_path / "hypotheses.npy").shape == (0, 1, len(HYPOTHESIS_FIELDS))


def test_predictions_never_replace_the_labels(data_dir):
    for inside in (data_dir, data_dir / "out", data_dir / "../data"):
        with pytest.raises(ValueError, match="replace the labels"):
            require_outside(inside, data_dir)
    require_outside(data_dir / "../data-out", data_dir)


def test_the_summaries_of_processes_can_be_added():
    skipped = [SkippedFile("lamp", f"lamp/{n}.png", "unreadable image", "text") for n in range(3)]
    total, first, second = Summary(), Summary(), Summary()
    for summary, outcome in (
        (first, ModelOutcome([make_prediction("foot")], skipped[:1])),
        (second, ModelOutcome([], skipped[1:])),
    ):
        summary.update(outcome)
        total.update(outcome)
    assert first + second == total
    assert "3 skipped: unreadable image; e.g. lamp/0.png: text" in str(total)
