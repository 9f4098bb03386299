"""Commands of the project in real processes, which tests watch, kill and start again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from checkout import ROOT

# Starts the stage like DVC, as the parent of its process.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


class Command:
    """A running command in a process group of its own; its messages go to a log.

    outlives_process: whether other processes of the group may outlive `process`.
    """

    def __init__(
        self,
        arguments: list[str],
        cwd: Path,
        log: Path,
        environment: dict[str, str],
        outlives_process: bool = False,
    ) -> None:
        self.log, self.outlives_process = log, outlives_process
        with log.open("w") as file:
            self.process = subprocess.Popen(
                arguments,
                cwd=cwd,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None or self.outlives_process:
            self.kill_group()

    def kill_group(self) -> None:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for(self, text: str) -> Self:
        """Wait until the log contains `text`."""
        end = time.monotonic() + 120
        while text not in self.read_log():
            code = self.process.poll()
            assert code is None and time.monotonic() < end, (code, self.read_log())
            time.sleep(0.01)
        return self

    def finish(self) -> int:
        """Wait for the end and return the exit code; no error shows a traceback."""
        code = self.process.wait(timeout=120)
        assert "Traceback" not in self.read_log(), self.read_log()
        return code

    def read_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Stage(Command):
    """A running `python stages/train.py`.

    launcher: options of Python that make `process` another program, which starts the stage.
    """

    def __init__(self, root: Path, *options: str, launcher: tuple[str, ...] = ()) -> None:
        script = str(ROOT / "stages" / "train.py")
        environment = os.environ | {"DVC_ROOT": str(root), "OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, *launcher, script, *options]
        log = root / "stderr.txt"
        super().__init__(arguments, root, log, environment, bool(launcher))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
