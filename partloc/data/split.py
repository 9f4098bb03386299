"""The split: whole models go to train, val or test, never single samples.

A model's place follows from a hash of (seed, its name), so it stays where it is when other
models come or go. Only a set that would be empty borrows a model from another set; once every
set has a model of its own, which with ordinary ratios is soon, nothing is borrowed, and adding
models moves none.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from partloc.data.index import MANIFEST_COLUMNS
from partloc.data.labels import nfc

SETS = ("train", "val", "test")
EXAMPLES = 3  # pairs of models that are named where many share a picture
_INTEGERS = ["whole_width", "whole_height", "part_width", "part_height"]
_FLOATS = ["tx", "ty", "tz", "scale"]


class SplitError(ValueError):
    """The models cannot be split as asked; the message gives their number and the rule."""


class Shared(NamedTuple):
    """Part images, byte for byte the same, that lie in more than one set."""

    images: int
    models: int  # models that have such an image
    pairs: int  # of models in different sets, counted for each image that they share
    examples: list[tuple[str, str]]  # the first of these pairs by name, EXAMPLES at most


def split_models(
    models: Iterable[str], ratios: tuple[float, float, float], seed: int
) -> dict[str, str]:
    """Map each model to "train", "val" or "test".

    The sets' sizes are near the ratios, not exactly at them: exact sizes would move models
    whenever one is added. Each set whose ratio is above 0 gets a model at least.
    Args:
        ratios: shares of train, val and test, adding up to 1.
    Raises: SplitError if there are fewer models than sets.
    """
    names = sorted(set(models))
    wanted = [name for name, ratio in zip(SETS, ratios, strict=True) if ratio > 0]
    if len(names) < len(wanted):
        sets = ", ".join(wanted)
        raise SplitError(
            f"found {len(names)} models {names}, expected one at least for each "
            f"of the {len(wanted)} sets with a ratio above 0 ({sets})"
        )
    intervals = _intervals(ratios)
    places = {name: _unit_hash(seed, name) for name in names}
    chosen = {name: _set_at(place, intervals) for name, place in places.items()}
    for empty in [name for name in wanted if name not in chosen.values()]:
        low, high = intervals[empty]
        sizes = Counter(chosen.values())
        lenders = [name for name in names if sizes[chosen[name]] > 1]
        nearest = min(lenders, key=lambda n: (max(low - places[n], places[n] - high), n))
        chosen[nearest] = empty
    return chosen


def limit_training(chosen: dict[str, str], most: int | None, seed: int) -> dict[str, str]:
    """The same without the training models above `most`; a smaller number takes some of a larger
    one's, so that a learning curve grows by additions only."""
    train = sorted(
        (name for name, its in chosen.items() if its == "train"),
        key=lambda name: (_unit_hash(seed, name), name),
    )
    left_out = set(train[most:]) if most else set()
    return {name: its for name, its in chosen.items() if name not in left_out}


def _intervals(ratios: tuple[float, float, float]) -> dict[str, tuple[float, float]]:
    """[low, high) in [0, 1) of each set that is wanted; the last one closes at 1."""
    intervals, low = {}, 0.0
    for name, ratio in zip(SETS, ratios, strict=True):
        if ratio > 0:
            intervals[name] = low, low + ratio
            low += ratio
    last = list(intervals)[-1]
    intervals[last] = intervals[last][0], 1.0  # the ratios may add up to 0.9999999
    return intervals


def _set_at(place: float, intervals: dict[str, tuple[float, float]]) -> str:
    return next(name for name, (low, high) in intervals.items() if low <= place < high)


def _unit_hash(seed: int, model: str) -> float:
    """A number in [0, 1) that depends on seed and name only, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{nfc(model)}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def find_shared(manifest: pd.DataFrame, chosen: dict[str, str]) -> Shared:
    """What a test on one set could have seen in another."""
    owners = manifest[["part_sha256", "model"]].drop_duplicates()
    sets = owners.model.map(chosen).groupby(owners.part_sha256).transform("nunique")
    owners = owners[sets > 1]
    pairs, examples = 0, []
    for _, models in owners.groupby("part_sha256").model:
        sizes = Counter(chosen[model] for model in models)
        pairs += (len(models) ** 2 - sum(size**2 for size in sizes.values())) // 2
        # Counted, not listed: a screw in ten thousand models makes fifty million pairs.
        couples = combinations(sorted(models), 2)
        apart = islice(((a, b) for a, b in couples if chosen[a] != chosen[b]), EXAMPLES)
        examples = sorted({*examples, *apart})[:EXAMPLES]
    return Shared(owners.part_sha256.nunique(), owners.model.nunique(), pairs, examples)


def count_split(manifest: pd.DataFrame, chosen: dict[str, str], shared: Shared) -> dict:
    """The counts for metrics/split.json."""
    models, samples = Counter(chosen.values()), Counter(manifest.model.map(chosen))
    return {
        "models": {name: models[name] for name in SETS},
        "samples": {name: samples[name] for name in SETS},
        "shared_part_images": {
            "images": shared.images,
            "models": shared.models,
            "pairs": shared.pairs,
        },
    }


def summary(counts: dict, shared: Shared) -> str:
    """For the terminal: models and samples of each set, and a warning if they share images."""
    lines = [
        f"{counts['models'][name]:7d} models, {counts['samples'][name]:7d} samples in {name}"
        for name in SETS
    ]
    if shared.pairs:
        examples = ", ".join(f"{a!r} and {b!r}" for a, b in shared.examples)
        lines.append(
            f"warning: {shared.models} models share {shared.images} identical part images with a "
            f"model of another set, so the test is easier than it seems; e.g. {examples}"
        )
    return "\n".join(lines)


def read_manifest(path: Path | str, columns: Sequence[str] = MANIFEST_COLUMNS) -> pd.DataFrame:
    """Read a manifest or a split table; names such as "01", "NA" or "1e5" stay text.

    Raises: FileNotFoundError; ValueError naming the file if it is no table, a column is missing or
        a number is none.
    """
    try:
        table = pd.read_csv(
            path, dtype=str, usecols=lambda name: name in columns, keep_default_na=False
        )
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; run the stages before this one") from None
    except ValueError as error:  # empty, cut, or not UTF-8
        raise ValueError(f"{path}: not a table: {error}") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; expected the index's manifest")
    try:
        types = dict.fromkeys(_INTEGERS, "int64") | dict.fromkeys(_FLOATS, "float64")
        types = {name: kind for name, kind in types.items() if name in columns}
        return table[list(columns)].astype(types)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
