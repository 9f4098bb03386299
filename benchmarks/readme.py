"""The README's tables, as the committed figures of metrics/ have them.

    $ python benchmarks/readme.py            # print them
    $ python benchmarks/readme.py --write    # put them into README.md

To be run when metrics/ has changed; a test holds the README to it.
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
sys.path.insert(0, str(ROOT))

from partloc.cli import make_parser, run_command  # noqa: E402
from partloc.files import figure_at  # noqa: E402

# Heading -> path in one summary of errors, and how its cells look; see `metrics.summarize`.
NEAREST = {
    "nearest twin, mean": ("translation_error/twin_aware/mean", ".3f"),
    "median": ("translation_error/twin_aware/median", ".3f"),
}
SCALE = {
    "scale, mean": ("scale_error/relative_mean", ".0%"),
    "scale, median": ("scale_error/relative_median", ".0%"),
}
RAW = {"raw": ("translation_error/mean", ".3f")}
APART = {
    "under 0.05": ("translation_error/twin_aware/within_0.05", ".0%"),
    "across": ("translation_error/twin_aware/across_image_mean", ".3f"),
    "along": ("translation_error/twin_aware/along_view_mean", ".3f"),
}
# The same of a row of `experiments.py`.
ROW = {
    "nearest twin, mean": ("nearest twin", ".3f"),
    "difference": ("nearest twin, difference", "+.3f"),
    "validation": ("nearest twin, validation", ".3f"),
    "median": ("median", ".3f"),
    "raw": ("raw", ".3f"),
    "assigned": ("assigned", ".3f"),
    "scale, mean": ("scale, mean", ".0%"),
    "scale, median": ("scale, median", ".0%"),
}
# Line -> the same of metrics/evaluate.json, and where its interval is, if it has one.
DEMO = {
    "translation error, mean": (*RAW["raw"], "translation_error/mean"),
    "... to the nearest twin, mean": (*NEAREST["nearest twin, mean"], "twin_aware_error/mean"),
    "... to the nearest twin, median": (*NEAREST["median"], "twin_aware_error/median"),
    "...... across the image, mean": (*APART["across"], None),
    "...... along the view, mean": (*APART["along"], None),
    "... to the nearest twin, under 0.05": (*APART["under 0.05"], None),
    "... twins on distinct places, mean": (
        "translation_error/assigned/mean",
        ".3f",
        "assigned_error/mean",
    ),
    "...... each place judged by itself": ("translation_error/unarranged/mean", ".3f", None),
    "relative scale error, mean": (*SCALE["scale, mean"], "relative_scale_error/mean"),
    "relative scale error, median": (*SCALE["scale, median"], "relative_scale_error/median"),
    "scale within 15 %": ("scale_error/within_15pct", ".0%", None),
}
# Where the error to the nearest twin comes from, see `metrics.error_sources`.
SOURCES = {
    "in_place": "right place in the image, depth left",
    "other_chosen": "proposed, another place chosen",
    "not_proposed": "not among the places proposed",
}
Columns = dict[str, tuple[str, str]]


def read(name: str) -> Any:
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def cell(figures: dict[str, Any], place: str, form: str) -> str:
    """Empty where there is no such figure."""
    figure = figure_at(figures, place)
    return "" if figure is None else format(figure, form).replace("%", " %")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return [lines[0].replace("|  |", "| |"), "|---" * len(head) + "|", *lines[1:]]


def rows_of(columns: Columns, lines: dict[str, dict[str, Any]]) -> list[list[str]]:
    return [
        [name, *(cell(figures, *column) for column in columns.values())]
        for name, figures in lines.items()
    ]


def demo() -> list[str]:
    figures = read("evaluate")
    rows = []
    for line, (place, form, bounds) in DEMO.items():
        found = cell(figures, place, form)
        if bounds:
            low, high = (
                cell(figures["interval_95"], f"{bounds}/{end}", form) for end in ("low", "high")
            )
            found += f" ({low.removesuffix(' %')} to {high})"
        rows.append([line, found, cell(figures["baseline"], place, form)])
    return table(["", "partloc", "always the training median"], rows)


def sources() -> list[str]:
    columns = {"demo": read("evaluate"), "real assemblies": read("cross_validation")["as-shipped"]}
    head = [text for name in columns for text in (f"{name}, of the parts", "of the error")]
    rows = []
    for source, name in SOURCES.items():
        row = [name]
        for figures in columns.values():
            near = figures["translation_error"]["twin_aware"]
            found = near["sources"][source]
            row += [f"{found['share']:.0%}", f"{found['part_of_mean'] / near['mean']:.0%}"]
        rows.append([text.replace("%", " %") for text in row])
    return table(["", *head], rows)


def baselines() -> list[str]:
    columns = RAW | NEAREST | SCALE | {"ms a part": ("ms_per_part", ".0f")}
    return table(["", *columns], rows_of(columns, read("baselines")))


def experiments(name: str, left_out: set[str]) -> list[str]:
    columns = {heading: column for heading, column in ROW.items() if heading not in left_out}
    rows = []
    for row in read(name)["rows"]:
        cells = []
        for place, form in columns.values():
            spread = cell(row, f"{place}, deviation", form.lstrip("+"))
            cells.append(cell(row, place, form) + (f" ± {spread}" if spread else ""))
        rows.append([row["line"], *cells])
    return table(["", *columns], rows)


def small_data() -> list[str]:
    return experiments("small_data", {"difference", "validation"})


def ablations() -> list[str]:
    return experiments("ablations", {"raw", "scale, mean"})


def real() -> list[str]:
    figures = read("cross_validation")
    columns = NEAREST | APART | RAW | SCALE | {"log ratio": ("scale_error/log_ratio_mean", ".2f")}
    lines = {"training median": figures["as-shipped"]["baseline"], **figures}
    return table(["start", *columns], rows_of(columns, lines))


def real_by() -> list[str]:
    by = read("cross_validation")["as-shipped"]["by"]
    cuts = {"kind": "group", "longest edge": "scale", "share in sight": "visible_share"}
    columns = [
        [[name, cell(figures, "twin_aware_error", ".3f")] for name, figures in by[cut].items()]
        for cut in cuts.values()
    ]
    rows = []
    for i in range(max(map(len, columns))):
        rows.append([text for rest in columns for text in (rest[i] if i < len(rest) else ["", ""])])
    return table([text for heading in cuts for text in (heading, "")], rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    "demo": demo,
    "sources": sources,
    "baselines": baselines,
    "small-data": small_data,
    "ablations": ablations,
    "real": real,
    "real-by": real_by,
}


def written(text: str) -> str:
    """The README's text with its tables, each found by its heading, as the figures have them."""
    lines = text.splitlines()
    for name, make in TABLES.items():
        new = make()
        if lines.count(new[0]) != 1:
            raise ValueError(f"README.md: expected once the heading of table {name}: {new[0]}")
        start = end = lines.index(new[0])
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        lines[start:end] = new
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = make_parser(__doc__, config=None)
    parser.add_argument("--write", action="store_true", help="into README.md")
    args = parser.parse_args()
    if args.write:
        README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join("\n".join(make()) for make in TABLES.values()))


if __name__ == "__main__":
    run_command(main)
