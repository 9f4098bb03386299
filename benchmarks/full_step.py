"""One optimiser step of the full-size configuration, through the real stages.

ViT-B/14 at 1024 x 1024 pixels with random weights, two parts of one whole. Every key has its
full-size default, except that no weights are downloaded and there is one epoch. Prints the wall
time and the peak memory of the train stage.

    $ python -m benchmarks.full_step
"""

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import ROOT
from partloc.synthetic.dataset import write_dataset
from partloc.system.cli import make_parser, run_command

PARAMS = """\
data: {data_dir: images, train_ratio: 1.0, val_ratio: 0.0, test_ratio: 0.0}
model: {pretrained: false}
train: {num_epochs: 1}
machine: {num_workers: 0}
"""


def write_two_pairs(folder: Path) -> None:
    """Render one model and keep two of its parts."""
    write_dataset(folder / "demo", num_models=8, image_size=1024, seed=0, workers=0)
    model = sorted(path for path in (folder / "demo").iterdir() if path.is_dir())[0]
    labels = sorted(model.glob("*.json"))[:2]
    target = folder / "images" / model.name
    target.mkdir(parents=True)
    parts = [label.with_suffix(".png") for label in labels]
    for path in (model / f"{model.name}-whole.png", *labels, *parts):
        shutil.copy(path, target)


def run_stage(name: str, folder: Path) -> float:
    """Seconds of wall time. Raises: CalledProcessError if the stage fails."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, str(ROOT / "stages" / f"{name}.py")],
        cwd=folder,
        env={**os.environ, "DVC_ROOT": str(folder)},
        check=True,
    )
    return time.perf_counter() - start


def main() -> None:
    make_parser(__doc__, config=None).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_two_pairs(folder)
        (folder / "params.yaml").write_text(PARAMS)
        for stage in ("index", "split"):
            run_stage(stage, folder)
        seconds = run_stage("train", folder)
        size_mb = (folder / "models" / "best_model.pth").stat().st_size / 1e6
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(f"machine      {platform.machine()}, {os.cpu_count()} CPU cores")
    print(f"train stage  {seconds:.0f} s wall, {peak_gb:.1f} GB peak memory")
    print(f"model file   {size_mb:.0f} MB")


if __name__ == "__main__":
    run_command(main)
