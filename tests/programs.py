"""Programs that tests start and stop, and commands that have run."""

import os
import subprocess
import sys
from typing import NamedTuple

from checkout import ROOT


class FinishedRun(NamedTuple):
    """The exit status of a command, and what it has printed."""

    status: int
    out: str
    err: str


def start(*arguments: object, **options) -> subprocess.Popen:
    """Start the interpreter in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
