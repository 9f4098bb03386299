"""One optimiser step of the full-size configuration, through the real stages, on any machine.

ViT-B/14 at 1024 x 1024 with random weights, two parts of one whole: every default of the code but
the weights to fetch, the number of epochs, and that each block is recomputed. Prints the wall time
and the peak memory of the train stage.

    $ python benchmarks/full_step.py
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.synthetic.dataset import write_demo  # noqa: E402

PARAMS = """\
data: {data_dir: images, train_ratio: 1.0, val_ratio: 0.0, test_ratio: 0.0}
model: {pretrained: false}
train: {num_epochs: 1, use_gradient_checkpointing: true}
machine: {num_workers: 0}
"""


def write_two_pairs(folder: Path) -> None:
    """One model with two parts, drawn at the full size."""
    write_demo(folder / "drawn", num_models=8, image_size=1024, seed=0, workers=0)
    model = sorted(path for path in (folder / "drawn").iterdir() if path.is_dir())[0]
    labels = sorted(model.glob("*.json"))[:2]
    kept = folder / "images" / model.name
    kept.mkdir(parents=True)
    parts = [label.with_suffix(".png") for label in labels]
    for path in (model / f"{model.name}-whole.png", *labels, *parts):
        shutil.copy(path, kept)


def run_stage(name: str, folder: Path) -> float:
    """Seconds of wall time. Raises: CalledProcessError when the stage fails."""
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
