"""Programs that tests start and stop."""

import os
import subprocess
import sys

from checkout import ROOT


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
