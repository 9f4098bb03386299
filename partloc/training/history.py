"""The metrics of each epoch: records, choice of the best epoch, progress line.

A record is a flat dictionary: the epoch, training and validation metrics with the prefixes train_
and val_, and the learning rate. The record of epoch 0, before any training, has validation metrics
only.
"""

from typing import TypedDict

Record = dict[str, float]
BEST_METRIC = "val_pose_loss"
SHOWN_METRICS = (
    ("training loss", "train_loss", ".3f"),
    ("validation loss", "val_loss", ".3f"),
    ("validation pose loss", BEST_METRIC, ".3f"),
    ("translation error", "val_translation_error", ".3f"),
    ("labelled error", "val_labelled_error", ".3f"),
    ("relative scale error", "val_relative_scale_error", ".1%"),
)


class BestMetric(TypedDict):
    """The metric that chose the best epoch: its name in the records, its value there, the epoch."""

    name: str
    value: float
    epoch: int


def make_record(
    epoch: int, train: dict[str, float], val: dict[str, float], **others: float
) -> Record:
    """Join the metrics of an epoch; `others` are added without a prefix."""
    record = {"epoch": epoch, **others}
    record |= {f"train_{key}": value for key, value in train.items()}
    return record | {f"val_{key}": value for key, value in val.items()}


def best_metric(history: list[Record]) -> BestMetric:
    """Return the lowest validation pose loss and its epoch.

    Without validation the metric is the epoch itself, and the last one is the best.

    The total loss would be a bad criterion: it includes auxiliary terms that keep improving, such
    as that of the depth maps, and the ranking of proposals that are all wrong.
    """
    if BEST_METRIC in history[-1]:
        name, best = BEST_METRIC, min(history, key=lambda record: record[BEST_METRIC])
    else:
        name, best = "epoch", history[-1]
    return {"name": name, "value": best[name], "epoch": int(best["epoch"])}


def describe_best(history: list[Record]) -> str:
    """Say which epoch was kept and why; what to try if none improved on the starting weights."""
    best, last = best_metric(history), history[-1]
    if best["name"] != BEST_METRIC:
        return f"kept epoch {last['epoch']}, the last one: there are no validation models"
    losses = {record["epoch"]: record[BEST_METRIC] for record in history}
    kept = f"validation pose loss {best['value']:.3f}"
    start = losses.pop(0, None)
    if best["epoch"]:
        other = "the lowest of all epochs" if start is None else f"at the start {start:.3f}"
        return f"kept epoch {best['epoch']}: {kept}, {other}"
    lowest, epoch = min((loss, epoch) for epoch, loss in losses.items())
    return (
        f"kept the starting weights: {kept}, and no epoch was better (the best one, epoch "
        f"{epoch}, has {lowest:.3f}). Try a lower "
        "train.learning_rate, more epochs (train.num_epochs), or more training models"
    )


def format_training(history: list[Record]) -> str:
    """For the terminal: metrics at the start, in the kept and in the last epoch; what was kept."""
    kept = best_metric(history)["epoch"]
    shown = [record for record in history if record["epoch"] in (0, kept, history[-1]["epoch"])]
    heads = [f"epoch {record['epoch']}" if record["epoch"] else "start" for record in shown]
    lines = [f"{'':28}" + "".join(f"{head:>10}" for head in heads)]
    for label, key, form in SHOWN_METRICS:
        cells = [format(record[key], form) if key in record else "" for record in shown]
        if any(cells):
            lines.append(f"{label:28}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join([*lines, describe_best(history)])


def loss_records(history: list[Record]) -> list[dict[str, float | str]]:
    """Return one entry for each epoch and set of samples that has a loss.

    DVC rejects records with different keys, and epoch 0 has no training loss.
    """
    return [
        {"epoch": record["epoch"], "samples": samples, "loss": record[f"{key}_loss"]}
        for key, samples in (("train", "training"), ("val", "validation"))
        for record in history
        if f"{key}_loss" in record
    ]


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
