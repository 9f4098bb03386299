"""Copies of this checkout, as a clone has it."""

import os
import shutil
import subprocess
from pathlib import Path

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
