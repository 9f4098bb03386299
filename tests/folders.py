"""Small data folders, valid or damaged in one known way.

>>> write_folder(tmp_path / "images", {"chair": ["seat", "leg-1", "leg-2"]})

Parts whose names differ only by a number at the end have equal images: they are twins.
"""

import hashlib
import io
import json
import os
import re
import zlib
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
IMAGE_SIZE_PX = 48


def write_folder(root: Path, models: dict[str, list[str]] | None = None) -> Path:
    """Write a valid data folder; the same names give the same bytes."""
    for model, parts in (MODELS if models is None else models).items():
        write_model(root, model, parts)
    return root


def write_model(root: Path, model: str, parts: list[str]) -> Path:
    """Write the folder of one model and return it."""
    folder = root / model
    folder.mkdir(parents=True)
    make_image(f"{model}/whole").save(folder / f"{model}-whole.png")
    for number, part in enumerate(parts):
        make_image(f"{model}/{part_kind(part)}").save(folder / f"{model}-{part}.png")
        write_label(folder, part, make_label(number))
    return folder


def part_kind(part: str) -> str:
    """The part's name without a number at the end; parts of one kind are twins."""
    return re.sub(r"-\d+$", "", part)


def make_image(kind: str) -> Image.Image:
    """A coloured box on white; its size, position and colour follow from `kind`."""
    digest = hashlib.sha256(kind.encode()).digest()
    left, top, width, height = (
        4 + digest[0] % 16,
        4 + digest[1] % 16,
        digest[2] % 20,
        digest[3] % 20,
    )
    pixels = np.full((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), 255, np.uint8)
    pixels[top : top + 4 + height, left : left + 4 + width] = [value % 200 for value in digest[4:7]]
    return Image.fromarray(pixels)


def make_label(number: int = 0) -> dict:
    shift, scale = round(0.1 * (number % 5) - 0.2, 6), round(0.2 + 0.05 * (number % 7), 6)
    return {"translation": [shift, 0.0, -shift], "rotation": [1, 0, 0, 0], "scale": [scale] * 3}


def write_label(folder: Path, part: str, content: dict) -> None:
    path = folder / f"{folder.name}-{part}.json"
    path.write_text(json.dumps(content), encoding="utf-8")


class Damage(NamedTuple):
    """A way to damage a model with the parts `seat` and `back`, and what the index then reports.

    apply: function of the model folder.
    reason: of the findings; count: number of findings.
    skipped: parts without a row in the manifest.
    """

    apply: Callable[[Path], object]
    reason: str
    skipped: tuple[str, ...] = ("seat",)
    count: int = 1


def damage_everything(root: Path) -> dict[str, Damage]:
    """Write one model for each damage, named after it; return the damages by name."""
    for name, damage in DAMAGES.items():
        damage.apply(write_model(root, name, ["seat", "back"]))
    return DAMAGES


def _file(folder: Path, suffix: str) -> Path:
    return folder / f"{folder.name}-{suffix}"


def _remove(suffix: str) -> Callable[[Path], object]:
    return lambda folder: _file(folder, suffix).unlink()


def _write(suffix: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: _file(folder, suffix).write_bytes(content)


def _set_fields(**fields: object) -> Callable[[Path], object]:
    return lambda folder: write_label(folder, "seat", make_label() | fields)


def _remove_field(field: str) -> Callable[[Path], object]:
    return lambda folder: write_label(
        folder, "seat", {key: value for key, value in make_label().items() if key != field}
    )


def _truncate(suffix: str) -> Callable[[Path], object]:
    def truncate(folder: Path) -> None:
        path = _file(folder, suffix)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    return truncate


def _flip_byte(folder: Path) -> None:
    data = bytearray(_file(folder, "seat.png").read_bytes())
    data[data.index(b"IDAT") + 20] ^= 0xFF
    _file(folder, "seat.png").write_bytes(data)


def png_of_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of chunks (type, content) and IEND."""
    buffer = io.BytesIO()
    buffer.write(b"\x89PNG\r\n\x1a\n")
    for kind, data in (*chunks, (b"IEND", b"")):
        PngImagePlugin.putchunk(buffer, kind, data)
    return buffer.getvalue()


def png_header(width: int, height: int, bits: int, color_type: int) -> tuple[bytes, bytes]:
    """The chunk IHDR. color_type: 0 grey, 2 RGB, 3 palette."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"IHDR", size + bytes([bits, color_type, 0, 0, 0])


def huge_png(width: int, height: int) -> bytes:
    """A PNG with a size in its header but no pixels: decoding it fails with another error."""
    return png_of_chunks(png_header(width, height, 8, 2), (b"IDAT", b""))


def png_without_palette() -> bytes:
    """A PNG whose pixels are indices of a palette that it does not have."""
    return png_of_chunks(png_header(8, 8, 8, 3), (b"IDAT", zlib.compress(bytes(72))))


def label_with_key_twice() -> bytes:
    return json.dumps(make_label()).replace("{", '{"scale": [0.5, 0.5, 0.5], ', 1).encode()


def label_with_keys(count: int) -> bytes:
    """A label with so many keys, but none of those of a label."""
    return json.dumps(dict.fromkeys(map(str, range(count)), 0)).encode()


def nested_label(depth: int) -> bytes:
    """A label whose translation is a list in a list, `depth` times."""
    return b'{"translation": ' + b"[" * depth + b"]" * depth + b', "scale": [1, 1, 1]}'


def _replace_by_pipe(suffix: str) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        _file(folder, suffix).unlink()
        os.mkfifo(_file(folder, suffix))

    return replace


def _make_sparse(suffix: str) -> Callable[[Path], object]:
    """100 GB that take no space on the disk."""

    def extend(folder: Path) -> None:
        with _file(folder, suffix).open("r+b") as file:
            file.truncate(10**11)

    return extend


def _link(suffix: str, target: str) -> Callable[[Path], object]:
    def link(folder: Path) -> None:
        _file(folder, suffix).unlink()
        _file(folder, suffix).symlink_to(target)

    return link


def _copy(suffix: str, name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name.format(folder.name)).write_bytes(
        _file(folder, suffix).read_bytes()
    )


def _remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _copy_in_two_unicode_forms(folder: Path) -> None:
    for form in ("NFC", "NFD"):
        for extension in ("png", "json"):
            name = normalize(form, f"{folder.name}-Füße.{extension}")
            (folder / name).write_bytes(_file(folder, f"seat.{extension}").read_bytes())


BOTH_PARTS = ("back", "seat")
NAN, HUGE_INTEGER = float("nan"), 10**400


def _write_noise(folder: Path) -> None:
    size = (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)
    noise = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    Image.fromarray(noise).save(_file(folder, "seat.png"))


DAMAGES = {  # by model name
    "no-background": Damage(_write_noise, "no plain background", ()),
    "no-label": Damage(_remove("seat.json"), "part without label"),
    "no-image": Damage(_remove("seat.png"), "label without part"),
    "no-whole": Damage(_remove("whole.png"), "whole missing", BOTH_PARTS, 2),
    "bad-whole": Damage(_write("whole.png", b"not an image"), "whole unusable", BOTH_PARTS, 2),
    "cut-whole": Damage(_truncate("whole.png"), "whole unusable", BOTH_PARTS, 2),
    "two-wholes": Damage(_copy("whole.png", "{}-whole.PNG"), "whole unusable", BOTH_PARTS, 2),
    "unreadable": Damage(_write("seat.png", b"not an image"), "unreadable image"),
    "empty-file": Damage(_write("seat.png", b""), "unreadable image"),
    "flipped-byte": Damage(_flip_byte, "unreadable image"),
    "truncated": Damage(_truncate("seat.png"), "truncated image"),
    "oversized": Damage(_write("seat.png", huge_png(9000, 9000)), "oversized image"),
    "link-to-nowhere": Damage(_link("seat.png", "nowhere.png"), "unreadable image"),
    "link-loop": Damage(_link("seat.png", "link-loop-seat.png"), "unreadable image"),
    "pipe": Damage(_replace_by_pipe("seat.png"), "not a regular file"),
    "label-pipe": Damage(_replace_by_pipe("seat.json"), "not a regular file"),
    "device": Damage(_link("seat.png", os.devnull), "not a regular file"),
    "whole-device": Damage(_link("whole.png", "/dev/zero"), "whole unusable", BOTH_PARTS, 2),
    "endless": Damage(_make_sparse("seat.png"), "oversized image"),
    "endless-label": Damage(_make_sparse("seat.json"), "malformed JSON"),
    "label-link": Damage(_link("seat.json", "nowhere.json"), "unreadable label"),
    "no-palette": Damage(_write("seat.png", png_without_palette()), "unreadable image"),
    "key-twice": Damage(_write("seat.json", label_with_key_twice()), "malformed JSON"),
    "many-keys": Damage(_write("seat.json", label_with_keys(700_000)), "malformed JSON"),
    "some-keys": Damage(_write("seat.json", label_with_keys(7_000)), "missing field"),
    "nested": Damage(_write("seat.json", nested_label(100_000)), "malformed JSON"),
    "malformed": Damage(_write("seat.json", b'{"translation": [0, 0,'), "malformed JSON"),
    "no-object": Damage(_write("seat.json", b"[0, 0, 0]"), "malformed JSON"),
    "latin-1": Damage(_write("seat.json", '{"ä": 1}'.encode("latin-1")), "malformed JSON"),
    "empty-label": Damage(_write("seat.json", b""), "malformed JSON"),
    "no-translation": Damage(_remove_field("translation"), "missing field"),
    "no-scale": Damage(_remove_field("scale"), "missing field"),
    "text": Damage(_set_fields(translation=["0", "0", "0"]), "not a number"),
    "boolean": Damage(_set_fields(scale=[True, True, True]), "not a number"),
    "null": Damage(_set_fields(translation=[None, 0, 0]), "not a number"),
    "short": Damage(_set_fields(translation=[0.0, 0.0]), "wrong length"),
    "long": Damage(_set_fields(scale=[0.5] * 4), "wrong length"),
    "scalar": Damage(_set_fields(scale=0.5), "wrong length"),
    "not-finite": Damage(_set_fields(translation=[NAN, 0, 0]), "non-finite value"),
    "infinite": Damage(_set_fields(scale=[float("inf")] * 3), "non-finite value"),
    "too-large": Damage(_set_fields(translation=[HUGE_INTEGER, 0, 0]), "non-finite value"),
    "non-uniform-scale": Damage(_set_fields(scale=[0.3, 0.3, 0.4]), "non-uniform scale"),
    "zero-scale": Damage(_set_fields(scale=[0, 0, 0]), "scale not positive"),
    "negative-scale": Damage(_set_fields(scale=[-0.3] * 3), "scale not positive"),
    "tiny": Damage(_set_fields(scale=[1e-46] * 3), "scale not positive"),  # 0 in float32
    "large-scale": Damage(_set_fields(scale=[1.2] * 3), "scale above 1"),
    "outside": Damage(_set_fields(translation=[0, 0.7, 0]), "translation out of range"),
    "outside-below": Damage(_set_fields(translation=[0, 0, -0.56]), "translation out of range"),
    "duplicate-png": Damage(_copy("seat.png", "{}-seat.PNG"), "duplicate name"),
    "duplicate-json": Damage(_copy("seat.json", "{}-seat.Json"), "duplicate name"),
    "duplicate-unicode": Damage(_copy_in_two_unicode_forms, "duplicate name", ()),
    "control-character": Damage(_copy("seat.png", "{}-a\nb.png"), "unusable name", ()),
    # Warnings: no part is skipped.
    "rotated": Damage(_set_fields(rotation=[0.7071, 0, 0.7071, 0]), "non-identity rotation", ()),
    "odd-rotation": Damage(_set_fields(rotation="none"), "non-identity rotation", ()),
    "no-rotation": Damage(_remove_field("rotation"), "missing rotation", ()),
    "other-part-name": Damage(_set_fields(part_name="leg"), "label names a different part", ()),
    "whole-label": Damage(_copy("seat.json", "{}-whole.json"), "label of the whole", ()),
    "other-prefix": Damage(_copy("seat.png", "sofa-seat.png"), "unexpected file", ()),
    "no-part-name": Damage(_copy("seat.png", "{}-.png"), "unexpected file", ()),
    "gif": Damage(_copy("seat.png", "{}-arm.gif"), "unexpected file", ()),
    "two-formats": Damage(_copy("seat.png", "{}-seat.jpg"), "duplicate name"),
    "subfolder": Damage(lambda folder: (folder / "more").mkdir(), "unexpected file", ()),
    "empty-folder": Damage(_remove_all, "empty model folder", BOTH_PARTS),
    "whole-only": Damage(
        lambda folder: [
            path.unlink() for path in folder.iterdir() if not path.stem.endswith("-whole")
        ],
        "empty model folder",
        BOTH_PARTS,
    ),
    "outside-folder": Damage(
        _copy("seat.png", "../{}-seat.png"), "image outside a model folder", ()
    ),
    "to-nowhere": Damage(
        lambda folder: (folder.parent / "to-nowhere-link").symlink_to("nowhere"), "broken link", ()
    ),
    "to-itself": Damage(
        lambda folder: (folder.parent / "to-itself-link").symlink_to("to-itself-link"),
        "broken link",
        (),
    ),
    "to-data-folder": Damage(
        lambda folder: os.symlink("..", folder.parent / "to-data-folder-link"), "broken link", ()
    ),
}
