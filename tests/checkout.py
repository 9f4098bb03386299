"""Copies of this checkout, as a clone has it, and the programs that run in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]


def copy_checkout(target: Path, *paths: str) -> Path:
    """Copy the files that git tracks or would add; paths: only these files and folders."""
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths)
    names = os.fsdecode(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():  # else deleted, but still in the index
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def run_program(*arguments: str, cwd: Path, fails: bool = False, **variables: str) -> str:
    """Run a program in a project with more environment variables.

    Returns: its output, both streams in order.
    """
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env=isolated_environment(cwd) | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert (done.returncode != 0) == fails, f"{' '.join(arguments)}\n{done.stdout}"
    return done.stdout


def isolated_environment(project: Path) -> dict[str, str]:
    """The environment of a program in a project, without the user's settings of git and DVC."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}
    identity = {
        f"GIT_{role}_{field}": "a@b.c"
        for role in ("AUTHOR", "COMMITTER")
        for field in ("NAME", "EMAIL")
    }
    isolated = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(project.parent),
        "DVC_GLOBAL_CONFIG_DIR": str(project.parent),
        "DVC_SITE_CACHE_DIR": str(project.parent / "site-cache"),
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "500",
    }
    return inherited | identity | isolated


def dvc(*arguments: str, cwd: Path, fails: bool = False, **variables: str) -> str:
    return run_program(
        *(sys.executable, "-m", "dvc", *arguments), cwd=cwd, fails=fails, **variables
    )


def set_params(project: Path, changes: dict) -> None:
    yaml, path = YAML(), project / "params.yaml"
    params = yaml.load(path.read_text(encoding="utf-8"))
    for group, values in changes.items():
        params[group].update(values)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def commit(project: Path) -> None:
    run_program("git", "add", "--all", cwd=project)
    run_program("git", "commit", "--quiet", "--message", "a state", cwd=project)
