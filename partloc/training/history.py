"""The metrics of each epoch: records, choice of the best epoch, progress line, TensorBoard.

A record is a flat dictionary: the epoch, training and validation metrics with the prefixes train_
and val_, and the learning rate. The record of epoch 0, before any training, has validation metrics
only.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Record = dict[str, float]


def make_record(
    epoch: int, train: dict[str, float], val: dict[str, float], **others: float
) -> Record:
    """Join the metrics of an epoch; `others` are added without a prefix."""
    record = {"epoch": epoch, **others}
    record |= {f"train_{key}": value for key, value in train.items()}
    return record | {f"val_{key}": value for key, value in val.items()}


def best_epoch(history: list[Record]) -> int:
    """Return the epoch with the lowest validation pose loss, or the last one without validation.

    The total loss would be a bad criterion: it includes auxiliary terms that keep improving, such
    as that of the depth maps, and the ranking of proposals that are all wrong.
    """
    if "val_pose_loss" not in history[-1]:
        return history[-1]["epoch"]
    return min(history, key=lambda record: record["val_pose_loss"])["epoch"]


def trained_epochs(history: list[Record]) -> list[Record]:
    """Return the records without that of epoch 0."""
    return [record for record in history if record["epoch"]]


def format_record(record: Record, num_epochs: int) -> str:
    """Format the main metrics as the progress line of an epoch."""
    texts = [f"epoch {record['epoch']:>3}/{num_epochs}"]
    if "train_loss" in record:
        texts.append(f"train loss {record['train_loss']:.3f}")
    if "val_loss" in record:
        texts += [
            f"val loss {record['val_loss']:.3f}",
            f"translation error {record['val_translation_error']:.3f}"
            f" (labelled {record['val_labelled_error']:.3f})",
            f"scale error {record['val_relative_scale_error']:.1%}",
        ]
    return "  ".join(texts)


def write_scalars(writer: "SummaryWriter", record: Record, **machine_metrics: float) -> None:
    """Write a record to TensorBoard as train/..., val/... and run/....

    machine_metrics: speed and memory, which are not part of the reproducible record.
    """
    for key, value in (record | machine_metrics).items():
        if key != "epoch":
            group, _, name = key.partition("_")
            tag = f"{group}/{name}" if group in ("train", "val") else f"run/{key}"
            writer.add_scalar(tag, value, record["epoch"])
    writer.flush()
