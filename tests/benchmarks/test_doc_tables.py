"""The tables of the documents show the committed metrics."""

import json

import pytest

from benchmarks.common import ROOT
from benchmarks.doc_tables import make_tables, read_metrics, update_tables
from partloc.evaluation.evaluate import select_figures


@pytest.mark.parametrize("document", make_tables())
def test_the_tables_of_a_document_are_the_committed_metrics(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert update_tables(document, text) == text


def test_the_committed_report_of_the_demo_is_that_of_the_committed_metrics():
    """`--demo` copies the report after a run of the pipeline."""
    metrics = json.loads((ROOT / "metrics.json").read_text(encoding="utf-8"))
    assert select_figures(read_metrics("demo")) == metrics


def test_an_edited_table_is_replaced():
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| partloc |")]
    assert update_tables("docs/results.md", text.replace(row, "| partloc | 0.001 |")) == text
    assert update_tables("docs/results.md", text.replace(f"{row}\n", "")) == text


def test_a_missing_marker_is_reported():
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    marker = "<!-- table: baselines -->"
    with pytest.raises(ValueError, match=f"docs/results.md: expected once the line {marker}"):
        update_tables("docs/results.md", text.replace(marker, ""))
