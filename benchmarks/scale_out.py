"""What two processes give, by torchrun: the stages train and infer with one and with two.

One synthetic data set, the demo's network and starting weights, the same batches, one thread a
process. One and two take turns; of each turn counts the time of the epoch, or of answering the
folder, not that of starting. Prints samples a second, their ratio by turn, and how far the results
are apart: the weights after one epoch, and every byte of the answers by the same weights.

    $ python benchmarks/scale_out.py                   # under 4 minutes on two cores
    $ python benchmarks/scale_out.py --samples 60 --turns 1
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.data_path import write_linked  # noqa: E402
from benchmarks.setting import machine  # noqa: E402
from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.config import load_config  # noqa: E402
from partloc.data.index import build_index  # noqa: E402
from partloc.data.split import split_models  # noqa: E402
from partloc.files import write_json, write_table  # noqa: E402
from partloc.model.model_file import load_model  # noqa: E402

SIZES = (1, 2)  # processes
RATIOS = (0.8, 0.2, 0.0)
WEIGHTS = ROOT / "partloc/weights/dinov2_vitt14.pth"
# The stage as it is, but that it tells how long the work itself took.
TIMED = """\
import runpy, sys, time
from partloc import folder, train

def timed(work):
    def run(*args):
        start = time.perf_counter()
        result = work(*args)
        sys.stderr.write(f"seconds: {time.perf_counter() - start}\\n")
        return result
    return run

train.Trainer.train_epoch = timed(train.Trainer.train_epoch)
folder.write_answers = timed(folder.write_answers)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Work(NamedTuple):
    """A stage, its arguments, and how many samples it works on."""

    stage: str
    arguments: tuple[str, ...]
    samples: int


def prepare(root: Path, samples: int) -> list[Work]:
    """Pictures, split tables, params.yaml and the timed stage; what there is to do."""
    write_linked(root, samples)
    config = load_config(ROOT / "params.yaml")
    values = config.model_dump()
    values["data"] |= {"data_dir": str(root / "images"), "output_dir": str(root / "outputs")}
    values["model"] |= {"start_from": str(WEIGHTS)}
    values["train"] |= {"num_epochs": 1}
    values["machine"] |= {"device": "cpu", "num_workers": 0}
    (root / "params.yaml").write_text(json.dumps(values, indent=1))  # JSON is YAML
    (root / "timed.py").write_text(TIMED)
    manifest = build_index(load_config(root / "params.yaml").data).manifest
    places = manifest.model.map(split_models(manifest.model, RATIOS, config.seed))
    for name in ("train", "val"):
        write_table(root / f"outputs/split/{name}.csv", manifest[places == name])
    answering = ("--data-dir", str(root / "images"), "--checkpoint", str(WEIGHTS))
    return [
        Work("train", ("--config", str(root / "params.yaml")), int((places == "train").sum())),
        Work("infer", (*answering, "--device", "cpu", "--output", "answers"), len(manifest)),
    ]


def run(root: Path, work: Work, processes: int) -> float:
    """Samples a second; what the stage writes is in the folder `place_of`."""
    place = place_of(root, processes)
    place.mkdir(exist_ok=True)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    stage = (str(root / "timed.py"), str(ROOT / "stages" / f"{work.stage}.py"))
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DVC_ROOT": str(place)}
    done = subprocess.run(
        [sys.executable, *launcher, *stage, *work.arguments],
        cwd=place,
        env=os.environ | own,
        stderr=subprocess.PIPE,
        text=True,
    )
    seconds = re.findall(r"seconds: ([\d.e-]+)", done.stderr)
    if done.returncode or len(seconds) != processes:
        raise ChildProcessError(f"{work.stage} by {processes} failed:\n{done.stderr}")
    return work.samples / max(map(float, seconds))


def place_of(root: Path, processes: int) -> Path:
    return root / f"by-{processes}"


def weights_apart(root: Path) -> tuple[float, float, float]:
    """Between one and two: the largest difference of a weight; the norm of all differences over
    that of all that training changed; the difference of the validation loss as a share."""
    start = load_model(WEIGHTS).state_dict()
    one, two = (load_model(place_of(root, n) / "models/best_model.pth").state_dict() for n in SIZES)
    names = [name for name, weight in one.items() if weight.is_floating_point()]
    apart = torch.cat([(one[name] - two[name]).flatten() for name in names])
    moved = torch.cat([(one[name] - start[name]).flatten() for name in names])
    losses = [
        json.loads((place_of(root, n) / "metrics/train.json").read_text())["best_val_loss"]
        for n in SIZES
    ]
    share = (apart.norm() / moved.norm()).item()
    return apart.abs().max().item(), share, abs(losses[1] / losses[0] - 1)


def answers_equal(root: Path) -> tuple[int, bool]:
    """How many files there are, and whether one and two wrote the same bytes."""
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")
         if path.is_file()}
        for folder in (place_of(root, n) / "answers" for n in SIZES)
    )  # fmt: skip
    return len(one), one == two


def spread(values: list[float]) -> str:
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("--samples", type=int, default=240, metavar="N", help="a multiple of 10; default 240")
    add("--turns", type=int, default=3, metavar="N", help="default 3")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine(torch.device('cpu'))} a process, {len(os.sched_getaffinity(0))} cores\n")
    print("| stage | samples | by 1, samples/s | by 2 | ratio |")
    print("|---|---|---|---|---|")
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for work in prepare(root, args.samples):
            speeds: dict[int, list[float]] = {size: [] for size in SIZES}
            for _ in range(args.turns):
                for size in SIZES:
                    speeds[size].append(run(root, work, size))
            ratios = [two / one for one, two in zip(*speeds.values(), strict=True)]
            cells = [spread(values) for values in (*speeds.values(), ratios)]
            print(f"| {work.stage} | {work.samples} | {' | '.join(cells)} |", flush=True)
            figures[work.stage] = {"by_1": speeds[1], "by_2": speeds[2], "ratio": ratios}
        largest, share, loss = weights_apart(root)
        count, equal = answers_equal(root)
    print(
        f"\nweights after an epoch: {largest:.1e} apart at most, {share:.1e} of what was learned;"
    )
    print(f"validation loss: {loss:.1e} apart")
    print(f"answers: {count} files, {'the same bytes' if equal else 'NOT the same bytes'}")
    figures |= {"weights_apart": largest, "learned_apart": share, "loss_apart": loss}
    if args.output:
        write_json(args.output, figures | {"answers_equal": equal})


if __name__ == "__main__":
    run_command(main)
