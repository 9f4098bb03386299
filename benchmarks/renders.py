"""Errors on the demo's kinds of objects as other tools render them, look by look (`looks.py`).

In every look, 56 models that the demo does not contain are predicted by

- shipped: the starting weights; only the camera is fitted, to the labels of 24 other models
- camera given: the same with the true camera instead, as `infer --camera`
- trained: after a training on 120 other models of that look, with --train

Images and trainings are kept in runs/renders, and looks of --output that the same code and weights
have measured are kept, so an interrupted run continues.

    $ python -m benchmarks.renders --output metrics/renders.json
    $ python -m benchmarks.renders --looks demo black --train
"""

import argparse
import re
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks.common import benchmark_parser
from benchmarks.errors import (
    Job,
    Row,
    accumulate_errors,
    mean_errors,
    measure_rows,
    row_fingerprint,
    train_or_load,
)
from benchmarks.looks import LOOKS, Look, write_models
from benchmarks.metric_tables import renders_table
from partloc.config import Config, load_config
from partloc.data.index import build_index
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.evaluation.calibration import reliability
from partloc.model.build import build_locator
from partloc.model.camera import PinholeCamera
from partloc.model.locator import PartLocator
from partloc.model.proposals import ProposalLocator
from partloc.pose import RIGHT_TOLERANCE
from partloc.system.cli import run_command
from partloc.system.files import write_table
from partloc.system.processes import map_in_processes
from partloc.training.initialization import initialize_model
from partloc.training.run import runs_root

FIRST_TEST = 10_000  # numbers of models that the demo does not contain
FIRST_TRAINING = 20_000
NUM_TEST, NUM_FIT, NUM_TRAIN, NUM_VAL = 56, 24, 104, 16  # models
MODELS_PER_JOB = 4
# The code of this package determines the answers.
fingerprint = partial(row_fingerprint, packages=("model",))


def make_manifest(folder: Path, name: str, config: Config, numbers: range) -> pd.DataFrame:
    """Render and index models."""
    jobs = [
        range(numbers[i], min(numbers[i] + MODELS_PER_JOB, numbers.stop))
        for i in range(0, len(numbers), MODELS_PER_JOB)
    ]
    workers = config.machine.used_processes
    for _ in map_in_processes(partial(write_models, folder, name, config.seed), jobs, workers):
        pass
    data = config.data.model_copy(update={"data_dir": str(folder)})
    return build_index(data, workers=workers).manifest


def evaluate(model: PartLocator, config: Config, fit: PairTable, test: PairTable) -> Row:
    """Errors on the test models, means with their 95 % intervals."""
    accumulator = accumulate_errors(model, config, fit, test)
    errors = accumulator.errors
    chosen = {name: errors[name] for name in ("translation_error", "relative_scale_error")}
    means = mean_errors(chosen, test, config.seed)
    is_right = errors["translation_error"] < RIGHT_TOLERANCE
    return {
        name: means[name] | {"median": values.median().item()} for name, values in chosen.items()
    } | {
        "right": is_right.float().mean().item(),
        "confidence": accumulator.confidence.mean().item(),
        "expected_calibration_error": reliability(accumulator.confidence, is_right)[
            "expected_calibration_error"
        ],
        "baseline_error": accumulator.baseline_errors["translation_error"].mean().item(),
    }


def measure(config: Config, name: str, look: Look, with_training: bool, row: Row) -> Row:
    """Complete a row of the table."""
    root = runs_root("renders") / re.sub(r"[^a-z0-9]+", "-", name.lower())
    test = make_manifest(root / "test", name, config, range(FIRST_TEST, FIRST_TEST + NUM_TEST))
    fit = make_manifest(root / "fit", name, config, range(FIRST_TRAINING, FIRST_TRAINING + NUM_FIT))
    test_table, fit_table = PairTable(test, root / "test"), PairTable(fit, root / "fit")
    if not row:
        row = measure_shipped(config, name, look, fit_table, test_table)
    if with_training:
        trained = train(config, name, root)
        row = row | {"trained": evaluate(trained, config, fit_table, test_table)}
    return row


def measure_shipped(config: Config, name: str, look: Look, fit: PairTable, test: PairTable) -> Row:
    """The row of the starting weights."""
    model = build_locator(config.model, Preprocessing.from_config(config.data))
    assert isinstance(model, ProposalLocator)
    camera_message = initialize_model(model.eval(), fit, config)
    row = {
        "look": name,
        "group": look.group,
        "num_parts": len(test),
        "camera": camera_message,
        "agreement": _agreement(camera_message),
        "shipped": evaluate(model, config, fit, test),
    }
    if look.group in ("camera", "tool", "demo") and look.has_renderer_frame:
        view = look.camera
        model.set_camera(
            PinholeCamera.from_view(view.azimuth_deg, view.elevation_deg, view.fov_deg)
        )
        row["camera_given"] = evaluate(model, config, fit, test)
    return row


def _agreement(camera_message: str) -> float | None:
    """The fraction of the matched parts that agree with the fitted camera."""
    found = re.search(r"(\d+)% of the matched parts agree", camera_message)
    return int(found[1]) / 100 if found else None


def train(config: Config, name: str, root: Path) -> PartLocator:
    """Train on other models of the look, or take what an earlier call has trained."""
    numbers = range(FIRST_TRAINING, FIRST_TRAINING + NUM_TRAIN + NUM_VAL)
    manifest = make_manifest(root / "train", name, config, numbers)
    is_val = manifest.model.isin(manifest.model.unique()[-NUM_VAL:])
    folder = root / f"training-{fingerprint(config, 'training')}"
    for split, table in (("train", manifest[~is_val]), ("val", manifest[is_val])):
        write_table(folder / "split" / f"{split}.csv", table)
    data = config.data.model_copy(update={"data_dir": str(root / "train")})
    return train_or_load(config.model_copy(update={"data": data}), folder / "split", folder)


def parse_arguments() -> argparse.Namespace:
    parser = benchmark_parser(__doc__, config=Path("params.yaml"))
    add = parser.add_argument
    add("--looks", nargs="+", choices=list(LOOKS), metavar="NAME", help="default: all")
    add("--train", action="store_true", help="train in each look, too; minutes each")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    config = load_config(args.config)
    jobs = [
        Job(
            name,
            fingerprint(config, name),
            partial(measure, config, name, LOOKS[name], args.train),
        )
        for name in args.looks or LOOKS
    ]
    print(renders_table(measure_rows(args.output, jobs, "trained" if args.train else None)))


if __name__ == "__main__":
    run_command(main)
