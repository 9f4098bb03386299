"""A small dataset with its split tables, and configurations that train on it within seconds."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from folders import IMAGE_SIZE_PX, part_kind, write_label
from PIL import Image, ImageOps

from partloc.config import Config, DataConfig, ModelConfig
from partloc.data.index import build_index
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import DistributedContext
from partloc.model.build import build_locator
from partloc.model.camera import PinholeCamera
from partloc.model.locator import PartLocator
from partloc.model.prediction import Prediction
from partloc.model.proposals import ProposalLocator
from partloc.pose import PartPose
from partloc.system.files import write_table
from partloc.training import run
from partloc.training.losses import LossTerms
from partloc.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]  # of the checkout

TRAIN_MODELS = {  # eight parts without twins, as many as a camera can be fitted to
    "chair": ["seat", "back", "leg-1", "leg-2"],
    "desk": ["top", "leg-1", "leg-2", "leg-3", "drawer"],
    "lamp": ["foot", "shade", "arm", "bulb"],
}
PARTS = [f"part-{number}" for number in range(10)]  # more than one batch
UNLABELLED_MODELS = {"stühle-1.5": PARTS, "lamp": ["foot"]}
VAL_MODELS = {"stool": ["seat", "leg-1", "leg-2"]}
# The camera of these models.
CAMERA = PinholeCamera(
    slope=1.6 * torch.tensor([[0.8, 0.6, 0.0], [0.36, -0.48, -0.8]]),
    offset=torch.tensor([0.05, -0.05]),
    inverse_distance=torch.tensor(0.3),
    inlier_fraction=1.0,
)

SINGLE_PROCESS = DistributedContext(0, 1, torch.device("cpu"))
# Runs the command that follows in two processes.
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

TINY_CONFIG = {
    "data": {"image_size": 28, "read_size": 36},
    "model": {
        "backbone_name": "dinov2_vitt14",
        "pretrained": False,
        "start_from": None,
        "downsample_size": 2,
        "cross_attention_layers": 1,
        "cross_attention_dim": 24,
        "mlp_hidden_dim": 16,
        "match_size": 12,
        "hypotheses": 4,
        "dropout": 0.0,
    },
    "train": {
        "batch_size": 4,
        "num_epochs": 2,
        "warmup_epochs": 0.5,
        "crop_jitter": 0.0,
        "backbone_lr_factor": 1.0,
        "use_gradient_checkpointing": False,
    },
    "machine": {"device": "cpu", "num_workers": 0},
}


def tiny_config(**groups: dict) -> Config:
    """Return TINY_CONFIG with changed keys, e.g. tiny_config(train={"num_epochs": 3})."""
    names = {*TINY_CONFIG, *groups}
    merged = {name: TINY_CONFIG.get(name, {}) | groups.get(name, {}) for name in names}
    return Config.model_validate(merged)


def write_split(root: Path) -> Path:
    """Write `root`/images and `root`/outputs/split/{train,val}.csv; return the split's folder."""
    images, split = root / "images", root / "outputs" / "split"
    for model, parts in (TRAIN_MODELS | VAL_MODELS).items():
        write_model_in_view(images, model, parts)
    manifest = build_index(DataConfig(data_dir=str(images))).manifest
    for name, models in (("train", TRAIN_MODELS), ("val", VAL_MODELS)):
        write_table(split / f"{name}.csv", manifest[manifest.model.isin(list(models))])
    return split


def write_model_in_view(root: Path, model: str, parts: list[str]) -> None:
    """Write a model whose whole shows the parts at their poses, as CAMERA sees them."""
    folder = root / model
    folder.mkdir(parents=True)
    rng = np.random.default_rng(list(model.encode()))
    # In camera axes: distinct cells of a 3 x 3 grid, at random depths; whole-model units.
    right, down = np.divmod(rng.permutation(9)[: len(parts)], 3)
    depth = rng.uniform(-0.15, 0.15, len(parts))
    coordinates = np.stack([0.3 * (right - 1), 0.3 * (down - 1), depth], 1)
    translations = torch.from_numpy(coordinates).float() @ CAMERA.axes
    whole = Image.new("RGB", (IMAGE_SIZE_PX,) * 2, "white")
    for number in np.argsort(-depth):  # far to near
        part, translation = parts[number], translations[number]
        image, scale = make_patches(f"{model}/{part_kind(part)}"), 0.3 + 0.02 * number
        image.save(folder / f"{model}-{part}.png")
        label = {"translation": translation.tolist(), "scale": [scale] * 3}
        write_label(folder, part, label | {"rotation": [1, 0, 0, 0]})
        paste_part(whole, image, PartPose(translation, torch.tensor([scale])))
    whole.save(folder / f"{model}-whole.png")


def make_patches(kind: str) -> Image.Image:
    """A square of coloured patches on white; their colours follow from `kind`."""
    colors = np.random.default_rng(list(kind.encode())).integers(0, 200, (3, 3, 3), np.uint8)
    pixels = np.kron(colors, np.ones((IMAGE_SIZE_PX // 4, IMAGE_SIZE_PX // 4, 1), np.uint8))
    return ImageOps.expand(Image.fromarray(pixels), IMAGE_SIZE_PX // 8, "white")


def paste_part(whole: Image.Image, part: Image.Image, pose: PartPose) -> None:
    """Paste a part into the whole at its position and size in the view of CAMERA."""
    right, down, log_size = CAMERA.project(pose).tolist()
    side = round(math.exp(log_size) * whole.width)
    small = part.resize((side, side), Image.Resampling.BOX)
    corner = tuple(round((value + 1) / 2 * whole.width - side / 2) for value in (right, down))
    whole.paste(small, corner, mask=small.convert("L").point(lambda gray: 255 * (gray < 230)))


def write_params(root: Path, config: Config) -> Path:
    """Write `root`/params.yaml (JSON is valid YAML) with the folders of `write_split`."""
    values = config.model_dump()
    values["data"] |= {"data_dir": "images", "output_dir": "outputs"}
    path = root / "params.yaml"
    path.write_text(json.dumps(values, indent=1))
    return path


def make_table(counts: dict[str, int], data_dir: Path = Path(".")) -> PairTable:
    """Make a table without image files: counts[model] samples per model, no twins."""
    columns = ["model", "whole_path", "part_path", "part_sha256", "tx", "ty", "tz", "scale"]
    rows = [
        (
            model,
            f"{model}/whole.png",
            f"{model}/{n}.png",
            str(n),
            *(0.1 * n, 0.0, -0.1, 0.2 + 0.1 * n),
        )
        for model, count in counts.items()
        for n in range(count)
    ]
    table = pd.DataFrame(rows, columns=columns)
    derived = {"twin_group": table.part_sha256, "whole_sha256": table.model}
    return PairTable(table.assign(**derived), data_dir)


def index_table(data_dir: Path) -> PairTable:
    """Index a data folder and return all its samples."""
    manifest = build_index(DataConfig(data_dir=str(data_dir)), workers=0).manifest
    numbers = ["tx", "ty", "tz", "scale"]
    return PairTable(manifest.astype(dict.fromkeys(numbers, float)), data_dir)


def make_trainer(config: Config, train: PairTable, val: PairTable) -> Trainer:
    """Make the trainer of the train stage, for one process on the CPU."""
    return run.make_trainer(config, SINGLE_PROCESS, (train, val), None)


def assert_every_term_is_used(metrics: dict[str, float], prefix: str = "") -> None:
    """Assert that no term of the loss is zero, as some are without a camera."""
    for name in LossTerms._fields:
        assert metrics[prefix + name] != 0, name


def run_python(root: Path, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Run the interpreter in the project folder `root`, on one thread, with captured output."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=os.environ | {"DVC_ROOT": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def single_hypothesis(pose: PartPose) -> Prediction:
    """Return predictions whose only hypothesis is `pose`, (B, 3) and (B, 1), of logit 0."""
    zeros = torch.zeros(len(pose.scale), 1)
    return Prediction(PartPose(*(field[:, None] for field in pose)), zeros, zeros)


def randomize_output_layers(model: PartLocator, std: float = 0.3) -> None:
    """Randomise the layers that are initialised with zeros.

    With these, all images have the same prediction, and no gradient passes.
    """
    for layer in (model.pose_head.output, model.confidence_head.linear):
        torch.nn.init.normal_(layer.weight, std=std)
    if isinstance(model, ProposalLocator):
        torch.nn.init.eye_(model.position_decoder.lift.weight)


def set_constant_confidence(model: PartLocator, logit: float) -> None:
    """Make the confidence logit of every hypothesis `logit`."""
    torch.nn.init.zeros_(model.confidence_head.linear.weight)
    torch.nn.init.constant_(model.confidence_head.linear.bias, logit)


def make_small_model(**changes) -> PartLocator:
    """Make an untrained network for 56-pixel images, 4 x 4 patches, in evaluation mode.

    changes: keys of ModelConfig.
    """
    torch.manual_seed(0)
    settings = {
        "backbone_name": "dinov2_vitt14",
        "pretrained": False,
        "start_from": None,
        "downsample_size": 4,
        "cross_attention_layers": 1,
        "cross_attention_dim": 48,
        "mlp_hidden_dim": 32,
        "match_size": 8,
        "hypotheses": 3,
        "dropout": 0.0,
    }
    return build_locator(ModelConfig(**settings | changes), Preprocessing(56)).eval()


def make_untrained_model() -> PartLocator:
    """Make an untrained network of many hypotheses, whose predictions differ by image."""
    model = make_small_model(match_size=48, hypotheses=16)
    randomize_output_layers(model)
    with torch.no_grad():
        # With larger weights the predictions are clamped to the whole's bounding box.
        model.position_decoder.lift.weight.mul_(0.15)
    return model


def noise_image(seed: int, size: tuple[int, int] = (60, 50)) -> Image.Image:
    """Return an image of random colour patches; size: width, height."""
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


def write_unlabelled_images(root: Path) -> Path:
    """Write UNLABELLED_MODELS, two models without labels; the name of one is not ASCII."""
    for number, (model, parts) in enumerate(UNLABELLED_MODELS.items()):
        (root / model).mkdir(parents=True)
        for i, part in enumerate(["whole", *parts]):
            noise_image(100 * number + i).save(root / model / f"{model}-{part}.png")
    return root
