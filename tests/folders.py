"""Small data folders in the users' layout, whole or damaged in one named way.

>>> write_folder(tmp_path / "images", {"chair": ["seat", "leg-1", "leg-2"]})

Parts whose names differ only by a number at the end look alike: they are twins.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from PIL import Image, PngImagePlugin

MODELS = {
    "chair": ["seat", "back", "leg-1", "leg-2"],
    "lamp": ["foot", "shade"],
    "table-v1.2": ["top", "leg-1", "leg-2", "leg-3"],
}
SIZE_PX = 48


def write_folder(root: Path, models: dict[str, list[str]] | None = None) -> Path:
    """Write a valid data folder; the same names give the same bytes."""
    for model, parts in (MODELS if models is None else models).items():
        write_model(root, model, parts)
    return root


def write_model(root: Path, model: str, parts: list[str]) -> Path:
    folder = root / model
    folder.mkdir(parents=True)
    picture(f"{model}/whole").save(folder / f"{model}-whole.png")
    for number, part in enumerate(parts):
        kind = re.sub(r"-\d+$", "", part)
        picture(f"{model}/{kind}").save(folder / f"{model}-{part}.png")
        write_label(folder, part, label(number))
    return folder


def picture(kind: str) -> Image.Image:
    """A coloured box on white; size, place and colour follow from the name."""
    digest = hashlib.sha256(kind.encode()).digest()
    left, top, width, height = (
        4 + digest[0] % 16,
        4 + digest[1] % 16,
        digest[2] % 20,
        digest[3] % 20,
    )
    pixels = np.full((SIZE_PX, SIZE_PX, 3), 255, np.uint8)
    pixels[top : top + 4 + height, left : left + 4 + width] = [value % 200 for value in digest[4:7]]
    return Image.fromarray(pixels)


def label(number: int = 0) -> dict:
    shift, scale = round(0.1 * (number % 5) - 0.2, 6), round(0.2 + 0.05 * (number % 7), 6)
    return {"translation": [shift, 0.0, -shift], "rotation": [1, 0, 0, 0], "scale": [scale] * 3}


def write_label(folder: Path, part: str, content: dict) -> None:
    path = folder / f"{folder.name}-{part}.json"
    path.write_text(json.dumps(content), encoding="utf-8")


class Damage(NamedTuple):
    """What `apply(model_folder)` does to the part `seat`, and what the index says of it."""

    apply: Callable[[Path], object]
    reason: str
    lost: tuple[str, ...] = ("seat",)  # parts that the model no longer gives
    count: int = 1


def damage_everything(root: Path) -> dict[str, Damage]:
    """One model for each kind of damage, named after it; the parts are `seat` and `back`."""
    for name, damage in DAMAGES.items():
        damage.apply(write_model(root, name, ["seat", "back"]))
    return DAMAGES


def _file(folder: Path, end: str) -> Path:
    return folder / f"{folder.name}-{end}"


def _remove(end: str) -> Callable[[Path], object]:
    return lambda folder: _file(folder, end).unlink()


def _content(end: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: _file(folder, end).write_bytes(content)


def _fields(**fields: object) -> Callable[[Path], object]:
    return lambda folder: write_label(folder, "seat", label() | fields)


def _without(field: str) -> Callable[[Path], object]:
    return lambda folder: write_label(
        folder, "seat", {key: value for key, value in label().items() if key != field}
    )


def _cut(end: str) -> Callable[[Path], object]:
    def cut(folder: Path) -> None:
        path = _file(folder, end)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    return cut


def _flip_a_byte(folder: Path) -> None:
    data = bytearray(_file(folder, "seat.png").read_bytes())
    data[data.index(b"IDAT") + 20] ^= 0xFF
    _file(folder, "seat.png").write_bytes(data)


def huge_png(width: int, height: int) -> bytes:
    """A PNG of that size with no pixels in it: who decodes it before asking fails otherwise."""
    buffer = io.BytesIO()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    buffer.write(b"\x89PNG\r\n\x1a\n")
    for kind, data in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        PngImagePlugin.putchunk(buffer, kind, data)
    return buffer.getvalue()


def _link(end: str, target: str) -> Callable[[Path], object]:
    def link(folder: Path) -> None:
        _file(folder, end).unlink()
        _file(folder, end).symlink_to(target)

    return link


def _copy(end: str, name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name.format(folder.name)).write_bytes(
        _file(folder, end).read_bytes()
    )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _decomposed_twin(folder: Path) -> None:
    for form in ("NFC", "NFD"):
        for extension in ("png", "json"):
            name = normalize(form, f"{folder.name}-Füße.{extension}")
            (folder / name).write_bytes(_file(folder, f"seat.{extension}").read_bytes())


_BOTH = ("back", "seat")
NAN, HUGE = float("nan"), 10**400
DAMAGES = {
    "no-label": Damage(_remove("seat.json"), "part without JSON"),
    "no-picture": Damage(_remove("seat.png"), "JSON without part"),
    "no-whole": Damage(_remove("whole.png"), "whole missing", _BOTH, 2),
    "bad-whole": Damage(_content("whole.png", b"not a picture"), "whole unusable", _BOTH, 2),
    "cut-whole": Damage(_cut("whole.png"), "whole unusable", _BOTH, 2),
    "two-wholes": Damage(_copy("whole.png", "{}-whole.PNG"), "whole unusable", _BOTH, 2),
    "unreadable": Damage(_content("seat.png", b"not a picture"), "unreadable image"),
    "empty-file": Damage(_content("seat.png", b""), "unreadable image"),
    "flipped": Damage(_flip_a_byte, "unreadable image"),
    "truncated": Damage(_cut("seat.png"), "truncated image"),
    "oversized": Damage(_content("seat.png", huge_png(9000, 9000)), "oversized image"),
    "no-target": Damage(_link("seat.png", "nowhere.png"), "unreadable image"),
    "link-loop": Damage(_link("seat.png", "link-loop-seat.png"), "unreadable image"),
    "malformed": Damage(_content("seat.json", b'{"translation": [0, 0,'), "malformed JSON"),
    "no-object": Damage(_content("seat.json", b"[0, 0, 0]"), "malformed JSON"),
    "latin-1": Damage(_content("seat.json", '{"ä": 1}'.encode("latin-1")), "malformed JSON"),
    "empty-label": Damage(_content("seat.json", b""), "malformed JSON"),
    "no-translation": Damage(_without("translation"), "missing field"),
    "no-scale": Damage(_without("scale"), "missing field"),
    "text": Damage(_fields(translation=["0", "0", "0"]), "not a number"),
    "truth": Damage(_fields(scale=[True, True, True]), "not a number"),
    "null": Damage(_fields(translation=[None, 0, 0]), "not a number"),
    "short": Damage(_fields(translation=[0.0, 0.0]), "wrong length"),
    "long": Damage(_fields(scale=[0.5] * 4), "wrong length"),
    "scalar": Damage(_fields(scale=0.5), "wrong length"),
    "not-finite": Damage(_fields(translation=[NAN, 0, 0]), "non-finite value"),
    "infinite": Damage(_fields(scale=[float("inf")] * 3), "non-finite value"),
    "too-large": Damage(_fields(translation=[HUGE, 0, 0]), "non-finite value"),
    "stretched": Damage(_fields(scale=[0.3, 0.3, 0.4]), "non-uniform scale"),
    "zero": Damage(_fields(scale=[0, 0, 0]), "scale not positive"),
    "negative": Damage(_fields(scale=[-0.3] * 3), "scale not positive"),
    "speck": Damage(_fields(scale=[1e-46] * 3), "scale not positive"),  # 0 in single precision
    "giant": Damage(_fields(scale=[1.2] * 3), "scale above 1"),
    "outside": Damage(_fields(translation=[0, 0.7, 0]), "translation out of range"),
    "outside-below": Damage(_fields(translation=[0, 0, -0.56]), "translation out of range"),
    "twice-png": Damage(_copy("seat.png", "{}-seat.PNG"), "duplicate name"),
    "twice-json": Damage(_copy("seat.json", "{}-seat.Json"), "duplicate name"),
    "twice-unicode": Damage(_decomposed_twin, "duplicate name", ()),
    "control": Damage(_copy("seat.png", "{}-a\nb.png"), "unusable name", ()),
    # From here on nothing is lost: a warning.
    "turned": Damage(_fields(rotation=[0.7071, 0, 0.7071, 0]), "non-identity rotation", ()),
    "odd-rotation": Damage(_fields(rotation="none"), "non-identity rotation", ()),
    "no-rotation": Damage(_without("rotation"), "missing rotation", ()),
    "misnamed": Damage(_fields(part_name="leg"), "label names another part", ()),
    "whole-label": Damage(_copy("seat.json", "{}-whole.json"), "label of the whole", ()),
    "foreign": Damage(_copy("seat.png", "sofa-seat.png"), "foreign file", ()),
    "nameless": Damage(_copy("seat.png", "{}-.png"), "foreign file", ()),
    "jpeg": Damage(_copy("seat.png", "{}-arm.jpg"), "foreign file", ()),
    "subfolder": Damage(lambda folder: (folder / "more").mkdir(), "foreign file", ()),
    "emptied": Damage(_empty, "empty model folder", _BOTH),
    "whole-only": Damage(
        lambda folder: [
            path.unlink() for path in folder.iterdir() if not path.stem.endswith("-whole")
        ],
        "empty model folder",
        _BOTH,
    ),
    "outsider": Damage(_copy("seat.png", "../{}-seat.png"), "image outside a model folder", ()),
    "to-nowhere": Damage(
        lambda folder: (folder.parent / "to-nowhere-link").symlink_to("nowhere"), "broken link", ()
    ),
    "to-itself": Damage(
        lambda folder: (folder.parent / "to-itself-link").symlink_to("to-itself-link"),
        "broken link",
        (),
    ),
    "to-the-top": Damage(
        lambda folder: os.symlink("..", folder.parent / "to-the-top-link"), "broken link", ()
    ),
}
