"""How well does it work on a folder of your own? Cross-validation by model, for several starts.

Every model is in the test set of one fold and in the training set of the others, so each part gets
one answer, from a network that has not seen its model. The starts:

- as-shipped: model.start_from as it is; only the camera is fitted, nothing is trained
- fine-tuned: trained from model.start_from
- frozen: the same, but encoder and depth network stay as they are
- scratch: trained from random weights, at a learning rate of 1e-3

A CSV of facts (columns model, part and any of group, visible_pixels, alone_pixels) breaks the
errors down by kind of model and by the share of a part that can be seen. Writes to --output a
table of answers for each start and pictures of the ten worst of the first one; prints a Markdown
table. State is in runs/cross-validate; an interrupted run goes on.

    $ python benchmarks/cross_validate.py --data-dir my/renders
    $ python benchmarks/cross_validate.py --data-dir my/renders --facts my/facts.csv \\
          --starts fine-tuned scratch --metrics metrics/cross_validation.json
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.config import Config, digest, load_config  # noqa: E402
from partloc.data.images import load_rgb  # noqa: E402
from partloc.data.index import build_index  # noqa: E402
from partloc.data.table import PairTable  # noqa: E402
from partloc.data.transforms import Preprocessing  # noqa: E402
from partloc.distributed import choose_device, join_team  # noqa: E402
from partloc.evaluation.evaluate import Answers, Judge, answer_models, evaluate, judged_rows  # noqa: E402
from partloc.evaluation.metrics import constant_answer  # noqa: E402
from partloc.evaluation.report import draw_case  # noqa: E402
from partloc.files import write_json, write_table  # noqa: E402
from partloc.model.locator import PartLocator  # noqa: E402
from partloc.model.model_file import load_model, save_model  # noqa: E402
from partloc.pose import PartPose  # noqa: E402
from partloc.training.run import code_hash, fingerprint_of, run_training, runs_root, start_from_data  # noqa: E402

STARTS = ("as-shipped", "fine-tuned", "frozen", "scratch")
RATE_FROM_CHANCE = 1.0e-3
VAL_SHARE = 0.1  # of the training models, to choose the best epoch
WORST = 10  # cases that are drawn
FACTS = ("group", "visible_pixels", "alone_pixels")
APART = ("across_image", "along_view")  # errors that are known where the camera is
# Left edges of the bins of the breakdown; of the scale, and of the visible share of a part.
SCALES = (0.0, 0.1, 0.2, 0.4, 0.7)
VISIBLE = (0.0, 0.25, 0.5, 0.75)


def config_of(config: Config, start: str) -> Config:
    if start != "scratch":
        frozen = {"freeze_backbone": start == "frozen"}
        return config.model_copy(update={"train": config.train.model_copy(update=frozen)})
    model = config.model.model_copy(update={"start_from": None})
    train = config.train.model_copy(update={"learning_rate": RATE_FROM_CHANCE})
    return config.model_copy(update={"model": model, "train": train})


def place_of(model: str) -> int:
    """A number that depends on the name alone, so that no model moves when others come or go."""
    return int(hashlib.sha256(model.encode()).hexdigest(), 16)


def split_fold(manifest: pd.DataFrame, fold: int, folds: int) -> dict[str, pd.DataFrame]:
    """The tables train, val and test."""
    tested = manifest.model.map(lambda model: place_of(model) % folds == fold)
    others = sorted(manifest.model[~tested].unique(), key=place_of)
    val = others[: round(VAL_SHARE * len(others))]
    rest = manifest[~tested]
    return {
        "train": rest[~rest.model.isin(val)],
        "val": rest[rest.model.isin(val)],
        "test": manifest[tested],
    }


def network_of(
    config: Config, start: str, tables: dict[str, pd.DataFrame], place: Path
) -> PartLocator:
    """Trained on the tables, unless start is as-shipped; what is trained is kept in `place`, by
    all that determines it."""
    for name, table in tables.items():
        write_table(place / "split" / f"{name}.csv", table)
    if start == "as-shipped":
        model = PartLocator(config.model, Preprocessing.of(config.data))
        start_from_data(model, PairTable(tables["train"], Path(config.data.data_dir)), config)
        return model
    split_dir = place / "split"
    path = place / f"{digest([fingerprint_of(config, split_dir), code_hash()])[:16]}.pth"
    if not path.exists():
        with join_team(config.machine.device) as team:
            run_training(
                config, team, split_dir, place, True, lambda done: save_model(path, done.model, {})
            )
    return load_model(path)


def judge_all(
    config: Config, start: str, manifest: pd.DataFrame, folds: int, judge: Judge
) -> pd.DataFrame:
    """The table of predictions, each by the network of its fold, which the judge gets to know."""
    pieces = []
    for fold in range(folds):
        print(f"{start}: fold {fold + 1} of {folds}", file=sys.stderr)
        tables = split_fold(manifest, fold, folds)
        place = runs_root("cross-validate") / f"{start}-{fold + 1}-of-{folds}"
        model = network_of(config, start, tables, place)
        train, test = (
            PairTable(tables[name], Path(config.data.data_dir)) for name in ("train", "test")
        )
        constant = constant_answer(PartPose(train.translation, train.scale), 1)
        found = answer_models(model, test, config, choose_device(config.machine.device))
        answers = in_manifest(found, tables["test"].index.to_numpy())
        pieces += judged_rows(manifest, judge, answers, constant, model.view)
    return pd.concat(pieces).sort_index()


def in_manifest(answers: Iterator[Answers], rows: np.ndarray) -> Iterator[Answers]:
    """The same, told by the rows that a fold's test table has in the manifest."""
    for some in answers:
        yield some._replace(rows=rows[some.rows])


def breakdown(rows: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Errors by scale, and as far as it is known by kind of model and by visible share."""
    cuts = {"scale": _binned(rows.scale, SCALES)}
    if "group" in rows:
        cuts["group"] = rows.group
    if {"visible_pixels", "alone_pixels"} <= set(rows):
        # Of the pixels of its own picture, at the size that it has in the whole.
        share = rows.visible_pixels / (rows.alone_pixels * rows.scale**2)
        cuts["visible_share"] = _binned(share, VISIBLE)
    columns = {
        "twin_aware_error": "mean",
        "constant_error": "mean",
        "across_image": "mean",
        "along_view": "mean",
        "relative_scale_error": "median",
    }
    columns = {name: how for name, how in columns.items() if name in rows}
    tables = {name: rows.groupby(labels).agg(columns) for name, labels in cuts.items()}
    return {
        name: {
            str(key): {"parts": int((cuts[name] == key).sum()), **line}
            for key, line in table.to_dict("index").items()
        }
        for name, table in tables.items()
    }


def _binned(values: pd.Series, edges: tuple[float, ...]) -> pd.Series:
    place = np.searchsorted(edges, values, side="right") - 1
    return pd.Series([f"from {edges[i]:g}" for i in place.clip(0)], index=values.index)


def answer_all(
    config: Config, start: str, manifest: pd.DataFrame, folds: int, facts: pd.DataFrame | None
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The figures of all folds together, and the answers row by row."""
    judge = Judge(PairTable(manifest, Path(config.data.data_dir)))
    rows = judge_all(config, start, manifest, folds, judge)
    figures = evaluate(judge, config.seed)
    for series in ("points", "errors"):
        del figures[series]
    extra = {"constant_error": judge.constant["twin_aware_error"]}
    extra |= {name: judge.errors[name] for name in APART if name in judge.errors}
    rows = rows.assign(**{name: values.numpy().astype(float) for name, values in extra.items()})
    rows = rows.round(6)
    if facts is not None:
        keep = ["model", "part", *(name for name in FACTS if name in facts)]
        rows = rows.merge(facts[keep], on=["model", "part"], how="left", validate="one_to_one")
    return figures | {"by": breakdown(rows)}, rows


def draw_worst(folder: Path, rows: pd.DataFrame, data_dir: Path, max_pixels: int) -> None:
    """One picture of a group of twins, the worst first."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = rows.sort_values(["twin_aware_error", "model"], ascending=False)
    for number, (row, case) in enumerate(
        ordered.drop_duplicates(["model", "twin_group"])[:WORST].iterrows(), 1
    ):
        same = (rows.model == case.model) & (rows.twin_group == case.twin_group)
        pictures = (
            load_rgb(data_dir / path, max_pixels) for path in (case.whole_path, case.part_path)
        )
        name = f"worst-{number:02d}"
        drawn = draw_case(name, case, rows[same & (rows.index != row)], *pictures)
        drawn.save(folder / f"{name}.png")


def line_of(name: str, figures: dict[str, Any]) -> str:
    translation, scale = figures["translation_error"], figures["scale_error"]
    near = translation["twin_aware"]
    cells = [f"{near['mean']:.3f}", f"{near['median']:.3f}", f"{near['within_0.05']:.0%}"]
    for key in ("across_image_mean", "along_view_mean"):
        cells.append(f"{near[key]:.3f}" if key in near else "")
    cells += [f"{translation['mean']:.3f}", f"{scale['relative_mean']:.0%}"]
    cells += [f"{scale['relative_median']:.0%}", f"{scale['log_ratio_mean']:.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, metavar="DIR", help="folder of labelled models")
    add("--facts", type=Path, metavar="FILE", help="CSV with more columns about each part")
    add("--starts", nargs="+", choices=STARTS, default=list(STARTS), metavar="NAME")
    add("--folds", type=int, default=3, metavar="N", help="default 3")
    add("--epochs", type=int, metavar="N", help="instead of train.num_epochs")
    add("--output", type=Path, default=Path("outputs/cross-validation"), metavar="DIR")
    add("--metrics", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()

    config = load_config(args.config)
    data = config.data.model_copy(update={"data_dir": str(args.data_dir)})
    epochs = {"num_epochs": args.epochs or config.train.num_epochs}
    train = config.train.model_copy(update=epochs)
    config = config.model_copy(update={"data": data, "train": train})
    facts = pd.read_csv(args.facts, dtype={"model": str, "part": str}) if args.facts else None
    manifest = build_index(config.data).manifest.sort_values(["model", "part"], ignore_index=True)

    results, lines = {}, []
    for start in args.starts:
        chosen = config_of(config, start)
        figures, rows = answer_all(chosen, start, manifest, args.folds, facts)
        write_table(args.output / f"{start}.csv", rows)
        if not results:
            limit = config.data.max_image_pixels
            draw_worst(args.output / f"worst-{start}", rows, args.data_dir, limit)
            lines.append(line_of("training median", figures["baseline"]))
        results[start] = figures
        lines.append(line_of(start, figures))
        if args.metrics:
            write_json(args.metrics, results)
    print(f"{len(manifest)} parts of {manifest.model.nunique()} models, {args.folds} folds\n")
    print("| start | nearest twin, mean | median | under 0.05 | across | along | raw, mean "
          "| scale, mean | median | log ratio |")  # fmt: skip
    print("|---" * 10 + "|", *lines, sep="\n")


if __name__ == "__main__":
    run_command(main)
