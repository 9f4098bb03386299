"""Split the models into training, validation and test data; a model is never divided.

The models are sorted by a hash of (seed, model name) and cut into consecutive splits, whose sizes
are those of the ratios. Adding a model therefore moves at most two others.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from partloc.data.index import MANIFEST_COLUMNS
from partloc.data.layout import SPLITS, normalize_name

# With fewer validation models, a loss differs more between models than between epochs.
MIN_VAL_MODELS = 8
MAX_EXAMPLES = 3  # pairs of models in the warning about shared images
MAX_SHOWN = 80  # characters of a value in a message
_INT_COLUMNS = ["whole_width", "whole_height", "part_width", "part_height"]
_FLOAT_COLUMNS = ["tx", "ty", "tz", "scale"]
_HASH_COLUMNS = ["whole_sha256", "part_sha256"]


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

    The sizes of the splits are the ratios of the number of models, rounded by the method of the
    largest remainder. Each split with a ratio above 0 gets at least one model.
    Args:
        ratios: fractions of train, val and test, with sum 1.
    Raises: SplitError if there are fewer models than splits.
    """
    names = sorted(set(models), key=lambda name: (_unit_hash(seed, name), name))
    splits = [split for split, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0]
    if len(names) < len(splits):
        raise SplitError(
            f"found {len(names)} models {sorted(names)}, expected at least one for each "
            f"of the {len(splits)} splits with a ratio above 0 ({', '.join(splits)})"
        )
    sizes = _split_sizes(len(names), ratios)
    ordered = (split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size))
    return dict(zip(names, ordered, strict=True))


def _split_sizes(count: int, ratios: Sequence[float]) -> list[int]:
    """Sizes of the splits, with sum `count`.

    Source: Hamilton's method of apportionment.
    """
    quotas = [count * ratio / sum(ratios) for ratio in ratios]
    # Rounding errors must not decide: 0.1 * 30 is 3.0000000000000004.
    sizes = [int(quota + 1e-9) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: sizes[i] - round(quotas[i], 9))
    for i in by_remainder[: count - sum(sizes)]:
        sizes[i] += 1
    for i, ratio in enumerate(ratios):
        if ratio > 0 and sizes[i] == 0:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[i] = 1
    return sizes


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
) -> dict[str, Any]:
    """The counts for split/counts.json."""
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


def format_summary(counts: dict[str, Any], shared: SharedImages) -> str:
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
    if warning := few_validation_models_warning(counts["models"]["val"]):
        lines.append(f"warning: {warning}")
    return "\n".join(lines)


def few_validation_models_warning(num_models: int) -> str | None:
    """What the choice of the epoch is worth with so few validation models; None with enough."""
    if num_models == 0:
        return "no validation models: the last epoch is saved, whether or not it is the best"
    if num_models < MIN_VAL_MODELS:
        return (
            f"only {num_models} validation models: the losses of so few hardly distinguish two "
            "epochs, so the saved epoch may be no better than the last one, and its validation "
            f"error is too optimistic; {MIN_VAL_MODELS} or more are needed"
        )
    return None


def read_manifest(path: Path | str, columns: Sequence[str] = MANIFEST_COLUMNS) -> pd.DataFrame:
    """Read a manifest or a split table. Names such as "01", "NA" or "1e5" remain text.

    Raises: FileNotFoundError; ValueError naming the file if it is not a table, if a column is
        missing, or if a value is not a number or not a hash.
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
    _require_all(path, table, _FLOAT_COLUMNS, np.isfinite, "a finite number")
    _require_all(path, table, _HASH_COLUMNS, _is_sha256, "a SHA-256, 64 hexadecimal digits")
    return table


def _require_all(
    path: Path | str,
    table: pd.DataFrame,
    columns: Iterable[str],
    is_usable: Callable[[pd.Series], pd.Series],
    expected: str,
) -> None:
    for name in [name for name in columns if name in table]:
        usable = is_usable(table[name])
        if not usable.all():
            row = int(usable.argmin())
            value = str(table[name].iloc[row])[:MAX_SHOWN]
            raise ValueError(f"{path}: row {row + 2}: {name} {value!r}: expected {expected}")


def _is_sha256(column: pd.Series) -> pd.Series:
    return column.str.fullmatch("[0-9a-f]{64}")
