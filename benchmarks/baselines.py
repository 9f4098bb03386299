"""What a user would try instead of partloc, on the same test split: errors and time per part.

- training median: always the same answer
- nearest neighbour: the pose of the training pair whose pictures the trained encoder finds most
  alike (cosine of the class tokens of whole and part, side by side)
- template matching: OpenCV, the part's picture in 28 sizes, masked squared difference; a linear
  map from place and size to the pose, fitted on the training labels
- literal: the same encoder from random weights, plain cross-attention with positions added to
  queries and keys, mean pooling, plain L1; as many pairs as the pipeline trains on
- partloc: models/best_model.pth

    $ pip install -r benchmarks/requirements.txt
    $ python benchmarks/baselines.py    # after dvc repro; a Markdown table, metrics/baselines.json
"""

import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

try:
    import cv2
except ModuleNotFoundError:
    sys.exit("error: OpenCV is missing; pip install -r benchmarks/requirements.txt")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.config import Config, load_config  # noqa: E402
from partloc.data.dataset import PairDataset, make_loader  # noqa: E402
from partloc.data.images import load_rgb  # noqa: E402
from partloc.data.sampler import PlannedBatches, plan_epoch, plan_in_order  # noqa: E402
from partloc.data.table import PairTable  # noqa: E402
from partloc.data.transforms import Preprocessing  # noqa: E402
from partloc.distributed import (  # noqa: E402
    choose_device,
    encoder_dtype,  # noqa: E402
    seed_everything,
)
from partloc.evaluation.evaluate import answer_models, read_split  # noqa: E402
from partloc.evaluation.metrics import constant_answer, errors_of, summarize  # noqa: E402
from partloc.files import write_json  # noqa: E402
from partloc.model.attention import TokenPool, bin_centres, position_code  # noqa: E402
from partloc.model.backbone import build_backbone  # noqa: E402
from partloc.model.model_file import load_model  # noqa: E402
from partloc.pose import PartPose  # noqa: E402

FITTED_ON = 600  # training parts for template matching's map
SIZES = np.geomspace(0.06, 1.0, 28)  # of a template, in sides of the whole's picture
PICTURE_PX = 128


class Bench:
    def __init__(self, config: Config) -> None:
        self.config, self.device = config, choose_device(config.machine.device)
        output, data = Path(config.data.output_dir), Path(config.data.data_dir)
        self.train, self.test = (PairTable(read_split(output, s), data) for s in ("train", "test"))

    def batches(self, table: PairTable, preprocessing: Preprocessing, plan: list[list[int]]):
        batches = PlannedBatches(table)
        batches.set_plan(0, plan)
        limit = self.config.data.max_image_pixels
        dataset = PairDataset(table, preprocessing, limit)
        return make_loader(dataset, batches, self.config.machine.num_workers, self.device)


def training_median(bench: Bench) -> Callable[[], PartPose]:
    truth = PartPose(bench.train.translation, bench.train.scale)
    return lambda: constant_answer(truth, len(bench.test))


# -- nearest neighbour in the encoder's features ---------------------------------------------------


def nearest_neighbour(bench: Bench) -> Callable[[], PartPose]:
    model = load_model(Path("models/best_model.pth")).to(bench.device)
    precision = encoder_dtype(bench.device)

    @torch.inference_mode()
    def features(table: PairTable, name: str) -> Tensor:
        found = torch.empty(len(table), 2 * model.backbone.embed_dim)
        loader = bench.batches(table, model.preprocessing, plan_in_order(table, 8))
        for batch in tqdm(loader, f"nearest neighbour, {name}", leave=False, disable=None):
            moved = batch.to(bench.device)
            wholes, parts = (
                model.encode(each, precision).cls for each in (moved.wholes, moved.parts)
            )
            both = [F.normalize(each, dim=1) for each in (wholes[moved.whole_of_part], parts)]
            found[batch.rows] = torch.cat(both, 1)[moved.part_of_pair].cpu()
        return found

    known = features(bench.train, "training")

    def answer() -> PartPose:
        nearest = (features(bench.test, "test") @ known.T).argmax(1)
        return PartPose(bench.train.translation[nearest], bench.train.scale[nearest])

    return answer


# -- template matching -----------------------------------------------------------------------------


def template_matching(bench: Bench) -> Callable[[], PartPose]:
    chance = np.random.default_rng(bench.config.seed)
    rows = np.sort(chance.permutation(len(bench.train))[:FITTED_ON])
    places = _match(bench, bench.train, rows)
    poses = torch.cat([bench.train.translation, bench.train.scale.log()], 1).numpy()[rows]
    linear, *_ = np.linalg.lstsq(_design(places), poses, rcond=None)

    def answer() -> PartPose:
        found = _design(_match(bench, bench.test, np.arange(len(bench.test)))) @ linear
        found = torch.from_numpy(found).float()
        return PartPose(found[:, :3], found[:, 3:].exp())

    return answer


def _design(places: np.ndarray) -> np.ndarray:
    """(N, 3) right, down, log size -> (N, 4)."""
    return np.concatenate([places, np.ones((len(places), 1))], 1)


def _match(bench: Bench, table: PairTable, rows: np.ndarray) -> np.ndarray:
    """(N, 3) the best place of each row."""
    limit = bench.config.data.max_image_pixels

    def picture(path: str) -> np.ndarray:
        image = load_rgb(table.data_dir / path, limit).resize((PICTURE_PX, PICTURE_PX))
        return np.asarray(image, dtype=np.float32)

    found = np.empty((len(rows), 3))
    for i, row in enumerate(tqdm(rows, "template matching", leave=False, disable=None)):
        whole, part = picture(table.whole_paths[row]), picture(table.part_paths[row])
        ground = part[[0, 0, -1, -1], [0, -1, 0, -1]].mean(0)
        mask = (np.abs(part - ground).max(-1) > 10).astype(np.float32)
        margin = PICTURE_PX // 2
        padded = cv2.copyMakeBorder(whole, *[margin] * 4, cv2.BORDER_REPLICATE)
        best = (np.inf, 0.0, 0.0, 0.0)
        for size in SIZES:
            side = max(3, round(size * PICTURE_PX))
            small = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
            inside = (cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) > 0.5) * 1.0
            if inside.sum() < 4:
                continue
            inside = np.repeat(inside[..., None], 3, -1).astype(np.float32)
            distance = cv2.matchTemplate(padded, small, cv2.TM_SQDIFF, mask=inside)
            low, _, (x, y), _ = cv2.minMaxLoc(distance / inside.sum())
            centre = (np.array([x, y]) + side / 2 - margin) * 2 / PICTURE_PX - 1
            best = min(best, (low, *centre, math.log(side / PICTURE_PX)))
        found[i] = best[1:]
    return found


# -- plain cross-attention, mean pooling, plain L1 ------------------------------------------------


class Literal(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.heads = config.model.cross_attention_dim, config.model.cross_attention_heads
        self.backbone = build_backbone(config.model.backbone_name, config.data.image_size)
        grid = self.backbone.grid
        side = min(config.model.downsample_size, grid)
        self.pool = TokenPool(grid, side)
        self.project = nn.Linear(self.backbone.embed_dim, width)
        layers = config.model.cross_attention_layers
        self.query, self.key, self.value, self.out = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(layers)) for _ in range(4)
        )
        hidden = config.model.mlp_hidden_dim
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 4))
        self.register_buffer("position", position_code(bin_centres(grid, side), width))

    def tokens(self, images: Tensor) -> Tensor:
        return self.project(self.pool(self.backbone(images)[1]))

    def forward(self, wholes: Tensor, parts: Tensor) -> PartPose:
        part, whole = self.tokens(parts), self.tokens(wholes)

        def split(tokens: Tensor) -> Tensor:
            return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        layers = zip(self.query, self.key, self.value, self.out, strict=True)
        for query, key, value, out in layers:
            asked, answering = query(part + self.position), key(whole + self.position)
            found = F.scaled_dot_product_attention(
                split(asked), split(answering), split(value(whole))
            )
            part = part + out(found.transpose(1, 2).flatten(2))
        answer = self.head(part.mean(1))
        return PartPose(answer[:, :3], answer[:, 3:])


def literal(bench: Bench) -> Callable[[], PartPose]:
    config = bench.config
    seed_everything(config.seed)
    model, preprocessing = (
        Literal(config).to(bench.device),
        Preprocessing(config.data.image_size),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)
    plans = [
        plan_epoch(bench.train, config.train, config.seed, epoch)
        for epoch in range(config.train.num_epochs)
    ]
    steps = sum(map(len, plans))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-4, total_steps=steps)
    with tqdm(desc="literal", total=steps, unit="step", leave=False, disable=None) as bar:
        for plan in plans:
            for batch in bench.batches(bench.train, preprocessing, plan):
                moved = batch.to(bench.device)
                found = model(
                    moved.wholes[moved.whole_of_part[moved.part_of_pair]],
                    moved.parts[moved.part_of_pair],
                )
                losses = [F.l1_loss(*pair) for pair in zip(found, moved.pose, strict=True)]
                optimizer.zero_grad()
                sum(losses).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
    model.eval()

    @torch.inference_mode()
    def answer() -> PartPose:
        poses = PartPose(torch.empty(len(bench.test), 3), torch.empty(len(bench.test), 1))
        for batch in bench.batches(bench.test, preprocessing, plan_in_order(bench.test, 8)):
            moved = batch.to(bench.device)
            found = model(moved.wholes[moved.whole_of_part], moved.parts)
            for field, values in zip(poses, found, strict=True):
                field[batch.rows] = values[moved.part_of_pair].cpu()
        return PartPose(poses.translation, poses.scale.clamp(min=1e-3))

    return answer


def partloc(bench: Bench) -> Callable[[], PartPose]:
    model = load_model(Path("models/best_model.pth"))

    def answer() -> PartPose:
        poses = PartPose(torch.empty(len(bench.test), 3), torch.empty(len(bench.test), 1))
        for some in answer_models(model, bench.test, bench.config, bench.device):
            for field, values in zip(poses, some.found.pose, strict=True):
                field[some.rows] = values
        return poses

    return answer


METHODS = {
    "training median": training_median,
    "nearest neighbour": nearest_neighbour,
    "template matching": template_matching,
    "literal": literal,
    "partloc": partloc,
}


def main() -> None:
    parser = make_parser(__doc__)
    where = Path("metrics/baselines.json")
    parser.add_argument("--output", type=Path, default=where, metavar="FILE", help="the figures")
    args = parser.parse_args()
    bench = Bench(load_config(args.config))
    truth = PartPose(bench.test.translation, bench.test.scale)
    twins = bench.test.twins(range(len(bench.test)))
    results = {}
    for name, prepare in METHODS.items():
        answer = prepare(bench)
        start = time.perf_counter()
        found = answer()
        milliseconds = 1000 * (time.perf_counter() - start) / len(bench.test)
        errors = errors_of(found, truth, twins)
        results[name] = summarize(errors) | {"ms_per_part": milliseconds}
    write_json(args.output, results)
    print(f"{len(bench.test)} parts of {len(set(bench.test.models))} models; {bench.device},")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads\n")
    print(
        "| | translation, raw | to the nearest twin | median | scale, mean | median | ms a part |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, figures in results.items():
        translation, scale = figures["translation_error"], figures["scale_error"]
        near = translation["twin_aware"]
        print(
            f"| {name} | {translation['mean']:.3f} | {near['mean']:.3f} | {near['median']:.3f} | "
            f"{scale['relative_mean']:.0%} | {scale['relative_median']:.0%} | "
            f"{figures['ms_per_part']:.1f} |"
        )


if __name__ == "__main__":
    run_command(main)
