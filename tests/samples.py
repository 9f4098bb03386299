"""Split tables and predictions for them, without a network."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from partloc.data.index import MANIFEST_COLUMNS
from partloc.data.table import PairTable
from partloc.inference.hypotheses import Hypotheses
from partloc.inference.prediction_files import TablePredictions
from partloc.model.camera import PinholeCamera
from partloc.pose import PartPose

# An orthographic camera that looks along z.
FRONT_CAMERA = PinholeCamera(torch.eye(3)[:2], torch.zeros(2), torch.zeros(()), 1.0)

# Looks along y; z is up, and half of the image's side is one model unit at the whole's centre.
SIDE_CAMERA = PinholeCamera(
    torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]), torch.zeros(2), torch.tensor(0.5), 1.0
)
POSES = {
    **{"tx": 0.1, "ty": -0.2, "tz": 0.1, "scale": 0.4},
    **{"predicted_tx": -0.2, "predicted_ty": 0.3, "predicted_tz": 0.0, "predicted_scale": 0.2},
}


def make_samples(models: int = 3, parts: int = 4, seed: int = 0) -> pd.DataFrame:
    """A split table: parts a, b, c, ... of each model; a and b are twins."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(models):
        for letter in "abcdefgh"[:parts]:
            model = f"m{number}"
            paths = f"{model}/{model}-whole.png", f"{model}/{model}-{letter}.png"
            translation, scale = rng.uniform(-0.4, 0.4, 3).round(3), round(rng.uniform(0.1, 0.9), 3)
            group = "a" if letter == "b" else letter
            hashes, sizes = ("0" * 64, f"{ord(letter):064x}"), (60, 60, 60, 60)
            rows.append((model, letter, *paths, *hashes, *sizes, *translation, scale, group))
    return pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS))


def labels_of(table: PairTable) -> PartPose:
    """Copies of all labelled poses, (N, 3) and (N, 1)."""
    return PartPose(table.translation.clone(), table.scale.clone())


def predict_poses(pose: PartPose) -> TablePredictions:
    """Predictions for all rows of a table with one hypothesis each, (N, 3) and (N, 1)."""
    hypotheses = PartPose(*(field[:, None] for field in pose))
    return predict_hypotheses(hypotheses, torch.zeros(len(pose.scale), 1))


def predict_hypotheses(
    poses: PartPose, log_weight: torch.Tensor, assigned: PartPose | None = None
) -> TablePredictions:
    """Predictions for all rows of a table: (N, K, 3) and (N, K, 1), log_weight (N, K).

    assigned: (N, 3) and (N, 1); without it the most probable hypotheses.
    """
    hypotheses, count = Hypotheses(poses, log_weight, log_weight), len(log_weight)
    confidence = torch.full((count,), 0.75)
    assigned = assigned or hypotheses.best_pose
    return TablePredictions(np.arange(count), hypotheses, confidence, assigned)


def write_images(folder: Path, samples: pd.DataFrame) -> None:
    """Write random images of all wholes and parts."""
    rng = np.random.default_rng(0)
    for path in sorted({*samples.whole_path, *samples.part_path}):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 60)).save(folder / path)


def make_predictions(count: int = 40) -> pd.DataFrame:
    """Errors 0.01, 0.02, ... in the order of the table."""
    errors = np.arange(1, count + 1) / 100
    return pd.DataFrame(
        {
            "model": "möbel",
            "part": [f"p{i:02d}" for i in range(count)],
            "whole_path": "whole.png",
            "part_path": "part.png",
            **POSES,
            "translation_error": errors,
            "labelled_error": errors,
            "relative_scale_error": 0.5,
            "twin_group": [f"p{i:02d}" for i in range(count)],
            "twins": 0,
        }
    )
