"""Training of the depth network on rendered objects whose depth is known.

Shapes: N images, S side of a depth map in pixels, B batch.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from partloc.config import AugmentConfig, TrainConfig, digest
from partloc.data.transforms import Augmentation, Preprocessing, crop_jitter_from_uniform
from partloc.distributed import DistributedContext, seed_everything
from partloc.files import open_atomic
from partloc.model.crop import content_crops, jitter_crops, pixel_centers, resample_crops
from partloc.model.depth_net import MAP_SIDE, DepthNet
from partloc.pretraining.settings import PretrainingConfig
from partloc.pretraining.trainer import AuxiliaryTrainer, sample_files
from partloc.synthetic.camera import DISTANCE, TAN_HALF_FOV
from partloc.synthetic.dataset import parallel_map, sample_variants
from partloc.synthetic.families import PRETRAINING_OBJECTS
from partloc.synthetic.render import render_depth_map, render_image
from partloc.synthetic.scene import normalized_triangles, scene_geometry
from partloc.training.optim import make_optimizer
from partloc.training.run_folder import RunFolder

SEED_STREAMS = {"models": 11, "parts": 9, "batches": 10}  # distinct from those of other modules
FORMAT_VERSION = 4  # of sample files and saved states; increase it when their meaning changes

VARIANTS_PER_MODEL = 3  # with other proportions, colours and rotations
DEPTH_MAP_SIZE = 128  # side of a rendered depth map before cropping, pixels

BATCH_SIZE = 512  # images
WHOLE_FRACTION = 0.75  # of a batch; the depth of whole models is harder to predict than of parts
IMAGES_PER_COLOR_SEED = 4  # images that share a colour augmentation
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05  # of AdamW
WARMUP_FRACTION = 0.05  # of all steps
STEPS_PER_EPOCH = 1000
VAL_FRACTION = 0.02  # of the models, the last ones

# Not the models of the encoder's pretraining: the network is more accurate on models that it was
# trained on, and the encoder would rely on it too much.
DEPTH_OBJECTS = replace(PRETRAINING_OBJECTS, stream=SEED_STREAMS["models"])


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
    results = parallel_map(job, files, workers)
    for _ in tqdm(results, "rendering", len(files), unit="file", disable=None):
        pass


def _sample_files(folder: Path, config: PretrainingConfig) -> list[tuple[Path, range]]:
    """The files of samples, in a subfolder for the seed and the image sizes."""
    origin = [FORMAT_VERSION, config.seed, config.demo.image_size, config.data.read_size]
    return sample_files(folder / digest(origin)[:16], config.pretrain.depth_models)


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
    rng = np.random.default_rng([seed, SEED_STREAMS["parts"], number])
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
    maps = np.stack([render_depth_map(triangles, DEPTH_MAP_SIZE) for triangles, _ in scenes])
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


def depth_map_losses(prediction: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood and absolute error, means over the foreground, (B,) each.

    Args:
        prediction: (B, 2, S, S), depth and log error of the network.
        depths: (B, 1, S, S), NaN on the background.
    Source: the negative log-likelihood of a Laplace density, as in Kendall and Gal
        (arXiv:1703.04977).
    """
    foreground = ~depths.isnan()
    depth, log_error = prediction.split(1, 1)
    error = (depth - depths.nan_to_num()).abs() * foreground
    nll = error * (-log_error).exp() + log_error * foreground
    count = foreground.sum((1, 2, 3)).clamp(min=1)
    return nll.sum((1, 2, 3)) / count, error.sum((1, 2, 3)) / count


def train_depth(
    config: PretrainingConfig, folder: Path, root: Path, context: DistributedContext, out: Path
) -> None:
    """Train on the samples in `folder` and write weights, checksum and history to `out`.

    A training interrupted in `root` is resumed. Raises: as `AuxiliaryTrainer.fit`.
    """
    keys = ("depth_models", "depth_steps")
    settings = {key: getattr(config.pretrain, key) for key in keys}
    sizes = config.demo.image_size, config.data.read_size
    run = RunFolder(root, digest([FORMAT_VERSION, config.seed, settings, sizes]))
    seed_everything(config.seed)
    samples = read_samples(folder, config)
    trainer = DepthTrainer(config, DepthNet(), samples, context)
    summary = {"seed": config.seed, **settings, "images": len(samples.models)}
    trainer.fit(run, out, summary | {"unit": "half sides of a crop"})


class DepthTrainer(AuxiliaryTrainer):
    """Trains the depth network for pretrain.depth_steps steps."""

    def __init__(
        self,
        config: PretrainingConfig,
        net: DepthNet,
        samples: DepthSamples,
        context: DistributedContext,
    ) -> None:
        steps = config.pretrain.depth_steps
        super().__init__("depth", net.to(context.device), steps, STEPS_PER_EPOCH, context)
        self.samples, self.seed = samples, config.seed
        self.preprocessing = Preprocessing(config.data.read_size)
        self.augmentation = Augmentation(AugmentConfig())
        self.parallel = DistributedDataParallel(self.net) if context.world_size > 1 else self.net
        settings = TrainConfig(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.optimizer = make_optimizer(self.net, settings)
        total = steps + 1  # the schedule computes one more rate than there are steps
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, LEARNING_RATE, total, pct_start=max(WARMUP_FRACTION, 2 / total)
        )
        is_val = samples.models >= (1 - VAL_FRACTION) * (samples.models[-1] + 1)
        kinds = {"wholes": samples.is_whole, "parts": ~samples.is_whole}
        self.train_rows = {name: np.flatnonzero(kind & ~is_val) for name, kind in kinds.items()}
        self.val_rows = {name: np.flatnonzero(kind & is_val) for name, kind in kinds.items()}

    def loss(self) -> Tensor:
        """Mean loss, (), of this process's part of the batch, which depends on seed and step."""
        rng = np.random.default_rng([self.seed, SEED_STREAMS["batches"], self.step])
        num_wholes = round(WHOLE_FRACTION * BATCH_SIZE)
        counts = {"wholes": num_wholes, "parts": BATCH_SIZE - num_wholes}
        rows = np.concatenate(
            [rng.choice(self.train_rows[name], count) for name, count in counts.items()]
        )
        color_seeds = rng.integers(2**31, size=BATCH_SIZE // IMAGES_PER_COLOR_SEED)
        color_seeds = np.repeat(color_seeds, IMAGES_PER_COLOR_SEED)
        noise_seeds = rng.integers(2**31, size=BATCH_SIZE)
        permutation = rng.permutation(BATCH_SIZE)
        local = np.array_split(permutation, self.context.world_size)[self.context.rank]
        images = torch.from_numpy(self.samples.images[rows[local]]).to(self.context.device)
        images = self.augmentation(images, color_seeds[local].tolist(), noise_seeds[local].tolist())
        nll, _ = self._losses(self.parallel, rows[local], images)
        return nll.mean()

    def _losses(self, net: nn.Module, rows: np.ndarray, images: Tensor) -> tuple[Tensor, Tensor]:
        device = self.context.device
        crops = torch.from_numpy(self.samples.crops[rows]).to(device)
        depths = torch.from_numpy(self.samples.depths[rows]).float().to(device)
        prediction = net(self.preprocessing.normalize(images.to(device)), crops)
        return depth_map_losses(prediction, depths)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Mean error on the validation models, and that of predicting 0; half sides of a crop."""
        self.net.eval()
        metrics = {}
        for name, rows in self.val_rows.items():
            errors = []
            for batch in np.split(rows, range(BATCH_SIZE, len(rows), BATCH_SIZE)):
                images = torch.from_numpy(self.samples.images[batch])
                errors.append(self._losses(self.net, batch, images)[1].cpu())
            depths = torch.from_numpy(self.samples.depths[rows]).float()
            zeros = torch.zeros(1, 2, 1, 1).expand(len(rows), -1, MAP_SIDE, MAP_SIDE)
            metrics[f"{name}_error"] = torch.cat(errors).mean().item()
            metrics[f"{name}_constant_error"] = depth_map_losses(zeros, depths)[1].mean().item()
        return metrics
