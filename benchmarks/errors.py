"""Errors of a network on a table of samples, and tables of them that an interrupted run continues.

Shapes: B samples.
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from partloc.config import Config, digest
from partloc.data.table import PairTable
from partloc.distributed import distributed_context
from partloc.evaluation.accumulator import ErrorAccumulator
from partloc.evaluation.metrics import bootstrap, median_pose
from partloc.inference.predictor import Predictor
from partloc.inference.table_predictor import predict_table
from partloc.model.locator import PartLocator
from partloc.model.model_file import load_model, save_model
from partloc.pose import PartPose
from partloc.system.files import file_sha256, write_json
from partloc.training.fingerprint import source_hash
from partloc.training.run import run_training

Row = dict[str, Any]


class Job(NamedTuple):
    """A row to measure. fingerprint: a hash of all that determines it.

    measure: completes a row, which is empty or lacks the key `needed`, see `measure_rows`.
    """

    name: str
    fingerprint: str
    measure: Callable[[Row], Row]


def row_fingerprint(config: Config, *others: str | int, packages: tuple[str, ...] = ()) -> str:
    """A hash of all that determines a row: settings, starting weights, `others`, and the code.

    packages: those of partloc whose code counts; all by default.
    """
    weights = file_sha256(Path(config.model.start_from)) if config.model.start_from else None
    settings = config.model_dump(exclude={"machine"})
    return digest([settings, *others, weights, source_hash(*packages)])[:16]


def accumulate_errors(
    model: PartLocator, config: Config, known: PairTable, test: PairTable
) -> ErrorAccumulator:
    """Predict all samples of `test`; the baseline is the median pose of `known`."""
    accumulator = ErrorAccumulator(test)
    baseline = median_pose(PartPose(known.translation, known.scale))
    predictor = Predictor(model, config.machine.device, config.data.max_image_pixels)
    for chunk in predict_table(predictor, test):
        accumulator.update(chunk, baseline, model.pinhole_camera)
    return accumulator


def mean_errors(errors: dict[str, Tensor], test: PairTable, seed: int) -> dict[str, Any]:
    """Mean of each error (B,), and its 95 % interval over the models of `test`."""
    intervals = bootstrap(errors, test.models, seed)
    return {
        name: {"mean": values.mean().item(), "interval_95": intervals[name]["mean"]}
        for name, values in errors.items()
    }


def train_or_load(config: Config, split_dir: Path, folder: Path) -> PartLocator:
    """Train on the tables of `split_dir`, or take what an earlier call has trained in `folder`."""
    path = folder / "model.pth"
    if not path.exists():
        with distributed_context(config.machine.device) as context:
            run_training(
                *(config, context, split_dir, folder, True),
                lambda trainer: save_model(path, trainer.model, trainer.state.info),
            )
    return load_model(path)


def measure_rows(path: Path | None, jobs: Iterable[Job], needed: str | None = None) -> list[Row]:
    """Measure the rows that the result file `path` does not have, and write it after each.

    needed: a key without which a row is measured further.
    """
    earlier, rows = _read_earlier_rows(path), list[Row]()
    for job in jobs:
        row = earlier.get(job.fingerprint, {})
        if not row or (needed and needed not in row):
            print(f"{job.name} ...", file=sys.stderr)
            row = job.measure(row)
        rows.append(row | {"fingerprint": job.fingerprint})
        if path:
            write_json(path, {"rows": rows})
    return rows


def _read_earlier_rows(path: Path | None) -> dict[str, Row]:
    """Rows of an earlier result file by fingerprint."""
    if path is None or not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["fingerprint"]: row for row in rows}
