"""Errors and time per part of simple alternatives to partloc, on the same test split.

- training median: the same pose for every part
- nearest neighbour: the pose of the training pair whose images are most similar, by the cosine of
  the trained encoder's class tokens of whole and part, concatenated
- template matching: OpenCV, the part's image in 28 sizes, masked squared difference; a linear map
  from image position and size to the pose, fitted to training labels
- direct regression: `benchmarks/regression_baseline.py`, trained on as many pairs as partloc
- partloc: models/best_model.pth

    $ pip install -r benchmarks/requirements.txt
    $ python -m benchmarks.baselines    # after dvc repro; a Markdown table, metrics/baselines.json
"""

import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.common import describe_machine
from benchmarks.metric_tables import baselines_table
from benchmarks.regression_baseline import RegressionNet, predict_regression, train_regression
from partloc.config import Config, load_config
from partloc.data.background import load_image
from partloc.data.dataset import Batch, PairDataset, make_loader
from partloc.data.sampler import PlannedBatchSampler, plan_epoch, plan_sequential
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import choose_device, inference_dtype, seed_everything
from partloc.evaluation.evaluate import read_split
from partloc.evaluation.metrics import median_pose, pose_errors, summarize
from partloc.inference.predictor import Predictor
from partloc.inference.table_predictor import predict_table
from partloc.model.model_file import load_model
from partloc.pose import PartPose
from partloc.system.cli import make_parser, run_command
from partloc.system.files import write_json

try:
    import cv2
except ModuleNotFoundError:
    sys.exit("error: OpenCV is missing; pip install -r benchmarks/requirements.txt")

MODEL_FILE = Path("models/best_model.pth")
PAIRS_PER_BATCH = 8
NUM_FITTED_PARTS = 600  # training parts to which template matching's linear map is fitted
TEMPLATE_SIZES = np.geomspace(0.06, 1.0, 28)  # relative to the side of the whole's image
TEMPLATE_IMAGE_PX = 128
BACKGROUND_TOLERANCE = 10  # of 255

# Predicts the poses of the test split.
PredictSplit = Callable[[], PartPose]


class Splits:
    """The training and the test split, and the settings to read them with."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, choose_device(config.machine.device)
        output, data = Path(config.data.output_dir), Path(config.data.data_dir)
        self.train, self.test = (PairTable(read_split(output, s), data) for s in ("train", "test"))

    def load(
        self, table: PairTable, preprocessing: Preprocessing, plan: list[list[int]]
    ) -> Iterable[Batch]:
        batches = PlannedBatchSampler(table)
        batches.set_plan(0, plan)
        dataset = PairDataset(table, preprocessing, self.config.data.max_image_pixels)
        return make_loader(dataset, batches, self.config.machine.num_workers, self.device)

    def load_in_order(self, table: PairTable, preprocessing: Preprocessing) -> Iterable[Batch]:
        return self.load(table, preprocessing, plan_sequential(table, PAIRS_PER_BATCH))


def training_median(splits: Splits) -> PredictSplit:
    labels = PartPose(splits.train.translation, splits.train.scale)
    median = median_pose(labels)
    return lambda: PartPose(*(field.expand(len(splits.test), -1) for field in median))


def partloc(splits: Splits) -> PredictSplit:
    max_pixels = splits.config.data.max_image_pixels
    predictor = Predictor(MODEL_FILE, str(splits.device), max_pixels)

    def predict() -> PartPose:
        translation, scale = torch.empty(len(splits.test), 3), torch.empty(len(splits.test), 1)
        for chunk in predict_table(predictor, splits.test):
            pose = chunk.hypotheses.best_pose
            translation[chunk.rows], scale[chunk.rows] = pose.translation, pose.scale
        return PartPose(translation, scale)

    return predict


# -- nearest neighbour in the encoder's features ---------------------------------------------------


def nearest_neighbour(splits: Splits) -> PredictSplit:
    model = load_model(MODEL_FILE).to(splits.device)
    dtype = inference_dtype(splits.device)

    @torch.inference_mode()
    def compute_features(table: PairTable) -> Tensor:
        """(N, 2D)"""
        features = torch.empty(len(table), 2 * model.encoder.backbone.embed_dim)
        loader = splits.load_in_order(table, model.preprocessing)
        for batch in tqdm(loader, "nearest neighbour", leave=False, disable=None):
            moved = batch.to(splits.device)
            wholes, parts = (
                F.normalize(model.encode(images, dtype).tokens.mean(1), dim=1)
                for images in (moved.wholes, moved.parts)
            )
            pairs = torch.cat([wholes[moved.whole_of_part], parts], 1)
            features[batch.rows] = pairs[moved.part_of_pair].cpu()
        return features

    train_features = compute_features(splits.train)

    def predict() -> PartPose:
        nearest = (compute_features(splits.test) @ train_features.T).argmax(1)
        return PartPose(splits.train.translation[nearest], splits.train.scale[nearest])

    return predict


# -- template matching -----------------------------------------------------------------------------


def template_matching(splits: Splits) -> PredictSplit:
    rng = np.random.default_rng(splits.config.seed)
    rows = np.sort(rng.permutation(len(splits.train))[:NUM_FITTED_PARTS])
    positions = match_templates(splits, splits.train, rows)
    poses = torch.cat([splits.train.translation, splits.train.scale.log()], 1).numpy()[rows]
    linear_map, *_ = np.linalg.lstsq(_add_constant(positions), poses, rcond=None)

    def predict() -> PartPose:
        positions = match_templates(splits, splits.test, np.arange(len(splits.test)))
        poses = torch.from_numpy(_add_constant(positions) @ linear_map).float()
        return PartPose(poses[:, :3], poses[:, 3:].exp())

    return predict


def _add_constant(positions: np.ndarray) -> np.ndarray:
    """(N, 3) -> (N, 4)."""
    return np.concatenate([positions, np.ones((len(positions), 1))], 1)


def match_templates(splits: Splits, table: PairTable, rows: np.ndarray) -> np.ndarray:
    """The best image position of each row, (N, 3): right and down in half sides, log size."""
    max_pixels = splits.config.data.max_image_pixels

    def read(path: str) -> np.ndarray:
        image = load_image(table.data_dir / path, max_pixels)
        return np.asarray(image.resize((TEMPLATE_IMAGE_PX, TEMPLATE_IMAGE_PX)), dtype=np.float32)

    return np.array(
        [
            match_template(read(table.whole_paths[row]), read(table.part_paths[row]))
            for row in tqdm(rows, "template matching", leave=False, disable=None)
        ]
    )


def match_template(whole: np.ndarray, part: np.ndarray) -> tuple[float, float, float]:
    """The best image position of one part. Both images (S, S, 3) float32."""
    background = part[[0, 0, -1, -1], [0, -1, 0, -1]].mean(0)
    mask = (np.abs(part - background).max(-1) > BACKGROUND_TOLERANCE).astype(np.float32)
    margin = TEMPLATE_IMAGE_PX // 2
    padded = cv2.copyMakeBorder(whole, *[margin] * 4, cv2.BORDER_REPLICATE)
    best = (np.inf, 0.0, 0.0, 0.0)
    for size in TEMPLATE_SIZES:
        side = max(3, round(size * TEMPLATE_IMAGE_PX))
        template = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
        inside = (cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) > 0.5) * 1.0
        if inside.sum() < 4:
            continue
        weights = np.repeat(inside[..., None], 3, -1).astype(np.float32)
        distance = cv2.matchTemplate(padded, template, cv2.TM_SQDIFF, mask=weights)
        lowest, _, corner, _ = cv2.minMaxLoc(distance / weights.sum())
        center = (np.array(corner) + side / 2 - margin) * 2 / TEMPLATE_IMAGE_PX - 1
        best = min(best, (lowest, *center, math.log(side / TEMPLATE_IMAGE_PX)))
    return best[1:]


# -- direct regression -----------------------------------------------------------------------------


def direct_regression(splits: Splits) -> PredictSplit:
    config = splits.config
    seed_everything(config.seed)
    model = RegressionNet(config).to(splits.device)
    preprocessing = Preprocessing(config.data.image_size)
    plans = [
        plan_epoch(splits.train, config.train, config.seed, epoch)
        for epoch in range(config.train.num_epochs)
    ]
    epochs = (splits.load(splits.train, preprocessing, plan) for plan in plans)
    train_regression(model, epochs, sum(map(len, plans)), splits.device)

    def predict() -> PartPose:
        batches = splits.load_in_order(splits.test, preprocessing)
        return predict_regression(model, batches, len(splits.test), splits.device)

    return predict


METHODS: dict[str, Callable[[Splits], PredictSplit]] = {
    "training median": training_median,
    "nearest neighbour": nearest_neighbour,
    "template matching": template_matching,
    "direct regression": direct_regression,
    "partloc": partloc,
}


def measure(splits: Splits) -> dict[str, dict]:
    """Metrics and time of each method. Training and fitting are not timed."""
    labels = PartPose(splits.test.translation, splits.test.scale)
    twins = splits.test.twin_poses(range(len(splits.test)))
    results = {}
    for name, prepare in METHODS.items():
        predict = prepare(splits)
        start = time.perf_counter()
        predicted = predict()
        milliseconds = 1000 * (time.perf_counter() - start) / len(splits.test)
        metrics = summarize(pose_errors(predicted, labels, twins))
        results[name] = metrics | {"ms_per_part": milliseconds}
    return results


def main() -> None:
    parser = make_parser(__doc__)
    default = Path("metrics/baselines.json")
    parser.add_argument("--output", type=Path, default=default, metavar="FILE", help="the metrics")
    args = parser.parse_args()
    splits = Splits(load_config(args.config))
    results = measure(splits)
    write_json(args.output, results)
    num_models = len(set(splits.test.models))
    print(f"{len(splits.test)} parts of {num_models} models; {describe_machine(splits.device)}\n")
    print(baselines_table(results))


if __name__ == "__main__":
    run_command(main)
