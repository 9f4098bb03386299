"""Training samples of the depth network: rendered objects with their depth maps.

Shapes: N images, S side of a depth map in pixels, s side before cropping, B batch.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from partloc.cli import map_in_processes
from partloc.config import TrainConfig, digest
from partloc.data.transforms import Preprocessing, crop_jitter_from_uniform
from partloc.files import open_atomic
from partloc.model.crop import content_crops, jitter_crops, pixel_centers, resample_crops
from partloc.model.depth_net import MAP_SIDE
from partloc.pretraining.settings import PretrainingConfig
from partloc.synthetic.camera import DISTANCE, TAN_HALF_FOV
from partloc.synthetic.dataset import sample_variants
from partloc.synthetic.families import PRETRAINING_OBJECTS
from partloc.synthetic.render import render_depth_map, render_image
from partloc.synthetic.scene import normalized_triangles, scene_geometry

FORMAT_VERSION = 4  # of the files; increase it when their meaning changes
PARTS_STREAM = 9  # of random numbers, distinct from those of other modules
MODELS_PER_FILE = 100
VARIANTS_PER_MODEL = 3  # with other proportions, colours and rotations
RENDERED_MAP_SIDE = 128  # of a depth map before cropping, pixels

# Not the models of the encoder's pretraining: the network is more accurate on models that it was
# trained on, and the encoder would rely on it too much.
DEPTH_OBJECTS = replace(PRETRAINING_OBJECTS, stream=11)


class DepthSamples(NamedTuple):
    """Cropped images with their depth maps, ordered by model.

    images: (N, 3, 2 S, 2 S) uint8.
    crops: (N, 3).
    depths: (N, 1, S, S) float16, in the unit of `DepthNet`, NaN on the background.
    models: (N,), numbers of the models.
    is_whole: (N,) bool, false for parts.
    """

    images: np.ndarray
    crops: np.ndarray
    depths: np.ndarray
    models: np.ndarray
    is_whole: np.ndarray


def render_samples(folder: Path, config: PretrainingConfig, workers: int) -> None:
    """Render pretrain.depth_models models; files of an interrupted call are kept."""
    job = partial(_render_file, config.demo.image_size, config.data.read_size, config.seed)
    files = _sample_files(folder, config)
    results = map_in_processes(job, files, workers)
    for _ in tqdm(results, "rendering", len(files), unit="file", disable=None):
        pass


def _sample_files(folder: Path, config: PretrainingConfig) -> list[tuple[Path, range]]:
    """The files and the numbers of their models, in a subfolder for the seed and image sizes."""
    origin = [FORMAT_VERSION, config.seed, config.demo.image_size, config.data.read_size]
    folder, num_models = folder / digest(origin)[:16], config.pretrain.depth_models
    starts = range(0, num_models, MODELS_PER_FILE)
    chunks = [range(start, min(start + MODELS_PER_FILE, num_models)) for start in starts]
    return [(folder / f"{chunk.start:06d}-{chunk.stop:06d}.npz", chunk) for chunk in chunks]


def _render_file(size: int, read_size: int, seed: int, file: tuple[Path, range]) -> None:
    path, numbers = file
    if path.exists():
        return
    samples = [_render_model(number, size, read_size, seed) for number in numbers]
    columns = (np.concatenate(column) for column in zip(*samples, strict=True))
    with open_atomic(path) as handle:
        np.savez(handle, **DepthSamples(*columns)._asdict())


def _render_model(number: int, size: int, read_size: int, seed: int) -> DepthSamples:
    """Variants of one model, each followed by one of its parts."""
    rng = np.random.default_rng([seed, PARTS_STREAM, number])
    scenes = []  # triangles and colours
    for parts in sample_variants(seed, number, DEPTH_OBJECTS, VARIANTS_PER_MODEL):
        meshes = list({id(part.mesh): part.mesh for part in parts}.values())
        mesh = meshes[rng.integers(len(meshes))]
        scenes += [scene_geometry(parts)[:2], (normalized_triangles(mesh), mesh.colors)]
    preprocessing = Preprocessing(read_size)
    images = [Image.fromarray(render_image(*scene, size)) for scene in scenes]
    pixels = torch.stack([preprocessing.resize(image) for image in images])
    crops = content_crops(preprocessing.normalize(pixels))
    random = torch.from_numpy(rng.random((len(scenes), 4), dtype=np.float32))
    crops = jitter_crops(crops, crop_jitter_from_uniform(random, TrainConfig().crop_jitter))
    maps = np.stack([render_depth_map(triangles, RENDERED_MAP_SIDE) for triangles, _ in scenes])
    return DepthSamples(
        resample_crops(pixels.float(), crops, 2 * MAP_SIDE).round().byte().numpy(),
        crops.numpy(),
        crop_depth_maps(torch.from_numpy(maps), crops).half().numpy(),
        np.full(len(scenes), number),
        np.arange(len(scenes)) % 2 == 0,
    )


def crop_depth_maps(maps: Tensor, crops: Tensor) -> Tensor:
    """Crop depth maps and convert them to the unit of `DepthNet`.

    Args:
        maps: (B, s, s), of the full image, model units.
        crops: (B, 3).
    Returns: (B, 1, S, S), in half sides of the crop.
    """
    half = crops[:, 2:].exp()  # (B, 1)
    right, down = (crops[:, i : i + 1] + half * pixel_centers(MAP_SIDE) for i in (0, 1))  # (B, S)
    size = (-1, MAP_SIDE, MAP_SIDE)
    grid = torch.stack([right[:, None].expand(size), down[..., None].expand(size)], -1)
    cropped = F.grid_sample(maps[:, None], grid, mode="nearest", align_corners=False)
    return cropped / (half * TAN_HALF_FOV * DISTANCE)[..., None, None]


def read_samples(folder: Path, config: PretrainingConfig) -> DepthSamples:
    """Read what `render_samples` wrote into memory: 65 kB for a whole model and its part."""
    files = [np.load(path) for path, _ in _sample_files(folder, config)]
    columns = ((file[name] for file in files) for name in DepthSamples._fields)
    counts = [len(file["models"]) for file in files]
    return DepthSamples(*(_concatenate(column, counts) for column in columns))


def _concatenate(arrays: Iterator[np.ndarray], counts: list[int]) -> np.ndarray:
    """Like np.concatenate, but with only one input array in memory at a time."""
    start = 0
    for array, count in zip(arrays, counts, strict=True):
        if not start:
            result = np.empty((sum(counts), *array.shape[1:]), array.dtype)
        result[start : start + count] = array
        start += count
    return result
