"""Images of single cases, in which a person sees what is right and wrong."""

from pathlib import Path
from typing import Any

import pandas as pd

from partloc.data.background import load_image
from partloc.data.images import DEFAULT_MAX_PIXELS
from partloc.drawing import draw_case
from partloc.model.camera import PinholeCamera
from partloc.system.files import open_atomic

NUM_WORST, NUM_TYPICAL, NUM_BEST = 6, 6, 3  # cases that are drawn
CHUNK_ROWS = 4096  # of a table that is searched for the rows of a few models


def choose_cases(predictions: pd.DataFrame) -> dict[str, int]:
    """Rows to draw by translation error: {"worst-1": row, ..., "typical-1": ..., "best-1": ...}.

    One row of each twin group, because the others look the same, and no row twice. A small table
    therefore gives fewer cases.
    """
    ordered = predictions.sort_values(["translation_error", "model", "part"])
    rows = list(ordered.drop_duplicates(["model", "twin_group"]).index)
    worst = rows[::-1][:NUM_WORST]
    rest = rows[: len(rows) - len(worst)]
    best, rest = rest[:NUM_BEST], rest[NUM_BEST:]
    first_typical = len(rows) // 2 - NUM_BEST - NUM_TYPICAL // 2  # around the median
    first_typical = max(0, min(first_typical, len(rest) - NUM_TYPICAL))
    typical = rest[first_typical : first_typical + NUM_TYPICAL]
    groups = {"worst": worst, "typical": typical, "best": best}
    return {
        f"{name}-{number}": row
        for name, chosen in groups.items()
        for number, row in enumerate(chosen, 1)
    }


def write_samples(
    folder: Path,
    table: Path,
    data_dir: Path,
    camera: PinholeCamera | None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> None:
    """Draw cases of a table of predictions into `folder`, then delete images of earlier runs.

    Memory holds only the rows of the models that are drawn.
    """
    errors = _read_table(table, usecols=["model", "part", "twin_group", "translation_error"])
    cases = choose_cases(errors)
    models = set(errors.model[list(cases.values())])
    with _read_table(table, chunksize=CHUNK_ROWS) as chunks:
        predictions = pd.concat(chunk[chunk.model.isin(models)] for chunk in chunks)
    for name, row in cases.items():
        case = predictions.loc[row]
        is_twin = (predictions.model == case.model) & (predictions.twin_group == case.twin_group)
        twins = predictions[is_twin & (predictions.index != row)]
        whole = load_image(data_dir / case.whole_path, max_pixels)
        part = load_image(data_dir / case.part_path, max_pixels)
        with open_atomic(folder / f"{name}.png") as file:
            draw_case(name, case, twins, whole, part, camera).save(file, "PNG")
    for image in folder.glob("*.png"):
        if image.stem not in cases:
            image.unlink()


def _read_table(table: Path, **options: Any) -> Any:
    names = dict.fromkeys(("model", "part", "whole_path", "part_path", "twin_group"), str)
    return pd.read_csv(table, dtype=names, keep_default_na=False, **options)
