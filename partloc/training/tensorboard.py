"""TensorBoard's files of a run: scalars and drawn validation cases by epoch, and hyper-parameters.

All of an epoch is written before its state is saved, and a resumed run purges the epochs after the
state that it loads. Every series therefore has each epoch once.

Shapes: N validation samples.
"""

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from partloc.config import Config
from partloc.data.background import load_image
from partloc.data.images import ImageError
from partloc.data.table import PairTable
from partloc.drawing import draw_case
from partloc.model.camera import PinholeCamera
from partloc.pose import POSE_COLUMNS
from partloc.system.files import name_file_in_errors
from partloc.training.history import Record, best_metric
from partloc.training.losses import LossTerms
from partloc.training.validation import ValidationResults

NUM_CASES = 8  # validation samples that are drawn in each epoch
HPARAM_GROUPS = ("data", "model", "train")  # of the configuration
PATH_KEYS = ("data.data_dir", "data.output_dir")
# Of the kept epoch; the columns of TensorBoard's table of hyper-parameters.
FINAL_METRICS = (
    *("val_translation_error", "val_labelled_error", "val_relative_scale_error"),
    *("val_pose_loss", "train_loss"),
)
SAMPLES = {"train": "training", "val": "validation"}  # prefixes of the keys of a record
LOSS_TERMS = [name.removesuffix("_loss") for name in LossTerms._fields if name != "loss"]


class TensorBoardLog:
    """Writes the files of one run into a folder; only the main process has one."""

    def __init__(self, folder: Path, first_epoch: int, config: Config, val_table: PairTable):
        """first_epoch: what was logged from this epoch on is discarded, it will be repeated."""
        self.folder = folder
        with name_file_in_errors(folder):
            self.writer = SummaryWriter(folder, purge_step=first_epoch)
        self.config, self.val_table = config, val_table
        self.rows = choose_rows(len(val_table), NUM_CASES)

    def write_epoch(
        self,
        history: list[Record],
        results: ValidationResults | None,
        camera: PinholeCamera | None,
        **machine_metrics: float,
    ) -> None:
        """Write the last epoch of the history; after the last one also the hyper-parameters.

        results: of the validation set, None without one. camera: None if it was not fitted.
        machine_metrics: speed and memory, which are not part of the reproducible record.
        Raises: OSError naming the folder, e.g. when the disk is full.
        """
        record = history[-1]
        sheets = {} if results is None else self._draw_cases(results, camera)
        with name_file_in_errors(self.folder):
            write_scalars(self.writer, record, **machine_metrics)
            for tag, sheet in sheets.items():
                self.writer.add_image(tag, np.asarray(sheet), record["epoch"], dataformats="HWC")
            if record["epoch"] == self.config.train.num_epochs:
                write_hparams(self.writer, self.config, history)
            self.writer.flush()

    def _draw_cases(
        self, results: ValidationResults, camera: PinholeCamera | None
    ) -> dict[str, Image.Image]:
        """The cases by tag. Those without an image, which a cached encoder does not read, are left
        out: an image is no reason to lose the epoch, whose state is not saved yet.
        """
        sheets = {}
        for row in list(self.rows):
            try:
                sheet = draw_validation_case(self.val_table, row, results, camera, self.config)
            except ImageError as error:
                print(f"warning: not drawn for TensorBoard: {error}", file=sys.stderr)
                self.rows.remove(row)
                continue
            sheets[f"validation cases/{self.val_table.part_paths[row]}"] = sheet
        return sheets

    def close(self) -> None:
        with name_file_in_errors(self.folder):
            self.writer.close()


def choose_rows(num_samples: int, maximum: int) -> list[int]:
    """At most `maximum` rows, evenly spaced; the same in each epoch."""
    return np.linspace(0, num_samples - 1, min(num_samples, maximum)).round().astype(int).tolist()


def write_scalars(writer: SummaryWriter, record: Record, **machine_metrics: float) -> None:
    """Write a record, see `scalar_tag`; machine_metrics as machine/...."""
    tags = {scalar_tag(key): value for key, value in record.items() if key != "epoch"}
    tags |= {f"machine/{key}": value for key, value in machine_metrics.items()}
    for tag, value in tags.items():
        writer.add_scalar(tag, value, record["epoch"])


def scalar_tag(key: str) -> str:
    """The tag of a key of a record. TensorBoard groups tags by their first word.

    train_loss is loss/training, val_loss is loss/validation; a term of the loss, e.g.
    train_depth_loss, is loss_terms/depth_training; other keys are validation/... and rate/....
    """
    samples, _, name = key.partition("_")
    if samples not in SAMPLES:
        return f"rate/{key}"
    if name == "loss":
        return f"loss/{SAMPLES[samples]}"
    if name.removesuffix("_loss") in LOSS_TERMS:
        return f"loss_terms/{name.removesuffix('_loss')}_{SAMPLES[samples]}"
    return f"{SAMPLES[samples]}/{name}"


def draw_validation_case(
    table: PairTable,
    row: int,
    results: ValidationResults,
    camera: PinholeCamera | None,
    config: Config,
) -> Image.Image:
    """Draw labelled and predicted pose of a row, as the stage `evaluate` draws its samples."""
    model, part_path = table.models[row], table.part_paths[row]
    labelled = torch.cat([table.translation[row], table.scale[row]])  # (4,)
    twin_poses = torch.cat(table.twin_poses([row]), -1)[0]  # (K, 4), with the row itself
    twins = twin_poses[(twin_poses != labelled).any(1)]
    case = {
        "model": model,
        "part": Path(part_path).stem.removeprefix(f"{model}-"),
        **dict(zip(POSE_COLUMNS, labelled.tolist(), strict=True)),
        **{
            f"predicted_{name}": value
            for name, value in zip(POSE_COLUMNS, results.poses[row].tolist(), strict=True)
        },
        "translation_error": results.translation_errors[row].item(),
        "labelled_error": results.labelled_errors[row].item(),
        "relative_scale_error": results.relative_scale_errors[row].item(),
    }
    whole, part = (
        load_image(image.path, config.data.max_image_pixels)
        for image in (table.whole_image(row), table.part_image(row))
    )
    twin_rows = pd.DataFrame(twins.numpy(), columns=list(POSE_COLUMNS))
    return draw_case("validation", pd.Series(case), twin_rows, whole, part, camera)


def flat_parameters(config: Config) -> dict[str, Any]:
    """Name -> value of all settings that affect the training, in the types of TensorBoard."""
    values: dict[str, Any] = {"seed": config.seed}
    for group in HPARAM_GROUPS:
        for key, value in getattr(config, group).model_dump().items():
            if f"{group}.{key}" not in PATH_KEYS:
                values[f"{group}.{key}"] = "null" if value is None else value
    return values


def write_hparams(writer: SummaryWriter, config: Config, history: list[Record]) -> None:
    """Write the hyper-parameters with the metrics of the kept epoch, as kept/....

    Source: `SummaryWriter.add_hparams`, which would write them as a run of its own.
    """
    kept = next(r for r in history if r["epoch"] == best_metric(history)["epoch"])
    metrics = {f"kept/{name}": kept[name] for name in FINAL_METRICS if name in kept}
    metrics["kept/epoch"] = kept["epoch"]
    for summary in hparams(flat_parameters(config), metrics):
        cast(Any, writer.file_writer).add_summary(summary, history[-1]["epoch"])
    for tag, value in metrics.items():
        writer.add_scalar(tag, value, history[-1]["epoch"])
