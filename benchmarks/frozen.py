"""An epoch with a frozen encoder: from pictures, and from the tokens that were kept of them.

The demo's configuration with train.freeze_backbone: true, with and without template matching; both
sides train and validate on the same pairs and take turns. Without a GPU seconds are the
processor's, in which other programs do not count. Without --data-dir the pictures are coloured
boxes, four parts a whole.

    $ python benchmarks/frozen.py
    $ python benchmarks/frozen.py --data-dir my/renders --output metrics/frozen.json
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.setting import machine, pairs_of_four  # noqa: E402
from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.config import Config, load_config  # noqa: E402
from partloc.data.index import build_index  # noqa: E402
from partloc.data.table import PairTable  # noqa: E402
from partloc.data.transforms import Preprocessing  # noqa: E402
from partloc.distributed import Team, choose_device, seed_everything  # noqa: E402
from partloc.files import write_json  # noqa: E402
from partloc.model.locator import PartLocator  # noqa: E402
from partloc.training.run import start_from_data  # noqa: E402
from partloc.training.trainer import Trainer  # noqa: E402

VAL_SHARE = 9  # every ninth model is for validation, as the demo's ratios have it


def tables_of(data_dir: Path | None, folder: Path, side_px: int, wholes: int) -> list[PairTable]:
    """For training and for validation; of a folder's models the first `wholes`."""
    if data_dir is None:
        counts = {"train": wholes - wholes // VAL_SHARE, "val": wholes // VAL_SHARE}
        return [pairs_of_four(folder / name, side_px, n, n) for name, n in counts.items()]
    manifest = build_index(Config(data={"data_dir": str(data_dir)}).data).manifest
    place = manifest.groupby("model").ngroup()
    for_val = place % VAL_SHARE == VAL_SHARE - 1
    return [PairTable(manifest[(place < wholes) & chosen], data_dir)
            for chosen in (~for_val, for_val)]  # fmt: skip


def config_of(config: Config, match_size: int) -> Config:
    model = {"match_size": match_size}
    if match_size != config.model.match_size:  # the starting weights are of another architecture
        model["start_from"] = None
    train = {"freeze_backbone": True, "cached_variants": 1}
    changes = {"model": model, "train": train, "machine": {"num_workers": 0}}
    return config.model_copy(
        update={group: getattr(config, group).model_copy(update=c) for group, c in changes.items()}
    )


def trainer_of(config: Config, tables: list[PairTable], folder: Path | None) -> Trainer:
    """With a store in `folder`, if given."""
    seed_everything(config.seed)
    model = PartLocator(config.model, Preprocessing.of(config.data))
    start_from_data(model, tables[0], config)
    seed_everything(config.seed)
    trainer = Trainer(config, model, *tables, Team(0, 1, choose_device(config.machine.device)))
    if folder:
        trainer.use_store(folder)
    return trainer


def seconds_of_epoch(trainer: Trainer) -> tuple[float, list[float]]:
    """And the figures of the epoch, which must be equal on both sides."""
    seconds = time.process_time if trainer.team.device.type == "cpu" else time.perf_counter
    start = seconds()
    figures = [*trainer.train_epoch().values(), *trainer.validate().values()]
    trainer.epoch += 1
    return seconds() - start, figures


def compare(config: Config, tables: list[PairTable], rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds of both sides. Raises: ValueError when they do not learn the same."""
    pictures = trainer_of(config, tables, None)
    stored = trainer_of(config, tables, folder)
    seconds = {"pictures": [], "store": []}
    for _ in range(rounds):
        learned = []
        for name, trainer in (("pictures", pictures), ("store", stored)):
            spent, figures = seconds_of_epoch(trainer)
            seconds[name].append(spent)
            learned.append(figures)
        off = max(abs(a - b) / max(abs(a), 1e-6) for a, b in zip(*learned, strict=True))
        if off > 0.02:
            raise ValueError(f"figures of an epoch differ by {off:.1%}, expected below 2 %")
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    return {
        "epoch_s": {name: statistics.median(each) for name, each in seconds.items()},
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "figures_differ": off,
        "row_kb": stored.train_loader.dataset.store.layout.itemsize / 1e3,
    }


def main() -> None:
    parser = make_parser(__doc__, ROOT / "params.yaml")
    add = parser.add_argument
    add("--data-dir", type=Path, metavar="DIR", help="folder of labelled models")
    add("--models", type=int, default=40, metavar="N", help="no more than these; default 40")
    add("--rounds", type=int, default=3, metavar="N", help="epochs of each side; default 3")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    config = load_config(args.config)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        tables = tables_of(args.data_dir, Path(name), config.demo.image_size, args.models)
        for match_size in (0, config.model.match_size):
            chosen = config_of(config, match_size)
            results[match_size] = compare(chosen, tables, args.rounds, Path(name, "tokens"))
    if args.output:
        figures = {f"match_size {size}": figures for size, figures in results.items()}
        write_json(args.output, {"pairs": [len(table) for table in tables], **figures})
    print(f"{machine(choose_device(config.machine.device))}; {len(tables[0])} pairs to train on, "
          f"{len(tables[1])} to validate, {config.model.backbone_name} at "
          f"{config.data.image_size} px\n")  # fmt: skip
    print("| match_size | kB a picture | epoch from pictures, s | from the store, s "
          "| times (range) |\n|---|---|---|---|---|")  # fmt: skip
    for size, found in results.items():
        spent, ratio = found["epoch_s"], found["ratio"]
        print(f"| {size} | {found['row_kb']:.0f} "
              f"| {spent['pictures']:.1f} | {spent['store']:.1f} | {ratio['median']:.2f} "
              f"({ratio['min']:.2f} to {ratio['max']:.2f}) |")  # fmt: skip


if __name__ == "__main__":
    run_command(main)
