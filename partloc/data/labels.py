"""Read and validate the label of a part: a JSON file with its pose."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from partloc.data.images import NOT_REGULAR
from partloc.data.layout import SampleError, normalize_name
from partloc.system.files import FileTooLargeError, UnusualFileError, read_regular_file

MALFORMED, UNREADABLE_LABEL = "malformed JSON", "unreadable label"

# Reasons to reject a label.
LABEL_ERRORS = (
    *(UNREADABLE_LABEL, MALFORMED),
    *("missing field", "not a number", "wrong length", "non-finite value"),
    *("non-uniform scale", "scale not positive", "scale above 1", "translation out of range"),
)
# Reasons for a warning about a label that is used.
LABEL_WARNINGS = ("non-identity rotation", "missing rotation", "label names a different part")

MAX_LABEL_BYTES = 1 << 20
MIN_SCALE = 1e-6  # whole-model units
# Tolerance for translations outside [-0.5, 0.5] and scales above 1; whole-model units.
RANGE_TOLERANCE = 0.05
UNIFORM_TOLERANCE = 1e-3  # spread of the three scales, relative to the largest
ROTATION_TOLERANCE = 1e-3  # of each quaternion component (w, x, y, z)
MAX_ABS_VALUE = 1e300  # a larger number is considered infinite

Label = tuple[float, float, float, float]  # tx, ty, tz, scale


def read_label(path: Path, model: str, part: str) -> tuple[Label, list[tuple[str, str]]]:
    """Return the label of a part, and warnings (reason, detail) about harmless irregularities.

    A scale above 1 means that the part is larger than the whole. Parts are not rotated, so the
    rotation is only validated.
    Raises: SampleError.
    """
    try:
        return _parse_label(_read_json(path), model, part)
    except RecursionError:
        raise SampleError(MALFORMED, "lists or objects are nested too deeply") from None


def _parse_label(
    fields: dict[str, Any], model: str, part: str
) -> tuple[Label, list[tuple[str, str]]]:
    translation, scales = _read_vector(fields, "translation"), _read_vector(fields, "scale")
    low, scale, high = sorted(scales)
    if low < MIN_SCALE:
        raise SampleError("scale not positive", f"scale {scales}, expected at least {MIN_SCALE:g}")
    if high - low > UNIFORM_TOLERANCE * high:
        raise SampleError("non-uniform scale", f"scale {scales}, expected three equal numbers")
    if scale > 1 + RANGE_TOLERANCE:
        expected = f"expected at most 1, tolerance {RANGE_TOLERANCE:g}"
        raise SampleError("scale above 1", f"scale {scale:g}, {expected}")
    if max(map(abs, translation)) > 0.5 + RANGE_TOLERANCE:
        expected = f"expected within [-0.5, 0.5], tolerance {RANGE_TOLERANCE:g}"
        raise SampleError("translation out of range", f"translation {translation}, {expected}")
    x, y, z = translation
    return (x, y, z, scale), list(_find_warnings(fields, model, part))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_regular_file(path, MAX_LABEL_BYTES)
        text = content.decode("utf-8-sig")  # with or without byte-order mark
        fields = json.loads(text, object_pairs_hook=_distinct_keys)
    except FileTooLargeError as error:
        raise SampleError(MALFORMED, str(error)) from None
    except UnusualFileError as error:
        raise SampleError(NOT_REGULAR, str(error)) from None
    except OSError as error:
        raise SampleError(UNREADABLE_LABEL, error.strerror or str(error)) from None
    except ValueError as error:
        raise SampleError(MALFORMED, str(error)) from None
    if not isinstance(fields, dict):
        raise SampleError(MALFORMED, f"found {type(fields).__name__}, expected an object")
    return fields


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Raises: ValueError if a key occurs twice."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise ValueError(f"the key {key!r:.60} occurs twice")
        fields[key] = value
    return fields


def _read_vector(fields: dict, name: str) -> list[float]:
    """Three finite floats. Booleans, strings and null are not numbers."""
    if name not in fields:
        raise SampleError("missing field", f"no {name!r}, found {', '.join(map(repr, fields)):.60}")
    values = fields[name]
    if not isinstance(values, list) or len(values) != 3:
        raise SampleError("wrong length", f"{name} {values!r:.60}, expected a list of 3 numbers")
    for value in values:
        if type(value) not in (int, float):
            raise SampleError("not a number", f"{name} {values!r:.60}, expected 3 numbers")
        if type(value) is float and not math.isfinite(value) or abs(value) > MAX_ABS_VALUE:
            raise SampleError("non-finite value", f"{name} {values!r:.60}, expected 3 numbers")
    return [float(value) for value in values]


def _find_warnings(fields: dict, model: str, part: str) -> Iterator[tuple[str, str]]:
    if "rotation" not in fields:
        yield "missing rotation", "treated as [1, 0, 0, 0]"
    elif not _is_identity(fields["rotation"]):
        yield (
            "non-identity rotation",
            f"rotation {fields['rotation']!r:.60}, treated as [1, 0, 0, 0]",
        )
    for field, expected in (("model_name", model), ("part_name", part)):
        found = fields.get(field, expected)
        if not isinstance(found, str) or normalize_name(found) != expected:
            detail = f"{field} {found!r:.60}, expected {expected!r} from the file name"
            yield "label names a different part", detail


def _is_identity(rotation: Any) -> bool:
    """Whether a quaternion (w, x, y, z) is the identity; its negative is the same rotation."""
    if not isinstance(rotation, list) or len(rotation) != 4:
        return False
    if any(type(value) not in (int, float) for value in rotation):
        return False
    w, *xyz = rotation
    return abs(abs(w) - 1) <= ROTATION_TOLERANCE and all(abs(v) <= ROTATION_TOLERANCE for v in xyz)
