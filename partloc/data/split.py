"""Split the models into training, validation and test data; a model is never divided.

The split of a model follows from a hash of (seed, model name), so it does not change when other
models are added or removed. The only exception: a split that would be empty takes a model from
another one. This happens only with few models; afterwards adding models moves none.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from partloc.data.index import MANIFEST_COLUMNS
from partloc.data.layout import normalize_name

SPLITS = ("train", "val", "test")
MAX_EXAMPLES = 3  # pairs of models in the warning about shared images
_INT_COLUMNS = ["whole_width", "whole_height", "part_width", "part_height"]
_FLOAT_COLUMNS = ["tx", "ty", "tz", "scale"]


class SplitError(ValueError):
    """There are fewer models than splits."""


class SharedImages(NamedTuple):
    """Part images that are byte-identical in models of different splits.

    images: number of such images; models: number of models that have one; pairs: of models in
    different splits, counted once per shared image; examples: the first MAX_EXAMPLES pairs by name.
    """

    images: int
    models: int
    pairs: int
    examples: list[tuple[str, str]]


def split_models(
    models: Iterable[str], ratios: tuple[float, float, float], seed: int
) -> dict[str, str]:
    """Map each model to "train", "val" or "test".

    The sizes of the splits approximate the ratios: exact sizes would move models whenever one is
    added. Each split with a ratio above 0 gets at least one model.
    Args:
        ratios: fractions of train, val and test, with sum 1.
    Raises: SplitError if there are fewer models than splits.
    """
    names = sorted(set(models))
    splits = [split for split, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0]
    if len(names) < len(splits):
        raise SplitError(
            f"found {len(names)} models {names}, expected at least one for each "
            f"of the {len(splits)} splits with a ratio above 0 ({', '.join(splits)})"
        )
    intervals = _split_intervals(ratios)
    hashes = {name: _unit_hash(seed, name) for name in names}
    split_of_model = {name: _find_interval(value, intervals) for name, value in hashes.items()}
    for empty in [split for split in splits if split not in split_of_model.values()]:
        low, high = intervals[empty]
        sizes = Counter(split_of_model.values())
        movable = [name for name in names if sizes[split_of_model[name]] > 1]
        nearest = min(
            movable, key=lambda name: (max(low - hashes[name], hashes[name] - high), name)
        )
        split_of_model[nearest] = empty
    return split_of_model


def limit_training_models(
    split_of_model: dict[str, str], max_models: int | None, seed: int
) -> dict[str, str]:
    """Keep at most `max_models` training models; None keeps all.

    The models of a smaller limit are a subset of those of a larger limit, so that the points of a
    learning curve differ only by added models.
    """
    train = sorted(
        (name for name, split in split_of_model.items() if split == "train"),
        key=lambda name: (_unit_hash(seed, name), name),
    )
    removed = set(train[max_models:]) if max_models else set()
    return {name: split for name, split in split_of_model.items() if name not in removed}


def _split_intervals(ratios: tuple[float, float, float]) -> dict[str, tuple[float, float]]:
    """Divide [0, 1) into one interval [low, high) for each split with a ratio above 0."""
    intervals, low = {}, 0.0
    for split, ratio in zip(SPLITS, ratios, strict=True):
        if ratio > 0:
            intervals[split] = low, low + ratio
            low += ratio
    last = list(intervals)[-1]
    intervals[last] = intervals[last][0], 1.0  # the sum of the ratios may be 0.9999999
    return intervals


def _find_interval(value: float, intervals: dict[str, tuple[float, float]]) -> str:
    return next(split for split, (low, high) in intervals.items() if low <= value < high)


def _unit_hash(seed: int, model: str) -> float:
    """A hash of seed and model name in [0, 1), the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{normalize_name(model)}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def find_shared_images(manifest: pd.DataFrame, split_of_model: dict[str, str]) -> SharedImages:
    """Find part images that leak from one split to another."""
    owners = manifest[["part_sha256", "model"]].drop_duplicates()
    num_splits = owners.model.map(split_of_model).groupby(owners.part_sha256).transform("nunique")
    owners = owners[num_splits > 1]
    num_pairs, examples = 0, []
    for _, models in owners.groupby("part_sha256").model:
        sizes = Counter(split_of_model[model] for model in models)
        # Counted without listing: an image in ten thousand models makes fifty million pairs.
        num_pairs += (len(models) ** 2 - sum(size**2 for size in sizes.values())) // 2
        pairs = (
            (a, b)
            for a, b in combinations(sorted(models), 2)
            if split_of_model[a] != split_of_model[b]
        )
        examples = sorted({*examples, *islice(pairs, MAX_EXAMPLES)})[:MAX_EXAMPLES]
    return SharedImages(owners.part_sha256.nunique(), owners.model.nunique(), num_pairs, examples)


def count_split(
    manifest: pd.DataFrame, split_of_model: dict[str, str], shared: SharedImages
) -> dict:
    """The counts for metrics/split.json."""
    models = Counter(split_of_model.values())
    samples = Counter(manifest.model.map(split_of_model))
    return {
        "models": {split: models[split] for split in SPLITS},
        "samples": {split: samples[split] for split in SPLITS},
        "shared_part_images": {
            "images": shared.images,
            "models": shared.models,
            "pairs": shared.pairs,
        },
    }


def format_summary(counts: dict, shared: SharedImages) -> str:
    """A table for the terminal: the size of each split, and a warning about shared images."""
    lines = [
        f"{counts['models'][split]:7d} models, {counts['samples'][split]:7d} samples in {split}"
        for split in SPLITS
    ]
    if shared.pairs:
        examples = ", ".join(f"{a!r} and {b!r}" for a, b in shared.examples)
        lines.append(
            f"warning: {shared.models} models share {shared.images} identical part images with a "
            f"model of another split, so the test error is too optimistic; e.g. {examples}"
        )
    return "\n".join(lines)


def read_manifest(path: Path | str, columns: Sequence[str] = MANIFEST_COLUMNS) -> pd.DataFrame:
    """Read a manifest or a split table. Names such as "01", "NA" or "1e5" remain text.

    Raises: FileNotFoundError; ValueError naming the file if it is not a table, if a column is
        missing, or if a value is not a number.
    """
    try:
        table = pd.read_csv(
            path, dtype=str, usecols=lambda name: name in columns, keep_default_na=False
        )
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; run the previous stages first") from None
    except ValueError as error:  # empty, malformed, or not UTF-8
        raise ValueError(f"{path}: not a table: {error}") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; expected the index's manifest")
    types = dict.fromkeys(_INT_COLUMNS, "int64") | dict.fromkeys(_FLOAT_COLUMNS, "float64")
    try:
        table = table[list(columns)].astype(
            {name: types[name] for name in columns if name in types}
        )
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None
    _require_finite(path, table)
    return table


def _require_finite(path: Path | str, table: pd.DataFrame) -> None:
    for name in [name for name in _FLOAT_COLUMNS if name in table]:
        unusable = ~np.isfinite(table[name].to_numpy())
        if unusable.any():
            row = int(unusable.argmax())
            raise ValueError(
                f"{path}: row {row + 2}: {name} {table[name].iloc[row]}: expected a finite number"
            )
