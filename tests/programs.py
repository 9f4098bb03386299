"""Programs that tests start and stop, and commands that have run."""

import os
import subprocess
import sys
from types import ModuleType
from typing import NamedTuple

import pytest
from checkout import ROOT


class FinishedRun(NamedTuple):
    """The exit status of a command, and what it has printed."""

    status: int
    out: str
    err: str


def run_here(monkeypatch: pytest.MonkeyPatch, command: ModuleType, *arguments: object) -> int:
    """Run a module of partloc.commands in this process; return its exit status."""
    monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, arguments)])
    try:
        command.main()
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


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
