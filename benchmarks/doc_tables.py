"""Writes the tables of README.md and docs/ from the committed files of metrics/.

A table follows a line `<!-- table: NAME -->`. Run this after metrics/ has changed; a test compares
the documents with the metrics.

    $ python -m benchmarks.doc_tables            # print the tables
    $ python -m benchmarks.doc_tables --write    # write them into the documents
"""

import json
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import Any, NamedTuple

from benchmarks.common import ROOT, markdown_table
from partloc.cli import make_parser, run_command
from partloc.files import nested_value

BASELINE = "training median"


class Column(NamedTuple):
    """A heading, the path of a value in a metrics file, and its format."""

    heading: str
    path: str
    form: str


ERROR_COLUMNS = (
    Column("translation error, mean", "translation_error/mean", ".3f"),
    Column("median", "translation_error/median", ".3f"),
)
LABELLED_COLUMN = Column("labelled error, mean", "labelled_error/mean", ".3f")
SCALE_COLUMNS = (
    Column("relative scale error, mean", "relative_scale_error/mean", ".0%"),
    Column("median", "relative_scale_error/median", ".0%"),
)
CAMERA_COLUMNS = (
    Column("below 0.05", "translation_error/within_0.05", ".0%"),
    Column("across", "translation_error/across_image_mean", ".3f"),
    Column("along", "translation_error/along_view_mean", ".3f"),
)
LOG_SCALE_COLUMN = Column("log scale error, mean", "log_scale_error/mean", ".2f")
# Of the rows that `experiments.py` writes.
EXPERIMENT_COLUMNS = (
    Column("translation error, mean", "translation_error_mean", ".3f"),
    Column("difference", "translation_error_mean_difference", "+.3f"),
    Column("validation", "val_translation_error", ".3f"),
    Column("median", "translation_error_median", ".3f"),
    Column("labelled error, mean", "labelled_error_mean", ".3f"),
    Column("assigned error, mean", "assigned_error_mean", ".3f"),
    Column("relative scale error, mean", "relative_scale_error_mean", ".0%"),
    Column("scale, median", "relative_scale_error_median", ".0%"),
)
# Rows of the demo's tables.
SUMMARY_ROWS = (
    Column("translation error, mean", "translation_error/mean", ".3f"),
    Column("translation error, median", "translation_error/median", ".3f"),
    Column("translation error below 0.05", "translation_error/within_0.05", ".0%"),
    Column("assigned error, mean", "assigned_error/mean", ".3f"),
    Column("relative scale error, mean", "relative_scale_error/mean", ".0%"),
)
DEMO_ROWS = (
    *SUMMARY_ROWS,
    Column("relative scale error, median", "relative_scale_error/median", ".0%"),
    Column("relative scale error below 15 %", "relative_scale_error/within_0.15", ".0%"),
    Column(
        "translation error across the image, mean", "translation_error/across_image_mean", ".3f"
    ),
    Column("along the view, mean", "translation_error/along_view_mean", ".3f"),
    Column("labelled error, mean", "labelled_error/mean", ".3f"),
)
SOURCES = {
    "correct_position": "position in the image correct, depth wrong",
    "wrong_choice": "correct position proposed, another chosen",
    "not_proposed": "correct position not proposed",
}
BREAKDOWNS = {"kind": "group", "scale": "scale", "visible fraction": "visible_fraction"}


def read_metrics(name: str) -> Any:
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def format_value(metrics: dict[str, Any], path: str, form: str) -> str:
    """Empty if the metrics have no such value."""
    value = nested_value(metrics, path)
    return "" if value is None else format(value, form).replace("%", " %")


def metric_table(first: str, columns: Iterable[Column], rows: dict[str, dict[str, Any]]) -> str:
    """A row for each entry of `rows`, name -> metrics."""
    columns = list(columns)
    cells = [
        [name, *(format_value(metrics, column.path, column.form) for column in columns)]
        for name, metrics in rows.items()
    ]
    return markdown_table([first, *(column.heading for column in columns)], cells)


def demo_table(rows: Iterable[Column]) -> str:
    """Values of the test split with their 95 % intervals, beside those of the baseline."""
    metrics = read_metrics("evaluate")
    cells = []
    for heading, path, form in rows:
        value = format_value(metrics, path, form)
        low, high = (
            format_value(metrics["interval_95"], f"{path}/{end}", form) for end in ("low", "high")
        )
        interval = f" ({low.removesuffix(' %')} to {high})" if low else ""
        cells.append([heading, value + interval, format_value(metrics["baseline"], path, form)])
    return markdown_table(["", "partloc", BASELINE], cells)


def sources_table() -> str:
    data_sets = {
        "demo": read_metrics("evaluate"),
        "real assemblies": read_metrics("cross_validation")["as-shipped"],
    }
    head = [f"{name}, {of}" for name in data_sets for of in ("parts", "share of the error")]
    rows = []
    for key, name in SOURCES.items():
        cells = []
        for metrics in data_sets.values():
            error = metrics["translation_error"]
            source = error["sources"][key]
            fractions = source["fraction"], source["mean_contribution"] / error["mean"]
            cells += [f"{fraction:.0%}".replace("%", " %") for fraction in fractions]
        rows.append([name, *cells])
    return markdown_table(["", *head], rows)


def baselines_table() -> str:
    time = Column("ms per part", "ms_per_part", ".0f")
    columns = (*ERROR_COLUMNS, LABELLED_COLUMN, *SCALE_COLUMNS, time)
    return metric_table("", columns, read_metrics("baselines"))


def experiment_table(name: str, omitted: set[str]) -> str:
    columns = [column for column in EXPERIMENT_COLUMNS if column.heading not in omitted]
    rows = []
    for row in read_metrics(name)["rows"]:
        cells = []
        for _, path, form in columns:
            std = format_value(row, f"{path}_std", form.lstrip("+"))
            cells.append(format_value(row, path, form) + (f" ± {std}" if std else ""))
        rows.append([row["name"], *cells])
    return markdown_table(["", *(column.heading for column in columns)], rows)


def small_data_table() -> str:
    return experiment_table("small_data", {"difference", "validation"})


def ablations_table() -> str:
    return experiment_table("ablations", {"labelled error, mean", "relative scale error, mean"})


def real_table() -> str:
    metrics = read_metrics("cross_validation")
    columns = (*ERROR_COLUMNS, *CAMERA_COLUMNS, LABELLED_COLUMN, *SCALE_COLUMNS, LOG_SCALE_COLUMN)
    return metric_table(
        "variant", columns, {BASELINE: metrics["as-shipped"]["baseline"], **metrics}
    )


def real_breakdown_table() -> str:
    breakdowns = read_metrics("cross_validation")["as-shipped"]["by"]
    columns = []
    for key in BREAKDOWNS.values():
        cells = [
            [name, format_value(errors, "translation_error", ".3f")]
            for name, errors in breakdowns[key].items()
        ]
        columns.append(cells)
    rows = [sum(cells, []) for cells in zip_longest(*columns, fillvalue=["", ""])]
    return markdown_table([text for heading in BREAKDOWNS for text in (heading, "")], rows)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"summary": lambda: demo_table(SUMMARY_ROWS)},
    "docs/results.md": {
        "demo": lambda: demo_table(DEMO_ROWS),
        "sources": sources_table,
        "baselines": baselines_table,
        "small-data": small_data_table,
        "real": real_table,
        "real-breakdown": real_breakdown_table,
    },
    "docs/ablations.md": {"ablations": ablations_table},
}


def update_tables(document: str, text: str) -> str:
    """The text of a document with its tables replaced.

    Raises: ValueError if the marker of a table is missing or repeated.
    """
    lines = text.splitlines()
    for name, make_table in TABLES[document].items():
        marker = f"<!-- table: {name} -->"
        if lines.count(marker) != 1:
            raise ValueError(f"{document}: expected once the line {marker}")
        start = end = lines.index(marker) + 1
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        lines[start:end] = make_table().splitlines()
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = make_parser(__doc__, config=None)
    parser.add_argument("--write", action="store_true", help="into the documents")
    args = parser.parse_args()
    for document, tables in TABLES.items():
        if args.write:
            path = ROOT / document
            path.write_text(update_tables(document, path.read_text("utf-8")), encoding="utf-8")
        else:
            print(document, *(make_table() for make_table in tables.values()), sep="\n\n")


if __name__ == "__main__":
    run_command(main)
