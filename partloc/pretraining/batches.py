"""Rendered training batches: procedural models seen by random cameras, in random light.

A batch depends on the seed and its number alone and is rendered when it is needed, so nothing is
stored, no model is seen twice, and a training can stop and continue at any step. All images of a
batch are from one camera, as those of a user's data set are; lights and backgrounds differ between
its models.

Shapes: W wholes, U parts, T twins, B = W + U images, H W image in pixels, s side of a depth map.
"""

from collections.abc import Iterator
from dataclasses import astuple, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from partloc.config import TrainConfig
from partloc.data.background import paint_white
from partloc.data.transforms import (
    COLOR_CHANGES,
    Augmentation,
    Preprocessing,
    crop_jitter_from_uniform,
)
from partloc.model.camera import PinholeCamera
from partloc.pose import PartPose
from partloc.synthetic.builder import Part
from partloc.synthetic.camera import Camera, Lights, random_camera, random_lights
from partloc.synthetic.dataset import SyntheticModel, sample_model
from partloc.synthetic.families import PRETRAINING_OBJECTS
from partloc.synthetic.render import WHITE, render_depth_map, render_image
from partloc.synthetic.scene import normalized_triangles, pose_label, scene_geometry

BATCH_STREAM = 24  # of random numbers, distinct from those of other modules
OBJECTS = replace(PRETRAINING_OBJECTS, stream=25)
MODELS_PER_BATCH, MAX_PARTS_PER_MODEL = 4, 5
IMAGE_SIZE, DEPTH_MAP_SIDE = 256, 128  # of the rendered images and depth maps, pixels
WHITE_FRACTION = 0.5  # of the images; the others have a grey or a coloured background


class RenderedBatch(NamedTuple):
    """Images of W models and U of their parts, all from one camera.

    images: (B, 3, H, W), normalised, wholes first. jitter: (B, 3), see
    `crop_jitter_from_uniform`. depths: (B, s, s), model units, NaN on the background.
    whole_of_part: (U,). poses: (U, T, 3) and (U, T, 1), of each part and its twins; smaller groups
    repeat their first pose.
    """

    images: Tensor
    jitter: Tensor
    depths: Tensor
    whole_of_part: Tensor
    poses: PartPose
    camera: PinholeCamera

    @property
    def num_wholes(self) -> int:
        return len(self.images) - len(self.whole_of_part)


class RenderedBatches(Dataset):
    """Item `number` is the batch of that number, any integer from 0 on."""

    def __init__(self, seed: int, preprocessing: Preprocessing) -> None:
        self.seed, self.preprocessing = seed, preprocessing
        self.augmentation = Augmentation(COLOR_CHANGES["strong"])

    def __getitem__(self, number: int) -> RenderedBatch:
        rng = np.random.default_rng([self.seed, BATCH_STREAM, number])
        camera = random_camera(rng)
        first = number * MODELS_PER_BATCH
        models = [
            sample_model(self.seed, first + i, OBJECTS, camera) for i in range(MODELS_PER_BATCH)
        ]
        groups = [_sample_parts(model, rng) for model in models]
        twins = [part for group in groups for part in group]  # U groups
        scenes = [scene_geometry(model.parts)[:2] for model in models]
        scenes += [(normalized_triangles(t[0].mesh), t[0].mesh.colors) for t in twins]
        whole_of_part = np.repeat(np.arange(len(models)), [len(group) for group in groups])
        whole_of_image = np.append(np.arange(len(models)), whole_of_part)
        lights = [random_lights(rng) for _ in models]
        pixels = [
            self._render(scene, camera, lights[whole], random_background(rng))
            for scene, whole in zip(scenes, whole_of_image, strict=True)
        ]
        maps = [render_depth_map(triangles, DEPTH_MAP_SIDE, camera) for triangles, _ in scenes]
        uniform = torch.from_numpy(rng.random((len(scenes), 4), dtype=np.float32))
        return RenderedBatch(
            self._augment(torch.stack(pixels), whole_of_image, rng),
            crop_jitter_from_uniform(uniform, TrainConfig().crop_jitter),
            torch.from_numpy(np.stack(maps)),
            torch.from_numpy(whole_of_part),
            _stack_poses(twins),
            PinholeCamera.from_view(*astuple(camera)),
        )

    def _render(
        self,
        scene: tuple[np.ndarray, np.ndarray],
        camera: Camera,
        lights: Lights,
        background: tuple[int, int, int],
    ) -> Tensor:
        """(3, H, W) uint8, the background found and painted white as in a user's image."""
        image = render_image(*scene, IMAGE_SIZE, camera, lights, background)
        return self.preprocessing.resize(Image.fromarray(paint_white(image)[0]))

    def _augment(
        self, pixels: Tensor, whole_of_image: np.ndarray, rng: np.random.Generator
    ) -> Tensor:
        color_seeds = rng.integers(2**31, size=MODELS_PER_BATCH)[whole_of_image]
        noise_seeds = rng.integers(2**31, size=len(pixels))
        images = self.augmentation(pixels, color_seeds.tolist(), noise_seeds.tolist())
        return self.preprocessing.normalize(images)


def load_batches(dataset: RenderedBatches, start: int, stop: int) -> Iterator[RenderedBatch]:
    """Batches from `start` to before `stop`, rendered ahead by a process of its own."""
    loader = DataLoader(
        dataset,
        sampler=range(start, stop),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",  # a forked process cannot open a window to render in
    )
    yield from loader


def random_background(rng: np.random.Generator) -> tuple[int, int, int]:
    """RGB, 0..255: white, or else a grey level or a colour, equally often."""
    if rng.random() < WHITE_FRACTION:
        return WHITE
    red, green, blue = np.resize(rng.integers(256, size=rng.choice([1, 3])), 3).tolist()
    return red, green, blue


def _sample_parts(model: SyntheticModel, rng: np.random.Generator) -> list[list[Part]]:
    """Up to MAX_PARTS_PER_MODEL distinct parts of a model, each with its twins."""
    groups: dict[int, list[Part]] = {}
    for part in model.sample_parts:
        groups.setdefault(id(part.mesh), []).append(part)
    chosen = rng.permutation(len(groups))[:MAX_PARTS_PER_MODEL]
    return [list(groups.values())[i] for i in sorted(chosen)]


def _stack_poses(groups: list[list[Part]]) -> PartPose:
    """Poses of U groups of twins, (U, T, 3) and (U, T, 1)."""
    size = max(map(len, groups))
    labels = [[pose_label(part) for part in (twins + size * twins[:1])[:size]] for twins in groups]
    return PartPose(
        torch.tensor([[label["translation"] for label in row] for row in labels]),
        torch.tensor([[label["scale"][:1] for label in row] for row in labels]),
    )
