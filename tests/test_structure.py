"""The structure: imports go one way, and DVC knows the code behind each stage."""

import ast
from itertools import groupby
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]

# A module imports only from modules that stand before it, so packages do, too.
ORDER = (
    *("cli", "files", "config", "pose", "distributed"),
    *("synthetic/camera", "synthetic/mesh", "synthetic/render", "synthetic/builder"),
    *("synthetic/objects/furniture", "synthetic/objects/seats", "synthetic/objects/vehicles"),
    *("synthetic/objects/buildings", "synthetic/objects/machines", "synthetic/objects/robots"),
    *("synthetic/objects/composites", "synthetic/objects/linkages", "synthetic/objects/bricks"),
    "synthetic/dataset",
    *("data/images", "data/twins", "data/labels", "data/index", "data/split", "data/table"),
    *("data/sampler", "data/transforms", "data/dataset"),
    *("model/backbone", "model/crop", "model/camera", "model/attention", "model/depth_net"),
    *("model/template_matching", "model/refinement", "model/prediction", "model/locator"),
    "model/model_file",
    *("inference/arrangement_net", "inference/assignment", "inference/predictor"),
    "inference/folder",
    *("evaluation/metrics", "evaluation/calibration", "evaluation/evaluate", "evaluation/report"),
    *("training/losses", "training/calibration", "training/optim"),
    *("training/activation_memory", "training/token_cache", "training/camera_fit"),
    *("training/run_folder", "training/history", "training/trainer", "training/run"),
    "training/summary",
    *("pretraining/trainer", "pretraining/depth", "pretraining/arrangement"),
    "pretraining/encoder",
    *("commands/demo", "commands/index", "commands/split", "commands/train", "commands/infer"),
    *("commands/evaluate", "commands/pretrain"),
)
STAGES = {
    f"{file}:{name}": stage
    for file in ("dvc.yaml", "data/dvc.yaml")
    for name, stage in YAML(typ="safe").load((ROOT / file).read_text("utf-8"))["stages"].items()
}
MODULES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "partloc").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)


def name_of(title: str) -> str:
    return title.partition(":")[2]


def imports_of(file: str) -> set[str]:
    """Files of ours, like "partloc/model/crop.py", that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import; name the module"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.replace(".", "/") + ".py" for name in names if name.startswith("partloc.")}
    return {name for name in found if (ROOT / name).is_file()}


def code_behind(*files: str) -> set[str]:
    """The files, and all that they import, directly or not."""
    seen, waiting = set(files), list(files)
    while waiting:
        new = imports_of(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


def place_of(module: str) -> int:
    return ORDER.index(module.removeprefix("partloc/").removesuffix(".py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_before_it(module):
    place = place_of(module)
    assert not [other for other in imports_of(module) if place_of(other) >= place]


def test_every_listed_module_is_there():
    assert sorted(f"partloc/{name}.py" for name in ORDER) == MODULES


def test_a_package_stands_in_one_place():
    packages = [name.split("/")[0] for name in ORDER if "/" in name]
    assert len(list(groupby(packages))) == len(set(packages))


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("partloc/synthetic/")])
def test_what_renders_the_demo_does_not_depend_on_the_model(module):
    assert all("/synthetic/" in other for other in code_behind(module))


@pytest.mark.parametrize(
    "folder", sorted({str(Path(module).parent) for module in MODULES} - {"partloc"})
)
def test_importing_a_package_runs_no_code_of_its_own(folder):
    tree = ast.parse((ROOT / folder / "__init__.py").read_text("utf-8"))
    assert len(tree.body) == 1 and ast.get_docstring(tree)


@pytest.mark.parametrize("title", STAGES)
def test_dvc_reruns_a_stage_when_code_behind_it_changes_and_for_no_other_package(title):
    """`deps` are the script, single modules, and whole packages of partloc.

    stages/_checkout.py only puts the checkout on the import path, so no stage depends on it.
    """
    name = name_of(title)
    needed = {f"stages/{name}.py"} | code_behind(f"partloc/commands/{name}.py")
    listed = {dep for dep in STAGES[title]["deps"] if dep.startswith(("partloc/", "stages/"))}
    listed = {dep for dep in listed if not dep.startswith("partloc/weights/")}
    covering = {dep: {f for f in needed if f == dep or f.startswith(f"{dep}/")} for dep in listed}
    assert set().union(*covering.values()) == needed
    assert all(covering.values()), "a dependency that nothing in the stage needs"


def test_the_pipeline_lists_few_dependencies():
    assert sum(len(s["deps"]) for t, s in STAGES.items() if t.startswith("dvc.yaml")) <= 55


@pytest.mark.parametrize(
    "folder, stages",
    {
        "evaluation": {"evaluate"},
        "training": {"train"},
        "synthetic": {"demo"},
        "pretraining": set(),
    }.items(),
)
def test_editing_a_package_reruns_only_the_stages_that_use_it(folder, stages):
    listed = {name_of(title) for title, s in STAGES.items() if f"partloc/{folder}" in s["deps"]}
    assert listed == stages


@pytest.mark.parametrize("title", STAGES)
def test_a_stage_runs_the_script_of_its_name(title):
    assert STAGES[title]["cmd"].split()[:2] == ["python", f"stages/{name_of(title)}.py"]


def test_no_stage_depends_on_what_differs_between_machines():
    listed = {title: stage.get("params", []) for title, stage in STAGES.items()}
    assert not [t for t, keys in listed.items() if any(k.split(".")[0] == "machine" for k in keys)]


def test_only_index_depends_on_the_pictures():
    readers = [title for title, stage in STAGES.items() if "${data.data_dir}" in stage["deps"]]
    assert readers == ["dvc.yaml:index"]


def test_a_users_pictures_are_no_output():
    outs = [out for stage in STAGES.values() for out in stage["outs"]]
    assert not [out for out in outs if out.startswith("data/") and out != "data/demo"]
    assert not [out for out in outs if "data_dir" in out]
