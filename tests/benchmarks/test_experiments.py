"""Tables of experiments: valid settings, fair comparisons, reports of what has finished."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks import experiments

ROOT = Path(__file__).resolve().parents[2]


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    command = ["git", *author, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("table", experiments.TABLES)
def test_every_experiment_changes_existing_keys(table):
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    planned = experiments.plan_experiments(table, seed=1)
    assert len({experiment.name for experiment in planned.values()}) == len(planned)
    for experiment in planned.values():
        for setting in experiment.settings:
            *groups, key = setting.partition("=")[0].split(".")
            values = params
            for group in groups:
                values = values[group]
            assert key in values, setting


@pytest.fixture
def finished_commits(tmp_path, monkeypatch) -> dict[str, str]:
    """Finished experiments of small-data in a Git repository: row -> commit of its result.

    "10 models" has finished for an earlier commit only. labelled_error_mean is 0.25 of "5 models",
    0.125 of "20 models", and 0.5 of the baseline.
    """
    for command in ("init --quiet", "commit --quiet --allow-empty --message first"):
        git(tmp_path, *command.split())
    earlier = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "second")
    head, tree = git(tmp_path, "rev-parse", "HEAD"), git(tmp_path, "rev-parse", "HEAD^{tree}")
    planned = experiments.plan_experiments("small-data", seed=0)
    commits, errors = {}, {}
    for row, base, error in (
        ("5 models", head, 0.25),
        ("10 models", earlier, 0.75),
        ("20 models", head, 0.125),
    ):
        commit = git(tmp_path, "commit-tree", tree, "-m", row)
        ref = f"refs/exps/{base[:2]}/{base[2:]}/{planned[row].name}"
        git(tmp_path, "update-ref", ref, commit)
        commits[row], errors[commit] = commit, error

    def read_metrics(commit: str, prefix: str = "") -> dict[str, float]:
        return {"labelled_error_mean": 0.5 if prefix else errors[commit]}

    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setattr(experiments, "read_metrics", read_metrics)
    return commits


def run_report(monkeypatch, output: Path, *options: str) -> list[dict]:
    words = ["experiments", "small-data", "--report", "--output", str(output), *options]
    monkeypatch.setattr(sys, "argv", words)
    experiments.main()
    return json.loads(output.read_text())["rows"]


def test_a_report_has_the_finished_rows_of_the_current_commit(
    monkeypatch, tmp_path, capsys, finished_commits
):
    """They are read from Git: a running queue holds DVC's lock to its end."""
    rows = run_report(monkeypatch, tmp_path / "table.json")
    assert [row["labelled_error_mean"] for row in rows] == [0.5, 0.25, 0.125]
    printed = capsys.readouterr()
    assert "| 20 models | 1 | " in printed.out and "| 10 models |" not in printed.out
    planned = experiments.plan_experiments("small-data", seed=0)
    assert planned["10 models"].name in printed.err
    assert planned["20 models"].name not in printed.err


def test_selected_rows_join_the_rows_of_the_file_that_have_the_same_command(
    monkeypatch, tmp_path, capsys, finished_commits
):
    output = tmp_path / "table.json"
    rows = run_report(monkeypatch, output)
    rows[1]["labelled_error_mean"] = 0.0625
    rows[2]["command"] += " --force"
    output.write_text(json.dumps({"rows": [*rows, {"name": "6 models"}]}))
    rows = run_report(monkeypatch, output, "--rows", "20 models")
    assert [(row["name"], row["labelled_error_mean"]) for row in rows] == [
        ("training median", 0.5),
        ("5 models", 0.0625),
        ("20 models", 0.125),
    ]
    with pytest.raises(SystemExit):
        run_report(monkeypatch, output, "--rows", "6 models")
    assert "no row '6 models'; the table has 5 models, 10 models" in capsys.readouterr().err


def test_rows_are_compared_with_the_row_of_one_setting_less_seed_by_seed(monkeypatch):
    """The errors of the seeds differ more than the errors of two rows with the same seed."""
    error = "translation_error_mean"
    first, second, shipped = "from random weights", "w_rank: 0", "from the shipped weights"
    errors = {first: (0.25, 0.5, 0.75), second: (0.3125, 0.5, 0.8125), shipped: (0.125,)}
    planned = [experiments.plan_experiments("ablations", seed) for seed in range(3)]
    finished = {
        by_row[row].name: f"{row}/{seed}"
        for seed, by_row in enumerate(planned)
        for row in errors
        if seed < len(errors[row])
    }

    def read_metrics(commit: str, prefix: str = "") -> dict[str, float]:
        row, seed = commit.split("/")
        return {error: int(seed) if prefix else errors[row][int(seed)]}

    monkeypatch.setattr(experiments, "read_metrics", read_metrics)
    baseline, *rows = experiments.collect_rows("ablations", list(errors), planned, finished, {})
    assert baseline[error] == 1.0 and baseline["seeds"] == 3
    assert {row["name"] for row in rows} == set(errors)
    by_name = {row["name"]: row for row in rows}
    assert experiments.DIFFERENCE not in by_name[first] | by_name[shipped]
    assert by_name[second][f"{error}_std"] > 0.2
    assert by_name[second][experiments.DIFFERENCE] == pytest.approx(0.125 / 3)
    std = by_name[second][f"{experiments.DIFFERENCE}_std"]
    assert std == pytest.approx(0.0361, abs=1e-4)
    assert f"{error}_std" not in by_name[shipped]

    # With a seed that the reference lacks there is no difference over all seeds.
    del finished[planned[2][first].name]
    (_, row) = experiments.collect_rows("ablations", [second], planned, finished, {})
    assert row["seeds"] == 3 and experiments.DIFFERENCE not in row


def test_only_the_first_row_of_a_kind_has_no_reference():
    """Every other row differs by one setting from its reference."""
    for table, rows in experiments.TABLES.items():
        first = [row for row in rows if experiments.reference_row(table, row) is None]
        assert (
            first
            == {
                "ablations": [
                    "from random weights",
                    "from the shipped weights",
                    "448 px, downsample_size: 8",
                ],
                "small-data": ["all models", "all models, from random weights"],
            }[table]
        )


def test_a_failing_command_is_reported_with_its_error_message(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    with pytest.raises(ChildProcessError, match=r"^git rev-parse HEAD: fatal: not a git"):
        experiments.finished_experiments()
