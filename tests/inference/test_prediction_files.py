"""The folder of predictions: written by one stage, read by another."""

import resource
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from samples import FRONT_CAMERA, make_samples

from partloc.data.table import PairTable
from partloc.inference.hypotheses import NUM_FIELDS, Hypotheses
from partloc.inference.prediction_files import (
    SKIPPED_COLUMNS,
    ModelInfo,
    has_predictions,
    read_model_info,
    read_predictions,
    write_model_info,
)
from partloc.system.files import write_table

INFO = ModelInfo(None, 0.5, 1.0, "0" * 64)
NUM_HYPOTHESES = 4


def write_folder(folder: Path, samples: pd.DataFrame) -> np.ndarray:
    """Write random predictions; return the hypotheses, (N, K, F)."""
    rng = np.random.default_rng(0)
    hypotheses = rng.normal(size=(len(samples), NUM_HYPOTHESES, NUM_FIELDS)).astype(np.float32)
    columns = ["model", "part", "whole_path", "part_path", "tx", "ty", "tz", "scale"]
    write_table(folder / "predictions.csv", samples[columns].assign(confidence=0.5))
    write_table(folder / "skipped.csv", pd.DataFrame([], columns=list(SKIPPED_COLUMNS)))
    np.save(folder / "hypotheses.npy", hypotheses)
    return hypotheses


def test_the_facts_about_the_model_are_read_with_all_digits(tmp_path):
    camera = FRONT_CAMERA._replace(slope=torch.rand(2, 3), inverse_distance=torch.tensor(1 / 3))
    slope = torch.tensor(1 / 3).item()
    assert not has_predictions(tmp_path)
    write_model_info(tmp_path, ModelInfo(camera, slope, -0.1, "ab"))
    assert has_predictions(tmp_path)
    info = read_model_info(tmp_path)
    assert (info.confidence_slope, info.confidence_offset, info.checkpoint_sha256) == (
        *(slope, -0.1),
        "ab",
    )
    for written, read in zip(camera[:3], info.camera[:3], strict=True):
        assert torch.equal(written, read)


def test_a_model_without_a_camera_has_none_in_the_file(tmp_path):
    write_model_info(tmp_path, INFO)
    assert read_model_info(tmp_path) == INFO


def test_predictions_are_read_in_chunks_of_whole_models(tmp_path, monkeypatch):
    monkeypatch.setattr("partloc.inference.prediction_files.MIN_CHUNK_ROWS", 5)
    samples = make_samples(models=5, parts=3)
    hypotheses = write_folder(tmp_path, samples)
    table = PairTable(samples, Path("data"))
    chunks = list(read_predictions(tmp_path, table, INFO))
    assert [len(chunk.rows) for chunk in chunks] == [6, 6, 3]
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == list(range(15))
    read = torch.cat([chunk.hypotheses.to_tensor() for chunk in chunks])
    assert torch.equal(read, torch.from_numpy(hypotheses))
    assigned = torch.cat([torch.cat(chunk.assigned, 1) for chunk in chunks])
    assert torch.equal(assigned, torch.cat([table.translation, table.scale], 1))


def test_the_confidence_is_that_of_the_most_probable_hypothesis_calibrated(tmp_path):
    samples = make_samples(models=1, parts=2)
    hypotheses = Hypotheses.from_tensor(torch.from_numpy(write_folder(tmp_path, samples)))
    (chunk,) = read_predictions(tmp_path, PairTable(samples, Path("data")), INFO)
    best = hypotheses.log_weight.argmax(1)
    logits = hypotheses.confidence_logit[torch.arange(2), best]
    torch.testing.assert_close(chunk.confidence, torch.sigmoid(0.5 * logits + 1.0))


def test_names_that_look_like_numbers_are_names(tmp_path):
    samples = make_samples(models=1, parts=2)
    samples["part_path"] = ["01", "NA"]
    write_folder(tmp_path, samples)
    (chunk,) = read_predictions(tmp_path, PairTable(samples, Path("data")), INFO)
    assert len(chunk.rows) == 2


def test_a_missing_prediction_is_an_error_with_the_reason(tmp_path):
    samples = make_samples(models=2, parts=2)
    table = PairTable(samples, Path("data"))
    write_folder(tmp_path, samples.drop(index=2))
    with pytest.raises(ValueError, match=r"no prediction for m1/m1-a.png: predict this split"):
        list(read_predictions(tmp_path, table, INFO))
    skipped = [("m1", "m1/m1-a.png", "truncated image", "the PNG file is cut off")]
    write_table(tmp_path / "skipped.csv", pd.DataFrame(skipped, columns=list(SKIPPED_COLUMNS)))
    reason = r"m1/m1-a.png: truncated image: the PNG file is cut off$"
    with pytest.raises(ValueError, match=reason):
        list(read_predictions(tmp_path, table, INFO))


def test_predictions_for_more_than_the_table_are_an_error(tmp_path):
    samples = make_samples(models=2, parts=2)
    write_folder(tmp_path, samples)
    with pytest.raises(ValueError, match=r"the prediction for m1/m1-a.png has no row in the split"):
        list(read_predictions(tmp_path, PairTable(samples[:2], Path("data")), INFO))


def write_text(text: str):
    return lambda path: path.write_text(text)


DAMAGES = [
    *[("predictions.csv", write_text(text)) for text in ("", "a,b\n1,2\n", '"\n')],
    ("predictions.csv", lambda path: path.write_bytes(b"\xff" + path.read_bytes())),
    ("predictions.csv", lambda path: path.write_text(path.read_text().replace(",scale", ",size"))),
    ("predictions.csv", lambda path: path.write_text(path.read_text().replace(",0.", ",nan", 1))),
    ("predictions.csv", lambda path: path.write_text(path.read_text()[:-7])),
    ("hypotheses.npy", lambda path: path.write_bytes(path.read_bytes()[:-4])),
    ("hypotheses.npy", lambda path: path.write_bytes(path.read_bytes().replace(b"<f4", b"<i4"))),
    ("hypotheses.npy", lambda path: path.write_bytes(path.read_bytes().replace(b"{", b"("))),
    ("hypotheses.npy", lambda path: np.save(path, np.full((4, 4, NUM_FIELDS), np.nan, "f4"))),
    ("hypotheses.npy", lambda path: np.save(path, np.zeros((4, 4, 3), "f4"))),
    ("hypotheses.npy", lambda path: np.save(path, np.zeros((2, 4, NUM_FIELDS), "f4"))),
    *[("model.json", write_text(text)) for text in ("", "[]", "{}", '{"camera": 3}')],
    ("model.json", lambda path: path.write_text(path.read_text().replace("0.5", "NaN"))),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, name, damage):
    samples = make_samples(models=2, parts=2)
    write_folder(tmp_path, samples)
    write_model_info(tmp_path, INFO)
    damage(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}|no prediction for m0/m0-a.png") as caught:
        info = read_model_info(tmp_path)
        list(read_predictions(tmp_path, PairTable(samples, Path("data")), info))
    assert str(caught.value).startswith(str(tmp_path))


def test_memory_does_not_grow_with_the_number_of_predictions(tmp_path):
    num_rows = 100_000
    samples = make_samples(models=1, parts=1)
    samples = samples.loc[[0] * num_rows].reset_index(drop=True)
    samples["model"] = [f"m{n // 5:06d}" for n in range(num_rows)]
    samples["part_path"] = [f"{n:06d}.png" for n in range(num_rows)]
    write_folder(tmp_path, samples)
    shape = (num_rows, 32, NUM_FIELDS)  # 77 MB
    np.lib.format.open_memmap(tmp_path / "hypotheses.npy", "w+", np.float32, shape).flush()
    table = PairTable(samples, Path("data"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(len(chunk.rows) for chunk in read_predictions(tmp_path, table, INFO)) == num_rows
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 40e6
