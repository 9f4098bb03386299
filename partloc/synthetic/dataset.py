"""The demo data set: procedural multi-part objects in the layout that users bring.

    {out}/{model}/{model}-whole.png    the whole model
    {out}/{model}/{model}-{part}.png   one part, normalised on its own, drawn as it stands
    {out}/{model}/{model}-{part}.json  where it belongs: translation, rotation, scale

The whole's box is centred at the origin with its longest side 1; so is each part's in its own
picture, hence `whole_point = scale * part_point + translation`.

Shapes: N points, M triangles.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from partloc.synthetic.builder import Kit, Part, disguise
from partloc.synthetic.mesh import Mesh
from partloc.synthetic.objects import (
    bricks,
    buildings,
    composites,
    furniture,
    linkages,
    machines,
    robots,
    seats,
    vehicles,
)
from partloc.synthetic.render import picture, require_opengl, seen_triangles

VISIBLE_SIZE = 256  # pixels; a part's visibility is judged at this size, whatever is written
MIN_SCALE = 0.03  # of the whole's longest side; smaller and the part gets no sample
ATTEMPTS = 100  # at drawing a model that keeps to the limits
MARKER = ".partloc-demo"  # in a folder that this module made, and so may remove

# A family, and the name that some of its models bear: other people's names are not tidy.
FAMILIES: dict[str, tuple[Callable[[Kit], None], str]] = {
    "table": (furniture.table, "küchentisch"),
    "car": (vehicles.car, "voiture.décapotable"),
    "robot-arm": (robots.robot_arm, "robot.v2"),
    "chair": (seats.chair, "stuhl.groß"),
    "aeroplane": (vehicles.aeroplane, "avión"),
    "blocks": (machines.blocks, "klötze.3d"),
    "bookcase": (furniture.bookcase, "bücherregal"),
    "house": (buildings.house, "hütte.am-see"),
    "engine": (machines.engine, "motor.1.6"),
    "lamp": (furniture.lamp, "lámpara"),
    "humanoid": (robots.humanoid, "roboter.größe-2"),
    "truck": (vehicles.truck, "camión"),
    "cabinet": (furniture.cabinet, "kommode.höhe-2"),
    "gearbox": (machines.gearbox, "getriebe.ü2"),
    "tower": (buildings.tower, "türmchen"),
    "boat": (vehicles.boat, "båt"),
    "desk": (furniture.desk, "bureau.équipé"),
    "flange": (machines.flange, "flansch.dn50"),
    "quadruped": (robots.quadruped, "hündin"),
    "drone": (vehicles.drone, "drohne.für-zwei"),
    "sofa": (seats.sofa, "canapé"),
    "vessel": (machines.vessel, "cafetière"),
    "windmill": (buildings.windmill, "windmühle"),
    "bed": (seats.bed, "säng"),
    "cart": (robots.cart, "wägelchen"),
    "bench": (seats.bench, "bänk.2-sits"),
}
OTHER_NAME_EVERY = 4  # models, so that any small set has both kinds
# Families of the demo that no pretraining sees, so that its test models show what is gained on
# kinds of things that are new.
HELD_OUT = ("bench", "windmill")


@dataclass(frozen=True)
class Recipe:
    """What is drawn: families by turns, from this stream of the seed's chance.

    disguised: proportions and colours are changed after a model is built.
    min_visible: pixels of VISIBLE_SIZE squared; fewer and the part gets no sample.
    part_limits: parts with a sample, in a model.
    """

    stream: int
    families: dict[str, tuple[Callable[[Kit], None], str]]
    disguised: bool = False
    min_visible: int = 40
    part_limits: tuple[int, int] = (2, 12)


DEMO = Recipe(7, FAMILIES)
# Objects of no known kind.
UNKNOWN: dict[str, tuple[Callable[[Kit], None], str]] = {
    "composite": (composites.composite, "gefüge"),
    "linkage": (linkages.linkage, "gestänge"),
    "crowded": (composites.crowded, "gedränge"),
    "bricks": (bricks.brick_set, "baukasten"),
}
_KNOWN = [family for family in FAMILIES if family not in HELD_OUT]
# One model of a known kind, then two of none, by turns. Parts may be smaller, more of them, and
# better hidden than in the demo, as they are in what people assemble.
PRETRAINING = Recipe(
    8,
    {
        name: entry
        for i, family in enumerate(_KNOWN)
        for name, entry in (
            (family, FAMILIES[family]),
            *(
                (f"{kind}-{i}", made)
                for kind, made in (list(UNKNOWN.items()) * 2)[2 * i % 4 : 2 * i % 4 + 2]
            ),
        )
    },
    disguised=True,
    min_visible=15,
    part_limits=(2, 24),
)


@dataclass(frozen=True)
class DemoModel:
    """A model in the whole's frame: its box is centred at the origin, its longest side is 1.

    visible: pixels of each part in the whole at VISIBLE_SIZE.
    written: the parts that get a sample.
    """

    name: str
    family: str
    parts: list[Part]
    visible: list[int]
    written: list[Part]


def write_demo(
    out_dir: Path,
    num_models: int,
    image_size: int,
    seed: int,
    workers: int,
    recipe: Recipe = DEMO,
    resume: bool = False,
) -> Counter:
    """Render the data set into a fresh folder; the number of written parts by family.

    resume: keep the models that an interrupted call has drawn from the same arguments.

    workers: processes, 0 draws in this one. The bytes do not depend on it, and a model's do not
    depend on how many others are drawn.

    Raises: ValueError when `out_dir` holds something that this function did not write;
        RenderError when this machine cannot draw, before anything is removed.
    """
    out_dir = Path(out_dir)
    require_opengl()
    origin = f"{num_models} models, {image_size} pixels, stream {recipe.stream} of seed {seed}"
    _claim(out_dir, origin, resume)
    job = partial(write_model, out_dir, image_size, seed, recipe=recipe)
    parts = Counter()
    finished = each(job, range(num_models), workers)
    for family, count in tqdm(finished, "demo", num_models, unit="model", disable=None):
        parts[family] += count
    return parts


def write_model(
    out_dir: Path, image_size: int, seed: int, number: int, recipe: Recipe = DEMO
) -> tuple[str, int]:
    """Draw one model and write its folder; its family and its number of written parts."""
    family, name = named(number, recipe)
    final = out_dir / name
    if final.exists():
        return family, sum(1 for _ in final.glob("*.json"))
    model = draw_model(seed, number, recipe)
    # Under a hidden name until it is complete.
    folder = out_dir / f".{model.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    triangles, colours, _ = scene(model.parts)
    _write_png(folder / f"{model.name}-whole.png", picture(triangles, colours, image_size))
    pictures: dict[int, np.ndarray] = {}  # equal parts share a mesh, and so a picture
    for part in model.written:
        stem = folder / f"{model.name}-{part.name}"
        if id(part.mesh) not in pictures:
            pictures[id(part.mesh)] = part_picture(part.mesh, image_size)
        _write_png(Path(f"{stem}.png"), pictures[id(part.mesh)])
        Path(f"{stem}.json").write_text(json.dumps(label(part)) + "\n", encoding="utf-8")
    folder.rename(final)
    return model.family, len(model.written)


def draw_model(seed: int, number: int, recipe: Recipe = DEMO) -> DemoModel:
    """Model `number` of the set, drawn again until enough of its parts can be seen."""
    rng = np.random.default_rng([seed, recipe.stream, number])
    family, name = named(number, recipe)
    build, _ = recipe.families[family]
    foreign = not name.startswith(family)
    least, most = recipe.part_limits
    for _ in range(ATTEMPTS):
        kit = Kit(rng, foreign)
        build(kit)
        if recipe.disguised:
            disguise(kit)
        parts = normalised(kit.turned())
        visible = visible_pixels(parts)
        written = [
            part
            for part, pixels in zip(parts, visible, strict=True)
            if pixels >= recipe.min_visible and label(part)["scale"][0] >= MIN_SCALE
        ]
        if least <= len(written) <= most:
            return DemoModel(name, family, parts, visible, written)
    raise AssertionError(f"{name}: no drawing in {ATTEMPTS} shows {least} to {most} parts")


def draw_variants(seed: int, number: int, recipe: Recipe, count: int) -> Iterator[list[Part]]:
    """The parts of one model of the set, disguised `count` times; all of them, however hidden."""
    kit = Kit(np.random.default_rng([seed, recipe.stream, number]))
    build, _ = recipe.families[named(number, recipe)[0]]
    build(kit)
    built = kit.parts
    for _ in range(count):
        kit.parts = built
        disguise(kit)
        yield normalised(kit.turned())


def named(number: int, recipe: Recipe) -> tuple[str, str]:
    """Family and name of model `number`."""
    family = list(recipe.families)[number % len(recipe.families)]
    foreign = number % OTHER_NAME_EVERY == OTHER_NAME_EVERY - 1
    return family, f"{recipe.families[family][1] if foreign else family}-{number:04d}"


def normalised(parts: list[Part]) -> list[Part]:
    """The parts moved and scaled together, so that their common box fits the unit cube."""
    boxes = [(part.mesh.box()[0] + part.at, part.mesh.box()[1] + part.at) for part in parts]
    low = np.min([box[0] for box in boxes], axis=0)
    high = np.max([box[1] for box in boxes], axis=0)
    factor, centre = 1 / (high - low).max(), (low + high) / 2
    meshes = {id(part.mesh): part.mesh.scaled(factor, factor, factor) for part in parts}
    return [Part(p.name, meshes[id(p.mesh)], (p.at - centre) * factor) for p in parts]


def label(part: Part) -> dict[str, list[float]]:
    """What the part's JSON says; `part` stands in the whole's frame."""
    low, high = part.mesh.box()
    centre, longest = part.at + (low + high) / 2, (high - low).max()
    return {
        "translation": [round(float(c), 6) + 0.0 for c in centre],  # + 0.0 turns -0.0 into 0.0
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "scale": [round(float(longest), 6)] * 3,
    }


def visible_pixels(parts: list[Part]) -> list[int]:
    mask = part_mask(parts, VISIBLE_SIZE)
    return np.bincount(mask[mask >= 0], minlength=len(parts)).tolist()


def part_mask(parts: list[Part], size: int) -> np.ndarray:
    """The number of the part seen at each pixel, (size, size) int, -1 on the ground."""
    triangles, _, owner = scene(parts)
    return np.append(owner, -1)[seen_triangles(triangles, size)]


def scene(parts: list[Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles (M, 3, 3) in the whole's frame, their colours (M, 3), and their part's number."""
    triangles = [(part.mesh.points + part.at)[part.mesh.triangles] for part in parts]
    colours = [part.mesh.colours for part in parts]
    owner = np.repeat(np.arange(len(parts)), [len(t) for t in triangles])
    return np.concatenate(triangles), np.concatenate(colours), owner


def part_picture(mesh: Mesh, image_size: int) -> np.ndarray:
    """The mesh alone, (image_size, image_size, 3)."""
    return picture(triangles_alone(mesh), mesh.colours, image_size)


def triangles_alone(mesh: Mesh) -> np.ndarray:
    """(M, 3, 3), the mesh's own box centred and its longest side 1."""
    low, high = mesh.box()
    return ((mesh.points - (low + high) / 2) / (high - low).max())[mesh.triangles]


def _claim(out_dir: Path, origin: str, resume: bool) -> None:
    """Make an empty folder, in the place of an earlier demo if there is one; or go on with it."""
    text = f"Written by partloc, which may remove this folder: {origin}.\n"
    if out_dir.exists():
        if not out_dir.is_dir():
            raise ValueError(f"{out_dir}: is a file; expected a folder to write the demo into")
        if (out_dir / MARKER).exists():
            if resume and (out_dir / MARKER).read_text() == text:
                return
            # The marker stays: what a kill leaves of the folder is still known as ours.
            (out_dir / MARKER).write_text("Being removed by partloc.\n")
            for entry in out_dir.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != MARKER:
                    entry.unlink()
        elif any(out_dir.iterdir()):
            raise ValueError(
                f"{out_dir}: holds files but no {MARKER}, so it is not an earlier demo and stays "
                "as it is; expected a new or an empty folder"
            )
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / MARKER).write_text(text)


def each(job: Callable, items: Sequence, workers: int) -> Iterator:
    """`job` of each item, in order, in this process or in others."""
    if workers == 0:
        yield from map(job, items)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(job, items, chunksize=4)


def _write_png(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path, compress_level=6)
