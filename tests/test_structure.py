"""The structure of the code: imports have one direction, and each DVC stage lists its code."""

import ast
from itertools import groupby
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from partloc.synthetic.families import DEMO_OBJECTS, PRETRAINING_OBJECTS

ROOT = Path(__file__).resolve().parents[1]

# A module imports only modules that precede it here; a package, therefore, only earlier packages.
ORDER = (
    *("system/processes", "system/cli", "system/files", "config", "pose", "distributed"),
    *("synthetic/camera", "synthetic/mesh", "synthetic/render", "synthetic/builder"),
    *("synthetic/scene", "synthetic/components"),
    *("synthetic/objects/furniture", "synthetic/objects/seats", "synthetic/objects/vehicles"),
    *("synthetic/objects/buildings", "synthetic/objects/machines", "synthetic/objects/robots"),
    *("synthetic/objects/composites", "synthetic/objects/linkages", "synthetic/objects/bricks"),
    *("synthetic/objects/bicycles", "synthetic/objects/construction"),
    *("synthetic/objects/devices", "synthetic/objects/instruments", "synthetic/objects/outdoors"),
    *("synthetic/families", "synthetic/dataset"),
    *(
        "data/images",
        "data/image_input",
        "data/background",
        "data/twins",
        "data/layout",
        "data/labels",
        "data/index",
        "data/split",
    ),
    *("data/table", "data/sampler", "data/transforms", "data/dataset"),
    *("model/backbone", "model/crop", "model/camera", "model/attention", "model/encoder"),
    *("model/depth_net", "model/template_matching", "model/proposal_attention"),
    *("model/refinement", "model/pose_head"),
    *("model/prediction", "model/locator", "model/regression", "model/proposals", "model/build"),
    *("model/model_file", "drawing"),
    *("inference/hypotheses", "inference/prediction_files", "inference/assignment"),
    *("inference/checkpoint", "inference/estimate"),
    *("inference/image_loader", "inference/predictor", "inference/table_predictor"),
    "inference/locator_api",
    *("inference/jobs", "inference/joined_file", "inference/folder", "web", "export"),
    *("report_page/case", "report_page/images", "report_page/page", "report_page/predictions"),
    *("evaluation/metrics", "evaluation/calibration", "evaluation/accumulator"),
    *("evaluation/evaluate", "evaluation/report", "evaluation/page"),
    *("training/losses", "training/objective", "training/calibration", "training/validation"),
    *("training/optim", "training/activation_memory", "training/token_cache"),
    "training/loaders",
    *(
        "training/finite_check",
        "training/run_folder",
        "training/state_check",
        "training/history",
        "training/training_state",
        "training/tensorboard",
        "training/trainer",
    ),
    *("training/fingerprint", "training/camera_fit", "training/initialization", "training/run"),
    "training/summary",
    *("pretraining/depth_maps", "pretraining/batches", "pretraining/trainer"),
    *("diagnosis/environment", "diagnosis/full_size"),
    *("commands/demo", "commands/index", "commands/split", "commands/train", "commands/infer"),
    *(
        "commands/evaluate",
        "commands/launch",
        "commands/pretrain",
        "commands/doctor",
        "commands/web",
        "commands/export",
    ),
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
MAX_DEPENDENCIES = 55


def stage_name(title: str) -> str:
    """ "dvc.yaml:train" -> "train"."""
    return title.partition(":")[2]


def imported_modules(file: str) -> set[str]:
    """Files of the package, like "partloc/model/crop.py", that a file or its functions import."""
    modules = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import; name the module"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        modules |= {name.replace(".", "/") + ".py" for name in names if name.startswith("partloc.")}
    return {name for name in modules if (ROOT / name).is_file()}


def imported_recursively(file: str) -> set[str]:
    """A file and all files that it imports, directly or indirectly."""
    visited, queue = {file}, [file]
    while queue:
        new = imported_modules(queue.pop()) - visited
        visited |= new
        queue += new
    return visited


def position(module: str) -> int:
    return ORDER.index(module.removeprefix("partloc/").removesuffix(".py"))


# -- imports -----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_preceding_modules(module):
    imported = imported_modules(module)
    assert not [other for other in imported if position(other) >= position(module)]


def test_the_order_lists_every_module():
    assert sorted(f"partloc/{name}.py" for name in ORDER) == MODULES


def test_the_modules_of_a_package_are_adjacent():
    packages = [name.split("/")[0] for name in ORDER if "/" in name]
    assert len(list(groupby(packages))) == len(set(packages))


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("partloc/synthetic/")])
def test_rendering_does_not_depend_on_the_model(module):
    others = imported_recursively(module)
    assert all("/synthetic/" in other or "/system/" in other for other in others)


def test_demo_and_pretraining_objects_share_no_drawing_code():
    """The modules that draw the demo import none of those that draw for the pretraining."""
    demo, pretraining = (
        {f"{family.build.__module__.replace('.', '/')}.py" for family in families.values()}
        for families in (DEMO_OBJECTS.families, PRETRAINING_OBJECTS.families)
    )
    objects = {name for name in MODULES if name.startswith("partloc/synthetic/objects/")}
    assert not demo & pretraining and demo | pretraining == objects
    for one, other in ((demo, pretraining), (pretraining, demo)):
        assert not set().union(*map(imported_recursively, one)) & other


@pytest.mark.parametrize(
    "folder", sorted({str(Path(module).parent) for module in MODULES} - {"partloc"})
)
def test_importing_a_package_runs_no_code(folder):
    tree = ast.parse((ROOT / folder / "__init__.py").read_text("utf-8"))
    assert len(tree.body) == 1 and ast.get_docstring(tree)


# -- stages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports_and_on_no_other(title):
    """`deps` are the script, single modules, and whole packages of partloc.

    No stage depends on stages/_checkout.py, which only changes the import path.
    """
    name = stage_name(title)
    needed = {f"stages/{name}.py"} | imported_recursively(f"partloc/commands/{name}.py")
    listed = {dep for dep in STAGES[title]["deps"] if dep.startswith(("partloc/", "stages/"))}
    listed = {dep for dep in listed if not dep.startswith("partloc/weights")}
    covered = {dep: {f for f in needed if f == dep or f.startswith(f"{dep}/")} for dep in listed}
    assert set().union(*covered.values()) == needed
    assert all(covered.values()), "a dependency that the stage does not need"


def test_the_pipeline_lists_few_dependencies():
    counts = [len(stage["deps"]) for title, stage in STAGES.items() if title.startswith("dvc.yaml")]
    assert sum(counts) <= MAX_DEPENDENCIES


@pytest.mark.parametrize(
    "folder, stages",
    {
        "evaluation": {"evaluate"},
        "training": {"train"},
        "synthetic": {"demo"},
        "pretraining": set(),
    }.items(),
)
def test_a_change_of_a_package_reruns_only_the_stages_that_use_it(folder, stages):
    users = {stage_name(t) for t, stage in STAGES.items() if f"partloc/{folder}" in stage["deps"]}
    assert users == stages


@pytest.mark.parametrize("title", STAGES)
def test_a_stage_runs_the_script_of_its_name(title):
    assert STAGES[title]["cmd"].split()[:2] == ["python", f"stages/{stage_name(title)}.py"]


def test_no_command_contains_a_parameter():
    """A shell would interpret its text; the stages read params.yaml themselves."""
    assert not [title for title, stage in STAGES.items() if "$" in stage["cmd"]]


def test_no_stage_depends_on_machine_settings():
    params = {title: stage.get("params", []) for title, stage in STAGES.items()}
    assert not [t for t, keys in params.items() if any(k.split(".")[0] == "machine" for k in keys)]


def test_only_index_depends_on_the_images():
    readers = [title for title, stage in STAGES.items() if "${data.data_dir}" in stage["deps"]]
    assert readers == ["dvc.yaml:index"]


def test_images_of_users_are_not_outputs():
    outs = [out for stage in STAGES.values() for out in stage["outs"]]
    assert not [out for out in outs if out.startswith("data/") and out != "data/demo"]
    assert not [out for out in outs if "data_dir" in out]
