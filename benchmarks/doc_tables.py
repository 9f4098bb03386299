"""Writes the tables of the READMEs and of docs/ from the committed files of metrics/.

A table follows a line `<!-- table: NAME -->`. Run this after metrics/ has changed; a test compares
the documents with the metrics.

    $ python -m benchmarks.doc_tables            # print the tables
    $ python -m benchmarks.doc_tables --write    # write them into the documents

The report of the demo is an output of DVC, so a copy of it is committed. After `dvc repro`:

    $ python -m benchmarks.doc_tables --demo outputs/evaluate/report.json --write
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.metric_tables import (
    TEST_ROWS,
    backbones_table,
    baselines_table,
    breakdown_table,
    constant_inputs_table,
    cross_validation_table,
    demo_training_table,
    evaluation_table,
    experiment_table,
    kinds_table,
    renders_table,
    sources_table,
    summary_table,
    torture_table,
)
from partloc.system.cli import make_parser, run_command
from partloc.system.files import write_json

SUMMARY_HEADINGS = {
    "README.md": (
        "translation error, mean",
        "translation error, median",
        "translation error below 0.05",
        "assigned error, mean",
        "relative scale error, mean",
        "relative scale error, median",
    ),
    "README.zh-CN.md": (
        "平移误差，均值",
        "平移误差，中位数",
        "平移误差小于 0.05 的比例",
        "分配后误差，均值",
        "相对尺度误差，均值",
        "相对尺度误差，中位数",
    ),
}
DEMO_REPORT = ROOT / "metrics/demo.json"


def read_metrics(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def make_tables() -> dict[str, dict[str, str]]:
    """Document -> name of a table -> table."""
    demo, real = read_metrics("demo"), read_metrics("cross_validation")
    small_data, ablations = read_metrics("small_data"), read_metrics("ablations")
    as_shipped = real["as-shipped"]
    data_sets = {"demo": demo, "real assemblies": as_shipped}
    return {
        "README.md": {
            "summary": summary_table(data_sets, SUMMARY_HEADINGS["README.md"], "constant answer")
        },
        "README.zh-CN.md": {
            "summary": summary_table(
                {"演示数据": demo, "真实装配体": as_shipped},
                SUMMARY_HEADINGS["README.zh-CN.md"],
                "常数预测",
            )
        },
        "docs/results.md": {
            "test": evaluation_table(demo, TEST_ROWS),
            "kinds": kinds_table(data_sets),
            "sources": sources_table(data_sets),
            "baselines": baselines_table(read_metrics("baselines")),
            "small-data": experiment_table(
                small_data["rows"], omitted={"seeds", "difference", "validation"}
            ),
            "renders": renders_table(read_metrics("renders")["rows"]),
            "backbones": backbones_table(read_metrics("backbones")["rows"]),
            "real": cross_validation_table(real),
            "real-breakdown": breakdown_table(as_shipped["by"]),
        },
        "docs/training.md": {
            "demo-training": demo_training_table(read_metrics("demo_training")["rows"])
        },
        "docs/reliability.md": {"torture": torture_table(read_metrics("torture"))},
        "docs/ablations.md": {
            "constant-inputs": constant_inputs_table(read_metrics("constant_inputs")["rows"]),
            "constant-inputs-real": constant_inputs_table(
                read_metrics("constant_inputs_real")["rows"]
            ),
            "ablations": experiment_table(
                ablations["rows"], omitted={"labelled error, mean", "relative scale error, mean"}
            ),
        },
    }


def update_tables(document: str, text: str) -> str:
    """The text of a document with its tables replaced.

    Raises: ValueError if the marker of a table is missing or repeated.
    """
    lines = text.splitlines()
    for name, table in make_tables()[document].items():
        marker = f"<!-- table: {name} -->"
        if lines.count(marker) != 1:
            raise ValueError(f"{document}: expected once the line {marker}")
        start = end = lines.index(marker) + 1
        while end < len(lines) and (not lines[end] or lines[end].startswith("|")):
            end += 1
        lines[start:end] = ["", *table.splitlines(), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> None:
    parser = make_parser(__doc__, config=None)
    parser.add_argument("--write", action="store_true", help="into the documents")
    demo_help = f"report of the demo, copied to metrics/{DEMO_REPORT.name} first"
    parser.add_argument("--demo", type=Path, metavar="FILE", help=demo_help)
    args = parser.parse_args()
    if args.demo:
        write_json(DEMO_REPORT, json.loads(args.demo.read_text(encoding="utf-8")))
    for document, tables in make_tables().items():
        if args.write:
            path = ROOT / document
            path.write_text(update_tables(document, path.read_text("utf-8")), encoding="utf-8")
        else:
            print(document, *tables.values(), "", sep="\n\n")


if __name__ == "__main__":
    run_command(main)
