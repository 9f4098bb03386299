"""Duration of an epoch with a frozen encoder: from images, and from cached tokens.

Uses the demo's configuration with train.freeze_backbone: true, with and without template matching.
Both sides train and validate on the same pairs, take turns, and must give the same losses. Without
a GPU the seconds are processor time, which other programs do not affect. Without --data-dir the
images are coloured boxes, four parts a whole.

    $ python -m benchmarks.frozen
    $ python -m benchmarks.frozen --data-dir my/renders --output metrics/frozen.json
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.box_models import write_box_models
from benchmarks.common import (
    ROOT,
    Range,
    benchmark_parser,
    describe_machine,
    markdown_table,
    speedup,
    time_alternating,
)
from partloc.config import Config, DataConfig, load_config
from partloc.data.index import build_index
from partloc.data.table import PairTable
from partloc.distributed import DistributedContext, choose_device
from partloc.synthetic.dataset import DEMO_IMAGE_PX
from partloc.system.cli import run_command
from partloc.system.files import write_json
from partloc.training.run import make_trainer
from partloc.training.trainer import Trainer

VAL_EVERY = 9  # every ninth model is for validation, close to the demo's ratios
MAX_METRIC_DIFFERENCE = 0.02  # relative


def make_tables(
    data_dir: Path | None, folder: Path, image_size: int, num_models: int
) -> tuple[PairTable, PairTable]:
    """Tables for training and validation, of the first `num_models` models of `data_dir`."""
    if data_dir is None:
        num_val = num_models // VAL_EVERY
        num_train = num_models - num_val
        train = write_box_models(folder / "train", image_size, num_train, num_train)
        return train, write_box_models(folder / "val", image_size, num_val, num_val)
    manifest = build_index(DataConfig(data_dir=str(data_dir))).manifest
    number = manifest.groupby("model").ngroup()
    is_val = number % VAL_EVERY == VAL_EVERY - 1
    is_chosen = number < num_models
    train, val = (PairTable(manifest[is_chosen & rows], data_dir) for rows in (~is_val, is_val))
    return train, val


def make_config(config: Config, match_size: int) -> Config:
    model: dict[str, Any] = {"match_size": match_size}
    if match_size != config.model.match_size:  # the starting weights have another architecture
        model["start_from"] = None
    changes = {
        "model": model,
        "train": {"freeze_backbone": True},
        "machine": {"num_workers": 0},
    }
    return config.model_copy(
        update={group: getattr(config, group).model_copy(update=c) for group, c in changes.items()}
    )


class Epochs:
    """Runs one epoch at each call and keeps the metrics of the last one."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.metrics = trainer, list[float]()

    def __call__(self) -> None:
        train, val = self.trainer.train_epoch(), self.trainer.validate()
        self.metrics = [*train.values(), *val.values()]
        self.trainer.state.epoch += 1


def compare(
    config: Config, tables: tuple[PairTable, PairTable], rounds: int, cache_dir: Path
) -> dict[str, Any]:
    """Seconds of an epoch on both sides. Raises: ValueError if their metrics differ."""
    device = choose_device(config.machine.device)
    context = DistributedContext(0, 1, device)
    from_images, from_cache = (
        Epochs(make_trainer(config, context, tables, None)) for _ in range(2)
    )
    from_cache.trainer.use_token_cache(cache_dir)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    image_seconds, cache_seconds = time_alternating(rounds, from_images, from_cache, clock=clock)
    pairs = zip(from_images.metrics, from_cache.metrics, strict=True)
    difference = max(abs(a - b) / max(abs(a), 1e-6) for a, b in pairs)
    if difference > MAX_METRIC_DIFFERENCE:
        raise ValueError(
            f"metrics of an epoch differ by {difference:.1%}, "
            f"expected below {MAX_METRIC_DIFFERENCE:.0%}"
        )
    cached: Any = from_cache.trainer.train_loader.dataset
    return {
        "epoch_s": {
            "images": Range.of(image_seconds).median,
            "cache": Range.of(cache_seconds).median,
        },
        "speedup": speedup(image_seconds, cache_seconds)._asdict(),
        "metric_difference": difference,
        "kilobytes_per_image": cached.cache.row_dtype.itemsize / 1e3,
    }


def main() -> None:
    parser = benchmark_parser(__doc__, ROOT / "params.yaml")
    add = parser.add_argument
    add("--data-dir", type=Path, metavar="DIR", help="folder of labelled models")
    add("--models", type=int, default=40, metavar="N", help="at most this many; default 40")
    add("--rounds", type=int, default=3, metavar="N", help="epochs of each side; default 3")
    args = parser.parse_args()
    config = load_config(args.config)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        tables = make_tables(args.data_dir, Path(name), DEMO_IMAGE_PX, args.models)
        for match_size in (0, config.model.match_size):
            chosen = make_config(config, match_size)
            results[match_size] = compare(chosen, tables, args.rounds, Path(name, "tokens"))
    if args.output:
        values = {f"match_size {size}": result for size, result in results.items()}
        write_json(args.output, {"pairs": [len(table) for table in tables], **values})
    machine = describe_machine(choose_device(config.machine.device))
    print(f"{machine}; {len(tables[0])} training pairs, {len(tables[1])} validation pairs,")
    print(f"{config.model.backbone_name} at {config.data.image_size} px\n")
    head = ["match_size", "kB per image", "epoch from images, s", "epoch from the cache, s"]
    rows = [
        [
            size,
            f"{result['kilobytes_per_image']:.0f}",
            *(f"{seconds:.1f}" for seconds in result["epoch_s"].values()),
            Range(**result["speedup"]),
        ]
        for size, result in results.items()
    ]
    print(markdown_table([*head, "speed-up (range)"], rows))


if __name__ == "__main__":
    run_command(main)
