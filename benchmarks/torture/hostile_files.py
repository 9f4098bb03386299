"""400 hostile files do not stop `index` and `infer`, and change no answer for the other files.

They are damaged pictures and labels, pipes, devices, links and names, all in one folder, and each
one alone beside a good model.
"""

import csv
import io
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from folders import DAMAGES, label_with_keys, make_image, make_label, write_folder, write_model
from toys import make_untrained_model

from benchmarks.torture.commands import Answer, read_files, run_in
from benchmarks.torture.runner import Property, prepared, scratch_folder
from partloc.model.model_file import save_model

COUNT = 400
GOOD_MODELS = {"good": ["leg", "seat"]}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
BASE = ("seat", "back")  # the parts of a model, of which `seat` becomes hostile
NAMES = ("-", "a" * 200, "%s", "$(touch X)", "a;b", "'\"", "\u202e", "..", "-whole", " ", "a\tb")


# -- hostile files -----------------------------------------------------------------------------


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change, remove or insert some bytes, or cut the end."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        position, length = rng.randrange(len(content) + 1), rng.choice((0, 1, 1, 2, 4, 16))
        kind = rng.randrange(4)
        if kind == 0 and content:
            content[position % len(content)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[position : position + length] = rng.randbytes(length)
        elif kind == 2:
            content[position:position] = rng.choice(
                (b"\0", b"\xff", b"-", b"9" * 9, rng.randbytes(4))
            )
        elif rng.random() < 0.3:
            del content[position:]
        else:
            del content[position : position + length]
    return bytes(content)


def write_mutated_image(folder: Path, rng: random.Random) -> None:
    file_format, buffer = rng.choice(FORMATS), io.BytesIO()
    make_image("a").save(buffer, file_format)
    extension = {"JPEG": "jpg", "TIFF": "tif"}.get(file_format, file_format.lower())
    (folder / f"{folder.name}-seat.png").unlink()
    (folder / f"{folder.name}-seat.{extension}").write_bytes(mutate(buffer.getvalue(), rng))


def write_mutated_label(folder: Path, rng: random.Random) -> None:
    text = json.dumps(make_label()).encode()
    (folder / f"{folder.name}-seat.json").write_bytes(mutate(text, rng))


def write_wild_label(folder: Path, rng: random.Random) -> None:
    values = (math.nan, math.inf, 10**400, -1, 0, 1e-300, None, True, "1", [], {}, [[0]], "\ud800")
    label = make_label()
    key = rng.choice(("translation", "scale", "rotation", "model_name", "part_name"))
    label[key] = rng.choice((rng.choice(values), [rng.choice(values) for _ in range(3)]))
    (folder / f"{folder.name}-seat.json").write_text(json.dumps(label))


def write_long_label(folder: Path, rng: random.Random) -> None:
    (folder / f"{folder.name}-seat.json").write_bytes(label_with_keys(rng.randint(1, 5000)))


def write_strange_name(folder: Path, rng: random.Random) -> None:
    name = rng.choice(NAMES) + str(rng.randrange(100))
    for extension in (".png", ".json"):
        shutil.copy(
            folder / f"{folder.name}-seat{extension}", folder / f"{folder.name}-{name}{extension}"
        )


def write_raw_name(folder: Path, rng: random.Random) -> None:
    """A name that is not UTF-8."""
    name = (
        os.fsencode(folder)
        + b"/"
        + os.fsencode(folder.name)
        + b"-\xff"
        + rng.randbytes(1).hex().encode()
    )
    for extension in (".png", ".json"):
        source = os.fsencode(folder / f"{folder.name}-seat{extension}")
        shutil.copy(source, name + extension.encode())


def replace_seat(folder: Path, rng: random.Random) -> None:
    """By something that is no regular file."""
    path = folder / f"{folder.name}-{rng.choice(('seat', 'whole'))}.{rng.choice(('png', 'json'))}"
    path.unlink(missing_ok=True)
    kind = rng.randrange(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to(("/dev/zero", "/dev/random", path.name, "..", "/proc/self/mem")[kind])


WRITERS: tuple[Callable[[Path, random.Random], None], ...] = (
    *(write_mutated_image, write_mutated_image, write_mutated_label, write_wild_label),
    *(write_long_label, write_strange_name, write_raw_name, replace_seat),
)


def write_hostile(root: Path, number: int) -> None:
    """Write the hostile model of a number: first the damages of the tests, then random ones."""
    damages = [*DAMAGES.items()]
    if number < len(damages):
        name, damage = damages[number]
        damage.apply(write_model(root, name, list(BASE)))
        return
    folder = write_model(root, f"model-{number}", list(BASE))
    WRITERS[number % len(WRITERS)](folder, random.Random(number))


# -- the properties ----------------------------------------------------------------------------


@cache
def make_checkpoint(folder: Path) -> Path:
    return prepared(folder, "model.pth", lambda path: save_model(path, make_untrained_model(), {}))


def make_good(folder: Path) -> None:
    """The answers for the good model alone."""
    write_folder(folder / "images", GOOD_MODELS)
    run_both(folder, make_checkpoint(folder.parent))


def run_both(project: Path, checkpoint: Path) -> tuple[Answer, Answer]:
    """Run `index` and `infer` on `project`/images; both succeed."""
    (project / "params.yaml").write_text(
        json.dumps({"data": {"data_dir": "images", "output_dir": "out"}}).replace(
            "}}", '}, "machine": {"device": "cpu", "num_processes": 1}}'
        )
    )
    index = run_in(project, "index")
    options = ("--checkpoint", checkpoint, "--device", "cpu", "--output", "predictions")
    infer = run_in(project, "infer", "--data-dir", "images", *options)
    for answer in (index, infer):
        answer.require_success()
    return index, infer


def require_good_answers(project: Path, good: Path) -> None:
    """The good model has its rows and answers, whatever is beside it; all numbers are finite."""
    expected = read_files(good / "predictions", "good")
    assert read_files(project / "predictions", "good") == expected and len(expected) == 2
    for table in ("out/manifest.csv", "predictions/predictions.csv"):
        rows, good_rows = (read_rows(folder / table) for folder in (project, good))
        assert [row for row in rows if row["model"] == "good"] == good_rows
        for row in rows:
            for name in ("tx", "ty", "tz", "scale"):
                assert math.isfinite(float(row[name])), f"{table}: {row}"
    for answer in (project / "predictions").rglob("*.json"):
        assert "NaN" not in answer.read_text() and "Infinity" not in answer.read_text()


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def check_alone(seed: int, folder: Path) -> None:
    good = prepared(folder, "good-alone", make_good)
    with scratch_folder(folder) as scratch:
        write_folder(scratch / "images", GOOD_MODELS)
        write_hostile(scratch / "images", seed)
        run_both(scratch, make_checkpoint(folder))
        require_good_answers(scratch, good)
        require_nothing_outside(scratch)


def require_nothing_outside(project: Path) -> None:
    found = {path.name for path in project.iterdir()}
    assert found == {"images", "out", "predictions", "params.yaml"}, found


def check_together(seed: int, folder: Path) -> None:
    good = prepared(folder, "good-alone", make_good)
    with scratch_folder(folder) as scratch:
        write_folder(scratch / "images", GOOD_MODELS)
        first = COUNT * seed
        for number in range(first, first + COUNT):
            write_hostile(scratch / "images", number)
        run_both(scratch, make_checkpoint(folder))
        require_good_answers(scratch, good)
        require_nothing_outside(scratch)


PROPERTIES = (
    Property(
        "hostile-folder",
        "400 hostile files in one folder: index and infer finish, other answers are the same",
        check_together,
        cases=1,
        weight=COUNT,
    ),
    Property(
        "hostile-files",
        "each one alone: the same",
        check_alone,
        cases=COUNT,
        group=10,
    ),
)
