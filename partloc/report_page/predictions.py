"""The page of a folder of predictions without labels, as the command `infer` writes it."""

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from partloc.inference.prediction_files import (
    HYPOTHESES_FILE,
    PREDICTIONS_FILE,
    read_attention,
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
    # An empty array cannot be mapped.
    mode: Literal["r"] | None = "r" if rows else None
    hypotheses = np.load(folder / HYPOTHESES_FILE, mmap_mode=mode)  # (N, K, F)
    confidence = np.array([float(row["confidence"]) for row in rows])
    attention = read_attention(folder, len(rows))
    cases = [
        _make_case(
            rows[number],
            hypotheses[number],
            None if attention is None else attention[number],
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


def _make_case(row: dict[str, str], hypotheses: np.ndarray, attention: np.ndarray | None) -> Case:
    """row: of PREDICTIONS_FILE. hypotheses: (K, F). attention: see `Case`."""
    return Case(
        row["model"],
        row["part"],
        row["whole_path"],
        row["part_path"],
        np.array([float(row[name]) for name in POSE_COLUMNS]),
        float(row["confidence"]),
        np.array(hypotheses),
        attention=attention,
    )
