"""A part's label: the JSON file that says where it belongs, and all that can be wrong with it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

from partloc.config import DataConfig

# Why a label cannot be used, and what is odd about one that can.
LABEL_FAULTS = (
    *("malformed JSON", "missing field", "not a number", "wrong length", "non-finite value"),
    *("non-uniform scale", "scale not positive", "scale above 1", "translation out of range"),
)
LABEL_REMARKS = ("non-identity rotation", "missing rotation", "label names another part")

SMALLEST = 1e-6  # scale; below, nothing is left of it in single precision
UNIFORM_TOLERANCE = 1e-3  # of the largest of the three scales
ROTATION_TOLERANCE = 1e-3  # of each quaternion component (w, x, y, z)


class LabelError(ValueError):
    """A sample that cannot be used because of its label; `reason` is counted by the index."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


Label = tuple[float, float, float, float]  # tx, ty, tz, scale


def read_label(
    path: Path, model: str, part: str, settings: DataConfig
) -> tuple[Label, list[tuple[str, str]]]:
    """A part's place, and remarks (reason, detail) on what is odd but does no harm.

    A scale above 1 is larger than the whole: like a translation outside [-0.5, 0.5], it may
    overstep by `translation_tolerance`. Nothing is rotated, so the rotation is not used.
    Raises: LabelError.
    """
    raw = _read_json(path)
    translation, scales = _numbers(raw, "translation"), _numbers(raw, "scale")
    low, scale, high = sorted(scales)
    tolerance = settings.translation_tolerance
    if low < SMALLEST:
        raise LabelError("scale not positive", f"scale {scales}, expected at least {SMALLEST:g}")
    if high - low > UNIFORM_TOLERANCE * high:
        raise LabelError("non-uniform scale", f"scale {scales}, expected three equal numbers")
    if scale > 1 + tolerance:
        rule = f"expected at most 1, tolerance {tolerance:g}"
        raise LabelError("scale above 1", f"scale {scale:g}, {rule}")
    if max(map(abs, translation)) > 0.5 + tolerance:
        rule = f"expected within [-0.5, 0.5], tolerance {tolerance:g}"
        raise LabelError("translation out of range", f"translation {translation}, {rule}")
    return (*translation, scale), list(_remarks(raw, model, part))


def _read_json(path: Path) -> dict:
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))  # a byte-order mark is accepted
    except (OSError, ValueError, RecursionError) as error:
        raise LabelError("malformed JSON", f"{path.name}: {error}") from None
    if not isinstance(raw, dict):
        raise LabelError("malformed JSON", f"found {type(raw).__name__}, expected an object")
    return raw


def _numbers(raw: dict, field: str) -> list[float]:
    """Three finite floats; true, "0.5" and null are not numbers."""
    if field not in raw:
        raise LabelError("missing field", f"no {field!r}, found {', '.join(map(repr, raw))}")
    found = raw[field]
    if not isinstance(found, list) or len(found) != 3:
        raise LabelError("wrong length", f"{field} {found!r:.60}, expected a list of 3 numbers")
    for number in found:
        if type(number) not in (int, float):
            raise LabelError("not a number", f"{field} {found!r:.60}, expected 3 numbers")
        if type(number) is float and not math.isfinite(number) or abs(number) > 1e300:
            raise LabelError("non-finite value", f"{field} {found!r:.60}, expected 3 numbers")
    return [float(number) for number in found]


def _remarks(raw: dict, model: str, part: str) -> Iterator[tuple[str, str]]:
    rotation = raw.get("rotation")
    if "rotation" not in raw:
        yield "missing rotation", "kept as if it were [1, 0, 0, 0]"
    elif not _is_identity(rotation):
        yield "non-identity rotation", f"rotation {rotation!r:.60}, kept as if [1, 0, 0, 0]"
    for field, expected in (("model_name", model), ("part_name", part)):
        found = raw.get(field, expected)
        if not isinstance(found, str) or nfc(found) != expected:
            yield "label names another part", f"{field} {found!r:.60}, the file says {expected!r}"


def _is_identity(rotation: Any) -> bool:
    """Quaternion (w, x, y, z); the opposite sign is the same rotation."""
    if not isinstance(rotation, list) or len(rotation) != 4:
        return False
    if any(type(number) not in (int, float) for number in rotation):
        return False
    w, *xyz = rotation
    return abs(abs(w) - 1) <= ROTATION_TOLERANCE and all(abs(v) <= ROTATION_TOLERANCE for v in xyz)


def nfc(name: str) -> str:
    """Names are compared in this Unicode form; some systems store letters decomposed."""
    return normalize("NFC", name)
