"""Markdown tables of metrics, printed by the benchmarks and written into the documents."""

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, NamedTuple

from benchmarks.common import markdown_table
from partloc.system.files import nested_value

BASELINE = "training median"


class Column(NamedTuple):
    """A heading, the path of a value in a dictionary of metrics, and its format."""

    heading: str
    path: str
    form: str


MEAN_ERROR = Column("translation error, mean", "translation_error/mean", ".3f")
MEDIAN_ERROR = Column("median", "translation_error/median", ".3f")
FRACTION_RIGHT = Column("below 0.05", "translation_error/within_0.05", ".0%")
ACROSS_IMAGE = Column("across the image, mean", "translation_error/across_image_mean", ".3f")
ALONG_VIEW = Column("along the view, mean", "translation_error/along_view_mean", ".3f")
LABELLED_ERROR = Column("labelled error, mean", "labelled_error/mean", ".3f")
ASSIGNED_ERROR = Column("assigned error, mean", "assigned_error/mean", ".3f")
SCALE_ERROR = Column("relative scale error, mean", "relative_scale_error/mean", ".0%")
MEDIAN_SCALE_ERROR = Column("scale, median", "relative_scale_error/median", ".0%")
FRACTION_RIGHT_SCALE = Column("scale, below 15 %", "relative_scale_error/within_0.15", ".0%")
LOG_SCALE_ERROR = Column("log scale error, mean", "log_scale_error/mean", ".2f")
CALIBRATION_ERROR = Column(
    "expected calibration error", "confidence/expected_calibration_error", ".3f"
)
MILLISECONDS = Column("ms per part", "ms_per_part", ".0f")

SUMMARY_ROWS = (
    *(MEAN_ERROR, MEDIAN_ERROR, FRACTION_RIGHT, ASSIGNED_ERROR, SCALE_ERROR, MEDIAN_SCALE_ERROR),
)
TEST_ROWS = (
    *(MEAN_ERROR, MEDIAN_ERROR, FRACTION_RIGHT, ACROSS_IMAGE, ALONG_VIEW),
    *(ASSIGNED_ERROR, LABELLED_ERROR),
    *(SCALE_ERROR, MEDIAN_SCALE_ERROR, FRACTION_RIGHT_SCALE, CALIBRATION_ERROR),
)
BASELINE_COLUMNS = (
    *(MEAN_ERROR, MEDIAN_ERROR, LABELLED_ERROR, SCALE_ERROR, MEDIAN_SCALE_ERROR, MILLISECONDS),
)
CROSS_VALIDATION_COLUMNS = (
    *(MEAN_ERROR, MEDIAN_ERROR, FRACTION_RIGHT, ACROSS_IMAGE, ALONG_VIEW, LABELLED_ERROR),
    *(SCALE_ERROR, MEDIAN_SCALE_ERROR, LOG_SCALE_ERROR, CALIBRATION_ERROR),
)
# Of the entries of by_kind in a file of metrics.
KIND_COLUMNS = (
    Column("parts", "n_samples", "d"),
    Column("translation error", "translation_error_mean", ".3f"),
    Column("assigned error", "assigned_error_mean", ".3f"),
    Column("labelled error", "labelled_error_mean", ".3f"),
    Column("relative scale error", "relative_scale_error_mean", ".0%"),
)
# Of the rows that `experiments.py` writes.
EXPERIMENT_COLUMNS = (
    Column("seeds", "seeds", "d"),
    Column("translation error, mean", "translation_error_mean", ".3f"),
    Column("difference", "translation_error_mean_difference", "+.3f"),
    Column("validation", "val_translation_error", ".3f"),
    Column("median", "translation_error_median", ".3f"),
    Column("labelled error, mean", "labelled_error_mean", ".3f"),
    Column("assigned error, mean", "assigned_error_mean", ".3f"),
    Column("relative scale error, mean", "relative_scale_error_mean", ".0%"),
    Column("scale, median", "relative_scale_error_median", ".0%"),
)
SOURCE_NAMES = {
    "correct_position": "image position correct, depth wrong",
    "wrong_choice": "correct image position proposed, another chosen",
    "not_proposed": "correct image position not proposed",
}
BREAKDOWNS = {"kind": "group", "scale": "scale", "visible fraction": "visible_fraction"}


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


def evaluation_table(metrics: dict[str, Any], rows: Iterable[Column]) -> str:
    """Values of a test split with their 95 % intervals, and those of the baseline."""
    cells = []
    for heading, path, form in rows:
        value = format_value(metrics, path, form)
        low, high = (
            format_value(metrics["interval_95"], f"{path}/{end}", form) for end in ("low", "high")
        )
        interval = f" ({low.removesuffix(' %')} to {high})" if low else ""
        cells.append([heading, value + interval, format_value(metrics["baseline"], path, form)])
    return markdown_table(["", "partloc", BASELINE], cells)


def summary_table(
    metrics_by_data_set: dict[str, dict[str, Any]], headings: Iterable[str], baseline: str
) -> str:
    """The few rows of a README: each data set, and beside it the constant baseline.

    headings: of SUMMARY_ROWS, in the language of the README.
    """
    cells = [
        [
            heading,
            *(
                format_value(source, row.path, row.form)
                for metrics in metrics_by_data_set.values()
                for source in (metrics, metrics["baseline"])
            ),
        ]
        for heading, row in zip(headings, SUMMARY_ROWS, strict=True)
    ]
    names = [name for data_set in metrics_by_data_set for name in (data_set, baseline)]
    return markdown_table(["", *names], cells)


def baselines_table(metrics: dict[str, Any]) -> str:
    return metric_table("", BASELINE_COLUMNS, metrics)


def cross_validation_table(metrics: dict[str, Any]) -> str:
    baseline = next(iter(metrics.values()))["baseline"]
    return metric_table("variant", CROSS_VALIDATION_COLUMNS, {BASELINE: baseline, **metrics})


def experiment_table(rows: list[dict[str, Any]], omitted: Iterable[str] = ()) -> str:
    """Means with standard deviations. omitted: headings of columns."""
    columns = [column for column in EXPERIMENT_COLUMNS if column.heading not in omitted]
    cells = []
    for row in rows:
        values = []
        for _, path, form in columns:
            std = format_value(row, f"{path}_std", form.lstrip("+"))
            values.append(format_value(row, path, form) + (f" ± {std}" if std else ""))
        cells.append([row["name"], *values])
    return markdown_table(["", *(column.heading for column in columns)], cells)


def kinds_table(metrics_by_data_set: dict[str, dict[str, Any]]) -> str:
    """Mean errors of the parts with and without twins."""
    names = {"unique": "parts without twins", "twins": "parts with twins"}
    rows = {
        f"{data_set}, {names[kind]}": errors
        for data_set, metrics in metrics_by_data_set.items()
        for kind, errors in sorted(metrics["by_kind"].items(), reverse=True)
    }
    return metric_table("", KIND_COLUMNS, rows)


def sources_table(metrics_by_data_set: dict[str, dict[str, Any]]) -> str:
    """Where the translation error comes from, see `partloc.evaluation.metrics.error_sources`."""
    head = [f"{name}, {of}" for name in metrics_by_data_set for of in ("parts", "error")]
    rows = []
    for key, name in SOURCE_NAMES.items():
        cells = []
        for metrics in metrics_by_data_set.values():
            error = metrics["translation_error"]
            source = error["sources"][key]
            fractions = source["fraction"], source["mean_contribution"] / error["mean"]
            cells += [f"{fraction:.0%}".replace("%", " %") for fraction in fractions]
        rows.append([name, *cells])
    return markdown_table(["", *head], rows)


def breakdown_table(breakdowns: dict[str, dict[str, Any]]) -> str:
    """Mean translation errors by kind of model, scale and visible fraction, side by side."""
    columns = [
        [
            [name, format_value(errors, "translation_error", ".3f")]
            for name, errors in breakdowns[key].items()
        ]
        for key in BREAKDOWNS.values()
    ]
    rows = [sum(cells, []) for cells in zip_longest(*columns, fillvalue=["", ""])]
    return markdown_table([text for heading in BREAKDOWNS for text in (heading, "")], rows)


def demo_training_table(rows: list[dict[str, Any]]) -> str:
    """Errors of the starting weights and of the kept epoch, for each seed and number of threads."""
    head = ["seed", "threads", "kept epoch", "translation error before", "after", "change"]
    head += ["relative scale error before", "after"]
    cells = []
    for row in rows:
        before, after = row["before"], row["after"]
        change = after["translation_error"]["mean"] / before["translation_error"]["mean"] - 1
        cells.append(
            [
                *(row[name] for name in ("seed", "threads", "kept_epoch")),
                *(_with_interval(errors["translation_error"], ".3f") for errors in (before, after)),
                f"{change:+.0%}".replace("%", " %"),
                *(
                    _with_interval(errors["relative_scale_error"], ".1%")
                    for errors in (before, after)
                ),
            ]
        )
    return markdown_table(head, cells)


def renders_table(rows: list[dict[str, Any]]) -> str:
    """Errors by look: as shipped, with the true camera given, and after training.

    Percentages in brackets are of the first row's error.
    """
    head = ["look", "shipped", "median", "below 0.05", "scale, median", "confidence"]
    head += ["calibration error", "camera agrees", "camera given", "trained", "trained, median"]
    cells = []
    for row in rows:
        shipped, trained = row["shipped"], row.get("trained")
        cells.append(
            [
                row["look"],
                _relative_error(row, rows[0], "shipped"),
                f"{shipped['translation_error']['median']:.3f}",
                f"{shipped['right']:.0%}".replace("%", " %"),
                f"{shipped['relative_scale_error']['median']:.1%}".replace("%", " %"),
                f"{shipped['confidence']:.2f}",
                f"{shipped['expected_calibration_error']:.2f}",
                format_value(row, "agreement", ".0%"),
                _relative_error(row, rows[0], "camera_given"),
                _relative_error(row, rows[0], "trained"),
                f"{trained['translation_error']['median']:.3f}" if trained else "",
            ]
        )
    return markdown_table(head, cells)


def _relative_error(row: dict[str, Any], first: dict[str, Any], name: str) -> str:
    """The mean translation error, and in brackets its ratio to that of the first row."""
    error, reference = (
        nested_value(values, f"{name}/translation_error/mean") for values in (row, first)
    )
    if error is None:
        return ""
    ratio = f" ({error / reference:.0%})".replace("%", " %") if reference else ""
    return f"{error:.3f}{ratio}"


def constant_inputs_table(rows: list[dict[str, Any]]) -> str:
    """Errors with an input constant, and the change from all inputs."""
    head = ["input", "translation error", "difference", "change", "assigned error"]
    whole = rows[0]["translation_error"]["mean"]
    cells = []
    for row in rows:
        error = row["translation_error"]
        low, high = (error["difference_interval_95"][name] for name in ("low", "high"))
        difference = f"{error['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        change = f"{error['difference'] / whole:+.0%}".replace("%", " %")
        is_first = row is rows[0]
        cells.append(
            [
                row["variant"],
                _with_interval(error, ".3f"),
                *(["", ""] if is_first else [difference, change]),
                f"{row['assigned_error']['mean']:.3f}",
            ]
        )
    return markdown_table(head, cells)


def torture_table(results: dict[str, Any]) -> str:
    """The properties that were attacked, and the seeds of the cases that failed.

    results: the content of metrics/torture.json. The last row is the sum, with date and machine.
    """
    rows = []
    for row in results["properties"]:
        seeds = ", ".join(str(failure["seed"]) for failure in row["failures"])
        failures = f"{len(row['failures'])}: seed {seeds}" if seeds else "0"
        rows.append([f"`{row['name']}`", row["claim"], f"{row['cases']:,}", failures])
    cases = sum(row["cases"] for row in results["properties"])
    failed = sum(len(row["failures"]) for row in results["properties"])
    origin = f"{results['date']}, {results['machine']}, {results['minutes']:.0f} minutes"
    rows.append(["all", origin, f"{cases:,}", str(failed)])
    return markdown_table(["property", "what holds", "cases", "failures"], rows)


def backbones_table(rows: list[dict[str, Any]]) -> str:
    """Errors of each encoder with the inherited weights, relative to the first row."""
    head = ["encoder", "image", "translation error", "ratio", "scale"]
    head += ["after a short training", "scale, after it"]
    reference = rows[0]["first"]["translation_error"]["mean"]
    cells = []
    for row in rows:
        first, trained = row["first"]["translation_error"], row.get("trained")
        scales = [
            format_value(errors, "relative_scale_error/mean", ".0%")
            for errors in (row["first"], trained or {})
        ]
        millions = row["encoder_weights"] / 1e6
        cells.append(
            [
                f"{row['backbone']}, {millions:.0f} M weights",
                f"{row['image_size']} px",
                _with_interval(first, ".3f"),
                f"{first['mean'] / reference:.2f}",
                scales[0],
                _with_interval(trained["translation_error"], ".3f") if trained else "",
                scales[1],
            ]
        )
    return markdown_table(head, cells)


def _with_interval(error: dict[str, Any], form: str) -> str:
    mean, low, high = (
        format_value(error, path, form) for path in ("mean", "interval_95/low", "interval_95/high")
    )
    return f"{mean} ({low.removesuffix(' %')} to {high})"
