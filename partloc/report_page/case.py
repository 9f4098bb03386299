"""A case of the page: a part, its prediction and, if labels are known, what is right.

Shapes: N parts; T other twins of a part; K hypotheses; F = hypotheses.NUM_FIELDS; S tokens
per side.
"""

import re
from base64 import b64encode
from typing import Any, NamedTuple

import numpy as np
import torch

from partloc.drawing import project_pose
from partloc.inference.prediction_files import ModelInfo
from partloc.model.camera import PinholeCamera
from partloc.pose import RIGHT_TOLERANCE

MAX_CASES = 600  # beyond, half of them are the worst and half are drawn at random
CASE_STREAM = 5  # of random numbers; each use of the seed has a stream of its own
MAX_HYPOTHESES = 6  # that a case lists
POSE_DIGITS, MARK_DIGITS = 3, 4  # after the decimal point
MAX_ATTENTION_SIDE = 16  # of an attention map in the page; larger ones are reduced


class Truth(NamedTuple):
    """pose: (4,), labelled. twins: (T, 4), of the part's twins. errors: by name; see
    `evaluation.metrics.pose_errors`."""

    pose: np.ndarray
    twins: np.ndarray
    errors: dict[str, float]


class Case(NamedTuple):
    """pose: (4,), predicted. hypotheses: (K, F). truth: None if there is no label. attention: ()
    of `prediction_files.attention_dtype`; None if the model has no such maps."""

    model: str
    part: str
    whole_path: str
    part_path: str
    pose: np.ndarray
    confidence: float
    hypotheses: np.ndarray
    truth: Truth | None = None
    attention: np.ndarray | None = None


def kind_of_model(name: str) -> str:
    """A model's name without its number: "chair-0601" -> "chair"."""
    return re.sub(r"[\W_]*\d+$", "", name) or name


def select_cases(badness: np.ndarray, seed: int) -> np.ndarray:
    """The rows of the cases that the page shows, ascending: all, or the worst and a random sample.

    badness: (N,), the error or, without labels, one minus the confidence.
    """
    if len(badness) <= MAX_CASES:
        return np.arange(len(badness))
    order = np.argsort(-badness, kind="stable")
    worst, others = np.split(order, [MAX_CASES // 2])
    rng = np.random.default_rng([seed, CASE_STREAM])
    drawn = rng.choice(others, MAX_CASES - len(worst), replace=False)
    return np.sort(np.concatenate([worst, drawn]))


def case_record(case: Case, info: ModelInfo) -> dict[str, Any]:
    """The JSON of a case; images are added by `page`.

    A `mark` is [x, y, radius] of a pose in the image, as fractions of its side; null without a
    camera. `attention` is missing if the model has no such maps.
    """
    record: dict[str, Any] = {
        "model": case.model,
        "part": case.part,
        "kind": kind_of_model(case.model),
        "confidence": round(case.confidence, MARK_DIGITS),
        **_place(case.pose, info.camera),
        "hypotheses": _list_hypotheses(case.hypotheses, info),
    }
    if case.truth is not None:
        record["errors"] = {k: round(v, MARK_DIGITS) for k, v in case.truth.errors.items()}
        record["truth"] = _place(case.truth.pose, info.camera)
        record["twins"] = [_place(pose, info.camera) for pose in case.truth.twins]
    if case.attention is not None:
        record["attention"] = _attention_record(case.attention)
    return record


def _attention_record(attention: np.ndarray) -> dict[str, Any]:
    """`square`: left, top and side of the map in the image, as fractions of the image's side.
    `weights`: `side` x `side` bytes in base64."""
    right, down, half = attention["crop"].astype(float)
    weight = _reduce(attention["weight"].astype(float))
    square = ((right + 1 - half) / 2, (down + 1 - half) / 2, half)
    scaled = np.round(255 * weight / max(weight.max(), 1)).astype(np.uint8)
    return {
        "square": [round(float(value), MARK_DIGITS) for value in square],
        "side": len(scaled),
        "weights": b64encode(scaled.tobytes()).decode(),
    }


def _reduce(weight: np.ndarray) -> np.ndarray:
    """Means over squares of (S, S), such that S is at most MAX_ATTENTION_SIDE."""
    factor = -(-len(weight) // MAX_ATTENTION_SIDE)
    padding = -len(weight) % factor
    padded = np.pad(weight, (0, padding), "edge")
    side = len(padded) // factor
    return padded.reshape(side, factor, side, factor).mean((1, 3))


def _place(pose: np.ndarray, camera: PinholeCamera | None) -> dict[str, Any]:
    mark = None if camera is None else project_pose(pose, camera, (1, 1))
    rounded = None if mark is None else [round(float(value), MARK_DIGITS) for value in mark]
    return {"pose": [round(float(value), POSE_DIGITS) for value in pose], "mark": rounded}


def _list_hypotheses(hypotheses: np.ndarray, info: ModelInfo) -> list[dict[str, Any]]:
    """The most probable hypotheses, none within RIGHT_TOLERANCE of a more probable one."""
    listed: list[np.ndarray] = []
    for row in hypotheses[np.argsort(-hypotheses[:, 4], kind="stable")]:
        places = np.array([other[:3] for other in listed]).reshape(-1, 3)
        if (np.linalg.norm(places - row[:3], axis=1) >= RIGHT_TOLERANCE).all():
            listed.append(row)
    total = np.logaddexp.reduce(hypotheses[:, 4])  # the weights of all hypotheses add up to 1
    return [
        {
            **_place(row[:4], info.camera),
            "weight": round(float(np.exp(row[4] - total)), POSE_DIGITS),
            "confidence": round(info.calibrate(torch.tensor(row[5])).item(), POSE_DIGITS),
        }
        for row in listed[:MAX_HYPOTHESES]
    ]
