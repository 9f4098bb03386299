"""Pictures of single cases, so that a person sees what went right and wrong.

The pairs may come from any camera; the marks are drawn as the demo's camera would see them, and
fall beside their parts when the pictures were taken by another one.

Shapes: K places of a part's twins.
"""

from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from partloc.data.images import DEFAULT_MAX_PIXELS, load_rgb
from partloc.synthetic.camera import FORWARD, RIGHT, project

WORST, TYPICAL, BEST = 6, 6, 3  # cases that are drawn

ROWS_AT_ONCE = 4096  # of a table, while those of a few models are looked for
PICTURE_PX, PART_PX, MARGIN_PX = 480, 200, 16
FINER = 3  # marks are drawn this much larger and averaged down: smooth edges
NEAREST = 0.1  # model units; what is nearer to the camera, or behind it, gets no mark
TRUE_COLOR, FOUND_COLOR, TEXT_COLOR, FAINT_COLOR = "#128a3a", "#e8590c", "#202020", "#707070"


def choose_cases(predictions: pd.DataFrame) -> dict[str, int]:
    """Which rows to draw: {"worst-1": row, ..., "typical-1": row, ..., "best-1": row, ...}.

    By the error to the nearest twin. Of a group of twins, which look alike and get one answer,
    one is drawn, and no row twice; so a small table gives fewer cases.
    """
    ordered = predictions.sort_values(["twin_aware_error", "model", "part"])
    rows = list(ordered.drop_duplicates(["model", "twin_group"]).index)
    worst = rows[::-1][:WORST]
    rest = rows[: len(rows) - len(worst)]
    best, rest = rest[:BEST], rest[BEST:]
    middle = max(0, min(len(rows) // 2 - BEST - TYPICAL // 2, len(rest) - TYPICAL))
    typical = rest[middle : middle + TYPICAL]
    groups = {"worst": worst, "typical": typical, "best": best}
    return {
        f"{name}-{number}": row
        for name, chosen in groups.items()
        for number, row in enumerate(chosen, 1)
    }


def write_samples(
    folder: Path, table: Path, data_dir: Path, max_pixels: int = DEFAULT_MAX_PIXELS
) -> None:
    """Draw cases of a file of predictions into `folder`; pictures of an earlier run are removed.

    Of the file only the rows of the chosen models are held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    every = _read(table, usecols=["model", "part", "twin_group", "twin_aware_error"])
    cases = choose_cases(every)
    models = set(every.model[list(cases.values())])
    with _read(table, chunksize=ROWS_AT_ONCE) as pieces:
        predictions = pd.concat(piece[piece.model.isin(models)] for piece in pieces)
    for name, row in cases.items():
        case = predictions.loc[row]
        same = (predictions.model == case.model) & (predictions.twin_group == case.twin_group)
        twins = predictions[same & (predictions.index != row)]
        whole = load_rgb(data_dir / case.whole_path, max_pixels)
        part = load_rgb(data_dir / case.part_path, max_pixels)
        draw_case(name, case, twins, whole, part).save(folder / f"{name}.png")


def _read(table: Path, **options: Any) -> Any:
    names = dict.fromkeys(("model", "part", "whole_path", "part_path", "twin_group"), str)
    return pd.read_csv(table, dtype=names, keep_default_na=False, **options)


def draw_case(
    name: str, case: pd.Series, twins: pd.DataFrame, whole: Image.Image, part: Image.Image
) -> Image.Image:
    """The marked whole on the left; the part and the numbers on the right."""
    size = (2 * PICTURE_PX, PICTURE_PX + 2 * MARGIN_PX)
    sheet = Image.new("RGB", size, "white")
    sheet.paste(_fitted(_marked(whole, case, twins), PICTURE_PX), (MARGIN_PX, MARGIN_PX))
    left = PICTURE_PX + 3 * MARGIN_PX
    sheet.paste(_fitted(part, PART_PX), (left, MARGIN_PX))
    _write_captions(ImageDraw.Draw(sheet), left, name, case, len(twins))
    return sheet


def _marked(whole: Image.Image, case: pd.Series, twins: pd.DataFrame) -> Image.Image:
    """The whole with a circle a place, as wide as the part is long, and a cross in it."""
    shrink = PICTURE_PX * FINER / max(whole.size)
    canvas = whole.resize([max(1, round(side * shrink)) for side in whole.size])
    pen = ImageDraw.Draw(canvas)
    for _, twin in twins.iterrows():
        _mark(pen, canvas.size, _place(twin, ""), TRUE_COLOR, 1)
    true = _mark(pen, canvas.size, _place(case, ""), TRUE_COLOR, 3)
    found = _mark(pen, canvas.size, _place(case, "predicted_"), FOUND_COLOR, 3)
    if true and found:
        pen.line([true, found], fill=FOUND_COLOR, width=FINER)
    return canvas


def _place(row: pd.Series, prefix: str) -> np.ndarray:
    """(4,): x, y, z, scale, whole-model units."""
    return row[[f"{prefix}{name}" for name in ("tx", "ty", "tz", "scale")]].to_numpy(float)


def _mark(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], place: np.ndarray, color: str, width: int
) -> tuple[float, float] | None:
    """Draw one place; returns where its centre is, in pixels, or None if no camera can see it."""
    (center, rim), depth = project(np.stack([place[:3], place[:3] + place[3] / 2 * RIGHT]))
    if depth.min() < NEAREST:
        return None
    u, v = center * size
    radius = (rim - center)[0] * size[0]
    line, arm = width * FINER, 5 * FINER
    pen.ellipse([u - radius, v - radius, u + radius, v + radius], outline=color, width=line)
    pen.line([u - arm, v, u + arm, v], fill=color, width=line)
    pen.line([u, v - arm, u, v + arm], fill=color, width=line)
    return u, v


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Within a square with a thin frame, the sides' ratio kept."""
    shrink = side / max(image.size)
    small = image.resize([max(1, round(length * shrink)) for length in image.size], Image.BOX)
    square = Image.new("RGB", (side, side), "white")
    square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    ImageDraw.Draw(square).rectangle([0, 0, side - 1, side - 1], outline="#d0d0d0")
    return square


def _write_captions(
    pen: ImageDraw.ImageDraw, left: int, name: str, case: pd.Series, twins: int
) -> None:
    beside, width = left + PART_PX + MARGIN_PX, 2 * PICTURE_PX - left - PART_PX - 2 * MARGIN_PX
    title, plain, small = _font(15, bold=True), _font(13), _font(11)
    pen.text((beside, MARGIN_PX), name.replace("-", " "), TEXT_COLOR, title)
    for line, text in enumerate((f"model {case.model}", f"part {case.part}")):
        pen.text((beside, MARGIN_PX + 28 + 18 * line), _cut(text, plain, width), TEXT_COLOR, plain)

    true, found = _place(case, ""), _place(case, "predicted_")
    top = PART_PX + 2 * MARGIN_PX
    columns = (left, left + 130, left + 220)
    header = (("", TEXT_COLOR), ("true", TRUE_COLOR), ("predicted", FOUND_COLOR))
    for x, (text, color) in zip(columns, header, strict=True):
        pen.text((x, top), text, color, _font(13, bold=True))
    for row, axis in enumerate(("x", "y", "z", "scale")):
        texts = (axis, f"{true[row]:z.3f}", f"{found[row]:z.3f}")
        for x, text in zip(columns, texts, strict=True):
            pen.text((x, top + 20 * (row + 1)), text, TEXT_COLOR, plain)

    for line, text in enumerate(_remarks(case, true, found, twins)):
        pen.text((left, top + 112 + 19 * line), text, TEXT_COLOR, plain)
    for line, text in enumerate(
        (
            "Circle: as wide as the part is long. Cross: its centre.",
            "Thin green: the part's twins. Marks assume the demo's camera.",
        )
    ):
        bottom = PICTURE_PX + MARGIN_PX - 34
        pen.text((left, bottom + 16 * line), text, FAINT_COLOR, small)


def _remarks(case: pd.Series, true: np.ndarray, found: np.ndarray, twins: int) -> list[str]:
    """The errors in words. A move along the view hardly shows in a picture, so it is told."""
    apart = found[:3] - true[:3]
    along = apart @ FORWARD
    across = np.linalg.norm(apart - along * FORWARD)
    size = f"{case.relative_scale_error:.0%} too {'large' if found[3] > true[3] else 'small'}"
    remarks = [
        f"translation error {case.translation_error:.3f}",
        f"   {across:.3f} across the view, {abs(along):.3f} along it",
        f"scale {size}",
    ]
    if twins:
        among = "the nearer of the two twins" if twins == 1 else f"the nearest of {twins + 1} twins"
        remarks.insert(2, f"   {case.twin_aware_error:.3f} to {among}")
    return remarks


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of it as fits, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@cache
def _font(size_px: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: the same everywhere, with letters beyond ASCII."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size_px)
