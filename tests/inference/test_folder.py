"""A folder of models: answered as it is read, written as it is answered."""

import json
import os
import resource
import shutil
import weakref
from collections.abc import Iterable, Iterator

import pandas as pd
import pytest
import torch
from toys import PARTS, SINGLE_PROCESS, noise_image

from partloc.config import DataConfig
from partloc.data.index import build_index
from partloc.data.layout import LayoutError
from partloc.distributed import DistributedContext
from partloc.inference.folder import (
    Answer,
    Job,
    Outcome,
    Skipped,
    Tally,
    find_jobs,
    predict_jobs,
    refuse_overwriting,
    share_of,
    write_answers,
)
from partloc.inference.predictor import PICTURES_AHEAD, Found, Hypothesis
from partloc.model.encoder import EncodedImages

PLACE = Hypothesis([0.1, -0.5, 0.5, 0.5], 0.9)


def numbers(found: Found) -> list[float]:
    return [*found.best.pose, found.best.confidence]


def answer(part: str) -> Answer:
    path = f"lamp/lamp-{part}.png"
    return Answer("lamp", part, "lamp/lamp-whole.png", path, Found(PLACE, [PLACE]))


def answers_of(outcomes: Iterable[Outcome]) -> list[Answer]:
    return [answer for outcome in outcomes for answer in outcome.answers]


def test_a_folder_gets_the_answers_that_single_questions_get(predictor, data_dir, tmp_path):
    write_answers(
        tmp_path / "out", predict_jobs(predictor, find_jobs(data_dir), data_dir), SINGLE_PROCESS
    )
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


def test_a_model_gets_the_same_bytes_whatever_else_is_in_the_folder(predictor, data_dir):
    both = find_jobs(data_dir)
    together = answers_of(predict_jobs(predictor, both, data_dir))
    apart = [a for job in both for a in answers_of(predict_jobs(predictor, [job], data_dir))]
    assert together == apart


def test_the_whole_is_encoded_once(predictor, data_dir, monkeypatch):
    seen = []
    encode = predictor.model.encode

    def counting(images: torch.Tensor, precision: torch.dtype | None) -> EncodedImages:
        seen.append(len(images))
        return encode(images, precision)

    monkeypatch.setattr(predictor.model, "encode", counting)
    list(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    assert seen == [2, 8, 3]  # the whole goes with its first parts


def test_no_more_pictures_are_read_than_are_soon_needed(predictor, data_dir, monkeypatch):
    read = []
    load = predictor._read
    monkeypatch.setattr(predictor, "_read", lambda path: read.append(path) or load(path))
    lamp = find_jobs(data_dir)[0]
    outcomes = predict_jobs(predictor, [lamp] * 40, data_dir)
    first = next(outcomes)
    assert 2 <= len(read) <= 2 + PICTURES_AHEAD
    assert [*outcomes, first] == [first] * 40
    assert len(read) == 80


def test_answers_are_written_as_they_come_and_not_held(tmp_path):
    class Held(list):
        """A list that tells whether somebody holds it."""

    def outcomes() -> Iterator[Outcome]:
        held = []
        for number, part in enumerate(PARTS):
            answers = Held([answer(part)])
            held.append(weakref.ref(answers))
            yield Outcome(answers, [])
            del answers
            assert (tmp_path / f"lamp/lamp-{part}.json").is_file()
            assert [of() for of in held[:number]] == [None] * number

    tally = write_answers(tmp_path, outcomes(), SINGLE_PROCESS)
    assert tally.answers == len(PARTS)
    assert pd.read_csv(tmp_path / "predictions.csv").part.tolist() == PARTS


def test_a_run_that_fails_leaves_the_tables_of_the_last_one(tmp_path):
    write_answers(tmp_path, [Outcome([answer("foot")], [])], SINGLE_PROCESS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}

    def failing() -> Iterator[Outcome]:
        yield Outcome([], [Skipped("lamp", "lamp/lamp-foot.png", "unreadable image", "text")])
        raise MemoryError("too large")

    with pytest.raises(MemoryError, match="^too large$"):
        write_answers(tmp_path, failing(), SINGLE_PROCESS)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_full_disk_is_told_with_the_table_that_it_ends(tmp_path):
    answers = [answer(f"part-{number}") for number in range(200)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"predictions\.csv: cannot be written: .*too large"):
            write_answers(tmp_path, [Outcome([each], []) for each in answers], SINGLE_PROCESS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["lamp"]


def test_processes_take_every_model_once_in_order_and_equal_numbers_of_parts():
    counts = [0, 3, 12, 1, 0, 4, 9, 2, 2, 7, 0]
    jobs = [Job(f"{n:02d}", "w", [("p", "p")] * count) for n, count in enumerate(counts)]
    for size in (1, 2, 3, 16):
        shares = [
            share_of(jobs, DistributedContext(rank, size, torch.device("cpu")))
            for rank in range(size)
        ]
        assert [job for share in shares for job in share] == jobs
        parts = [sum(len(job.parts) for job in share) for share in shares]
        assert max(parts) <= sum(counts) / size + max(counts)
    assert share_of([jobs[0]], SINGLE_PROCESS) == [jobs[0]]  # no part at all


def test_answers_can_be_used_as_labels(predictor, data_dir, tmp_path):
    outcomes = predict_jobs(predictor, find_jobs(data_dir), data_dir)
    sane = [answer._replace(found=Found(PLACE, [PLACE])) for answer in answers_of(outcomes)]
    write_answers(tmp_path / "out", [Outcome(sane, [])], SINGLE_PROCESS, everything=True)
    for model in ("lamp", "stühle-1.5"):
        shutil.copytree(data_dir / model, tmp_path / "out" / model, dirs_exist_ok=True)
    index = build_index(DataConfig(data_dir=str(tmp_path / "out")))
    assert len(index.manifest) == 11 and index.report.empty


def test_pictures_that_cannot_be_used_are_skipped_and_told(predictor, data_dir, tmp_path):
    good = answers_of(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    chairs = data_dir / "stühle-1.5"
    cut = (chairs / "stühle-1.5-part-3.png").read_bytes()[:60]
    (chairs / "stühle-1.5-part-3.png").write_bytes(cut)
    (chairs / "stühle-1.5-part-5.png").write_bytes(b"text")
    (chairs / "unrelated.png").write_bytes(b"")
    (chairs / "stühle-1.5-part-0.json").write_text("{ a label that nobody reads")
    for model, files in {"orphan": ["leg"], "broken": ["whole", "leg"]}.items():
        (data_dir / model).mkdir()
        for file in files:
            noise_image(7).save(data_dir / model / f"{model}-{file}.png")
    (data_dir / "broken/broken-whole.png").write_bytes(b"")

    outcomes = list(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    kept = {(a.model, a.part): numbers(a.found) for a in good if a.part not in ("part-3", "part-5")}
    assert {(a.model, a.part) for a in answers_of(outcomes)} == set(kept)
    for found in answers_of(outcomes):
        assert numbers(found.found) == pytest.approx(kept[found.model, found.part], abs=2e-5)
    tally = write_answers(tmp_path / "out", outcomes, SINGLE_PROCESS)
    table = pd.read_csv(tmp_path / "out/skipped.csv")
    assert list(zip(table.file.str.split("/").str[1], table.reason, strict=True)) == [
        ("broken-leg.png", "whole unusable"),
        ("orphan-leg.png", "whole missing"),
        ("stühle-1.5-part-3.png", "truncated image"),
        ("stühle-1.5-part-5.png", "unreadable image"),
        ("unrelated.png", "unexpected file"),
    ]
    assert "9 parts of 2 models answered" in str(tally)
    assert "1 skipped: truncated image; e.g. stühle-1.5/stühle-1.5-part-3.png: " in str(tally)


def test_the_tallies_of_processes_add_up():
    lost = [Skipped("lamp", f"lamp/lamp-{n}.png", "unreadable image", "text") for n in range(3)]
    whole, first, second = Tally(), Tally(), Tally()
    for tally, outcome in (
        (first, Outcome([answer("foot")], lost[:1])),
        (second, Outcome([], lost[1:])),
    ):
        tally.count(outcome)
        whole.count(outcome)
    assert first + second == whole
    assert "3 skipped: unreadable image; e.g. lamp/lamp-0.png: text" in str(whole)


def test_extensions_may_be_in_capitals(predictor, data_dir):
    lamp = data_dir / "lamp"
    (lamp / "lamp-foot.png").rename(lamp / "lamp-foot.PNG")
    outcomes = list(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    assert len(answers_of(outcomes)) == 11 and not any(o.skipped for o in outcomes)


def test_a_folder_without_models_explains_the_layout(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(LayoutError, match="chair-whole.png"):
            find_jobs(folder)


def test_answers_never_replace_the_labels(data_dir):
    for inside in (data_dir, data_dir / "out", data_dir / "../data"):
        with pytest.raises(ValueError, match="replace the labels"):
            refuse_overwriting(inside, data_dir)
    refuse_overwriting(data_dir / "../data-out", data_dir)


def test_odd_names_and_unreadable_folders_are_passed_over_as_the_index_does(
    predictor, data_dir, tmp_path
):
    good = answers_of(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    lamp = data_dir / "lamp"
    for name in ("lamp-sha\udcffde.png", "lamp-twice.png", "lamp-twice.PNG"):
        shutil.copy(lamp / "lamp-foot.png", lamp / name)
    (data_dir / "gone").symlink_to("nowhere")
    (data_dir / "new\nline").mkdir()
    tally = write_answers(
        tmp_path / "out", predict_jobs(predictor, find_jobs(data_dir), data_dir), SINGLE_PROCESS
    )
    assert tally.answers == len(good) and tally.models == 2
    assert tally.reasons == {"unusable name": 2, "duplicate name": 1, "broken link": 1}
    assert len(pd.read_csv(tmp_path / "out/skipped.csv")) == 4


def test_a_folder_that_cannot_be_listed_costs_its_model_only(predictor, data_dir, monkeypatch):
    def listdir(path):
        if str(path).endswith("lamp"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    real = os.listdir
    monkeypatch.setattr(os, "listdir", listdir)
    outcomes = list(predict_jobs(predictor, find_jobs(data_dir), data_dir))
    assert len(answers_of(outcomes)) == len(PARTS)
    (lost,) = [item for outcome in outcomes for item in outcome.skipped]
    assert lost == Skipped("lamp", "lamp", "unreadable folder", "Permission denied")
