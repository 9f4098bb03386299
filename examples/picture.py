"""Draws the picture at the top of README.md, and writes the prediction that it shows beside it.

    $ python -m examples.picture

The picture shows the whole, a part, and the part pasted where the shipped weights place it. The
line of JSON in both READMEs is the prediction for the same part.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from partloc import Locator, PoseEstimate
from partloc.drawing import FONT_FILE, PREDICTION_COLOR, TEXT_COLOR, project_pose
from partloc.model.camera import PinholeCamera
from partloc.system.cli import make_parser, run_command

ROOT = Path(__file__).resolve().parents[1]
PICTURE_FILE = ROOT / "docs/images/placed.png"
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
WHOLE_FILE = ROOT / "examples/bench/bench-whole.png"
PART_FILE = ROOT / "examples/bench/bench-side-1.png"
IMAGE_PX, PANEL_PX, CAPTION_PX, FONT_PX = 440, 320, 40, 15  # a panel is the centre of an image
WHITE = 250  # a pixel with all channels above it is background
FADING = 0.75  # of the whole, toward white, below the placed part


def paste_part(
    whole: Image.Image, part: Image.Image, estimate: PoseEstimate, camera: PinholeCamera
) -> Image.Image:
    """The faded whole, and on it the part at its predicted place, as large as predicted.

    The image of the part shows it with its longest edge at 1, at the centre of the camera's view.
    """
    canvas = Image.blend(whole, Image.new("RGB", whole.size, "white"), FADING)
    pose = np.array([*estimate.translation, estimate.scale])
    mark = project_pose(pose, camera, whole.size)
    centered = project_pose(np.array([0.0, 0.0, 0.0, 1.0]), camera, whole.size)
    assert mark is not None and centered is not None, "the part lies behind the camera"
    factor = mark.radius / centered.radius
    small = part.resize([round(side * factor) for side in part.size])
    mask = Image.fromarray((np.asarray(small).min(-1) <= WHITE).astype(np.uint8) * 255)
    # Where the centre of the part, (0, 0, 0) in its own frame, is in the small image:
    corner = (mark.x - centered.x * factor, mark.y - centered.y * factor)
    canvas.paste(small, (round(corner[0]), round(corner[1])), mask)
    pen = ImageDraw.Draw(canvas)
    box = [mark.x - mark.radius, mark.y - mark.radius, mark.x + mark.radius, mark.y + mark.radius]
    pen.ellipse(box, outline=PREDICTION_COLOR, width=2)
    return canvas


def draw_picture(estimate: PoseEstimate, camera: PinholeCamera) -> Image.Image:
    """The three panels with a caption below each."""
    size = (IMAGE_PX, IMAGE_PX)
    whole, part = (Image.open(path).convert("RGB").resize(size) for path in (WHOLE_FILE, PART_FILE))
    x, y, z = estimate.translation
    panels = {
        "whole": whole,
        "part": part,
        f"predicted: ({x:z.2f}, {y:z.2f}, {z:z.2f}), scale {estimate.scale:.2f}": paste_part(
            whole, part, estimate, camera
        ),
    }
    sheet = Image.new("RGB", (PANEL_PX * len(panels), PANEL_PX + CAPTION_PX), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.truetype(FONT_FILE, FONT_PX)
    margin = (IMAGE_PX - PANEL_PX) // 2
    for number, (caption, panel) in enumerate(panels.items()):
        panel = panel.crop((margin, margin, margin + PANEL_PX, margin + PANEL_PX))
        sheet.paste(panel, (number * PANEL_PX, 0))
        center = ((number + 0.5) * PANEL_PX, PANEL_PX + CAPTION_PX / 2)
        pen.text(center, caption, TEXT_COLOR, font, anchor="mm")
    return sheet


def replace_answer(text: str, estimate: PoseEstimate) -> str:
    """The text of a README with its line of JSON replaced.

    Raises: ValueError if there is not exactly one such line.
    """
    lines = text.split("\n")
    found = [number for number, line in enumerate(lines) if '{"translation": [0.' in line]
    if len(found) != 1:
        raise ValueError(f"expected one line with a prediction, found {len(found)}")
    indent = lines[found[0]].partition("{")[0]
    lines[found[0]] = indent + json.dumps(estimate.to_dict(with_hypotheses=False))
    return "\n".join(lines)


def predict() -> tuple[PoseEstimate, PinholeCamera]:
    """The prediction for the part, and the camera of the shipped weights."""
    torch.set_num_threads(1)  # as many threads on every machine, the same rounding
    locator = Locator.from_pretrained(device="cpu")
    camera = locator.predictor.model.pinhole_camera
    assert camera is not None, "the shipped weights have a camera"
    return locator.locate(WHOLE_FILE, PART_FILE), camera


def run() -> None:
    make_parser(__doc__, config=None).parse_args()
    estimate, camera = predict()
    PICTURE_FILE.parent.mkdir(exist_ok=True)
    draw_picture(estimate, camera).quantize(128).save(PICTURE_FILE, optimize=True)
    for path in READMES:
        text = replace_answer(path.read_text(encoding="utf-8"), estimate)
        path.write_text(text, encoding="utf-8")
    print(f"written: {PICTURE_FILE}")


def main() -> None:
    run_command(run)


if __name__ == "__main__":
    main()
