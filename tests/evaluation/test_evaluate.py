"""Evaluation: figures, the per-sample table and the pipeline's files."""

import json
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from toys import make_untrained_model, single_hypothesis

from partloc.cli import error_message
from partloc.config import Config
from partloc.data.images import ImageError
from partloc.data.index import MANIFEST_COLUMNS
from partloc.data.table import PairTable
from partloc.evaluation.evaluate import (
    MAX_RECORDS,
    Answers,
    Judge,
    answer_models,
    comparison,
    judged_rows,
    prediction_rows,
    read_split,
    results_of,
    training_median,
)
from partloc.evaluation.evaluate import evaluate as evaluate_judged
from partloc.evaluation.metrics import constant_answer
from partloc.evaluation.report import TYPICAL, WORST
from partloc.files import write_table, write_table_chunks
from partloc.model.camera import PinholeCamera
from partloc.model.model_file import save_model
from partloc.model.prediction import Prediction
from partloc.pose import PartPose

ROOT = Path(__file__).resolve().parents[2]
# Looks along z.
FRONT = PinholeCamera(torch.eye(3)[:2], torch.zeros(2), torch.zeros(()), 1.0)


def make_samples(models: int = 3, parts: int = 4, seed: int = 0) -> pd.DataFrame:
    """A split table: parts a, b, c, ... of each model; a and b are twins."""
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(models):
        for letter in "abcdefgh"[:parts]:
            model = f"m{number}"
            paths = f"{model}/{model}-whole.png", f"{model}/{model}-{letter}.png"
            place = chance.uniform(-0.4, 0.4, 3).round(3), chance.uniform(0.1, 0.9).__round__(3)
            group = "a" if letter == "b" else letter
            rows.append(
                (model, letter, *paths, "0", letter, 60, 60, 60, 60, *place[0], place[1], group)
            )
    return pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS))


def truth_of(table: PairTable) -> PartPose:
    return PartPose(table.translation.clone(), table.scale.clone())


def answers_of(found: Prediction) -> Answers:
    """To all rows of a table."""
    count = len(found.log_weight)
    return Answers(np.arange(count), found, torch.full((count,), 0.75))


def evaluate(predicted: PartPose, table: PairTable, training: PairTable, view) -> dict:
    judge = Judge(table)
    constant = constant_answer(truth_of(training), 1)
    judge.enter(answers_of(single_hypothesis(predicted)), constant, view)
    return evaluate_judged(judge, seed=0)


def rows_of(samples: pd.DataFrame, table: PairTable, predicted: PartPose) -> pd.DataFrame:
    judge, answers = Judge(table), answers_of(single_hypothesis(predicted))
    judge.enter(answers, constant_answer(truth_of(table), 1), None)
    return prediction_rows(samples, judge, answers)


@pytest.fixture
def samples():
    return make_samples()


@pytest.fixture
def table(samples):
    return PairTable(samples, Path("data"))


def draw_images(folder: Path, samples: pd.DataFrame) -> None:
    chance = np.random.default_rng(0)
    for path in sorted({*samples.whole_path, *samples.part_path}):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 60)).save(folder / path)


def test_perfect_answers_have_no_error(table):
    figures = evaluate(truth_of(table), table, table, None)
    for spread in (figures["translation_error"], figures["translation_error"]["twin_aware"]):
        assert (spread["mean"], spread["median"], spread["p90"]) == (0, 0, 0)
        assert spread["within_0.05"] == 1
    assert figures["scale_error"] == {
        "absolute_mean": 0,
        "relative_mean": 0,
        "relative_median": 0,
        "log_ratio_mean": 0,
        "within_15pct": 1,
    }
    assert (figures["n_samples"], figures["n_models"]) == (12, 3)


def test_a_part_that_is_put_where_its_twin_belongs_is_right_for_the_twin_aware_figure(table):
    predicted = truth_of(table)
    predicted.translation[[0, 1]] = table.translation[[1, 0]]  # a and b of m0
    apart = (table.translation[0] - table.translation[1]).norm().item()
    figures = evaluate(predicted, table, table, None)["translation_error"]
    assert figures["twin_aware"]["mean"] == 0
    assert figures["mean"] == pytest.approx(2 * apart / 12)


def test_twins_on_one_place_are_right_each_alone_but_not_together(table):
    predicted = truth_of(table)
    predicted.translation[1] = table.translation[0]  # b of m0 stands where a stands
    apart = (table.translation[0] - table.translation[1]).norm().item()
    figures = evaluate(predicted, table, table, None)
    assert figures["translation_error"]["twin_aware"]["mean"] == 0
    assert figures["translation_error"]["assigned"]["mean"] == pytest.approx(apart / 12)
    kinds = figures["by_kind"]
    assert (kinds["unique"]["n_samples"], kinds["twins"]["n_samples"]) == (6, 6)
    assert kinds["unique"]["assigned_error_mean"] == 0
    assert kinds["twins"]["assigned_error_mean"] == pytest.approx(apart / 6)


def test_twins_with_two_hypotheses_are_assigned_to_both(table):
    truth = truth_of(table)
    both = PartPose(*(field[:, None].repeat(1, 2, 1) for field in truth))
    for rows in ([0, 1], [4, 5], [8, 9]):  # a and b of each model: the same two hypotheses
        for field, values in zip(both, truth, strict=True):
            field[rows] = values[rows]
    share = torch.tensor([0.7, 0.3]).log().repeat(12, 1)
    found = Prediction(both, share, share)
    judge = Judge(table)
    judge.enter(answers_of(found), constant_answer(truth, 1), None)
    errors = evaluate_judged(judge, seed=0)["translation_error"]
    assert errors["assigned"]["mean"] == errors["twin_aware"]["mean"] == 0 < errors["mean"]


def test_intervals_hold_the_figure_and_shrink_with_more_models():
    widths = []
    for count in (10, 160):
        table = PairTable(make_samples(models=count), Path("data"))
        predicted = truth_of(table)
        predicted.translation.add_(0.1 * torch.randn(4 * count, 3, generator=torch.manual_seed(0)))
        figures = evaluate(predicted, table, table, None)
        interval = figures["interval_95"]["translation_error"]["mean"]
        assert interval["low"] < figures["translation_error"]["mean"] < interval["high"]
        widths.append(interval["high"] - interval["low"])
        assert evaluate(predicted, table, table, None) == figures
    assert 3 < widths[0] / widths[1] < 5  # 4 by the square root of the number of models


def test_intervals_are_of_models_not_of_samples():
    """Errors that are the same for all parts of a model: its parts tell nothing new."""
    table = PairTable(make_samples(models=40, parts=8), Path("data"))
    predicted = truth_of(table)
    shift = 0.2 * torch.rand(40, generator=torch.manual_seed(0))
    predicted.translation[:, 0].add_(shift.repeat_interleave(8))
    interval = evaluate(predicted, table, table, None)["interval_95"]["translation_error"]["mean"]
    expected = 2 * 1.96 * shift.std().item() / 40**0.5
    assert interval["high"] - interval["low"] == pytest.approx(expected, rel=0.15)


def test_a_part_that_is_put_where_another_part_belongs_is_wrong_for_both_figures(table):
    predicted = truth_of(table)
    predicted.translation[3] = table.translation[2]  # d of m0 is no twin of c
    figures = evaluate(predicted, table, table, None)["translation_error"]
    assert figures["twin_aware"]["mean"] == pytest.approx(figures["mean"]) != 0


def test_errors_are_told_apart_into_across_the_image_and_along_the_view(table):
    predicted = truth_of(table)
    predicted.translation.add_(torch.tensor([0.03, 0.04, -0.12]))
    figures = evaluate(predicted, table, table, FRONT)
    found = figures["translation_error"]["twin_aware"]
    assert found["mean"] == pytest.approx(0.13, abs=1e-6)
    for name in ("mean", "median"):
        assert found[f"across_image_{name}"] == pytest.approx(0.05, abs=1e-6)
        assert found[f"along_view_{name}"] == pytest.approx(0.12, abs=1e-6)
    assert "along the view" in comparison(figures, "test")


def test_the_sources_of_the_error_are_its_parts(table):
    """Depth where the place in the image is right, a wrong choice, and what was never proposed."""
    truth = truth_of(table)
    hypotheses = PartPose(*(field[:, None].repeat(1, 2, 1) for field in truth))
    places = hypotheses.translation  # (12, 2, 3), the first one is the answer
    places[0, 0] = table.translation[1]  # a's twin b: no error
    places[1] += torch.tensor([0.0, 0.0, 0.12])
    places[2, 0] += torch.tensor([0.3, 0.0, 0.0])
    places[3] += torch.tensor([0.0, 0.4, 0.0])
    share = torch.tensor([0.7, 0.3]).log().repeat(12, 1)
    judge = Judge(table)
    found = Prediction(hypotheses, share, share)
    judge.enter(answers_of(found), constant_answer(truth, 1), FRONT)
    figures = evaluate_judged(judge, seed=0)
    near = figures["translation_error"]["twin_aware"]
    assert near["sources"] == {
        "in_place": pytest.approx({"share": 10 / 12, "part_of_mean": 0.12 / 12}),
        "other_chosen": pytest.approx({"share": 1 / 12, "part_of_mean": 0.3 / 12}),
        "not_proposed": pytest.approx({"share": 1 / 12, "part_of_mean": 0.4 / 12}),
    }
    assert near["mean"] == pytest.approx(0.82 / 12)
    assert "sources" not in figures["baseline"]["translation_error"]["twin_aware"]
    unseen = evaluate(truth, table, table, None)["translation_error"]["twin_aware"]
    assert "sources" not in unseen


def test_the_baseline_answers_the_training_median_to_everything(table):
    training = make_samples(models=5, seed=1)
    figures = evaluate(truth_of(table), table, PairTable(training, Path("data")), None)["baseline"]
    median = training[["tx", "ty", "tz"]].median().to_numpy()
    errors = np.linalg.norm(table.translation.numpy() - median, axis=1)
    relative = (
        np.abs(table.scale.numpy()[:, 0] - training.scale.median()) / table.scale[:, 0].numpy()
    )
    assert figures["translation_error"]["mean"] == pytest.approx(errors.mean(), abs=1e-6)
    assert figures["translation_error"]["median"] == pytest.approx(np.median(errors), abs=1e-6)
    assert figures["scale_error"]["relative_mean"] == pytest.approx(relative.mean(), abs=1e-6)


def test_the_rows_of_the_table_add_up_to_the_figures(samples, table):
    predicted = truth_of(table)
    predicted.translation.add_(0.1 * torch.randn(12, 3, generator=torch.manual_seed(0)))
    predicted.scale.mul_(1.1)
    figures = evaluate(predicted, table, table, None)
    rows = rows_of(samples, table, predicted)
    errors = figures["translation_error"]
    assert rows.translation_error.mean() == pytest.approx(errors["mean"], abs=2e-6)
    assert rows.twin_aware_error.mean() == pytest.approx(errors["twin_aware"]["mean"], abs=2e-6)
    relative = figures["scale_error"]["relative_mean"]
    assert rows.relative_scale_error.mean() == pytest.approx(relative, abs=2e-6)
    assert rows.twins.tolist() == [1, 1, 0, 0] * 3
    assert list(zip(rows.model, rows.part, strict=True)) == sorted(
        zip(samples.model, samples.part, strict=True)
    )
    assert "training median" in comparison(figures, "test")


def test_answers_stay_with_their_rows_when_the_table_is_not_grouped_by_model(samples):
    shuffled = samples.sample(frac=1, random_state=0)
    table, truth = _perfect(shuffled)
    rows = rows_of(shuffled, table, truth)
    assert rows.translation_error.max() == 0
    assert (rows.tx - rows.predicted_tx).abs().max() < 1e-6
    assert rows.part.tolist() == shuffled.part.tolist()


def _perfect(samples: pd.DataFrame) -> tuple[PairTable, PartPose]:
    table = PairTable(samples, Path("data"))
    return table, truth_of(table)


def test_series_for_the_plots_stay_small_and_span_the_table():
    table = PairTable(make_samples(models=100, parts=8), Path("data"))
    figures = evaluate(truth_of(table), table, table, None)
    assert len(figures["points"]) == len(figures["errors"]) == MAX_RECORDS
    assert {point["axis"] for point in figures["points"]} == {"x", "y", "z", "scale"}
    assert all(point["true"] == point["predicted"] for point in figures["points"])
    first, last = figures["points"][0], figures["points"][MAX_RECORDS // 4 - 1]
    assert first["true"] == pytest.approx(table.translation[0, 0].item())
    assert last["true"] == pytest.approx(table.translation[-1, 0].item())


def test_the_answer_to_a_row_does_not_depend_on_the_rows_beside_it(tmp_path, samples):
    draw_images(tmp_path, samples)
    model, config = make_untrained_model(), Config(machine={"num_workers": 0})

    def answers(rows: pd.DataFrame) -> PartPose:
        table = PairTable(rows, tmp_path)
        (found,) = answer_models(model, table, config, torch.device("cpu"))
        assert found.rows.tolist() == list(range(len(rows)))
        return found.found.pose

    together = answers(samples)
    assert together.translation.std(0).min() > 1e-3
    chosen = [5, 0, 10]
    alone = answers(samples.iloc[chosen])
    assert_close(alone.translation, together.translation[chosen], atol=1e-5, rtol=1e-4)
    assert_close(alone.scale, together.scale[chosen], atol=1e-5, rtol=1e-4)


def test_an_unreadable_picture_is_named_in_one_line_also_by_a_worker(tmp_path, samples):
    draw_images(tmp_path, samples)
    (tmp_path / "m1/m1-c.png").write_bytes(b"no picture")
    table, config = PairTable(samples, tmp_path), Config(machine={"num_workers": 1})
    with pytest.raises(ImageError, match="m1-c.png") as caught:
        list(answer_models(make_untrained_model(), table, config, torch.device("cpu")))
    reason = error_message(caught.value)
    assert "m1-c.png" in reason and "\n" not in reason


def test_answers_come_some_whole_models_at_a_time_and_are_written_before_the_next_are_made(
    tmp_path, samples, monkeypatch
):
    draw_images(tmp_path, samples)
    model, table = make_untrained_model(), PairTable(samples, tmp_path)
    config, draft = Config(machine={"num_workers": 0}), tmp_path / "rows.csv.tmp"
    (together,) = answer_models(model, table, config, torch.device("cpu"))
    monkeypatch.setattr("partloc.evaluation.evaluate.ROWS_AT_ONCE", 3)  # a model has four
    seen = []

    def watched():
        for answers in answer_models(model, table, config, torch.device("cpu")):
            if seen:
                assert draft.read_text().count("\n") == 1 + sum(map(len, seen))
            seen.append(answers.rows.tolist())
            for field, whole in zip(answers.found.pose, together.found.pose, strict=True):
                assert torch.equal(field, whole[answers.rows])
            yield answers

    judge = Judge(table)
    constant = constant_answer(truth_of(table), 1)
    write_table_chunks(
        tmp_path / "rows.csv", judged_rows(samples, judge, watched(), constant, None)
    )
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    at_once = Judge(table)
    at_once.enter(together, constant, None)
    assert evaluate_judged(judge, seed=0) == evaluate_judged(at_once, seed=0)
    write_table(tmp_path / "whole.csv", prediction_rows(samples, at_once, together))
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()


def test_of_the_answers_only_errors_stay(table):
    found = single_hypothesis(truth_of(table))
    judge = Judge(table)
    judge.enter(answers_of(found), constant_answer(truth_of(table), 1), FRONT)
    columns = [*judge.errors.values(), *judge.constant.values(), judge.confidence]
    assert {(column.shape, column.dtype) for column in columns} == {((12,), torch.float32)}
    assert 4 * len(columns) <= 80  # bytes a sample
    storages = {field.untyped_storage().data_ptr() for field in found.hypotheses}
    assert not storages & {column.untyped_storage().data_ptr() for column in columns}


def test_a_run_that_fails_leaves_the_table_of_the_last_one(tmp_path, samples):
    path = tmp_path / "rows.csv"
    write_table(path, samples)
    before = path.read_bytes()

    def failing():
        yield samples
        raise ImageError("whole.png: no picture")

    with pytest.raises(ImageError, match="^whole.png: no picture"):
        write_table_chunks(path, failing())
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def test_the_median_of_the_training_set_is_the_constant_answer(tmp_path, samples):
    write_table(tmp_path / "split/train.csv", samples)
    median = training_median(tmp_path)
    assert median.translation[0].tolist() == pytest.approx(samples[["tx", "ty", "tz"]].median())
    assert median.scale.tolist() == [[pytest.approx(samples.scale.median())]]


def test_an_empty_set_says_which_ratio_to_raise(tmp_path, samples):
    write_table(tmp_path / "split/test.csv", samples.iloc[:0])
    with pytest.raises(ValueError, match=r"test set has no samples; raise data.test_ratio"):
        read_split(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="dvc repro split"):
        read_split(tmp_path, "val")


def test_only_the_test_set_under_the_pipelines_model_goes_to_the_pipelines_files():
    model, output = Path("models/best_model.pth"), Path("outputs")
    assert results_of(output, "test", model) == (Path("metrics/evaluate.json"), output / "evaluate")
    paths = ("other.pth", "runs/a/model.pth", "runs/b/model.pth", "/mnt/models/other.pth")
    other = [results_of(output, "test", Path(path)) for path in paths]
    other += [results_of(output, "val", model)]
    assert [folder.name for _, folder in other] == [
        "evaluate-test-other",
        "evaluate-test-runs-a-model",
        "evaluate-test-runs-b-model",
        "evaluate-test-mnt-models-other",
        "evaluate-val",
    ]
    assert all(file.parent == folder for file, folder in other)


@pytest.fixture
def project(tmp_path, samples):
    draw_images(tmp_path / "data", samples)
    for name, seed in (("test", 0), ("train", 1), ("val", 0)):
        write_table(tmp_path / f"outputs/split/{name}.csv", make_samples(seed=seed))
    save_model(tmp_path / "models/best_model.pth", make_untrained_model(), {})
    machine = "machine: {device: cpu, num_workers: 0}"
    (tmp_path / "params.yaml").write_text(f"data: {{data_dir: data}}\n{machine}\n")
    return tmp_path


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run_stage(project, monkeypatch, capsys):
    """Runs the stage's script in the project's folder, in this process: torch loads once."""
    monkeypatch.chdir(project)

    def run(*arguments: str) -> Ended:
        script = str(ROOT / "stages/evaluate.py")
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        code = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code
        return Ended(code, *capsys.readouterr())

    return run


def test_the_stage_writes_the_same_bytes_each_time_and_leaves_them_to_other_splits(
    project, run_stage
):
    def written() -> dict[str, bytes]:
        folder = project / "outputs/evaluate"
        files = [project / "metrics/evaluate.json", *sorted(folder.rglob("*.*"))]
        return {str(file.relative_to(project)): file.read_bytes() for file in files}

    first = run_stage()
    assert first.code == 0, first.err
    assert "training median" in first.err and first.out == ""
    before = written()
    pictures = [name for name in before if name.endswith(".png")]
    assert len(pictures) == 9  # of 12 samples, 3 are twins of another
    assert WORST <= len(pictures) <= WORST + TYPICAL
    figures = json.loads(before["metrics/evaluate.json"])
    rows = pd.read_csv(project / "outputs/evaluate/predictions.csv")
    mean = figures["translation_error"]["mean"]
    assert rows.translation_error.mean() == pytest.approx(mean, rel=5e-6)

    assert run_stage().code == 0
    assert written() == before
    assert run_stage("--split", "val").code == 0
    assert written() == before
    assert (project / "outputs/evaluate-val/evaluate.json").is_file()


def test_a_missing_checkpoint_is_one_line_on_stderr(run_stage):
    result = run_stage("--checkpoint", "gone.pth")
    assert result.code == 2
    assert result.err.startswith("error: gone.pth: no such file; train it (dvc repro)")
    assert "Traceback" not in result.err
