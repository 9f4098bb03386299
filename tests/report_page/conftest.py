"""Pages of a small run, with labels and without, with a camera and without."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import FRONT_CAMERA, labels_of, make_samples, predict_hypotheses, write_images

from partloc.data.table import PairTable
from partloc.evaluation.accumulator import ErrorAccumulator
from partloc.evaluation.evaluate import compute_metrics
from partloc.evaluation.metrics import median_pose
from partloc.evaluation.page import VISIBLE_FILE, make_content
from partloc.inference.prediction_files import ATTENTION_FILE, ModelInfo, attention_dtype
from partloc.model.camera import PinholeCamera
from partloc.pose import PartPose
from partloc.report_page.page import Content, write_page
from partloc.system.files import write_json

NUM_PARTS = 12
LOSS = [{"epoch": epoch, "loss": 1.0 - epoch / 4, "samples": "validation"} for epoch in range(3)]


def info_of(camera: PinholeCamera | None) -> ModelInfo:
    return ModelInfo(camera, 1.0, 0.0, "0" * 64)


@pytest.fixture(scope="session")
def make_page(tmp_path_factory) -> Callable[[PinholeCamera | None], Path]:
    """Writes the page of 12 parts, of which 6 are twins; part i is wrong by i / 50 along x."""
    folder = tmp_path_factory.mktemp("page")
    samples = make_samples()
    write_images(folder, samples)
    write_json(folder / "loss.json", {"loss": LOSS})
    samples.assign(visible_share=0.9).iloc[1:].to_csv(folder / VISIBLE_FILE, index=False)

    def make(camera: PinholeCamera | None) -> Path:
        path = folder / f"report-{camera is not None}.html"
        write_page(path, make_labelled_content(folder, camera), info_of(camera), folder, 10**6)
        return path

    return make


def make_labelled_content(folder: Path, camera: PinholeCamera | None) -> Content:
    samples = make_samples()
    table = PairTable(samples, folder)
    poses = PartPose(*(field[:, None].repeat(1, 2, 1) for field in labels_of(table)))  # 2 of each
    poses.translation[:, 0, 0] += torch.arange(NUM_PARTS) / 50
    predictions = predict_hypotheses(poses, torch.tensor([0.7, 0.3]).log().repeat(NUM_PARTS, 1))
    np.save(folder / "hypotheses.npy", predictions.hypotheses.to_tensor().numpy())
    attention = np.zeros(NUM_PARTS, attention_dtype(8))
    attention["weight"][:, 2, 5], attention["crop"] = 255, (0.0, 0.0, 0.5)
    np.save(folder / ATTENTION_FILE, attention)
    accumulator = ErrorAccumulator(table)
    confidence = torch.linspace(0.95, 0.05, NUM_PARTS)
    predictions = predictions._replace(confidence=confidence)
    accumulator.update(predictions, median_pose(labels_of(table)), camera)
    report = compute_metrics(accumulator, seed=0)
    return make_content("test", samples, accumulator, report, folder, folder / "loss.json", seed=0)


@pytest.fixture(scope="session")
def page(make_page) -> Path:
    return make_page(FRONT_CAMERA)
