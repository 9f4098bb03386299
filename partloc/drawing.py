"""A sample drawn with its labelled and its predicted pose.

The poses are drawn with the camera that was fitted to the training data. Without one, e.g. because
the images were taken by different cameras, no positions are drawn, and the image says so.
"""

from collections.abc import Sequence
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from partloc.model.camera import PinholeCamera
from partloc.pose import POSE_COLUMNS, PartPose

if TYPE_CHECKING:  # the report page of `infer` needs no tables
    import pandas as pd

WHOLE_PX, PART_PX, MARGIN_PX = 480, 200, 16
COLUMNS_PX = (0, 130, 220)  # of the table of numbers
NOTE_PX = 16  # height of the letters at a circle
OVERSAMPLING = 3  # marks are drawn so many times larger and reduced: smooth edges
WHOLE_OPACITY = 0.4  # of the whole, on which the part is pasted
OPACITY_PER_LEVEL = 8  # of 255, per level by which a pixel is darker than the white background
MIN_CAMERA_DISTANCE = 0.1  # model units; nothing nearer to the camera is drawn
# Colours that colour-blind people tell apart, from Okabe and Ito (2008), the second one darker.
LABEL_COLOR, PREDICTION_COLOR = "#0072b2", "#c24e00"
TEXT_COLOR, NOTE_COLOR, FRAME_COLOR = "#202020", "#707070", "#d0d0d0"
# Of several parts in one picture, from the same source, dark enough for text.
PART_COLORS = (PREDICTION_COLOR, LABEL_COLOR, "#007a5a", "#a3447f", "#7a5c00")
# Pillow's own font has no letters beyond ASCII, and names of models may have.
FONT_FILE = Path(__file__).with_name("fonts") / "DejaVuSans.ttf"


class Mark(NamedTuple):
    """A circle in an image, as wide as the part is long, and a cross at its centre; pixels."""

    x: float
    y: float
    radius: float


class PlacedPart(NamedTuple):
    """image: square, on white. pose: (4,), predicted. note: written at its circle."""

    image: Image.Image
    pose: np.ndarray
    note: str


def draw_case(
    name: str,
    case: "pd.Series",
    twins: "pd.DataFrame",
    whole: Image.Image,
    part: Image.Image,
    camera: PinholeCamera | None,
) -> Image.Image:
    """The whole with marks on the left; the part and the numbers on the right.

    case, twins: rows of a table of predictions. whole, part: square, on white.
    """
    sheet = Image.new("RGB", (2 * WHOLE_PX, WHOLE_PX + 2 * MARGIN_PX), "white")
    if camera is not None:
        whole = draw_marks(whole, part, case, twins, camera)
    sheet.paste(_framed(whole, WHOLE_PX), (MARGIN_PX, MARGIN_PX))
    left = WHOLE_PX + 3 * MARGIN_PX
    sheet.paste(_framed(part, PART_PX), (left, MARGIN_PX))
    _write_text(ImageDraw.Draw(sheet), left, name, case, len(twins), camera)
    return sheet


# -- marks -------------------------------------------------------------------------------------


def draw_marks(
    whole: Image.Image,
    part: Image.Image,
    case: "pd.Series",
    twins: "pd.DataFrame",
    camera: PinholeCamera,
) -> Image.Image:
    """The enlarged and dimmed whole, the part pasted at its predicted place, and marks of the
    labelled and the predicted pose, and of those of the twins, thin."""
    canvas = _dimmed(whole)
    project = partial(project_pose, camera=camera, size=canvas.size)
    _paste_part(canvas, part, project(_pose(case, "predicted_")), camera)
    pen = ImageDraw.Draw(canvas)
    for _, twin in twins.iterrows():
        _draw_mark(pen, project(_pose(twin)), LABEL_COLOR, 1)
    labelled, predicted = project(_pose(case)), project(_pose(case, "predicted_"))
    _draw_mark(pen, labelled, LABEL_COLOR, 3)
    _draw_mark(pen, predicted, PREDICTION_COLOR, 3)
    if labelled and predicted:
        pen.line([labelled[:2], predicted[:2]], fill=PREDICTION_COLOR, width=OVERSAMPLING)
    return canvas


def draw_parts(
    whole: Image.Image, parts: Sequence[PlacedPart], camera: PinholeCamera
) -> Image.Image:
    """The enlarged and dimmed whole, the parts pasted at their places, and a circle with a note
    around each. Parts near the camera cover those behind them; one behind the camera is left out.

    whole: square, on white.
    """
    canvas = _dimmed(whole)
    marks = [project_pose(part.pose, camera, canvas.size) for part in parts]
    for number in np.argsort([-_depth(part.pose, camera) for part in parts], kind="stable"):
        _paste_part(canvas, parts[number].image, marks[number], camera)
    pen, font = ImageDraw.Draw(canvas), _font(NOTE_PX * OVERSAMPLING)
    drawn = [
        (part.note, mark, color)
        for part, mark, color in zip(parts, marks, cycle(PART_COLORS), strict=False)
        if mark
    ]
    for _, mark, color in drawn:
        _draw_mark(pen, mark, color, 2)
    for note, mark, color in drawn:  # above all circles
        place = (mark.x, max(mark.y - mark.radius, NOTE_PX * OVERSAMPLING))
        rim = NOTE_PX * OVERSAMPLING // 6
        pen.text(place, note, color, font, anchor="md", stroke_width=rim, stroke_fill="white")
    return canvas


def _dimmed(whole: Image.Image) -> Image.Image:
    factor = WHOLE_PX * OVERSAMPLING / max(whole.size)
    canvas = whole.resize([max(1, round(side * factor)) for side in whole.size])
    return Image.blend(Image.new("RGB", canvas.size, "white"), canvas, WHOLE_OPACITY)


def _depth(pose: np.ndarray, camera: PinholeCamera) -> float:
    """Of a pose (4,), behind the whole's centre, whole-model units."""
    return camera.depth(torch.from_numpy(pose[:3]).float()).item()


def with_transparent_background(image: Image.Image) -> Image.Image:
    """An image on white as RGBA. Dark pixels are opaque, and those on the rim partly."""
    darkness = 255 - np.asarray(image).min(-1).astype(int)  # (H, W)
    alpha = (OPACITY_PER_LEVEL * darkness).clip(0, 255).astype(np.uint8)
    transparent = image.copy()
    transparent.putalpha(Image.fromarray(alpha))
    return transparent


def _paste_part(
    canvas: Image.Image, part: Image.Image, mark: Mark | None, camera: PinholeCamera
) -> None:
    """Paste the part's image where it fits a mark. It shows one model unit as that of the whole
    does, and the part is one unit long in it."""
    if mark is None:
        return
    side = round(4 * mark.radius / camera.image_scale.item())
    if 0 < side <= 2 * canvas.width:
        pasted = with_transparent_background(part).resize((side, side))
        canvas.paste(pasted, (round(mark.x - side / 2), round(mark.y - side / 2)), pasted)


def _pose(row: "pd.Series", prefix: str = "") -> np.ndarray:
    """(4,): x, y, z, scale, whole-model units."""
    return row[[f"{prefix}{name}" for name in POSE_COLUMNS]].to_numpy(float)


def project_pose(pose: np.ndarray, camera: PinholeCamera, size: tuple[int, int]) -> Mark | None:
    """Where a pose (4,) appears in an image of this size; None behind the camera or close to it."""
    translation, scale = torch.from_numpy(pose).float().split([3, 1])
    # The distance to the camera, relative to that of the whole's centre.
    distance = 1 + camera.inverse_distance * camera.depth(translation).squeeze()
    if distance <= MIN_CAMERA_DISTANCE * camera.inverse_distance:
        return None
    right, down, log_size = camera.project(PartPose(translation, scale)).tolist()
    x, y = (right + 1) / 2 * size[0], (down + 1) / 2 * size[1]
    diameter = np.exp(log_size) * camera.image_scale.item() / 2  # of the image's side
    return Mark(x, y, diameter / 2 * size[0])


def _draw_mark(pen: ImageDraw.ImageDraw, mark: Mark | None, color: str, width: int) -> None:
    if mark is None:
        return
    (x, y, radius), line, arm = mark, width * OVERSAMPLING, 5 * OVERSAMPLING
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=color, width=line)
    pen.line([x - arm, y, x + arm, y], fill=color, width=line)
    pen.line([x, y - arm, x, y + arm], fill=color, width=line)


def _framed(image: Image.Image, side: int) -> Image.Image:
    """Resized into a square with a frame; the aspect ratio is kept."""
    factor = side / max(image.size)
    small = image.resize(
        [max(1, round(length * factor)) for length in image.size], Image.Resampling.BOX
    )
    square = Image.new("RGB", (side, side), "white")
    square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    ImageDraw.Draw(square).rectangle([0, 0, side - 1, side - 1], outline=FRAME_COLOR)
    return square


# -- text --------------------------------------------------------------------------------------


def _write_text(
    pen: ImageDraw.ImageDraw,
    left: int,
    name: str,
    case: "pd.Series",
    num_twins: int,
    camera: PinholeCamera | None,
) -> None:
    """Names beside the part; below it the poses, the errors and a note on the marks."""
    beside = left + PART_PX + MARGIN_PX
    width = 2 * WHOLE_PX - beside - MARGIN_PX
    pen.text((beside, MARGIN_PX), name.replace("-", " "), TEXT_COLOR, _font(17))
    for line, text in enumerate((f"model {case.model}", f"part {case.part}")):
        position = (beside, MARGIN_PX + 28 + 18 * line)
        pen.text(position, _shorten(text, _font(13), width), TEXT_COLOR, _font(13))

    labelled, predicted = _pose(case), _pose(case, "predicted_")
    top = PART_PX + 2 * MARGIN_PX
    rows = [[("", TEXT_COLOR), ("labelled", LABEL_COLOR), ("predicted", PREDICTION_COLOR)]]
    for axis, true, found in zip(("x", "y", "z", "scale"), labelled, predicted, strict=True):
        rows.append([(text, TEXT_COLOR) for text in (axis, f"{true:z.3f}", f"{found:z.3f}")])
    for line, row in enumerate(rows):
        for column, (text, color) in zip(COLUMNS_PX, row, strict=True):
            pen.text((left + column, top + 20 * line), text, color, _font(13))

    lines = _describe_errors(case, predicted - labelled, num_twins, camera)
    _write_lines(pen, (left, top + 112), lines, TEXT_COLOR, 13)
    note = [
        "Circle: as wide as the part is long. Cross: its centre.",
        "Thin: the part's twins. Camera: fitted to the training data.",
    ]
    if camera is None:
        note = ["No camera was fitted to the training data,", "so the poses are not drawn."]
    _write_lines(pen, (left, WHOLE_PX + MARGIN_PX - 34), note, NOTE_COLOR, 11)


def _describe_errors(
    case: "pd.Series", offset: np.ndarray, num_twins: int, camera: PinholeCamera | None
) -> list[str]:
    """offset: (4,), predicted minus labelled pose."""
    lines = [f"translation error {case.translation_error:.3f}"]
    if num_twins:
        lines[0] += f", to the nearest of {num_twins + 1} twins"
        lines.append(f"labelled error {case.labelled_error:.3f}")
    if camera is not None:  # an error along the view is hardly visible in the image
        direction = camera.forward.numpy()
        along = offset[:3] @ direction
        across = np.linalg.norm(offset[:3] - along * direction)
        lines.append(f"   {across:.3f} across the image, {abs(along):.3f} along the view")
    size = "large" if offset[3] > 0 else "small"
    lines.append(f"scale {case.relative_scale_error:.0%} too {size}")
    if "confidence" in case:
        lines.append(f"confidence {case.confidence:.2f}")
    return lines


def _write_lines(
    pen: ImageDraw.ImageDraw, start: tuple[int, int], lines: Sequence[str], color: str, size_px: int
) -> None:
    for number, text in enumerate(lines):
        pen.text((start[0], start[1] + (size_px + 6) * number), text, color, _font(size_px))


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut a text that is too long, and append an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT_FILE, size_px)
