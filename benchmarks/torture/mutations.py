"""Files with random changes are used or refused with the project's own error, never otherwise.

Each mutation starts from a valid picture, label, table, checkpoint or params.yaml, and changes some
bytes, fields or values. What is accepted is finite.
"""

import csv
import io
import json
import math
import random
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from folders import make_image, make_label, write_folder
from toys import make_small_model

from benchmarks.torture.commands import one_block
from benchmarks.torture.hostile_files import mutate
from benchmarks.torture.runner import Property, prepared, scratch_folder
from partloc.config import Config, ConfigError, DataConfig, load_config
from partloc.data.background import prepare_image
from partloc.data.images import ImageError, open_rgb
from partloc.data.index import build_index
from partloc.data.labels import read_label
from partloc.data.layout import SampleError
from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.inference.jobs import read_jobs
from partloc.inference.prediction_files import read_model_info, read_predictions
from partloc.inference.predictor import Predictor
from partloc.model.model_file import load_model, save_model
from partloc.system.files import CheckpointError, load_tensors, save_tensors, write_table

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "RGBA", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
}
ROOT = Path(__file__).resolve().parents[2]
CELLS = (
    "",
    "nan",
    "inf",
    "-1e400",
    "9" * 30,
    "../x.png",
    "/x.png",
    "a/b.png",
    "\0",
    "x" * 500,
    '"',
    "1,2",
)
VALUES = (
    math.nan,
    math.inf,
    -1,
    0,
    2**70,
    1e300,
    "",
    "a\0",
    None,
    True,
    [],
    {},
    [[]],
    "auto",
    1e-300,
)


# -- pictures and labels -----------------------------------------------------------------------


@cache
def valid_picture(file_format: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    make_image("mutated").resize((24, 20)).convert(mode).save(buffer, file_format)
    return buffer.getvalue()


def check_picture(seed: int, _folder: Path) -> None:
    rng = random.Random(seed)
    file_format = rng.choice(FORMATS)
    data = mutate(valid_picture(file_format, rng.choice(MODES.get(file_format, ("RGB",)))), rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_rgb(data, "image", max_pixels=100_000)
        except ImageError as error:
            assert str(error).startswith("image: ")
            return
        prepared_image, background = prepare_image(image)
    assert prepared_image.mode == "RGB" and 0 <= background.border_fraction <= 1


def check_label(seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    label: dict[str, Any] = make_label(seed % 9)
    if rng.random() < 0.5:
        key = rng.choice((*label, "model_name", "part_name"))
        label[key] = rng.choice((rng.choice(VALUES), [rng.choice(VALUES) for _ in range(3)]))
    data = json.dumps(label).encode()
    with scratch_folder(folder) as scratch:
        path = scratch / "m-a.json"
        path.write_bytes(mutate(data, rng) if rng.random() < 0.8 else data)
        try:
            pose, _ = read_label(path, "m", "a")
        except SampleError:
            return
    assert all(map(math.isfinite, pose)) and 0 < pose[3] <= 1.05


# -- tables ------------------------------------------------------------------------------------


def mutate_table(data: bytes, rng: random.Random) -> bytes:
    """Change bytes, or cells, rows and columns."""
    if rng.random() < 0.3:
        return mutate(data, rng)
    rows = [*csv.reader(io.StringIO(data.decode()))]
    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows)
        kind = rng.randrange(5)
        if kind == 0 and row:
            row.pop(rng.randrange(len(row)))
        elif kind == 1:
            row.insert(rng.randrange(len(row) + 1), rng.choice(CELLS))
        elif kind == 2:
            rows.insert(rng.randrange(len(rows) + 1), [*rng.choice(rows)])
        elif row:
            row[rng.randrange(len(row))] = rng.choice(CELLS)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def make_table(path: Path) -> None:
    data = write_folder(path.with_suffix(".images"))
    write_table(path, build_index(DataConfig(data_dir=str(data))).manifest)


def check_table(seed: int, folder: Path) -> None:
    """The tables of index and split, as `infer` and `train` read them."""
    rng = random.Random(seed)
    source = prepared(folder, "manifest.csv", make_table)
    with scratch_folder(folder) as scratch:
        path = scratch / "test.csv"
        path.write_bytes(mutate_table(source.read_bytes(), rng))
        for use in (read_jobs, use_pairs):
            try:
                use(path)
            except ValueError as error:
                require_plain(error, path)


def use_pairs(path: Path) -> None:
    """Raises: ValueError for an unusable table."""
    table = PairTable(read_manifest(path), path.parent)
    if len(table):
        assert table.twin_poses([0]).translation.isfinite().all()
        assert table.scale.isfinite().all()


def require_plain(error: ValueError, path: Path) -> None:
    """A message of the project that names the file or the folder."""
    assert str(path) in str(error) or str(path.parent) in str(error), f"no file named: {error}"
    assert len(str(error)) < 2000


# -- predictions -------------------------------------------------------------------------------


def make_predictions(folder: Path) -> None:
    """A folder of predictions, and the split table of its parts."""
    folder.mkdir()
    data = write_folder(folder / "images")
    manifest = build_index(DataConfig(data_dir=str(data))).manifest
    write_table(folder / "test.csv", manifest)
    count, rng = len(manifest), np.random.default_rng(0)
    header = "model,part,whole_path,part_path,tx,ty,tz,scale,confidence"
    rows = [
        f"{row.model},{row.part},{row.whole_path},{row.part_path},0.1,0.2,-0.1,0.5,0.5"
        for row in manifest.itertuples()
    ]
    (folder / "predictions.csv").write_text("\n".join([header, *rows]) + "\n")
    values = rng.random((count, 2, 6), np.float32)
    np.save(folder / "hypotheses.npy", values)
    (folder / "skipped.csv").write_text("model,file,reason,detail\n")
    info = {"camera": None, "confidence_slope": 1.0, "confidence_offset": 0.0}
    (folder / "model.json").write_text(json.dumps(info | {"checkpoint_sha256": "0" * 64}))


PREDICTION_FILES = ("predictions.csv", "hypotheses.npy", "skipped.csv", "model.json")


def check_predictions(seed: int, folder: Path) -> None:
    """The files of `infer`, as `evaluate` reads them."""
    rng = random.Random(seed)
    source = prepared(folder, "predictions", make_predictions)
    with scratch_folder(folder) as scratch:
        for name in PREDICTION_FILES:
            (scratch / name).write_bytes((source / name).read_bytes())
        path = scratch / rng.choice(
            (*PREDICTION_FILES[:2], PREDICTION_FILES[3], PREDICTION_FILES[0])
        )
        change = mutate_table if path.suffix == ".csv" else mutate
        path.write_bytes(change(path.read_bytes(), rng))
        table = PairTable(read_manifest(source / "test.csv"), source / "images")
        try:
            info = read_model_info(scratch)
            for chunk in read_predictions(scratch, table, info):
                values = (*chunk.hypotheses.poses, chunk.confidence, *chunk.assigned)
                assert all(value.isfinite().all() for value in values), f"{path.name}: not finite"
        except ValueError as error:
            require_plain(error, path)


# -- checkpoints -------------------------------------------------------------------------------


def make_small_file(path: Path) -> None:
    save_tensors(path, {"format": "x", "weights": {"a": torch.ones(8), "b": torch.zeros(2, 2)}})


def mutate_member(data: bytes, rng: random.Random) -> bytes:
    """Change the pickle of a checkpoint and write it with right checksums of the archive."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutate(content, rng) if name.endswith("data.pkl") else content)
    return target.getvalue()


def check_checkpoint(seed: int, folder: Path) -> None:
    """Changed bytes of any checkpoint, also where the archive's checksums agree with them."""
    rng = random.Random(seed)
    source = prepared(folder, "small.pth", make_small_file)
    change = mutate_member if rng.random() < 0.7 else mutate
    with scratch_folder(folder) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = scratch / "model.pth"
        path.write_bytes(change(source.read_bytes(), rng))
        for load in (load_tensors, load_model):
            try:
                load(path)
            except CheckpointError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def make_model_file(path: Path) -> None:
    with one_block():
        save_model(path, make_small_model(depth_maps=False), {"best_epoch": 1})


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Another value in the place of one of a checkpoint."""
    if not isinstance(value, torch.Tensor) or rng.random() < 0.2:
        return rng.choice((*VALUES, torch.zeros(1), (1.0, 2.0, 3.0), [0.5] * 3))
    kind = rng.randrange(6)
    if kind == 0:
        return value.double() if value.is_floating_point() else value.float()
    if kind == 1:
        return value.reshape(-1)[: rng.randrange(value.numel() + 1)]
    if kind == 2:
        return value[None]
    if kind == 3:
        return value * rng.choice((1e30, -1e4, 1e-30, 0))
    changed = value.clone().float()
    changed.view(-1)[rng.randrange(changed.numel())] = rng.choice(
        (math.nan, math.inf, 3e38, -1e6, 7)
    )
    return changed


def check_model(seed: int, folder: Path) -> None:
    """A model file with other values: refused, or its answers are finite or an error."""
    rng = random.Random(seed)
    source = prepared(folder, "model.pth", make_model_file)
    content = load_tensors(source)
    for _ in range(rng.randint(1, 2)):
        group = content[rng.choice(("model", "preprocessing", "weights", "weights", "weights"))]
        key = rng.choice([*group])
        if rng.random() < 0.1:
            del group[key]
        else:
            group[key] = mutate_value(group[key], rng)
    with scratch_folder(folder) as scratch, one_block(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = scratch / "model.pth"
        torch.save(content, path)
        image = make_image("whole").resize((56, 56))
        try:
            (part,) = Predictor(path, "cpu").predict(image, [image])
        except (CheckpointError, FloatingPointError) as error:
            assert str(error).startswith(f"{path}: ")
            return
    assert not isinstance(part, Exception)
    assert all(map(math.isfinite, (*part.best.translation, part.best.scale, part.best.confidence)))


# -- params.yaml -------------------------------------------------------------------------------


@cache
def params_text() -> str:
    return (ROOT / "params.yaml").read_text(encoding="utf-8")


def check_params(seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    if rng.random() < 0.7:
        values = Config().model_dump()
        group = values[rng.choice([name for name in values if name != "seed"])]
        group[rng.choice([*group])] = rng.choice((*VALUES, *CELLS))
        data = json.dumps(values).encode()
    else:  # without the comments, which are most of the file
        lines = [line for line in params_text().splitlines() if not line.strip().startswith("#")]
        data = mutate("\n".join(lines).encode(), rng)
    with scratch_folder(folder) as scratch:
        path = scratch / "params.yaml"
        path.write_bytes(data)
        try:
            config = load_config(path)
        except ConfigError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error)) < 4000
            return
    for group in config.model_dump().values():
        numbers = [v for v in (group.values() if isinstance(group, dict) else [group])]
        assert all(math.isfinite(v) for v in numbers if isinstance(v, float)), "not finite"


ACCEPTED_OR_REFUSED = "used or refused with the project's own error, never NaN"
COUNTS: dict[str, tuple[Callable[[int, Path], None], int]] = {
    "pictures": (check_picture, 20_000),
    "labels": (check_label, 14_000),
    "tables": (check_table, 6_000),
    "predictions": (check_predictions, 3_000),
    "checkpoints": (check_checkpoint, 5_000),
    "models": (check_model, 1_000),
    "params": (check_params, 2_000),
}
PROPERTIES = tuple(
    Property(f"mutated-{name}", ACCEPTED_OR_REFUSED, check, cases=count, group=100)
    for name, (check, count) in COUNTS.items()
)
