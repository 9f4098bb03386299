"""What is installed, which device there is, and the state of the project folder."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from partloc.distributed import choose_device, inference_dtype, training_dtype
from partloc.system.cli import EXTRA_OF_PACKAGE

PACKAGES = ("partloc", "torch", "torchvision", "timm", "numpy", "dvc")
# Import names of packages that pip knows by another name.
DISTRIBUTIONS = {"ruamel": "ruamel.yaml"}
GIT_TIMEOUT_S = 20


class Check(NamedTuple):
    """One subject of the report.

    facts: what was found, JSON values by name. problems: why a training at full size cannot start.
    """

    name: str
    facts: dict[str, Any]
    problems: list[str] = []


def check_software() -> Check:
    """Versions of Python and of the packages, and the packages of extras that are missing."""
    facts: dict[str, Any] = {"python": platform.python_version()}
    facts |= {package: _version(package) for package in PACKAGES}
    missing: dict[str, list[str]] = {}
    for package, extra in EXTRA_OF_PACKAGE.items():
        name = DISTRIBUTIONS.get(package, package)
        if _version(name) is None:
            missing.setdefault(extra, []).append(name)
    facts["missing"] = {extra: sorted(names) for extra, names in missing.items()}
    problems = []
    if "train" in missing:
        names = ", ".join(sorted(missing["train"]))
        problems.append(f"training needs {names}: pip install '.[train]'")
    return Check("software", facts, problems)


def _version(package: str) -> str | None:
    """The installed version; None if there is none. A checkout of partloc needs no installation."""
    if package == "partloc":
        import partloc

        return partloc.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_device(name: str) -> Check:
    """The device `name`, its memory in GB of 1e9 bytes, and its precision in mixed precision.

    Raises: ValueError as `choose_device`.
    """
    device = choose_device(name)
    problems = []
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        model = torch.cuda.get_device_name(device)
        precision = training_dtype(True, device)
    else:
        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
        model, precision = platform.processor() or platform.machine(), inference_dtype(device)
        problems.append(f"no GPU: the device is {device}; full size is made for a GPU with 16 GB")
    facts = {
        "device": str(device),
        "model": model,
        "memory_gb": round(total / 1e9, 1),
        "free_gb": round(free / 1e9, 1),
        "mixed_precision": str(precision).removeprefix("torch.") if precision else "none",
    }
    return Check("device", facts, problems)


def check_rendering() -> Check:
    """Whether the demo can be rendered, tried in a child process; full size does not need it."""
    try:
        from partloc.synthetic.render import RenderError, check_opengl
    except ModuleNotFoundError as error:
        return Check("rendering", {"available": False, "reason": f"{error.name} is not installed"})
    try:
        check_opengl()
    except RenderError as error:
        return Check("rendering", {"available": False, "reason": str(error)})
    return Check("rendering", {"available": True})


def check_project(root: Path) -> Check:
    """Whether `root` is a clone with a pipeline of DVC, and its state in git."""
    facts: dict[str, Any] = {
        "folder": str(root.resolve()),
        "pipeline": (root / "dvc.yaml").is_file() and (root / ".dvc").is_dir(),
        "pipeline_has_run": (root / "dvc.lock").is_file(),
        "git_commit": _git(root, "rev-parse", "--short", "HEAD"),
    }
    problems = []
    changes = _git(root, "status", "--porcelain")
    facts["changed_files"] = None if changes is None else len(changes.splitlines())
    if not facts["pipeline"]:
        problems.append(f"{root.resolve()}: no dvc.yaml with .dvc; run in a clone of the project")
    elif facts["git_commit"] is None:
        problems.append(f"{root.resolve()}: no commit in git, which DVC records experiments in")
    return Check("project", facts, problems)


def _git(root: Path, *arguments: str) -> str | None:
    """The output of a git command; None if it fails."""
    command = ("git", "-C", str(root), *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
