"""The wheel is complete and works outside a checkout; a stage runs the code of its own checkout."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from answer_schema import require_valid
from checkout import ROOT, copy_checkout
from toys import noise_image

import partloc
from partloc.system.cli import EXTRA_OF_PACKAGE

STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[!_]*.py"))
# The oldest that pyproject.toml accepts; it builds a wheel without a download.
MIN_SETUPTOOLS = 77


def run_python(*arguments: str | Path, cwd: Path, import_path: tuple[Path, ...] = ()) -> str:
    """Run the interpreter. Returns: its standard output."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    if import_path:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, import_path))
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def install_wheel(root: Path) -> Path:
    """Build a wheel of this checkout and install it. Returns: the folder of the package."""
    source = copy_checkout(root / "source", "partloc", "pyproject.toml", "README.md", "LICENSE")
    major = int(importlib.metadata.version("setuptools").split(".")[0])
    isolation = ["--no-build-isolation"] if major >= MIN_SETUPTOOLS else []
    pip = ("-m", "pip", "--disable-pip-version-check")
    run_python(*pip, "wheel", "--no-deps", *isolation, "--wheel-dir", root, source, cwd=root)
    (wheel,) = root.glob("partloc-*.whl")
    target = root / "site-packages"
    run_python(*pip, "install", "--no-deps", "--target", target, wheel, cwd=root)
    return target


def assert_complete(installation: Path) -> None:
    expected = {
        path.relative_to(ROOT)
        for path in (ROOT / "partloc").rglob("*")
        if path.suffix
        in (".py", ".pth", ".sha256", ".json", ".ttf", ".txt", ".typed", ".html", ".css", ".js")
    }
    installed = {path.relative_to(installation) for path in installation.glob("partloc/**/*.*")}
    assert {path for path in installed if path.suffix != ".pyc"} == expected
    (metadata,) = importlib.metadata.distributions(path=[str(installation)])
    assert metadata.version == partloc.__version__
    assert metadata.metadata["License-Expression"] == "Apache-2.0"
    light = [line for line in metadata.requires or [] if "extra ==" not in line]
    assert {"torch", "torchvision", "timm"} <= {*map(requirement_name, light)}
    needless = {"dvc", "gradio", "onnx", "pandas", "pyvista", "ruamel.yaml", "tensorboard"}
    assert not needless & {*map(requirement_name, light)}


def requirement_name(line: str) -> str:
    """ "torch>=2.11,<2.12" -> "torch"."""
    return re.split(r"[^\w.-]", line)[0].lower()


def assert_answers_an_example_without_extras(installation: Path, folder: Path) -> None:
    """With the shipped weights, in an environment where the packages of the extras are missing."""
    blocked = folder / "blocked"
    blocked.mkdir()
    # An entry of None makes an import fail like that of a missing package.
    code = f"import sys\nsys.modules |= dict.fromkeys({[*EXTRA_OF_PACKAGE]})\n"
    (blocked / "sitecustomize.py").write_text(code)
    parts = [ROOT / f"examples/bench/bench-side-{number}.png" for number in (1, 2)]
    images = ("--whole", ROOT / "examples/bench/bench-whole.png", "--part", parts[0])
    output = run_python(
        *(installation / "bin/partloc", "infer", *images, "--part", parts[1]),
        cwd=folder,
        import_path=(installation, blocked),
    )
    first, second = json.loads(output)
    require_valid([first, second])
    assert first["translation"] != second["translation"]


def assert_distinct_positions_for_equal_parts(
    installation: Path, checkpoint: Path, folder: Path
) -> None:
    """The installed program gives two equal parts distinct positions, run in another folder."""
    noise_image(0).save(folder / "whole.png")
    for name in ("a.png", "b.png"):
        noise_image(1).save(folder / name)
    code = "import partloc; print(partloc.__file__)"
    location = run_python("-c", code, cwd=folder, import_path=(installation,))
    assert Path(location.strip()) == installation / "partloc/__init__.py"
    images = ("--whole", "whole.png", "--part", "a.png", "--part", "b.png")
    output = run_python(
        *(installation / "bin/partloc", "infer", *images, "--checkpoint", checkpoint),
        cwd=folder,
        import_path=(installation,),
    )
    first, second = json.loads(output)
    assert first["translation"] != second["translation"]


def test_the_wheel_is_complete_and_predicts_outside_a_checkout(checkpoint, tmp_path):
    """One test for all claims, since each process that runs a test of the wheel builds it."""
    installation = install_wheel(tmp_path)
    assert_complete(installation)
    assert_distinct_positions_for_equal_parts(installation, checkpoint, tmp_path)
    assert_answers_an_example_without_extras(installation, tmp_path)


def test_the_pinned_requirements_include_all_extras_but_web():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    # gradio requires an older Pillow than the pinned one, which decodes the images of the figures.
    lists = [project["dependencies"], *(extras[name] for name in extras if name != "web")]
    wanted = {requirement_name(line) for lines in lists for line in lines}
    pinned = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert wanted <= {requirement_name(line) for line in pinned if "==" in line}


def test_each_package_of_an_extra_is_declared_in_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    declared = {
        extra: {requirement_name(line).partition(".")[0] for line in lines}
        for extra, lines in extras.items()
    }
    for package, extra in EXTRA_OF_PACKAGE.items():
        assert package in declared[extra] | {"vtk"}  # pyvista requires vtk


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_the_code_of_its_own_checkout(stage, tmp_path):
    """`dvc exp run --temp` runs the stages in a copy; another partloc may be importable there."""
    copy = copy_checkout(tmp_path / "copy", "stages", "partloc/*.py")
    (copy / f"partloc/commands/{stage}.py").write_text(
        "from partloc.system import cli\n\ndef main():\n    print(__file__, cli.__file__)\n"
    )
    output = run_python(copy / f"stages/{stage}.py", cwd=tmp_path, import_path=(ROOT,))
    assert output.split() == [
        f"{copy}/partloc/commands/{stage}.py",
        f"{copy}/partloc/system/cli.py",
    ]


@pytest.mark.parametrize("target", ["repro", "test", "check"])
def test_a_copy_without_git_is_told_the_cure_before_the_set_up(tmp_path, target):
    copy = copy_checkout(tmp_path / "copy", "Makefile", "requirements.txt")
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    command = ["make", target]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "make one: git init" in done.stderr
    assert sorted(path.name for path in copy.iterdir()) == ["Makefile", "requirements.txt"]
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    command = ["make", "require-git"]
    subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True)
