"""The page of a folder of predictions without labels, as the command `infer` writes it."""

import csv
from pathlib import Path

import numpy as np

from partloc.inference.prediction_files import (
    HYPOTHESES_FILE,
    PREDICTIONS_FILE,
    read_model_info,
)
from partloc.pose import POSE_COLUMNS
from partloc.report_page.case import Case, select_cases
from partloc.report_page.page import PAGE_FILE, Content, write_page

SEED = 0  # of the cases that are drawn at random


def write_predictions_page(folder: Path, data_dir: Path, max_pixels: int) -> Path:
    """Write report.html into a folder that `infer` has written. Returns: its path.

    With more than MAX_CASES parts: the least confident ones, and others drawn at random.
    """
    with (folder / PREDICTIONS_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    hypotheses = np.load(folder / HYPOTHESES_FILE)  # (N, K, F)
    confidence = np.array([float(row["confidence"]) for row in rows])
    cases = [
        Case(
            *(rows[number][name] for name in ("model", "part", "whole_path", "part_path")),
            pose=np.array([float(rows[number][name]) for name in POSE_COLUMNS]),
            confidence=float(confidence[number]),
            hypotheses=hypotheses[number],
        )
        for number in select_cases(1 - confidence, SEED)
    ]
    models = len({row["model"] for row in rows})
    title = f"partloc: {len(rows)} parts of {models} models"
    path = folder / PAGE_FILE
    write_page(
        path, Content(title, cases, len(rows)), read_model_info(folder), data_dir, max_pixels
    )
    return path
