"""The whole pipeline on tiny data: a clone of the project, run by DVC."""

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from checkout import ROOT, commit, copy_checkout, dvc, run_program, set_params
from ruamel.yaml import YAML

from partloc.evaluation.evaluate import select_figures

STAGES = ("index", "split", "train", "infer", "evaluate")
# The commands that docs/training.md names; they fit a terminal of this size.
DVC_TABLES = (
    "metrics show",
    "metrics diff HEAD",
    "exp diff HEAD accumulated",
    "exp show --only-changed --no-pager --drop '.*/|Created|below|labelled|baseline|.*median'",
)
TERMINAL_COLUMNS, TERMINAL_LINES = 120, 40
TINY = {
    "demo": {"num_models": 10},
    "data": {"data_dir": "data/demo", "image_size": 42, "read_size": 48},
    "model": {
        "backbone_name": "dinov2_vitt14",
        "pretrained": False,
        "start_from": None,
        "downsample_size": 3,
        "cross_attention_layers": 1,
        "cross_attention_dim": 24,
        "mlp_hidden_dim": 16,
        "match_size": 12,
        "hypotheses": 4,
    },
    "train": {"batch_size": 8, "num_epochs": 2, "use_gradient_checkpointing": False},
    "machine": {"device": "cpu", "num_workers": 0, "num_processes": 1},
}


def executed_stages(log: str) -> list[str]:
    """The stages that DVC executed, in order, without those that it restored from its cache."""
    return [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]


def read_report(project: Path, stage: str) -> dict:
    return json.loads((project / f"outputs/{stage}/report.json").read_text(encoding="utf-8"))


def without_script_bodies(html: str) -> str:
    return re.sub(r"(<script\b[^>]*>).*?(?=</script>)", r"\1", html, flags=re.DOTALL)


def require_offline(html: str) -> None:
    """The page loads nothing from a network and contains the library that draws its charts."""
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", without_script_bodies(html))
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]+)", " ".join(tags))
    assert sources  # the images
    assert not [source for source in sources if source.startswith(("http:", "https:", "//"))]
    assert 'id="vega-embed"' in html and html.count("vegaEmbed('#") >= 4
    assert "@import" not in html


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A clone after its first `dvc repro`, and the log of that run."""
    project = copy_checkout(tmp_path_factory.mktemp("pipeline") / "project")
    for name in ("dvc.lock", "data/dvc.lock"):  # they record the run at the project's own size
        (project / name).unlink()
    (project / "metrics.json").unlink()
    set_params(project, TINY)
    run_program("git", "init", "--quiet", cwd=project)
    commit(project)
    log = dvc("repro", cwd=project)
    commit(project)
    return project, log


@pytest.fixture
def project(finished, tmp_path) -> Path:
    """A copy of the finished project that a test may change."""
    copy = tmp_path / "project"
    shutil.copytree(finished[0], copy, symlinks=True)
    return copy


def test_a_fresh_clone_runs_from_rendering_to_predictions(finished):
    project, log = finished
    assert executed_stages(log) == ["data/dvc.yaml:demo", *STAGES]
    assert (project / "models/best_model.pth").is_file()
    assert read_report(project, "train")["history"][-1]["epoch"] == 2
    evaluation = read_report(project, "evaluate")
    assert evaluation["baseline"]["translation_error"]["mean"] > 0
    tables = [project / f"outputs/split/{name}.csv" for name in ("train", "val", "test")]
    num_samples = sum(len(table.read_text(encoding="utf-8").splitlines()) - 1 for table in tables)
    assert num_samples == len([*project.glob("data/demo/*/*.json")]) > 0
    predictions = [json.loads(p.read_text()) for p in project.glob("outputs/infer/*/*.json")]
    assert len(predictions) == evaluation["n_samples"]
    assert all(len(prediction["translation"]) == 3 for prediction in predictions)


def test_each_stage_ends_with_a_short_table_of_what_it_did(finished):
    """On stderr, like all messages; its last line names the results."""
    outputs = {
        "index": "outputs/manifest.csv, outputs/index_report.csv",
        "split": "outputs/split",
        "train": "models/best_model.pth, outputs/train",
        "infer": "outputs/infer",
        "evaluate": "metrics.json, outputs/evaluate",
    }
    for stage, log in zip(STAGES, finished[1].split("Running stage '")[2:], strict=True):
        assert log.startswith(stage)
        lines = log.splitlines()
        assert f"written: {outputs[stage]}" in lines, log


def test_git_tracks_the_record_and_the_metrics_of_a_run(finished):
    """But no images, weights or tables."""
    changes = ("git", "diff", "--name-only", "--diff-filter=A", "HEAD~", "HEAD")
    added = run_program(*changes, cwd=finished[0]).split()
    assert added == ["data/dvc.lock", "dvc.lock", "metrics.json"]


def test_a_second_run_does_nothing(finished):
    assert "Data and pipelines are up to date." in dvc("repro", cwd=finished[0])


def test_equal_images_in_another_folder_rerun_only_index(project):
    moved = project.parent / "elsewhere"
    (project / "data/demo").rename(moved)
    set_params(project, {"data": {"data_dir": str(moved)}})
    assert executed_stages(dvc("repro", cwd=project)) == ["index"]
    assert not (project / "data/demo").exists()


def test_the_error_for_an_empty_folder_of_images_shows_the_layout(project):
    set_params(project, {"data": {"data_dir": "data/images"}})
    log = dvc("repro", cwd=project, fails=True)
    assert executed_stages(log) == ["index"]
    assert "chair-whole.png" in log and "Traceback" not in log


def test_a_machine_setting_reruns_nothing(project):
    set_params(project, {"machine": {"num_workers": 1}})
    assert executed_stages(dvc("repro", cwd=project)) == []


def test_an_experiment_reruns_training_and_later_stages_and_can_be_compared(project):
    setting = "train.accumulation_steps=4"
    log = dvc("exp", "run", "--name", "accumulated", "-S", setting, cwd=project)
    assert executed_stages(log) == ["train", "infer", "evaluate"]
    difference = json.loads(dvc("exp", "diff", "HEAD", "accumulated", "--json", cwd=project))
    changed = difference["params"]["params.yaml"]
    assert changed == {"train.accumulation_steps": {"old": 1, "new": 4, "diff": 3}}
    assert "translation_error" in difference["metrics"]["metrics.json"]
    for command in DVC_TABLES:
        table = dvc(*shlex.split(command), cwd=project, COLUMNS=str(TERMINAL_COLUMNS))
        lines = table.splitlines()
        assert max(map(len, lines)) <= TERMINAL_COLUMNS, f"{command}\n{table}"
        assert len(lines) <= TERMINAL_LINES, f"{command}\n{table}"
        assert "translation_error" in table and "…" not in table, f"{command}\n{table}"
    page = project.parent / "comparison"
    dvc("plots", "diff", "HEAD", "accumulated", "--out", str(page), cwd=project)
    html = (page / "index.html").read_text(encoding="utf-8")
    assert all(f'"rev": "{revision}"' in html for revision in ("HEAD", "accumulated"))
    require_offline(html)


def test_a_mistyped_key_ends_in_one_line_before_any_training(project):
    log = dvc("exp", "run", "-S", "train.learning_rat=0.1", cwd=project, fails=True)
    assert "Could not override 'train.learning_rat'" in log and executed_stages(log) == []


def test_a_finished_training_that_dvc_did_not_record_is_not_repeated(project):
    """DVC was killed between the end of the training and its record, and deletes the outputs before
    it runs the stage again."""
    model, lock = project / "models/best_model.pth", project / "dvc.lock"
    expected, recorded = model.read_bytes(), YAML(typ="safe").load(lock.read_text("utf-8"))
    del recorded["stages"]["train"]
    lock.write_text(json.dumps(recorded), "utf-8")
    shutil.rmtree(project / ".dvc/cache/runs")  # the record of earlier runs
    log = dvc("repro", cwd=project)
    assert executed_stages(log) == ["train"]
    assert "already trained; the outputs are written from" in log and "epoch   " not in log
    assert model.read_bytes() == expected
    assert (project / "runs/train/best_model.pth").read_bytes() == expected


def test_weights_replaced_by_others_of_the_same_name_are_a_reason_to_train_again(project):
    files = {key: project / f"own {key}.pth" for key in ("start_from", "weights")}
    for file in files.values():
        file.write_bytes(b"1")
    set_params(project, {"model": {key: file.name for key, file in files.items()}})
    dvc("commit", "--force", "train", cwd=project)
    assert "Data and pipelines are up to date." in dvc("status", "train", cwd=project)
    for file in files.values():
        file.write_bytes(b"2")
    status = dvc("status", "train", cwd=project)
    assert all(file.name in status for file in files.values())


def test_an_experiment_in_a_copy_runs_the_code_of_the_copy(project):
    """Although the import path names another checkout of partloc."""
    module = project / "partloc/data/index.py"
    module.write_text(module.read_text("utf-8") + '\nprint(f"module {__file__}")\n', "utf-8")
    log = dvc("exp", "run", "--temp", "--single-item", "index", cwd=project, PYTHONPATH=str(ROOT))
    assert executed_stages(log) == ["index"]
    (location,) = set(re.findall(r"module (\S+/partloc/data/index\.py)", log))
    assert location.startswith(f"{project}/.dvc/tmp/exps/")


def test_a_clone_pulls_the_model_instead_of_training(project):
    remote, clone = project.parent / "remote", project.parent / "clone"
    dvc("remote", "add", "--default", "store", str(remote), cwd=project)
    commit(project)
    dvc("push", cwd=project)
    run_program("git", "clone", "--quiet", str(project), str(clone), cwd=project)
    dvc("repro", "--allow-missing", "--dry", cwd=clone)
    dvc("pull", cwd=clone)
    assert "Data and pipelines are up to date." in dvc("status", cwd=clone)
    assert executed_stages(dvc("repro", cwd=clone)) == []
    model = "models/best_model.pth"
    assert (clone / model).read_bytes() == (project / model).read_bytes()


def test_dvc_shows_at_most_nine_figures_of_one_file(finished):
    shown = json.loads(dvc("metrics", "show", "--json", cwd=finished[0]))[""]["data"]
    assert set(shown) == {"metrics.json"}
    report = read_report(finished[0], "evaluate")
    assert shown["metrics.json"]["data"] == select_figures(report)
    assert len(shown["metrics.json"]["data"]) <= 9


def test_the_library_of_the_charts_is_the_pinned_one_and_has_its_licence():
    folder = ROOT / "partloc/report_page/libraries"
    page, readme, licences = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("dvc_plots.html", "README.md", "LICENSES.txt")
    )
    pinned = re.findall(r"^    (vega\S*) +(\S+) +([0-9a-f]{64})$", readme, re.MULTILINE)
    assert [name for name, _, _ in pinned] == ["vega", "vega-lite", "vega-embed"]
    for name, version, digest in pinned:
        (script,) = re.findall(rf'<script id="{name}">\n(.*?)\n</script>', page, re.DOTALL)
        assert hashlib.sha256(script.encode()).hexdigest() == digest
        assert f"{name} {version}" in licences


def test_dvc_draws_the_plots(finished):
    page = finished[0].parent / "plots"
    dvc("plots", "show", "--out", str(page), cwd=finished[0])
    html = (page / "index.html").read_text(encoding="utf-8")
    for title in ("Loss", "Predicted against true", "Translation error"):
        assert f'"text": "{title}"' in html
    assert "training_median" in html and "DVC_METRIC" not in html
    assert '"samples": "training"' in html and '"samples": "validation"' in html
    images = re.findall(r'<img\s[^>]*src="([^"]+)"', without_script_bodies(html))
    assert images and all((page / image).is_file() for image in images)
    require_offline(html)


def test_the_model_is_declared_as_an_artifact(finished):
    pipeline = YAML(typ="safe").load((finished[0] / "dvc.yaml").read_text(encoding="utf-8"))
    assert pipeline["artifacts"]["part-locator"]["path"] == "models/best_model.pth"
