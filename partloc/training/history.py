"""What a training tells epoch by epoch, and which of its epochs was the best.

A record is a flat dictionary: the epoch, the figures of training and validation with train_ and
val_ before their names, and the learning rate. That of epoch 0, before anything was learned, has
those of validation alone.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Record = dict[str, float]


def record_of(
    epoch: int, train: dict[str, float], val: dict[str, float], **others: float
) -> Record:
    record = {"epoch": epoch, **others}
    record |= {f"train_{key}": value for key, value in train.items()}
    return record | {f"val_{key}": value for key, value in val.items()}


def best_epoch(history: list[Record]) -> int:
    """The epoch whose answers to the validation models cost the least; the last one without any.

    The whole loss would be a bad judge: it also counts what only helps to learn, such as the depth
    maps, of which there is always more to learn, and the order of places that are all wrong.
    """
    if "val_pose_loss" not in history[-1]:
        return history[-1]["epoch"]
    return min(history, key=lambda record: record["val_pose_loss"])["epoch"]


def learned(history: list[Record]) -> list[Record]:
    """Those of epochs that something was learned in."""
    return [record for record in history if record["epoch"]]


def line_of(record: Record, num_epochs: int) -> str:
    """For people who watch."""
    told = [f"epoch {record['epoch']:>3}/{num_epochs}"]
    if "train_loss" in record:
        told.append(f"train loss {record['train_loss']:.3f}")
    if "val_loss" in record:
        told += [
            f"val loss {record['val_loss']:.3f}",
            f"translation error {record['val_translation_error']:.3f}"
            f" (twin-aware {record['val_twin_aware_error']:.3f})",
            f"scale error {record['val_relative_scale_error']:.1%}",
        ]
    return "  ".join(told)


def write_scalars(writer: "SummaryWriter", record: Record, **others: float) -> None:
    """The record, and what is no part of it since it depends on the machine, to TensorBoard."""
    for key, value in (record | others).items():
        if key != "epoch":
            group, _, name = key.partition("_")
            tag = f"{group}/{name}" if group in ("train", "val") else f"run/{key}"
            writer.add_scalar(tag, value, record["epoch"])
    writer.flush()
