"""Teach the depth network, from procedural objects whose depth is known. For `make pretrain`.

Shapes: N pictures, S side of a depth map, B pictures of a batch.
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

from partloc.config import AugmentConfig, Config, TrainConfig, digest
from partloc.data.transforms import Augmentation, Preprocessing, jitter_of
from partloc.distributed import Team, seed_everything
from partloc.files import replacing
from partloc.model.crop import content_crops, jittered, pixel_centres, resample
from partloc.model.depth_net import SIDE, DepthNet
from partloc.pretraining.trainer import Teacher
from partloc.synthetic.camera import DISTANCE, HALF_WIDTH
from partloc.synthetic.dataset import PRETRAINING, draw_variants, each, scene, triangles_alone
from partloc.synthetic.render import depth_map, picture
from partloc.training.optim import make_optimizer
from partloc.training.run_folder import RunFolder

STREAMS = {"models": 11, "parts": 9, "batches": 10}  # of chance, as in plan and demo
STATE_FORMAT = 3  # raise it when the meaning of a state changes
VARIANTS = 3  # of a model, in other proportions and colours, seen from another side
MAP_SIDE = 128  # of the depth maps before they are cropped, pixels
CHUNK = 100  # models in a file
BATCH = 512  # pictures
WHOLES = 0.75  # of them show wholes, whose depth is harder to tell than that of parts
LIT_TOGETHER = 4  # pictures in one light
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 2e-3, 0.05, 0.05  # AdamW's; share of all steps
EPOCH = 1000  # steps from one saved state to the next
HELD_BACK = 0.02  # of the models, the last ones
# Other models than those that poses are learned from: on what it has seen the network errs less,
# and would be trusted too much.
RECIPE = replace(PRETRAINING, stream=STREAMS["models"])


class Studies(NamedTuple):
    """Pictures with their depth, N of them, in order of the models.

    pictures: (N, 3, 2 S, 2 S) uint8, cropped; crops: (N, 3); depths: (N, 1, S, S) float16, as
    `DepthNet` tells them, NaN on the ground; models: (N,), numbers; wholes: (N,) bool.
    """

    pictures: np.ndarray
    crops: np.ndarray
    depths: np.ndarray
    models: np.ndarray
    wholes: np.ndarray


def draw_studies(folder: Path, config: Config, workers: int) -> None:
    """Render pretrain.depth_models objects, CHUNK to a file; files of an interrupted call stay."""
    job = partial(_draw_chunk, config.demo.image_size, config.data.read_size, config.seed)
    chunks = _chunks(folder, config)
    for _ in tqdm(each(job, chunks, workers), "depths", len(chunks), unit="file", disable=None):
        pass


def _chunks(folder: Path, config: Config) -> list[tuple[Path, range]]:
    """Each file of studies, and the numbers of its models; others' seeds and sizes are apart."""
    drawn = [STATE_FORMAT, config.seed, config.demo.image_size, config.data.read_size]
    folder, count = folder / digest(drawn)[:16], config.pretrain.depth_models
    starts = range(0, count, CHUNK)
    numbers = [range(start, min(start + CHUNK, count)) for start in starts]
    return [(folder / f"{each.start:06d}-{each.stop:06d}.npz", each) for each in numbers]


def _draw_chunk(size: int, read_size: int, seed: int, chunk: tuple[Path, range]) -> None:
    path, numbers = chunk
    if path.exists():
        return
    studies = [_draw_study(number, size, read_size, seed) for number in numbers]
    columns = zip(*studies, strict=True)
    fields = {name: np.concatenate(c) for name, c in zip(Studies._fields, columns, strict=True)}
    with replacing(path) as file:
        np.savez(file, **fields)


def _draw_study(number: int, size: int, read_size: int, seed: int) -> Studies:
    """Variants of one model, and a part of each, alone."""
    chance = np.random.default_rng([seed, STREAMS["parts"], number])
    shown = []
    for parts in draw_variants(seed, number, RECIPE, VARIANTS):
        meshes = list({id(part.mesh): part.mesh for part in parts}.values())
        mesh = meshes[chance.integers(len(meshes))]
        shown += [scene(parts)[:2], (triangles_alone(mesh), mesh.colours)]
    preprocessing = Preprocessing(read_size)
    images = [Image.fromarray(picture(*drawn, size)) for drawn in shown]
    pixels = torch.stack([preprocessing.resize(image) for image in images])
    crops = content_crops(preprocessing.normalize(pixels))
    chances = torch.from_numpy(chance.random((len(shown), 4), dtype=np.float32))
    crops = jittered(crops, jitter_of(chances, TrainConfig().crop_jitter))
    maps = np.stack([depth_map(triangles, MAP_SIDE) for triangles, _ in shown])
    return Studies(
        resample(pixels.float(), crops, 2 * SIDE).round().byte().numpy(),
        crops.numpy(),
        targets_of(torch.from_numpy(maps), crops).half().numpy(),
        np.full(len(shown), number),
        np.arange(len(shown)) % 2 == 0,
    )


def targets_of(maps: Tensor, crops: Tensor) -> Tensor:
    """Depth maps (B, s, s) of whole frames, model units -> (B, 1, S, S) of their crops (B, 3), in
    the crops' half sides."""
    half = crops[:, 2:].exp()  # (B, 1)
    right, down = (crops[:, i : i + 1] + half * pixel_centres(SIDE) for i in (0, 1))  # (B, S)
    size = (-1, SIDE, SIDE)
    grid = torch.stack([right[:, None].expand(size), down[..., None].expand(size)], -1)
    cropped = F.grid_sample(maps[:, None], grid, mode="nearest", align_corners=False)
    return cropped / (half * HALF_WIDTH * DISTANCE)[..., None, None]


def read_studies(folder: Path, config: Config) -> Studies:
    """What `draw_studies` has drawn, in memory: 65 kB for each whole and its part."""
    files = [np.load(path) for path, _ in _chunks(folder, config)]
    fields = ((file[name] for file in files) for name in Studies._fields)
    counts = [len(file["models"]) for file in files]
    return Studies(*(_joined(field, counts) for field in fields))


def _joined(arrays: Iterator[np.ndarray], counts: list[int]) -> np.ndarray:
    """Like np.concatenate, with one array at a time beside the whole."""
    start = 0
    for array, count in zip(arrays, counts, strict=True):
        if not start:
            whole = np.empty((sum(counts), *array.shape[1:]), array.dtype)
        whole[start : start + count] = array
        start += count
    return whole


def loss_of(found: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Surprise at the true depth, and the error, each the mean over a picture's surfaces, (B,).

    found: (B, 2, S, S) of the network; depths: (B, 1, S, S), NaN on the ground.
    Source: the negative log-likelihood of a Laplace density, as in Kendall and Gal.
    """
    shown = ~depths.isnan()
    depth, log_error = found.split(1, 1)
    error = (depth - depths.nan_to_num()).abs() * shown
    surprise = error * (-log_error).exp() + log_error * shown
    count = shown.sum((1, 2, 3)).clamp(min=1)
    return surprise.sum((1, 2, 3)) / count, error.sum((1, 2, 3)) / count


def train_depth(config: Config, folder: Path, root: Path, team: Team, out: Path) -> None:
    """Train on the studies in `folder`, going on with the state in `root` where there is one, and
    write the weights, their checksum and the figures to `out` and beside it."""
    chosen = {key: getattr(config.pretrain, key) for key in ("depth_models", "depth_steps")}
    sizes = config.demo.image_size, config.data.read_size
    run = RunFolder(root, digest([STATE_FORMAT, config.seed, chosen, sizes]))
    with team.led(run.locked()):
        state = team.from_leader(run.load_state() if team.leads else None)
        seed_everything(config.seed)
        trainer = DepthTrainer(config, DepthNet(), read_studies(folder, config), team)
        if state is not None:
            trainer.restore(state)
        trainer.train(run)
        if team.leads:
            figures = {"seed": config.seed, **chosen, "pictures": len(trainer.studies.models)}
            trainer.write(out, figures | {"unit": "half sides of a crop"})


class DepthTrainer(Teacher):
    """Trains the network for pretrain.depth_steps."""

    def __init__(self, config: Config, net: DepthNet, studies: Studies, team: Team) -> None:
        super().__init__("depth", net.to(team.device), config.pretrain.depth_steps, EPOCH, team)
        self.studies, self.seed = studies, config.seed
        self.preprocessing = Preprocessing(config.data.read_size)
        self.augmentation = Augmentation(AugmentConfig())
        self.parallel = DistributedDataParallel(self.net) if team.size > 1 else self.net
        settings = TrainConfig(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.optimizer = make_optimizer(self.net, settings)
        rates = self.steps + 1  # after the last step it is asked for one more
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, LEARNING_RATE, rates, pct_start=max(WARMUP, 2 / rates)
        )
        kept_apart = studies.models >= (1 - HELD_BACK) * (studies.models[-1] + 1)
        kinds = {"wholes": studies.wholes, "parts": ~studies.wholes}
        self.learned = {name: np.flatnonzero(kind & ~kept_apart) for name, kind in kinds.items()}
        self.held_back = {name: np.flatnonzero(kind & kept_apart) for name, kind in kinds.items()}

    def loss(self) -> Tensor:
        chance = np.random.default_rng([self.seed, STREAMS["batches"], self.step])
        wholes = round(WHOLES * BATCH)
        counts = {"wholes": wholes, "parts": BATCH - wholes}
        rows = np.concatenate(
            [chance.choice(self.learned[name], count) for name, count in counts.items()]
        )
        lights = np.repeat(chance.integers(2**31, size=BATCH // LIT_TOGETHER), LIT_TOGETHER)
        cameras = chance.integers(2**31, size=BATCH)
        mine = np.array_split(chance.permutation(BATCH), self.team.size)[self.team.rank]
        images = torch.from_numpy(self.studies.pictures[rows[mine]]).to(self.team.device)
        images = self.augmentation(images, lights[mine].tolist(), cameras[mine].tolist())
        surprise, _ = self._compare(self.parallel, rows[mine], images)
        return surprise.mean()

    def _compare(self, net: nn.Module, rows: np.ndarray, images: Tensor) -> tuple[Tensor, Tensor]:
        device = self.team.device
        crops = torch.from_numpy(self.studies.crops[rows]).to(device)
        depths = torch.from_numpy(self.studies.depths[rows]).float().to(device)
        return loss_of(net(self.preprocessing.normalize(images.to(device)), crops), depths)

    @torch.inference_mode()
    def judge(self) -> dict[str, float]:
        """Mean errors on the models held back, and those of answering 0, in half sides."""
        self.net.eval()
        figures = {}
        for name, rows in self.held_back.items():
            errors = [
                self._compare(self.net, few, torch.from_numpy(self.studies.pictures[few]))[1].cpu()
                for few in np.split(rows, range(BATCH, len(rows), BATCH))
            ]
            depths = torch.from_numpy(self.studies.depths[rows]).float()
            constant = loss_of(torch.zeros(1, 2, 1, 1).expand(len(rows), -1, SIDE, SIDE), depths)[1]
            figures[f"{name}_error"] = torch.cat(errors).mean().item()
            figures[f"{name}_constant_error"] = constant.mean().item()
        return figures
