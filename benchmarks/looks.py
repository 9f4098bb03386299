"""Looks of a data set: how another tool renders the demo's objects, and how it writes them.

Shapes: S image side in pixels.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from partloc.synthetic.builder import Part
from partloc.synthetic.camera import DEMO_CAMERA, DEMO_LIGHTS, Camera, Lights
from partloc.synthetic.dataset import sample_model
from partloc.synthetic.families import DEMO_OBJECTS
from partloc.synthetic.render import WHITE, render_image
from partloc.synthetic.scene import normalized_triangles, pose_label, scene_geometry

Finish = Callable[[Image.Image], Image.Image]  # (S, S) RGBA, transparent around the object
BLACK = (0, 0, 0)
GRADIENT, SHADOW_STRENGTH = 0.1, 0.25  # of white, no unit


def plain(color: tuple[int, int, int]) -> Finish:
    """On a background of one colour."""
    return lambda image: _compose(image, Image.new("RGB", image.size, color))


def gradient(image: Image.Image) -> Image.Image:
    """On white that is darker at the bottom."""
    rows = np.linspace(255, 255 * (1 - GRADIENT), image.height)[:, None, None]
    pixels = np.broadcast_to(rows, (image.height, image.width, 3))
    return _compose(image, Image.fromarray(pixels.astype(np.uint8)))


def soft_shadow(image: Image.Image) -> Image.Image:
    """On white with a blurred shadow of the object below it."""
    shift = image.height // 16
    alpha = ImageChops.offset(image.getchannel("A"), 0, shift)
    alpha.paste(0, (0, 0, image.width, shift))
    shadow = alpha.filter(ImageFilter.GaussianBlur(image.height / 32))
    shadow = shadow.point(lambda value: 255 - round(SHADOW_STRENGTH * value))
    return _compose(image, Image.merge("RGB", [shadow] * 3))


def transparent(image: Image.Image) -> Image.Image:
    return image


def gizmo(image: Image.Image) -> Image.Image:
    """With the three axes of a viewer in the corner."""
    image = plain(WHITE)(image)
    draw, unit = ImageDraw.Draw(image), image.height // 16
    corner = unit, image.height - unit
    tips = {(220, 40, 40): (1.2, 0.3), (40, 180, 40): (-0.6, -0.5), (40, 40, 220): (0.2, -1.2)}
    for color, (right, down) in tips.items():
        tip = corner[0] + right * unit, corner[1] + down * unit
        draw.line([corner, tip], color, width=max(1, unit // 8))
    return image


def frame(image: Image.Image) -> Image.Image:
    """With a black line of one pixel around the image."""
    image = plain(WHITE)(image)
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=BLACK)
    return image


def widescreen(image: Image.Image) -> Image.Image:
    """16:9, with background on both sides."""
    canvas = Image.new("RGB", (image.height * 16 // 9, image.height), WHITE)
    canvas.paste(plain(WHITE)(image), ((canvas.width - image.width) // 2, 0))
    return canvas


@dataclass(frozen=True)
class Look:
    """How the images and labels of a data set are made.

    size: side of the rendered image, pixels. quality: of JPEG, None for PNG. label_frame: rows are
        the axes of the labels' frame in the frame of the renderer.
    """

    group: str
    camera: Camera = DEMO_CAMERA
    lights: Lights = DEMO_LIGHTS
    finish: Finish = plain(WHITE)
    size: int = 256
    quality: int | None = None
    label_frame: tuple[tuple[int, int, int], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

    @property
    def has_renderer_frame(self) -> bool:
        return self.label_frame == Look.label_frame


Y_UP = ((0, 1, 0), (0, 0, 1), (1, 0, 0))
LEFT_HANDED = ((0, 1, 0), (1, 0, 0), (0, 0, 1))
LEFT_HANDED_Y_UP = ((1, 0, 0), (0, 0, 1), (0, 1, 0))
BLENDER = Camera(-43.3, 26.1, 39.6)  # from (7.36, -6.93, 4.96) with 50 mm on 36 mm
LOOKS = {
    "demo": Look("demo"),
    "azimuth -60, elevation 20": Look("camera", Camera(-60, 20, 30)),
    "azimuth 20, elevation 10": Look("camera", Camera(20, 10, 30)),
    "azimuth 60, elevation 60": Look("camera", Camera(60, 60, 30)),
    "azimuth -20, elevation 5, field of view 45": Look("camera", Camera(-20, 5, 45)),
    "field of view 60": Look("camera", Camera(45, 30, 60)),
    "orthographic (field of view 2)": Look("camera", Camera(45, 30, 2)),
    "y up": Look("camera", label_frame=Y_UP),
    "left-handed": Look("camera", label_frame=LEFT_HANDED),
    "left-handed, y up": Look("camera", label_frame=LEFT_HANDED_Y_UP),
    "light grey": Look("background", finish=plain((220, 220, 220))),
    "mid grey": Look("background", finish=plain((128, 128, 128))),
    "black": Look("background", finish=plain(BLACK)),
    "blue": Look("background", finish=plain((70, 110, 170))),
    "transparent": Look("background", finish=transparent),
    "gradient of 10 %": Look("background", finish=gradient),
    "soft shadow": Look("background", finish=soft_shadow),
    "JPEG, quality 50": Look("format", quality=50),
    "gizmo in a corner": Look("format", finish=gizmo),
    "frame of 1 px": Look("format", finish=frame),
    "16:9": Look("format", finish=widescreen),
    "64 px": Look("format", size=64),
    "2048 px": Look("format", size=2048),
    "Blender's default scene": Look(
        "tool", BLENDER, Lights(0.1, 0.8, (0.48, 0.12, 0.87), 0.15), plain((64, 64, 64))
    ),
    "three.js on black": Look("tool", Camera(35, 20, 50), finish=plain(BLACK), label_frame=Y_UP),
    "Open3D's grey": Look("tool", Camera(0, 15, 60), finish=plain((220, 220, 220))),
    "CAD, isometric": Look("tool", Camera(45, 35.26, 1), Lights(0.5, 0.4), gradient),
}


def write_models(folder: Path, name: str, seed: int, numbers: range) -> None:
    """Render models of the demo's kinds in the look LOOKS[name], each into its folder unless it
    exists."""
    look = LOOKS[name]
    for number in numbers:
        model = sample_model(seed, number, DEMO_OBJECTS, look.camera)
        target, draft = folder / model.name, folder / f".{model.name}"
        if target.exists():
            continue
        draft.mkdir(parents=True, exist_ok=True)
        triangles, colors, _ = scene_geometry(model.parts)
        _write_image(draft / f"{model.name}-whole", _render(triangles, colors, look), look)
        for part in model.sample_parts:
            stem = draft / f"{model.name}-{part.name}"
            part_image = _render(normalized_triangles(part.mesh), part.mesh.colors, look)
            _write_image(stem, part_image, look)
            Path(f"{stem}.json").write_text(json.dumps(_label(part, look)))
        draft.rename(target)


def _render(triangles: np.ndarray, colors: np.ndarray, look: Look) -> Image.Image:
    """RGBA: opacity is how little a black and a white background differ through the object."""
    on_white, on_black = (
        render_image(triangles, colors, look.size, look.camera, look.lights, background)
        for background in (WHITE, BLACK)
    )
    alpha = 255 - (on_white[..., :1].astype(int) - on_black[..., :1])  # (S, S, 1)
    color = 255.0 * on_black / np.maximum(alpha, 1)
    pixels = np.concatenate([color.round().clip(0, 255), alpha], -1).astype(np.uint8)
    return Image.fromarray(pixels, "RGBA")


def _compose(image: Image.Image, background: Image.Image) -> Image.Image:
    return Image.composite(image.convert("RGB"), background, image.getchannel("A"))


def _write_image(stem: Path, image: Image.Image, look: Look) -> None:
    image, buffer = look.finish(image), io.BytesIO()
    if look.quality is None:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=look.quality)
    suffix = ".png" if look.quality is None else ".jpg"
    Path(f"{stem}{suffix}").write_bytes(buffer.getvalue())


def _label(part: Part, look: Look) -> dict[str, list[float]]:
    label = pose_label(part)
    rotated = np.array(look.label_frame) @ label["translation"]
    return label | {"translation": rotated.tolist()}
