"""The whole pipeline, in small: a copy of the project as a clone has it, run by DVC."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("index", "split", "train", "evaluate", "infer")
TINY = {
    "demo": {"num_models": 10, "image_size": 64},
    "data": {"data_dir": "data/demo", "image_size": 42, "read_size": 48},
    "model": {
        "backbone_name": "dinov2_vitt14",
        "pretrained": False,
        "start_from": None,
        "downsample_size": 3,
        "cross_attention_layers": 1,
        "cross_attention_dim": 24,
        "cross_attention_heads": 2,
        "mlp_hidden_dim": 16,
    },
    "train": {"batch_size": 16, "num_epochs": 2, "use_gradient_checkpointing": False},
    "machine": {"device": "cpu", "num_workers": 0},
}


def command(*words: str, at: Path, fails: bool = False) -> str:
    """Run a program in a project; what it said, both streams, in order."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}
    person = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER")
              for what in ("NAME", "EMAIL")}  # fmt: skip
    environment = (
        outside
        | person
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(at.parent),  # nobody's own settings of git and DVC
            "DVC_GLOBAL_CONFIG_DIR": str(at.parent),
            "DVC_SITE_CACHE_DIR": str(at.parent / "site-cache"),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "500",
        }
    )
    done = subprocess.run(
        words, cwd=at, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert (done.returncode != 0) == fails, f"{' '.join(words)}\n{done.stdout}"
    return done.stdout


def dvc(*words: str, at: Path, fails: bool = False) -> str:
    return command(sys.executable, "-m", "dvc", *words, at=at, fails=fails)


def ran(log: str) -> list[str]:
    """The stages that DVC ran, in order; a stage taken from its cache is not among them."""
    return [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]


def set_params(project: Path, changes: dict) -> None:
    yaml, path = YAML(), project / "params.yaml"
    params = yaml.load(path.read_text(encoding="utf-8"))
    for group, values in changes.items():
        params[group].update(values)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def commit(project: Path) -> None:
    command("git", "add", "--all", at=project)
    command("git", "commit", "--quiet", "--message", "as it is", at=project)


def figures(project: Path, name: str) -> dict:
    return json.loads((project / f"metrics/{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A project fresh from git, after its first `dvc repro`; what that one said."""
    project = tmp_path_factory.mktemp("pipeline") / "project"
    words = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    run = ("dvc.lock", "data/dvc.lock")  # of the project's own size
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).is_file() and name not in run and not name.startswith("metrics/"):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project / name)
    set_params(project, TINY)
    command("git", "init", "--quiet", at=project)
    commit(project)
    log = dvc("repro", at=project)
    commit(project)
    return project, log


@pytest.fixture
def project(finished, tmp_path) -> Path:
    """A copy of the finished project that a test may change."""
    copy = tmp_path / "project"
    shutil.copytree(finished[0], copy, symlinks=True)
    return copy


def test_a_fresh_clone_goes_from_pictures_to_answers(finished):
    project, log = finished
    assert ran(log) == ["data/dvc.yaml:demo", *STAGES]
    assert (project / "models/best_model.pth").is_file()
    assert figures(project, "train")["history"][-1]["epoch"] == 2
    assert figures(project, "evaluate")["baseline"]["translation_error"]["mean"] > 0
    tables = [project / f"outputs/split/{name}.csv" for name in ("train", "val", "test")]
    samples = sum(len(table.read_text(encoding="utf-8").splitlines()) - 1 for table in tables)
    assert samples == len([*project.glob("data/demo/*/*.json")]) > 0
    answers = [json.loads(p.read_text()) for p in project.glob("outputs/infer/*/*.json")]
    assert len(answers) == figures(project, "evaluate")["n_samples"]
    assert all(len(answer["translation"]) == 3 for answer in answers)


def test_git_sees_only_what_should_be_kept(finished):
    """The first run adds its record and its metrics, no pictures, weights or tables."""
    words = ("git", "diff", "--name-only", "--diff-filter=A", "HEAD~", "HEAD")
    added = command(*words, at=finished[0]).split()
    metrics = [f"metrics/{name}.json" for name in ("evaluate", "index", "split", "train")]
    assert added == ["data/dvc.lock", "dvc.lock", *metrics]


def test_a_second_run_does_nothing(finished):
    assert "Data and pipelines are up to date." in dvc("repro", at=finished[0])


def test_pictures_elsewhere_leave_the_demo_alone_and_equal_ones_train_nothing(project):
    moved = project.parent / "elsewhere"
    (project / "data/demo").rename(moved)
    set_params(project, {"data": {"data_dir": str(moved)}})
    assert ran(dvc("repro", at=project)) == ["index"]
    assert not (project / "data/demo").exists()


def test_an_empty_folder_of_pictures_is_answered_with_the_layout(project):
    set_params(project, {"data": {"data_dir": "data/images"}})
    log = dvc("repro", at=project, fails=True)
    assert ran(log) == ["index"]
    assert "chair-whole.png" in log and "Traceback" not in log


def test_a_knob_of_the_machine_reruns_nothing(project):
    set_params(project, {"machine": {"num_workers": 1}})
    assert ran(dvc("repro", at=project)) == []


def test_an_experiment_reruns_training_and_what_follows_and_can_be_compared(project):
    log = dvc("exp", "run", "--name", "gathered", "-S", "train.accumulation_steps=4", at=project)
    assert ran(log) == ["train", "evaluate", "infer"]
    words = ("exp", "diff", "HEAD", "gathered", "--json")
    difference = json.loads(dvc(*words, at=project))
    changed = difference["params"]["params.yaml"]
    assert changed == {"train.accumulation_steps": {"old": 1, "new": 4, "diff": 3}}
    assert "translation_error.mean" in difference["metrics"]["metrics/evaluate.json"]
    table = dvc("exp", "show", "--only-changed", "--md", at=project)
    assert "gathered" in table and "train.accumulation_steps" in table


def test_a_clone_pulls_the_model_instead_of_training(project):
    remote, clone = project.parent / "remote", project.parent / "clone"
    dvc("remote", "add", "--default", "store", str(remote), at=project)
    commit(project)
    dvc("push", at=project)
    command("git", "clone", "--quiet", str(project), str(clone), at=project)
    dvc("repro", "--allow-missing", "--dry", at=clone)
    dvc("pull", at=clone)
    assert "Data and pipelines are up to date." in dvc("status", at=clone)
    assert ran(dvc("repro", at=clone)) == []
    model = "models/best_model.pth"
    assert (clone / model).read_bytes() == (project / model).read_bytes()


def test_the_figures_are_shown_without_the_series(finished):
    shown = json.loads(dvc("metrics", "show", "--json", at=finished[0]))[""]["data"]
    assert set(shown) == {f"metrics/{n}.json" for n in ("index", "split", "train", "evaluate")}
    table = dvc("metrics", "show", "--md", at=finished[0])
    assert "translation_error.twin_aware.mean" in table and "history" not in table


def test_the_plots_are_drawn(finished):
    page = finished[0].parent / "plots"
    dvc("plots", "show", "--out", str(page), at=finished[0])
    html = (page / "index.html").read_text(encoding="utf-8")
    for title in ("Loss", "Predicted against true", "Translation error"):
        assert f'"text": "{title}"' in html
    assert "training_median" in html and "DVC_METRIC" not in html
    assert [*page.glob("static/*.png")] or [*page.rglob("*.png")]


def test_the_model_is_declared(finished):
    declared = YAML(typ="safe").load((finished[0] / "dvc.yaml").read_text(encoding="utf-8"))
    assert declared["artifacts"]["part-locator"]["path"] == "models/best_model.pth"
