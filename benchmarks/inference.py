"""How fast answers come: start-up, a folder against the literal reading, the encoder alone.

- start-up: the process that answers one question, from the shell, and the imports in it
- folder: parts a second from files to answers, beside benchmarks/literal.py, which decodes and
  encodes both pictures of every pair; once with the parts as they come, of which equal ones are
  encoded once, and once with different ones only
- encoder: images a second, beside Dinov2Model of HuggingFace's transformers in the same sizes

Random weights, the same for both of a pair; they take turns (A B A B ...), after one turn that does
not count. Fusion and head are those of params.yaml.

    $ pip install -r benchmarks/requirements.txt
    $ python benchmarks/inference.py                 # prints a Markdown table
    $ python benchmarks/inference.py --backbone dinov2_vitb14 --image-size 518 --output figures.json
    $ python benchmarks/inference.py --data-dir data/images
"""

import argparse
import hashlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from literal import answer, literal_loader  # noqa: E402

from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.config import load_config  # noqa: E402
from partloc.data.table import PairTable  # noqa: E402
from partloc.data.transforms import Preprocessing  # noqa: E402
from partloc.distributed import (
    encoder_dtype,  # noqa: E402
    seed_everything,  # noqa: E402
)
from partloc.files import write_json  # noqa: E402
from partloc.inference.folder import Job, find_jobs, predict_jobs  # noqa: E402
from partloc.inference.predictor import PICTURES_PER_BATCH, Predictor  # noqa: E402
from partloc.model.backbone import Backbone  # noqa: E402
from partloc.model.locator import PartLocator  # noqa: E402
from partloc.model.model_file import save_model  # noqa: E402
from partloc.synthetic.dataset import write_demo  # noqa: E402

PARTS_PER_WHOLE = 4
DEMO_MODELS, DEMO_PX = 26, 512  # as large as pictures are rendered, for the decoder's sake
TOLERANCE = 1e-4  # of float32, in the answers' units


class Spread(NamedTuple):
    """Of one figure's repetitions."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def alternating(repeats: int, *runs: Callable[[], object]) -> list[list[float]]:
    """Seconds of each run's repetitions; the first turn, which warms up, does not count."""
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for taken, run in zip(seconds, runs, strict=True):
            start = time.perf_counter()
            run()
            if turn:
                taken.append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def compared(count: int, ours: list[float], theirs: list[float]) -> dict[str, Spread]:
    """Things a second of both, and how many times faster ours is, turn by turn."""
    return {
        "ours": spread([count / seconds for seconds in ours]),
        "theirs": spread([count / seconds for seconds in theirs]),
        "ratio": spread([b / a for a, b in zip(ours, theirs, strict=True)]),
    }


# -- start-up --------------------------------------------------------------------------------------


def start_up(args: argparse.Namespace, checkpoint: Path, data_dir: Path, job: Job) -> dict:
    question = [str(ROOT / "stages/infer.py"), "--checkpoint", checkpoint, "--device", args.device]
    question += ["--whole", data_dir / job.whole, "--part", data_dir / job.parts[0][1]]

    def python(*arguments: str | Path) -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)

    # As the script does it.
    imports = "from partloc.cli import loading\nwith loading(): import partloc.inference.predictor"
    whole, imports = alternating(
        args.repeats, lambda: python(*question), lambda: python("-c", imports)
    )
    share = spread([b / a for a, b in zip(whole, imports, strict=True)])
    return {"seconds": spread(whole), "imports": spread(imports), "imports_share": share}


# -- a folder --------------------------------------------------------------------------------------


def choose(jobs: list[Job], data_dir: Path, count: int, different: bool) -> list[Job]:
    """`count` models with so many parts of each. Raises: ValueError if there are too few."""
    chosen = []
    for job in jobs:
        parts = list(job.parts)
        if different:
            shown = {hashlib.sha256((data_dir / path).read_bytes()).digest(): (part, path)
                     for part, path in parts}  # fmt: skip
            parts = list(shown.values())
        if len(parts) >= PARTS_PER_WHOLE:
            chosen.append(Job(job.model, job.whole, parts[:PARTS_PER_WHOLE]))
    if len(chosen) < count:
        rule = f"{PARTS_PER_WHOLE} {'different ' if different else ''}parts"
        raise ValueError(f"{data_dir}: {len(chosen)} models have {rule}, --models asks for {count}")
    return chosen[:count]


def pairs_of(jobs: list[Job], data_dir: Path) -> PairTable:
    """The same parts as a table; labels are not looked at."""
    rows = [(job.model, job.whole, path) for job in jobs for _, path in job.parts]
    table = pd.DataFrame(rows, columns=["model", "whole_path", "part_path"])
    unknown = dict.fromkeys(("tx", "ty", "tz", "scale"), 0.0)
    for name in ("whole", "part"):  # stand-ins: every file counts as another picture
        names = table[f"{name}_path"].str.encode("utf-8")
        table[f"{name}_sha256"] = [hashlib.sha256(each).hexdigest() for each in names]
    table = table.assign(twin_group=table.part_path, **unknown)
    return PairTable(table, data_dir)


def folder(args: argparse.Namespace, predictor: Predictor, data_dir: Path, jobs: list[Job]) -> dict:
    table, model = pairs_of(jobs, data_dir), predictor.model
    precision = encoder_dtype(predictor.device)

    def ours() -> torch.Tensor:
        """(P, 4): the place that is the most probable for each part alone."""
        outcomes = predict_jobs(predictor, jobs, data_dir, bar=False)
        return torch.tensor([a.found.hypotheses[0].pose for o in outcomes for a in o.answers])

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        rows = list(range(len(table)))
        poses = []
        for *pictures, _ in literal_loader(table, model.preprocessing, rows, PICTURES_PER_BATCH):
            moved = (of.to(predictor.device) for of in pictures)
            poses.append(torch.cat(answer(model, *moved, precision=precision).pose, 1).cpu())
        return torch.cat(poses)

    difference = (ours() - theirs()).abs().amax(1)  # (P,)
    # In half precision two places that are nearly as probable may change their order.
    off = (difference > TOLERANCE).double().mean().item()
    allowed = 0.0 if precision is None else 0.05
    assert off <= allowed, f"{off:.0%} of the answers differ, by up to {difference.max():.2g}"
    figures = compared(len(table), *alternating(args.repeats, ours, theirs))
    return figures | {"largest_difference": difference.max().item()}


# -- the encoder alone -----------------------------------------------------------------------------


def other_encoder(backbone: Backbone) -> nn.Module:
    """transformers' implementation in the same sizes, random weights.

    Raises: ValueError if it is not installed.
    """
    try:
        from transformers import Dinov2Config, Dinov2Model
    except ImportError:
        cure = "pip install -r benchmarks/requirements.txt, or give --skip-encoder"
        raise ValueError(f"transformers is not installed: {cure}") from None
    block = backbone.vit.blocks[0]
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


def encoder(args: argparse.Namespace, model: PartLocator, device: torch.device) -> dict:
    """float32 on both sides."""
    backbone, other = model.backbone, other_encoder(model.backbone).to(device)
    side = backbone.image_size
    images = torch.rand(PICTURES_PER_BATCH, 3, side, side, device=device)

    @torch.inference_mode()
    def ours() -> torch.Size:
        return backbone(images)[1].cpu().shape  # the copy waits for the device

    @torch.inference_mode()
    def theirs() -> torch.Size:
        return other(pixel_values=images).last_hidden_state[:, 1:].cpu().shape

    assert ours() == theirs()
    return compared(len(images), *alternating(args.repeats, ours, theirs))


# --------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, ROOT / "params.yaml")
    add = parser.add_argument
    add("--backbone", default="dinov2_vits14", help="of those without registers")
    add("--image-size", type=int, default=224, metavar="PX", help="a multiple of 14")
    add("--data-dir", type=Path, metavar="DIR", help="pictures; drawn if not given")
    add("--models", type=int, default=6, metavar="N", help="wholes in the folder")
    add("--repeats", type=int, default=3, metavar="N")
    add("--device", default="auto")
    add("--skip-encoder", action="store_true", help="without transformers")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    return parser.parse_args()


def untrained(args: argparse.Namespace) -> PartLocator:
    """Its answers differ from picture to picture."""
    seed_everything(0)
    changes = {"backbone_name": args.backbone, "pretrained": False, "weights": None}
    config = load_config(args.config).model.model_copy(update=changes)
    model = PartLocator(config, Preprocessing(args.image_size))
    nn.init.normal_(model.head[-1].weight, std=0.3)
    return model


def measure(args: argparse.Namespace, scratch: Path) -> tuple[dict, torch.device]:
    checkpoint, data_dir = scratch / "model.pth", args.data_dir or scratch / "demo"
    if not args.data_dir:
        write_demo(data_dir, DEMO_MODELS, DEMO_PX, seed=0, workers=0)
    save_model(checkpoint, untrained(args), {})
    predictor, jobs = Predictor(checkpoint, args.device), find_jobs(data_dir)
    figures = {}
    if not args.skip_encoder:
        figures["encoder"] = encoder(args, predictor.model, predictor.device)
    for name, different in (("folder", False), ("folder_all_different", True)):
        chosen = choose(jobs, data_dir, args.models, different)
        figures[name] = folder(args, predictor, data_dir, chosen)
    figures["start_up"] = start_up(args, checkpoint, data_dir, chosen[0])
    return figures, predictor.device


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as scratch:
        figures, device = measure(args, Path(scratch))
    machine = {
        "machine": platform.machine(),
        "device": str(device),
        "cores": torch.cpu.get_capabilities().get("num_physical_cores", 0),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "encoder_precision": str(encoder_dtype(device) or torch.float32).removeprefix("torch."),
    }
    asked = {"backbone": args.backbone, "image_size": args.image_size, "models": args.models}
    if args.output:
        plain = {
            name: {key: v._asdict() if isinstance(v, Spread) else v for key, v in group.items()}
            for name, group in figures.items()
        }
        write_json(args.output, {"machine": machine, "asked": asked, **plain})
    print(", ".join(f"{key} {value}" for key, value in {**machine, **asked}.items()))
    print(f"medians of {args.repeats} turns, in brackets their range\n")
    print("| | partloc | the other | times |\n|---|---|---|---|")
    for label, name in (
        (f"folder, {PARTS_PER_WHOLE} parts a whole, parts/s; literal", "folder"),
        ("... all of them different", "folder_all_different"),
        ("encoder alone, images/s; transformers", "encoder"),
    ):
        if name in figures:
            found = figures[name]
            print(f"| {label} | {found['ours']} | {found['theirs']} | {found['ratio']} |")
    start = figures["start_up"]
    print(f"| start-up and one answer, s | {start['seconds']} | | |")
    print(f"| ... of which imports, s | {start['imports']} | | |")


if __name__ == "__main__":
    run_command(main)
