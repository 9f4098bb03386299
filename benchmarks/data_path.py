"""Cost of the data path: images from file to tensor, and the tables of many samples.

Images: decode, paint the background white and resize to 1024 x 1024 on one core, files in the page
cache. Compared with plain Pillow (open, convert to RGB, resize with the same bilinear filter) and
with a cache of resized images. Methods take turns; the figures are medians of processor time, which
other programs hardly affect.

Tables: folders of small PNGs and labels, hard links to 64 different ones, ten parts a model. Each
stage runs in a process of its own, see `benchmarks/table_stages.py`. --skip-images is for sizes at
which decoding small images would dominate: files, labels, twins and tables are real, but no image
is opened.

    $ python -m benchmarks.data_path                                  # 2 minutes on two cores
    $ python -m benchmarks.data_path --tables-only --samples 100000   # minutes
    $ python -m benchmarks.data_path --tables-only --skip-images --samples 1000000
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from PIL import Image

from benchmarks.box_images import random_boxes, write_linked_samples
from benchmarks.common import (
    ROOT,
    Range,
    benchmark_parser,
    describe_machine,
    table_head,
    table_row,
    time_alternating,
)
from partloc.data.background import load_image
from partloc.data.images import load_rgb
from partloc.data.transforms import Preprocessing
from partloc.synthetic.dataset import write_dataset
from partloc.synthetic.render import RenderError
from partloc.system.cli import run_command
from partloc.system.files import write_json

IMAGE_PX = 1024
NUM_IMAGES, ROUNDS = 6, 7
PREPROCESSING = Preprocessing(IMAGE_PX)
STAGES = ("index", "split", "train", "evaluate")

# Reads an image file and returns pixels, (S, S, 3).
ReadImage = Callable[[Path], np.ndarray]


# -- images ----------------------------------------------------------------------------------------


def read_with_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BILINEAR)
    return np.array(resized)


def read_reduced(path: Path) -> np.ndarray:
    """Take the mean of blocks of pixels instead of the bilinear filter."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB").reduce(image.width // IMAGE_PX))


def read_draft(path: Path) -> np.ndarray:
    """Decode a JPEG at half its size."""
    with Image.open(path) as image:
        image.draft("RGB", (IMAGE_PX, IMAGE_PX))
        return np.array(image.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BILINEAR))


def read_and_resize(path: Path) -> np.ndarray:
    """Without the search for the background."""
    return PREPROCESSING.resize(load_rgb(path)).permute(1, 2, 0).numpy()


def read_with_partloc(path: Path) -> np.ndarray:
    return PREPROCESSING.resize(load_image(path)).permute(1, 2, 0).numpy()


def read_normalized(path: Path) -> np.ndarray:
    return PREPROCESSING(load_image(path)).permute(1, 2, 0).numpy()


def read_memory_map(path: Path) -> np.ndarray:
    return np.array(np.load(path, mmap_mode="r"))


PLAIN_METHODS: dict[str, ReadImage] = {
    "Pillow": read_with_pillow,
    "partloc, decode and resize": read_and_resize,
    "partloc": read_with_partloc,
    "partloc, with normalization": read_normalized,
}


class ImageKind(NamedTuple):
    """Files of one kind, and the methods to read them, by name."""

    paths: list[Path]
    methods: dict[str, ReadImage]


def write_image_kinds(folder: Path) -> dict[str, ImageKind]:
    exact = _draw_images(folder / "exact", IMAGE_PX)
    large = _draw_images(folder / "large", 2 * IMAGE_PX)
    grain = _convert(large, folder / "grain", ".png", _add_grain)
    alpha = _convert(large, folder / "alpha", ".png", lambda image: image.convert("RGBA"))
    jpeg = _convert(large, folder / "jpeg", ".jpg", lambda image: image)
    resized = _convert(large, folder / "resized", ".png", _resize)
    reduce: dict[str, ReadImage] = {"Pillow, reduce": read_reduced}
    draft: dict[str, ReadImage] = {"Pillow, draft": read_draft}
    return {
        f"PNG, {IMAGE_PX} px": ImageKind(exact, PLAIN_METHODS),
        f"PNG, {2 * IMAGE_PX} px": ImageKind(large, PLAIN_METHODS | reduce),
        f"PNG with grain, {2 * IMAGE_PX} px": ImageKind(grain, PLAIN_METHODS),
        f"PNG with alpha, {2 * IMAGE_PX} px": ImageKind(alpha, PLAIN_METHODS),
        f"JPEG, {2 * IMAGE_PX} px": ImageKind(jpeg, PLAIN_METHODS | reduce | draft),
        f"cache of PNG, {IMAGE_PX} px": ImageKind(resized, PLAIN_METHODS),
        "cache of .npy": ImageKind(
            _write_arrays(resized, folder / "npy"), {"memory map": read_memory_map}
        ),
    }


def _draw_images(folder: Path, size_px: int) -> list[Path]:
    """Images of the demo; boxes on white where there is no OpenGL."""
    try:
        write_dataset(folder, num_models=1, image_size=size_px, seed=0, workers=0)
        return sorted(folder.glob("*/*.png"))[:NUM_IMAGES]
    except RenderError:
        rng = np.random.default_rng(0)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"box-{number}.png" for number in range(NUM_IMAGES)]
        bounds = (size_px // 8, size_px // 2)
        for path in paths:
            Image.fromarray(random_boxes(rng, size_px, 20, bounds, bounds)).save(path)
        return paths


def _convert(
    paths: list[Path], folder: Path, extension: str, convert: Callable[[Image.Image], Image.Image]
) -> list[Path]:
    folder.mkdir()
    targets = [folder / f"{path.stem}{extension}" for path in paths]
    for path, target in zip(paths, targets, strict=True):
        with Image.open(path) as image:
            convert(image).save(target, quality=90)
    return targets


def _add_grain(image: Image.Image) -> Image.Image:
    """Add noise that hardly compresses, as in a photograph or a ray-traced image."""
    noise = np.random.default_rng(0).normal(0, 3, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _resize(image: Image.Image) -> Image.Image:
    return Image.fromarray(PREPROCESSING.resize(image).permute(1, 2, 0).numpy())


def _write_arrays(paths: list[Path], folder: Path) -> list[Path]:
    folder.mkdir()
    targets = [folder / f"{path.stem}.npy" for path in paths]
    for path, target in zip(paths, targets, strict=True):
        np.save(target, np.asarray(Image.open(path)))
    return targets


def _read_all(read: ReadImage, paths: list[Path]) -> None:
    for path in paths:
        read(path)


def measure_images(folder: Path) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    for name, kind in write_image_kinds(folder).items():
        functions = [partial(_read_all, read, kind.paths) for read in kind.methods.values()]
        seconds = time_alternating(ROUNDS, *functions, clock=time.process_time)
        kilobytes = sum(path.stat().st_size for path in kind.paths) / len(kind.paths) / 1e3
        for (method, read), values in zip(kind.methods.items(), seconds, strict=True):
            per_image = Range.of(values).median / len(kind.paths)
            pixels, is_equal = read(kind.paths[0]), None
            if pixels.dtype == np.uint8 and "partloc" in kind.methods:
                is_equal = bool(np.array_equal(pixels, read_with_partloc(kind.paths[0])))
            yield {
                "images": name,
                "method": method,
                "ms": 1e3 * per_image,
                "images_per_s": 1 / per_image,
                "kilobytes": kilobytes,
                "equal_pixels": is_equal,
            }


# -- tables ----------------------------------------------------------------------------------------


def measure_tables(folder: Path, num_samples: int, skip_images: bool) -> Iterator[dict[str, Any]]:
    write_linked_samples(folder, num_samples)
    for stage in STAGES:
        command = [sys.executable, "-m", "benchmarks.table_stages", stage, str(folder)]
        if stage == "index" and skip_images:
            command.append("--skip-images")
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        yield {"stage": stage, "skip_images": skip_images, **json.loads(done.stdout)}


# -- report ----------------------------------------------------------------------------------------

IMAGE_HEAD = ("images", "method", "ms", "images/s per core", "kB per file", "pixels")
TABLE_HEAD = (
    *("samples", "stage", "s", "core s", "core µs per sample", "peak MB", "bytes per sample"),
)


def image_cells(row: dict[str, Any]) -> list[str]:
    pixels = {None: "", True: "as partloc's", False: "other"}[row["equal_pixels"]]
    figures = [f"{row['ms']:.1f}", f"{row['images_per_s']:.0f}", f"{row['kilobytes']:.0f}"]
    return [row["images"], row["method"], *figures, pixels]


def table_cells(row: dict[str, Any]) -> list[str]:
    growth_bytes = 1e6 * (row["peak_mb"] - row["start_mb"]) / row["samples"]
    skipped = ", images skipped" if row["skip_images"] and row["stage"] == "index" else ""
    return [
        f"{row['samples']:,}",
        row["stage"] + skipped,
        f"{row['seconds']:.1f}",
        f"{row['cpu_seconds']:.1f}",
        f"{1e6 * row['cpu_seconds'] / row['samples']:.0f}",
        f"{row['peak_mb']:.0f}",
        f"{growth_bytes:.0f}",
    ]


def print_rows(
    rows: Iterable[dict[str, Any]], cells: Callable[[dict[str, Any]], list[str]]
) -> list[dict[str, Any]]:
    """Print each row as soon as it is measured; return all of them."""
    printed = []
    for row in rows:
        print(table_row(cells(row)), flush=True)
        printed.append(row)
    return printed


def main() -> None:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add("--samples", type=int, nargs="*", default=[10_000], metavar="N", help="default 10000")
    add("--skip-images", action="store_true", help="of the tables, without opening images")
    add("--tables-only", action="store_true", help="do not measure images")
    args = parser.parse_args()
    machine = f"{describe_machine(torch.device('cpu'))}, pillow {PIL.__version__}"
    print(f"{machine}, {os.cpu_count()} cores\n")
    images, tables = [], []
    if not args.tables_only:
        print(table_head(IMAGE_HEAD))
        with tempfile.TemporaryDirectory() as name:
            images = print_rows(measure_images(Path(name)), image_cells)
        print()
    if args.samples:
        print(table_head(TABLE_HEAD))
    for num_samples in args.samples:
        with tempfile.TemporaryDirectory() as name:
            rows = measure_tables(Path(name), num_samples, args.skip_images)
            tables += print_rows(rows, table_cells)
    if args.output:
        write_json(args.output, {"machine": machine, "images": images, "tables": tables})


if __name__ == "__main__":
    run_command(main)
