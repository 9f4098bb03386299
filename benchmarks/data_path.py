"""What the data path costs: pictures from file to tensor, and the tables of many samples.

Pictures: decode and resize to 1024 x 1024 on one core, files in the page cache, against plain
Pillow (open, convert to RGB, resize with the same bilinear filter), and against what a cache of
resized pictures would give. Methods take turns; medians over the rounds, in seconds of the core, so
that other work on the machine counts little.

Tables: folders of small PNGs and labels, hard links to 64 different ones, ten parts a model; each
stage in a process of its own, see `benchmarks/tables.py`. --unread is for sizes at which decoding
small pictures would be all that is measured: walk, names, labels, grouping of twins and tables are
real, but no picture is opened.

    $ python benchmarks/data_path.py                                  # 2 minutes on two cores
    $ python benchmarks/data_path.py --no-pictures --index 100000     # minutes
    $ python benchmarks/data_path.py --no-pictures --index --unread 1000000 --output scale.json
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.data.images import load_rgb  # noqa: E402
from partloc.data.transforms import Preprocessing  # noqa: E402
from partloc.files import write_json  # noqa: E402
from partloc.synthetic.dataset import write_demo  # noqa: E402
from partloc.synthetic.render import RenderError  # noqa: E402

SIDE_PX = 1024  # the encoder's
PICTURES, ROUNDS = 6, 7
PREPROCESSING = Preprocessing(SIDE_PX)
STAGES = ("index", "split", "train", "evaluate")
LINKED, PARTS = 64, 10  # different files behind the links; parts of a model


# -- pictures --------------------------------------------------------------------------------------


def pillow(path: Path) -> np.ndarray:
    """(S, S, 3) uint8, the plain way."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    return np.array(small)


def reduced(path: Path) -> np.ndarray:
    """The mean of each 2 x 2 instead of the bilinear filter."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB").reduce(image.width // SIDE_PX))


def drafted(path: Path) -> np.ndarray:
    """A JPEG decoded at half its size."""
    with Image.open(path) as image:
        image.draft("RGB", (SIDE_PX, SIDE_PX))
        return np.array(image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))


def ours(path: Path) -> np.ndarray:
    return PREPROCESSING.resize(load_rgb(path)).permute(1, 2, 0).numpy()


def ours_normalised(path: Path) -> np.ndarray:
    return PREPROCESSING(load_rgb(path)).permute(1, 2, 0).numpy()


class Kind(NamedTuple):
    """Pictures of one kind, and what is tried on them, by name."""

    paths: list[Path]
    methods: dict[str, Callable[[Path], np.ndarray]]


def write_kinds(folder: Path) -> dict[str, Kind]:
    plain = {"Pillow": pillow, "partloc": ours, "partloc, with normalisation": ours_normalised}
    kinds = {}
    for size in (SIDE_PX, 2 * SIDE_PX):
        methods = plain if size == SIDE_PX else {**plain, "Pillow, reduce": reduced}
        kinds[f"PNG, {size} px"] = Kind(_draw(folder / f"demo-{size}", size), methods)
    large = kinds[f"PNG, {2 * SIDE_PX} px"].paths
    grain = _rewrite(large, folder / "grain", ".png", _with_grain)
    kinds[f"PNG with grain, {2 * SIDE_PX} px"] = Kind(grain, plain)
    clear = _rewrite(large, folder / "clear", ".png", lambda image: image.convert("RGBA"))
    kinds[f"PNG with alpha, {2 * SIDE_PX} px"] = Kind(clear, plain)
    jpeg = _rewrite(large, folder / "jpeg", ".jpg", lambda image: image)
    drafts = {**plain, "Pillow, reduce": reduced, "Pillow, draft": drafted}
    kinds[f"JPEG, {2 * SIDE_PX} px"] = Kind(jpeg, drafts)
    small = _rewrite(large, folder / "small", ".png", _resized)
    kinds[f"cache of PNG, {SIDE_PX} px"] = Kind(small, plain)
    kinds["cache as .npy"] = _memory_map(small, folder / "npy")
    return kinds


def _draw(folder: Path, size: int) -> list[Path]:
    """Pictures of the demo; boxes on white where there is no OpenGL."""
    try:
        write_demo(folder, num_models=1, image_size=size, seed=0, workers=0)
        return sorted(folder.glob("*/*.png"))[:PICTURES]
    except RenderError:
        chance = np.random.default_rng(0)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"box-{number}.png" for number in range(PICTURES)]
        for path in paths:
            pixels = np.full((size, size, 3), 255, np.uint8)
            for _ in range(20):
                top, left, height, width = chance.integers(size // 8, size // 2, 4)
                pixels[top : top + height, left : left + width] = chance.integers(0, 255, 3)
            Image.fromarray(pixels).save(path)
        return paths


def _rewrite(
    paths: list[Path], folder: Path, extension: str, change: Callable[[Image.Image], Image.Image]
) -> list[Path]:
    folder.mkdir()
    written = [folder / f"{path.stem}{extension}" for path in paths]
    for path, target in zip(paths, written, strict=True):
        with Image.open(path) as image:
            change(image).save(target, quality=90)
    return written


def _with_grain(image: Image.Image) -> Image.Image:
    """As a photograph or a ray tracer has it: noise that hardly compresses."""
    noise = np.random.default_rng(0).normal(0, 3, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _resized(image: Image.Image) -> Image.Image:
    return Image.fromarray(PREPROCESSING.resize(image).permute(1, 2, 0).numpy())


def _memory_map(paths: list[Path], folder: Path) -> Kind:
    """One uncompressed file a picture, so that bytes on disk are told for one."""
    folder.mkdir()
    written = [folder / f"{path.stem}.npy" for path in paths]
    for path, target in zip(paths, written, strict=True):
        np.save(target, np.asarray(Image.open(path)))
    return Kind(written, {"read": lambda path: np.array(np.load(path, mmap_mode="r"))})


def measure_pictures(folder: Path) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    for name, kind in write_kinds(folder).items():
        seconds: dict[str, list[float]] = {method: [] for method in kind.methods}
        for _ in range(ROUNDS):
            for method, read in kind.methods.items():
                start = time.process_time()
                for path in kind.paths:
                    read(path)
                seconds[method].append((time.process_time() - start) / len(kind.paths))
        kilobytes = sum(path.stat().st_size for path in kind.paths) / len(kind.paths) / 1e3
        for method, read in kind.methods.items():
            per_picture = median(seconds[method])
            found = read(kind.paths[0])
            same = None
            if found.dtype == np.uint8 and "partloc" in kind.methods:
                same = bool(np.array_equal(found, ours(kind.paths[0])))
            figures = {"ms": 1e3 * per_picture, "per_s": 1 / per_picture, "kilobytes": kilobytes}
            yield {"pictures": name, "method": method, **figures, "same_pixels": same}


# -- tables ----------------------------------------------------------------------------------------


def write_linked(folder: Path, samples: int) -> None:
    """{folder}/images with that many parts. A file system bounds the links to one file."""
    chance = np.random.default_rng(0)
    images, sources = folder / "images", folder / "sources"
    images.mkdir()
    sources.mkdir()
    for number in range(LINKED):
        pixels = np.full((32, 32, 3), 255, np.uint8)
        top, left, height, width = chance.integers(2, 14, 4)
        pixels[top : top + height, left : left + width] = chance.integers(0, 200, 3)
        Image.fromarray(pixels).save(sources / f"{number}.png")
        place, scale = chance.uniform(-0.4, 0.4, 3).round(3).tolist(), [0.3] * 3
        label = {"translation": place, "rotation": [1, 0, 0, 0], "scale": scale}
        (sources / f"{number}.json").write_text(json.dumps(label))
    for model in range(samples // PARTS):
        stem = f"{images}/model-{model:07d}/model-{model:07d}-"
        os.mkdir(os.path.dirname(stem))
        os.link(sources / f"{model % LINKED}.png", f"{stem}whole.png")
        for part in range(PARTS):
            number = (model + 1 + min(part, 6)) % LINKED  # the last four look alike
            os.link(sources / f"{number}.png", f"{stem}part-{part}.png")
            os.link(sources / f"{number}.json", f"{stem}part-{part}.json")


def measure_tables(folder: Path, samples: int, is_unread: bool) -> Iterator[dict[str, Any]]:
    write_linked(folder, samples)
    for stage in STAGES:
        command = [sys.executable, str(ROOT / "benchmarks/tables.py"), stage, str(folder)]
        if stage == "index" and is_unread:
            command.append("--unread")
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        yield {"stage": stage, "unread": is_unread, **json.loads(done.stdout)}


# -- what is told ----------------------------------------------------------------------------------


def row_of_pictures(line: dict[str, Any]) -> str:
    same = {None: "", True: "same", False: "other"}[line["same_pixels"]]
    return (
        f"| {line['pictures']} | {line['method']} | {line['ms']:.1f} | {line['per_s']:.0f} | "
        f"{line['kilobytes']:.0f} | {same} |"
    )


def row_of_tables(line: dict[str, Any]) -> str:
    grown = 1e6 * (line["peak_mb"] - line["start_mb"]) / line["samples"]
    name = line["stage"] + (", unread" if line["unread"] and line["stage"] == "index" else "")
    return (
        f"| {line['samples']:,} | {name} | {line['seconds']:.1f} | "
        f"{line['cpu_seconds']:.1f} | {1e6 * line['cpu_seconds'] / line['samples']:.0f} | "
        f"{line['peak_mb']:.0f} | {grown:.0f} |"
    )


def told(
    lines: Iterator[dict[str, Any]], row_of: Callable[[dict[str, Any]], str]
) -> list[dict[str, Any]]:
    """All lines; each is printed as soon as it is measured, the next may take minutes."""
    kept = []
    for line in lines:
        print(row_of(line), flush=True)
        kept.append(line)
    return kept


def main() -> None:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("--index", type=int, nargs="*", default=[10_000], metavar="N", help="samples; 10000")
    add("--unread", type=int, nargs="*", default=[], metavar="N", help="samples, no picture opened")
    add("--no-pictures", action="store_true", help="tables only")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    machine = {"machine": platform.machine(), "cores": os.cpu_count()}
    machine |= {"torch": torch.__version__, "pillow": PIL.__version__}
    print(", ".join(f"{name} {value}" for name, value in machine.items()) + "\n")
    pictures, tables = [], []
    if not args.no_pictures:
        print("| pictures | method | ms | images/s a core | kB a file | pixels as partloc's |")
        print("|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as name:
            pictures = told(measure_pictures(Path(name)), row_of_pictures)
        print()
    print("| samples | stage | s | core s | core µs a sample | peak MB | bytes a sample |")
    print("|---|---|---|---|---|---|---|")
    for is_unread, sizes in ((False, args.index), (True, args.unread)):
        for samples in sizes:
            with tempfile.TemporaryDirectory() as name:
                tables += told(measure_tables(Path(name), samples, is_unread), row_of_tables)
    if args.output:
        write_json(args.output, {**machine, "pictures": pictures, "tables": tables})


if __name__ == "__main__":
    run_command(main)
