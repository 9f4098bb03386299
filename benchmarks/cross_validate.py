"""Cross-validation by model on a folder of labelled models, for several ways to train.

Every model is in the test set of one fold and in the training set of the others. Each part
therefore gets one prediction, from a network that was not trained on its model. The variants:

- as-shipped: model.start_from unchanged; only the camera is fitted
- fine-tuned: trained from model.start_from
- frozen: the same with train.freeze_backbone
- scratch: trained from random weights, at a learning rate of 1e-3

With --facts, a CSV with the columns model, part and any of group, visible_pixels and alone_pixels,
errors are also reported by group and by the visible fraction of a part. Writes to --output a table
of predictions for each variant, and images of the ten worst cases of the first variant; prints a
Markdown table. State is kept in runs/cross-validate; an interrupted run continues.

    $ python -m benchmarks.cross_validate --data-dir my/renders
    $ python -m benchmarks.cross_validate --data-dir my/renders --facts my/facts.csv \\
          --variants fine-tuned scratch --metrics metrics/cross_validation.json
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.metric_tables import cross_validation_table
from partloc.config import Config, DataConfig, digest, load_config
from partloc.data.background import load_image
from partloc.data.index import build_index
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.distributed import distributed_context
from partloc.drawing import draw_case
from partloc.evaluation.accumulator import ErrorAccumulator
from partloc.evaluation.evaluate import compute_metrics
from partloc.evaluation.metrics import median_pose
from partloc.inference.prediction_files import TablePredictions
from partloc.inference.predictor import Predictor
from partloc.inference.table_predictor import predict_table
from partloc.model.build import build_locator
from partloc.model.camera import PinholeCamera
from partloc.model.locator import PartLocator
from partloc.model.model_file import load_model, save_model
from partloc.pose import PartPose
from partloc.system.cli import make_parser, run_command
from partloc.system.files import write_json, write_table
from partloc.training.fingerprint import run_fingerprint, source_hash
from partloc.training.initialization import initialize_model
from partloc.training.run import run_training, runs_root

VARIANTS = ("as-shipped", "fine-tuned", "frozen", "scratch")
SCRATCH_LEARNING_RATE = 1.0e-3
VAL_FRACTION = 0.1  # of the training models, to choose the best epoch
NUM_WORST_CASES = 10
FACTS = ("group", "visible_pixels", "alone_pixels")
CAMERA_ERRORS = ("across_image", "along_view")  # available where the camera is known
# Left edges of the bins of the breakdown: of the scale, and of the visible fraction of a part.
SCALE_BINS = (0.0, 0.1, 0.2, 0.4, 0.7)
VISIBLE_BINS = (0.0, 0.25, 0.5, 0.75)


# -- folds and networks ----------------------------------------------------------------------------


def configure_variant(config: Config, variant: str) -> Config:
    if variant != "scratch":
        frozen = {"freeze_backbone": variant == "frozen"}
        return config.model_copy(update={"train": config.train.model_copy(update=frozen)})
    model = config.model.model_copy(update={"start_from": None})
    train = config.train.model_copy(update={"learning_rate": SCRATCH_LEARNING_RATE})
    return config.model_copy(update={"model": model, "train": train})


def hash_name(model: str) -> int:
    """A number that depends on the name alone: other models do not change a model's fold."""
    return int(hashlib.sha256(model.encode()).hexdigest(), 16)


def split_fold(manifest: pd.DataFrame, fold: int, num_folds: int) -> dict[str, pd.DataFrame]:
    """The tables train, val and test of a fold."""
    is_test = manifest.model.map(lambda model: hash_name(model) % num_folds == fold)
    others = sorted(manifest.model[~is_test].unique(), key=hash_name)
    val_models = others[: round(VAL_FRACTION * len(others))]
    rest = manifest[~is_test]
    return {
        "train": rest[~rest.model.isin(val_models)],
        "val": rest[rest.model.isin(val_models)],
        "test": manifest[is_test],
    }


def make_network(
    config: Config, variant: str, tables: dict[str, pd.DataFrame], folder: Path
) -> PartLocator:
    """The network of a fold, trained on its tables unless the variant is as-shipped.

    A trained network is kept in `folder` under a hash of all that determines it.
    """
    split_dir = folder / "split"
    for name, table in tables.items():
        write_table(split_dir / f"{name}.csv", table)
    if variant == "as-shipped":
        model = build_locator(config.model, Preprocessing.from_config(config.data))
        initialize_model(model, PairTable(tables["train"], Path(config.data.data_dir)), config)
        return model
    path = folder / f"{digest([run_fingerprint(config, split_dir), source_hash()])[:16]}.pth"
    if not path.exists():
        with distributed_context(config.machine.device) as context:
            run_training(
                config,
                context,
                split_dir,
                folder,
                resume=True,
                finish=lambda trainer: save_model(path, trainer.model, {}),
            )
    return load_model(path)


# -- evaluation ------------------------------------------------------------------------------------


def predict_folds(
    config: Config,
    variant: str,
    manifest: pd.DataFrame,
    num_folds: int,
    accumulator: ErrorAccumulator,
) -> tuple[pd.DataFrame, list[PinholeCamera | None]]:
    """The table of predictions, each by the network of its fold, and the camera of each fold.

    Adds the errors to `accumulator`.
    """
    pieces, cameras, data_dir = [], [], Path(config.data.data_dir)
    for fold in range(num_folds):
        print(f"{variant}: fold {fold + 1} of {num_folds}", file=sys.stderr)
        tables = split_fold(manifest, fold, num_folds)
        folder = runs_root("cross-validate") / f"{variant}-{fold + 1}-of-{num_folds}"
        model = make_network(config, variant, tables, folder)
        train, test = (PairTable(tables[name], data_dir) for name in ("train", "test"))
        baseline = median_pose(PartPose(train.translation, train.scale))
        predictor = Predictor(model, config.machine.device, config.data.max_image_pixels)
        predictions = predict_table(predictor, test)
        predictions = renumber(predictions, tables["test"].index.to_numpy())
        camera = model.pinhole_camera
        pieces += accumulator.iter_rows(manifest, predictions, baseline, camera)
        cameras.append(camera)
    return pd.concat(pieces).sort_index(), cameras


def renumber(
    predictions: Iterator[TablePredictions], rows: np.ndarray
) -> Iterator[TablePredictions]:
    """The same predictions with the rows that a fold's samples have in the manifest."""
    for chunk in predictions:
        yield chunk._replace(rows=rows[chunk.rows])


def evaluate_variant(
    config: Config, variant: str, manifest: pd.DataFrame, num_folds: int, facts: pd.DataFrame | None
) -> tuple[dict[str, Any], pd.DataFrame, list[PinholeCamera | None]]:
    """The metrics of all folds together, the table of predictions, and the camera of each fold."""
    accumulator = ErrorAccumulator(PairTable(manifest, Path(config.data.data_dir)))
    rows, cameras = predict_folds(config, variant, manifest, num_folds, accumulator)
    metrics = compute_metrics(accumulator, config.seed)
    errors = accumulator.errors
    extra = {"baseline_error": accumulator.baseline_errors["translation_error"]}
    extra |= {name: errors[name] for name in CAMERA_ERRORS if name in errors}
    rows = rows.assign(**{name: values.numpy().astype(float) for name, values in extra.items()})
    rows = rows.round(6)
    if facts is not None:
        columns = ["model", "part", *(name for name in FACTS if name in facts)]
        rows = rows.merge(facts[columns], on=["model", "part"], how="left", validate="one_to_one")
    return metrics | {"by": break_down(rows)}, rows, cameras


def break_down(rows: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Errors by scale and, where the facts are known, by group and by visible fraction."""
    labels = {"scale": _bin(rows.scale, SCALE_BINS)}
    if "group" in rows:
        labels["group"] = rows.group
    if {"visible_pixels", "alone_pixels"} <= set(rows):
        # Relative to the pixels of the part's own image, at the size it has in the whole.
        fraction = rows.visible_pixels / (rows.alone_pixels * rows.scale**2)
        labels["visible_fraction"] = _bin(fraction, VISIBLE_BINS)
    means = ("translation_error", "baseline_error", *CAMERA_ERRORS)
    statistics = {name: "mean" for name in means if name in rows}
    statistics["relative_scale_error"] = "median"
    return {
        name: {
            str(label): {"parts": int((values == label).sum()), **errors}
            for label, errors in rows.groupby(values).agg(statistics).to_dict("index").items()
        }
        for name, values in labels.items()
    }


def _bin(values: pd.Series, edges: tuple[float, ...]) -> pd.Series:
    bins = np.searchsorted(edges, values, side="right") - 1
    return pd.Series([f"from {edges[i]:g}" for i in bins.clip(0)], index=values.index)


def draw_worst_cases(
    folder: Path, rows: pd.DataFrame, cameras: list[PinholeCamera | None], data: DataConfig
) -> None:
    """Draw one case of each group of twins, the worst first."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = rows.sort_values(["translation_error", "model"], ascending=False)
    worst = ordered.drop_duplicates(["model", "twin_group"])[:NUM_WORST_CASES]
    for number, (row, case) in enumerate(worst.iterrows(), 1):
        is_twin = (rows.model == case.model) & (rows.twin_group == case.twin_group)
        twins = rows[is_twin & (rows.index != row)]
        whole, part = (
            load_image(Path(data.data_dir, path), data.max_image_pixels)
            for path in (case.whole_path, case.part_path)
        )
        name = f"worst-{number:02d}"
        camera = cameras[hash_name(case.model) % len(cameras)]
        sheet = draw_case(name, case, twins, whole, part, camera)
        sheet.save(folder / f"{name}.png")


# --------------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, metavar="DIR", help="folder of labelled models")
    add("--facts", type=Path, metavar="FILE", help="CSV with more columns about each part")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    add("--folds", type=int, default=3, metavar="N", help="default 3")
    add("--epochs", type=int, metavar="N", help="instead of train.num_epochs")
    add("--read-size", type=int, metavar="PX", help="instead of data.read_size")
    add("--output", type=Path, default=Path("outputs/cross-validation"), metavar="DIR")
    add("--metrics", type=Path, metavar="FILE", help="write the metrics as JSON")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    config = load_config(args.config)
    read_size = args.read_size or config.data.read_size
    images = {"data_dir": str(args.data_dir), "read_size": read_size}
    data = config.data.model_copy(update=images)
    epochs = {"num_epochs": args.epochs or config.train.num_epochs}
    train = config.train.model_copy(update=epochs)
    config = config.model_copy(update={"data": data, "train": train})
    facts = pd.read_csv(args.facts, dtype={"model": str, "part": str}) if args.facts else None
    manifest = build_index(config.data).manifest.sort_values(["model", "part"], ignore_index=True)

    results: dict[str, Any] = {}
    for variant in args.variants:
        chosen = configure_variant(config, variant)
        metrics, rows, cameras = evaluate_variant(chosen, variant, manifest, args.folds, facts)
        write_table(args.output / f"{variant}.csv", rows)
        if not results:
            worst_dir = args.output / f"worst-{variant}"
            draw_worst_cases(worst_dir, rows, cameras, config.data)
        results[variant] = metrics
        if args.metrics:
            write_json(args.metrics, results)
    num_models = manifest.model.nunique()
    print(f"{len(manifest)} parts of {num_models} models, {args.folds} folds\n")
    print(cross_validation_table(results))


if __name__ == "__main__":
    run_command(main)
