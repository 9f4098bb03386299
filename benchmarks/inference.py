"""Inference speed: start-up, a folder of models, the encoder alone.

- start-up: the process that answers one question, run from the shell, and its imports
- folder: parts per second from image files to predictions, compared with the per-pair reference
  (`benchmarks/reference.py`); once with equal parts, whose images are encoded once, and once with
  different parts only
- encoder: images per second, compared with Dinov2Model of Hugging Face's transformers, equal sizes

Both sides of a comparison have the same random weights and take turns after one warm-up round.
The settings of cross-attention and head are those of params.yaml.

    $ pip install -r benchmarks/requirements.txt
    $ python -m benchmarks.inference
    $ python -m benchmarks.inference --backbone dinov2_vitb14 --image-size 518 --output FILE
    $ python -m benchmarks.inference --data-dir data/images
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.common import (
    ROOT,
    Range,
    add_encoder_options,
    benchmark_parser,
    describe_machine,
    markdown_table,
    speedup,
    time_alternating,
)
from benchmarks.reference import reference_loader, reference_predict
from partloc.config import load_config
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import inference_dtype, seed_everything
from partloc.inference.folder import predict_jobs
from partloc.inference.jobs import ModelJob, find_jobs
from partloc.inference.predictor import IMAGES_PER_BATCH, Predictor
from partloc.model.backbone import Backbone
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.model.model_file import save_model
from partloc.synthetic.dataset import write_dataset
from partloc.system.cli import run_command
from partloc.system.files import write_json

PARTS_PER_WHOLE = 4
DEMO_MODELS, DEMO_PX = 26, 512  # larger than the encoder's images, so that decoding counts
TOLERANCE = 1e-4  # for float32, in whole-model units
# In half precision two hypotheses that are nearly as probable may change their order.
MAX_HALF_PRECISION_MISMATCH = 0.05


def compare(items: int, seconds: list[float], other_seconds: list[float]) -> dict[str, Range]:
    """Items per second of partloc and of the other implementation, and partloc's speed-up."""
    return {
        "partloc": Range.of(items / s for s in seconds),
        "other": Range.of(items / s for s in other_seconds),
        "speedup": speedup(other_seconds, seconds),
    }


# -- start-up --------------------------------------------------------------------------------------


def measure_start_up(
    args: argparse.Namespace, checkpoint: Path, data_dir: Path, job: ModelJob
) -> dict[str, Range]:
    question = [ROOT / "stages/infer.py", "--checkpoint", checkpoint, "--device", args.device]
    question += ["--whole", data_dir / job.whole, "--part", data_dir / job.parts[0][1]]
    # The same way of importing as the command's.
    imports = """
from partloc.system.cli import gc_paused
with gc_paused(): import partloc.inference.predictor
"""

    def run_python(*arguments: str | Path) -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)

    whole_seconds, import_seconds = time_alternating(
        args.rounds, partial(run_python, *question), partial(run_python, "-c", imports), warm_up=1
    )
    return {"seconds": Range.of(whole_seconds), "import_seconds": Range.of(import_seconds)}


# -- folder ----------------------------------------------------------------------------------------


def choose_jobs(jobs: list[ModelJob], data_dir: Path, count: int, distinct: bool) -> list[ModelJob]:
    """`count` models with PARTS_PER_WHOLE parts of each; distinct: parts with different images.

    Raises: ValueError if the folder has too few.
    """
    chosen = []
    for job in jobs:
        parts = list(job.parts)
        if distinct:
            contents = [(data_dir / path).read_bytes() for _, path in parts]
            parts = list(dict(zip(contents, parts, strict=True)).values())
        if len(parts) >= PARTS_PER_WHOLE:
            chosen.append(ModelJob(job.model, job.whole, parts[:PARTS_PER_WHOLE]))
    if len(chosen) < count:
        rule = f"{PARTS_PER_WHOLE} {'different ' if distinct else ''}parts"
        raise ValueError(f"{data_dir}: {len(chosen)} models have {rule}, --models asks for {count}")
    return chosen[:count]


def table_of_jobs(jobs: list[ModelJob], data_dir: Path) -> PairTable:
    """The parts of the jobs as a table, with placeholders for labels and checksums."""
    rows = [(job.model, job.whole, path) for job in jobs for _, path in job.parts]
    table = pd.DataFrame(rows, columns=["model", "whole_path", "part_path"])
    for name in ("whole", "part"):
        paths = table[f"{name}_path"].str.encode("utf-8")
        table[f"{name}_sha256"] = [hashlib.sha256(path).hexdigest() for path in paths]
    placeholders = dict.fromkeys(("tx", "ty", "tz", "scale"), 0.0)
    return PairTable(table.assign(twin_group=table.part_path, **placeholders), data_dir)


def measure_folder(
    rounds: int, predictor: Predictor, data_dir: Path, jobs: list[ModelJob]
) -> dict[str, Any]:
    """Raises: ValueError if the predictions differ from the reference."""
    table, model = table_of_jobs(jobs, data_dir), predictor.model
    precision = inference_dtype(predictor.device)

    def predict() -> Tensor:
        """(P, 4): the most probable hypothesis of each part, without assigning equal parts."""
        outcomes = predict_jobs(predictor, jobs, data_dir, show_progress=False)
        parts = (part for outcome in outcomes for part in outcome.predictions)
        best = (part.result.sorted_hypotheses()[0] for part in parts)
        return torch.tensor([[*pose.translation, pose.scale] for pose in best])

    @torch.inference_mode()
    def predict_per_pair() -> Tensor:
        rows = list(range(len(table)))
        poses = []
        loader = reference_loader(table, model.preprocessing, rows, IMAGES_PER_BATCH)
        for wholes, parts, _ in loader:
            wholes, parts = wholes.to(predictor.device), parts.to(predictor.device)
            pose = reference_predict(model, wholes, parts, precision=precision).pose
            poses.append(torch.cat(pose, 1).cpu())
        return torch.cat(poses)

    differences = (predict() - predict_per_pair()).abs().amax(1)  # (P,)
    mismatch = (differences > TOLERANCE).double().mean().item()
    if mismatch > (0.0 if precision is None else MAX_HALF_PRECISION_MISMATCH):
        raise ValueError(f"{mismatch:.0%} of the predictions differ, up to {differences.max():.2g}")
    seconds, per_pair_seconds = time_alternating(rounds, predict, predict_per_pair, warm_up=1)
    return compare(len(table), seconds, per_pair_seconds) | {
        "largest_difference": differences.max().item()
    }


# -- encoder ---------------------------------------------------------------------------------------


def make_transformers_encoder(backbone: Backbone) -> nn.Module:
    """The implementation of transformers in the same sizes, random weights.

    Raises: ValueError if transformers is not installed.
    """
    try:
        from transformers import Dinov2Config, Dinov2Model
    except ImportError:
        cure = "pip install -r benchmarks/requirements.txt, or give --skip-encoder"
        raise ValueError(f"transformers is not installed: {cure}") from None
    block: Any = backbone.vit.blocks[0]
    return Dinov2Model(
        Dinov2Config(
            hidden_size=backbone.embed_dim,
            num_hidden_layers=backbone.num_blocks,
            num_attention_heads=block.attn.num_heads,
            mlp_ratio=block.mlp.fc1.out_features // backbone.embed_dim,
            patch_size=backbone.vit.patch_embed.patch_size[0],
            image_size=backbone.image_size,
        )
    ).eval()


def measure_encoder(rounds: int, backbone: Backbone, device: torch.device) -> dict[str, Range]:
    """Both sides in float32."""
    other = make_transformers_encoder(backbone).to(device)
    side = backbone.image_size
    images = torch.rand(IMAGES_PER_BATCH, 3, side, side, device=device)

    @torch.inference_mode()
    def encode() -> torch.Size:
        return backbone(images)[1].cpu().shape  # the copy waits for the device

    @torch.inference_mode()
    def encode_with_transformers() -> torch.Size:
        return other(pixel_values=images).last_hidden_state[:, 1:].cpu().shape

    assert encode() == encode_with_transformers()
    return compare(
        len(images), *time_alternating(rounds, encode, encode_with_transformers, warm_up=1)
    )


# --------------------------------------------------------------------------------------------------


def make_model(args: argparse.Namespace) -> PartLocator:
    """An untrained model whose predictions differ from image to image."""
    seed_everything(0)
    changes = {"backbone_name": args.backbone, "pretrained": False, "weights": None}
    config = load_config(args.config).model.model_copy(update=changes)
    model = build_locator(config, Preprocessing(args.image_size))
    nn.init.normal_(model.pose_head.output.weight, std=0.3)
    return model


def measure(args: argparse.Namespace, scratch: Path) -> tuple[dict[str, Any], torch.device]:
    checkpoint, data_dir = scratch / "model.pth", args.data_dir or scratch / "demo"
    if not args.data_dir:
        write_dataset(data_dir, DEMO_MODELS, DEMO_PX, seed=0, workers=0)
    save_model(checkpoint, make_model(args), {})
    predictor, jobs = Predictor(checkpoint, args.device), find_jobs(data_dir)
    results: dict[str, Any] = {}
    if not args.skip_encoder:
        backbone = predictor.model.encoder.backbone
        results["encoder"] = measure_encoder(args.rounds, backbone, predictor.device)
    for name, distinct in (("folder", False), ("folder_distinct_parts", True)):
        chosen = choose_jobs(jobs, data_dir, args.models, distinct)
        results[name] = measure_folder(args.rounds, predictor, data_dir, chosen)
    results["start_up"] = measure_start_up(args, checkpoint, data_dir, chosen[0])
    return results, predictor.device


def report(results: dict[str, Any]) -> str:
    rows = []
    for label, name in (
        (f"folder, {PARTS_PER_WHOLE} parts per whole, parts/s; reference", "folder"),
        ("folder, different parts only, parts/s; reference", "folder_distinct_parts"),
        ("encoder alone, images/s; transformers", "encoder"),
    ):
        if name in results:
            rows.append([label, *(results[name][key] for key in ("partloc", "other", "speedup"))])
    start_up = results["start_up"]
    rows.append(["start-up and one prediction, s", start_up["seconds"], "", ""])
    rows.append(["of which imports, s", start_up["import_seconds"], "", ""])
    return markdown_table(["", "partloc", "other", "speed-up"], rows)


def main() -> None:
    parser = benchmark_parser(__doc__, ROOT / "params.yaml")
    add = parser.add_argument
    add_encoder_options(parser, "dinov2_vits14", 224)
    add("--data-dir", type=Path, metavar="DIR", help="images; rendered if not given")
    add("--models", type=int, default=6, metavar="N", help="number of wholes; default 6")
    add("--rounds", type=int, default=3, metavar="N", help="default 3")
    add("--device", default="auto")
    add("--skip-encoder", action="store_true", help="do without transformers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results, device = measure(args, Path(scratch))
    machine = {
        "machine": describe_machine(device),
        "encoder_precision": str(inference_dtype(device) or torch.float32).removeprefix("torch."),
    }
    setting = {name: getattr(args, name) for name in ("backbone", "image_size", "models")}
    if args.output:
        values = {
            name: {key: v._asdict() if isinstance(v, Range) else v for key, v in group.items()}
            for name, group in results.items()
        }
        write_json(args.output, {**machine, "setting": setting, **values})
    print(", ".join(str(value) for value in (machine | setting).values()))
    print(f"medians of {args.rounds} rounds, ranges in brackets\n")
    print(report(results))


if __name__ == "__main__":
    run_command(main)
