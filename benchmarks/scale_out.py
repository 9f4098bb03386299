"""Speed-up of training and inference from a second process, started by torchrun.

Runs the stages train and infer with one process and with two, in turns, on the same synthetic data
set with the demo's network and starting weights, one thread a process. Only the epoch, or the
prediction of the folder, is timed, not the start. Reports samples per second, their ratio in each
round, and how far the results differ: the weights after one epoch and the predictions' bytes.

    $ python -m benchmarks.scale_out                   # under 4 minutes on two cores
    $ python -m benchmarks.scale_out --samples 60 --rounds 1
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.box_images import write_linked_samples
from benchmarks.common import (
    ROOT,
    Range,
    benchmark_parser,
    describe_machine,
    table_head,
    table_row,
)
from partloc.config import load_config
from partloc.data.index import build_index
from partloc.data.split import split_models
from partloc.model.model_file import load_model
from partloc.system.cli import run_command
from partloc.system.files import write_json, write_table

PROCESS_COUNTS = (1, 2)
RATIOS = (0.8, 0.2, 0.0)
WEIGHTS = ROOT / "partloc/weights/dinov2_vitt14.pth"
# Runs a stage and reports the seconds of the work itself.
TIMED_STAGE = """\
import runpy, sys, time
from partloc.inference import folder
from partloc.training import trainer

def timed(function):
    def run(*args):
        start = time.perf_counter()
        result = function(*args)
        sys.stderr.write(f"seconds: {time.perf_counter() - start}\\n")
        return result
    return run

trainer.Trainer.train_epoch = timed(trainer.Trainer.train_epoch)
folder.write_predictions = timed(folder.write_predictions)
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class StageRun(NamedTuple):
    stage: str
    arguments: tuple[str, ...]
    num_samples: int


def prepare(root: Path, num_samples: int) -> list[StageRun]:
    """Write images, split tables, params.yaml and the timed stage; return what to run."""
    write_linked_samples(root, num_samples)
    config = load_config(ROOT / "params.yaml")
    values = config.model_dump()
    values["data"] |= {"data_dir": str(root / "images"), "output_dir": str(root / "outputs")}
    values["model"] |= {"start_from": str(WEIGHTS)}
    values["train"] |= {"num_epochs": 1}
    values["machine"] |= {"device": "cpu", "num_workers": 0}
    (root / "params.yaml").write_text(json.dumps(values, indent=1))  # JSON is YAML
    (root / "timed.py").write_text(TIMED_STAGE)
    manifest = build_index(load_config(root / "params.yaml").data).manifest
    split = manifest.model.map(split_models(manifest.model, RATIOS, config.seed))
    for name in ("train", "val"):
        write_table(root / f"outputs/split/{name}.csv", manifest[split == name])
    infer = ("--data-dir", str(root / "images"), "--checkpoint", str(WEIGHTS))
    return [
        StageRun("train", ("--config", str(root / "params.yaml")), int((split == "train").sum())),
        StageRun("infer", (*infer, "--device", "cpu", "--output", "predictions"), len(manifest)),
    ]


def run_stage(root: Path, run: StageRun, processes: int) -> float:
    """Run a stage in `work_dir`. Returns samples per second."""
    folder = work_dir(root, processes)
    folder.mkdir(exist_ok=True)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    script = (str(root / "timed.py"), str(ROOT / "stages" / f"{run.stage}.py"))
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DVC_ROOT": str(folder)}
    done = subprocess.run(
        [sys.executable, *launcher, *script, *run.arguments],
        cwd=folder,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    seconds = re.findall(r"seconds: ([\d.e-]+)", done.stderr)
    if done.returncode or len(seconds) != processes:
        raise ChildProcessError(f"{run.stage} with {processes} failed:\n{done.stderr}")
    return run.num_samples / max(map(float, seconds))


def work_dir(root: Path, processes: int) -> Path:
    return root / f"{processes}-processes"


def compare_weights(root: Path) -> dict[str, float]:
    """How far the weights and the validation losses of one and two processes differ.

    weight_difference: largest difference of a weight; relative_weight_difference: norm of all
    differences over the norm of the change by training; val_loss_difference: relative.
    """
    start = load_model(WEIGHTS).state_dict()
    folders = [work_dir(root, processes) for processes in PROCESS_COUNTS]
    one, two = (load_model(folder / "models/best_model.pth").state_dict() for folder in folders)
    names = [name for name, weight in one.items() if weight.is_floating_point()]
    difference = torch.cat([(one[name] - two[name]).flatten() for name in names])
    change = torch.cat([(one[name] - start[name]).flatten() for name in names])
    losses = [
        json.loads((folder / "outputs/train/report.json").read_text())["best"]["val_loss"]
        for folder in folders
    ]
    return {
        "weight_difference": difference.abs().max().item(),
        "relative_weight_difference": (difference.norm() / change.norm()).item(),
        "val_loss_difference": abs(losses[1] / losses[0] - 1),
    }


def compare_predictions(root: Path) -> dict[str, Any]:
    """The number of files, and whether one and two processes wrote the same bytes."""
    one, two = (read_files(work_dir(root, n) / "predictions") for n in PROCESS_COUNTS)
    return {"prediction_files": len(one), "predictions_equal": one == two}


def read_files(folder: Path) -> dict[Path, bytes]:
    paths = (path for path in folder.rglob("*.*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def measure(root: Path, num_samples: int, rounds: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for run in prepare(root, num_samples):
        speeds: dict[int, list[float]] = {processes: [] for processes in PROCESS_COUNTS}
        for _ in range(rounds):
            for processes in PROCESS_COUNTS:
                speeds[processes].append(run_stage(root, run, processes))
        ratios = [two / one for one, two in zip(*speeds.values(), strict=True)]
        cells = [Range.of(values) for values in (*speeds.values(), ratios)]
        print(table_row([run.stage, run.num_samples, *cells]), flush=True)
        results[run.stage] = {
            "samples_per_s": {str(n): values for n, values in speeds.items()},
            "speedup": ratios,
        }
    return results | compare_weights(root) | compare_predictions(root)


def main() -> None:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add("--samples", type=int, default=240, metavar="N", help="a multiple of 10; default 240")
    add("--rounds", type=int, default=3, metavar="N", help="default 3")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe_machine(torch.device("cpu"))
    print(f"{machine} per process, {len(os.sched_getaffinity(0))} cores\n")
    head = ["stage", "samples", "1 process, samples/s", "2 processes, samples/s", "speed-up"]
    print(table_head(head))
    with tempfile.TemporaryDirectory() as name:
        results = measure(Path(name), args.samples, args.rounds)
    print(f"\nlargest difference of a weight after an epoch: {results['weight_difference']:.1e},")
    print(f"{results['relative_weight_difference']:.1e} of the change by training (norms)")
    print(f"relative difference of the validation loss: {results['val_loss_difference']:.1e}")
    outcome = "equal" if results["predictions_equal"] else "NOT equal"
    print(f"predictions: {results['prediction_files']} files, {outcome}")
    if args.output:
        write_json(args.output, results)


if __name__ == "__main__":
    run_command(main)
