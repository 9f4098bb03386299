"""Procedural data sets in the folder layout of user data.

    {out}/{model}/{model}-whole.png    the whole model
    {out}/{model}/{model}-{part}.png   one part, normalised on its own, in the same orientation
    {out}/{model}/{model}-{part}.json  its pose in the whole: translation, rotation, scale

The bounding box of the whole is centred at the origin with longest side 1; so is that of a part in
its own image. Hence `whole_point = scale * part_point + translation`.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from partloc.synthetic.builder import ObjectBuilder, Part, randomize_appearance
from partloc.synthetic.camera import DEMO_CAMERA, Camera
from partloc.synthetic.families import DEMO_OBJECTS, ObjectDistribution
from partloc.synthetic.render import check_opengl, render_image
from partloc.synthetic.scene import (
    count_visible_pixels,
    normalize_parts,
    pose_label,
    render_part,
    scene_geometry,
)
from partloc.system.processes import map_in_processes

DEMO_IMAGE_PX = 256  # side of the square images of the stage `demo`
MIN_SCALE = 0.03  # of the longest side of the whole; a smaller part gets no sample
MAX_ATTEMPTS = 100  # at a model within the limits of its distribution
MARKER_NAME = ".partloc-demo"  # file in a folder that `write_dataset` made, and may remove
LOCK_NAME = ".lock"  # that a caller may hold in the folder
IRREGULAR_NAME_INTERVAL = 4  # every 4th model has irregular names, so small data sets have both


@dataclass(frozen=True)
class SyntheticModel:
    """A model in its own frame: bounding box centred at the origin, longest side 1.

    Attributes:
        visible_pixels: of each part, as `count_visible_pixels`.
        sample_parts: the parts that get a sample.
    """

    name: str
    family: str
    parts: list[Part]
    visible_pixels: list[int]
    sample_parts: list[Part]


def write_dataset(
    out_dir: Path,
    num_models: int,
    image_size: int,
    seed: int,
    workers: int,
    distribution: ObjectDistribution = DEMO_OBJECTS,
    resume: bool = False,
) -> Counter:
    """Render a data set into a new folder, or into that of an earlier call.

    Args:
        workers: number of processes; 0 renders in this one. The files do not depend on it, and
            those of a model do not depend on `num_models`.
        resume: keep the models that an interrupted call with the same arguments has rendered.
    Returns: the number of samples by family.
    Raises: ValueError when `out_dir` contains files that this function did not write;
        RenderError when this machine cannot render, before anything is removed.
    """
    out_dir = Path(out_dir)
    check_opengl()
    origin = (
        f"{num_models} models, {image_size} pixels, stream {distribution.stream} of seed {seed}"
    )
    _prepare_folder(out_dir, origin, resume)
    job = partial(write_model, out_dir, image_size, seed, distribution=distribution)
    sample_counts = Counter()
    results = map_in_processes(job, range(num_models), workers)
    for family, count in tqdm(results, "rendering", num_models, unit="model", disable=None):
        sample_counts[family] += count
    return sample_counts


def write_model(
    out_dir: Path,
    image_size: int,
    seed: int,
    number: int,
    distribution: ObjectDistribution = DEMO_OBJECTS,
) -> tuple[str, int]:
    """Render one model into its folder, unless it exists; return family and number of samples."""
    family, name = family_and_name(number, distribution)
    folder = out_dir / name
    if folder.exists():
        return family, sum(1 for _ in folder.glob("*.json"))
    model = sample_model(seed, number, distribution)
    draft = out_dir / f".{name}"  # renamed when it is complete
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    triangles, colors, _ = scene_geometry(model.parts)
    _write_png(draft / f"{name}-whole.png", render_image(triangles, colors, image_size))
    images: dict[int, np.ndarray] = {}  # by mesh, which equal parts share
    for part in model.sample_parts:
        stem = draft / f"{name}-{part.name}"
        if id(part.mesh) not in images:
            images[id(part.mesh)] = render_part(part.mesh, image_size)
        _write_png(Path(f"{stem}.png"), images[id(part.mesh)])
        Path(f"{stem}.json").write_text(json.dumps(pose_label(part)) + "\n", encoding="utf-8")
    draft.rename(folder)
    return family, len(model.sample_parts)


def sample_model(
    seed: int,
    number: int,
    distribution: ObjectDistribution = DEMO_OBJECTS,
    camera: Camera = DEMO_CAMERA,
) -> SyntheticModel:
    """Sample model `number`, repeatedly until the camera sees enough of its parts."""
    rng = np.random.default_rng([seed, distribution.stream, number])
    family, name = family_and_name(number, distribution)
    min_parts, max_parts = distribution.part_limits
    for _ in range(MAX_ATTEMPTS):
        builder = ObjectBuilder(rng, has_irregular_names(number))
        distribution.families[family].build(builder)
        if distribution.random_appearance:
            randomize_appearance(builder)
        parts = normalize_parts(builder.rotated_parts())
        visible_pixels = count_visible_pixels(parts, camera)
        sample_parts = [
            part
            for part, pixels in zip(parts, visible_pixels, strict=True)
            if pixels >= distribution.min_visible_pixels
            and pose_label(part)["scale"][0] >= MIN_SCALE
        ]
        if min_parts <= len(sample_parts) <= max_parts:
            return SyntheticModel(name, family, parts, visible_pixels, sample_parts)
    raise AssertionError(
        f"{name}: none of {MAX_ATTEMPTS} attempts has {min_parts} to {max_parts} parts"
    )


def sample_variants(
    seed: int, number: int, distribution: ObjectDistribution, count: int
) -> Iterator[list[Part]]:
    """All parts of model `number`, including hidden ones, in `count` random appearances."""
    builder = ObjectBuilder(np.random.default_rng([seed, distribution.stream, number]))
    family, _ = family_and_name(number, distribution)
    distribution.families[family].build(builder)
    built_parts = builder.parts
    for _ in range(count):
        builder.parts = built_parts
        randomize_appearance(builder)
        yield normalize_parts(builder.rotated_parts())


def family_and_name(number: int, distribution: ObjectDistribution) -> tuple[str, str]:
    """Family and name of model `number`."""
    family = list(distribution.families)[number % len(distribution.families)]
    irregular_name = distribution.families[family].irregular_name
    return family, f"{irregular_name if has_irregular_names(number) else family}-{number:04d}"


def has_irregular_names(number: int) -> bool:
    """Whether model `number` and its parts have names with umlauts, dots and hyphens."""
    return number % IRREGULAR_NAME_INTERVAL == IRREGULAR_NAME_INTERVAL - 1


def _prepare_folder(out_dir: Path, origin: str, resume: bool) -> None:
    """Make an empty folder with a marker, or keep the content of one with the same origin."""
    text = f"Written by partloc, which may remove this folder: {origin}.\n"
    if out_dir.exists():
        if not out_dir.is_dir():
            raise ValueError(f"{out_dir}: is a file; expected a folder to write the data set into")
        if (out_dir / MARKER_NAME).exists():
            if resume and (out_dir / MARKER_NAME).read_text() == text:
                return
            _remove_content(out_dir)
        elif any(entry.name != LOCK_NAME for entry in out_dir.iterdir()):
            raise ValueError(
                f"{out_dir}: contains files but no {MARKER_NAME}, so it is not an earlier data set "
                "and stays unchanged; expected a new or an empty folder"
            )
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_marker(out_dir, text)


def _remove_content(out_dir: Path) -> None:
    """Remove everything but the marker: after a kill, the folder is still recognised."""
    _write_marker(out_dir, "Being removed by partloc.\n")
    for entry in out_dir.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in (MARKER_NAME, LOCK_NAME):
            entry.unlink()


def _write_marker(out_dir: Path, text: str) -> None:
    """Replace the marker: changed in place, a hard link to it, as in the cache of DVC, would
    change as well."""
    draft = out_dir / f"{MARKER_NAME}.new"
    draft.unlink(missing_ok=True)
    draft.write_text(text)
    draft.replace(out_dir / MARKER_NAME)


def _write_png(path: Path, image: np.ndarray) -> None:
    """Raises: OSError naming the file, e.g. when the disk is full."""
    try:
        Image.fromarray(image).save(path, compress_level=6)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error
