"""The house: one way down, and DVC knows every file behind a stage."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]

# Left to right; a module imports only from its left.
LAYERS = (
    *("command", "files", "config", "pose", "images", "labels", "index", "split", "plan", "data"),
    *("view", "backbone", "crop", "depth", "fusion", "matching", "overlay", "calibration"),
    *("prediction", "model", "memory", "tokens", "losses", "metrics", "checkpoint", "schedule"),
    *("team", "history", "train", "run", "arrangement", "assign", "evaluate", "report", "infer"),
    *("folder", "summary"),
)
# Beside them: the camera and what draws the demo, of which the layers may use only the camera.
BESIDE = (
    *("camera", "shapes", "render", "kit", "furniture", "seats", "vehicles", "buildings"),
    *("machines", "robots", "composites", "linkages", "bricks", "demo"),
)
# What teaches the small networks that come with the code, for which alone nothing else is there.
TEACHING = ("teaching", "depth_training", "arrangement_training")
STAGES = {
    f"{file}:{name}": (file, name)
    for file in ("dvc.yaml", "data/dvc.yaml")
    for name in YAML(typ="safe").load((ROOT / file).read_text(encoding="utf-8"))["stages"]
}


def imports_of(file: str) -> set[str]:
    """Files of ours, like "partloc/pose.py", that a file imports, at the top or in a function."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "partloc":
            names = [f"partloc.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import; name the module"
            names = [node.module]
        else:
            continue
        found |= {name.replace(".", "/") + ".py" for name in names if name.startswith("partloc.")}
    return found


def everything_behind(file: str) -> set[str]:
    seen, waiting = set(), [file]
    while waiting:
        new = imports_of(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


def files(names: tuple[str, ...]) -> set[str]:
    return {f"partloc/{name}.py" for name in names}


def stage_of(title: str) -> dict:
    file, name = STAGES[title]
    return YAML(typ="safe").load((ROOT / file).read_text(encoding="utf-8"))["stages"][name]


def test_every_module_has_its_place():
    there = {f"partloc/{path.name}" for path in (ROOT / "partloc").glob("*.py")}
    assert there - {"partloc/__init__.py"} == files(LAYERS + BESIDE + TEACHING)


@pytest.mark.parametrize("name", LAYERS)
def test_a_module_imports_only_from_its_left(name):
    left = files((*LAYERS[: LAYERS.index(name)], "camera"))
    assert imports_of(f"partloc/{name}.py") <= left


@pytest.mark.parametrize("name", BESIDE)
def test_what_draws_the_demo_knows_nothing_of_the_model(name):
    assert everything_behind(f"partloc/{name}.py") <= files(BESIDE) - {f"partloc/{name}.py"}


@pytest.mark.parametrize("title", STAGES)
def test_dvc_reruns_a_stage_when_any_code_behind_it_changes_and_for_no_other_code(title):
    script = f"stages/{STAGES[title][1]}.py"
    listed = {dep for dep in stage_of(title)["deps"] if dep.endswith(".py")}
    assert listed == {script} | everything_behind(script)


@pytest.mark.parametrize("title", STAGES)
def test_a_stage_runs_the_script_that_is_called_like_it(title):
    assert stage_of(title)["cmd"].split()[:2] == ["python", f"stages/{STAGES[title][1]}.py"]


def test_no_stage_depends_on_what_differs_between_machines():
    listed = {title: stage_of(title).get("params", []) for title in STAGES}
    assert not [t for t, keys in listed.items() if any(k.split(".")[0] == "machine" for k in keys)]


def test_only_index_depends_on_the_pictures():
    readers = [title for title in STAGES if "${data.data_dir}" in stage_of(title)["deps"]]
    assert readers == ["dvc.yaml:index"]


def test_a_users_pictures_are_no_output():
    outs = [out for title in STAGES for out in stage_of(title)["outs"]]
    assert not [out for out in outs if out.startswith("data/") and out != "data/demo"]
    assert not [out for out in outs if "data_dir" in out]
