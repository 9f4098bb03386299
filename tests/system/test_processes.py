"""Workers that end with the process that starts them."""

import os
import signal
import time
from functools import partial

import psutil
import pytest
from programs import start

from partloc.system.processes import map_in_processes

pytestmark = pytest.mark.usefixtures("default_signals")

WORKERS = """
import time
from partloc.system.cli import run_command
from partloc.system.processes import map_in_processes
if __name__ == "__main__":
    run_command(lambda: [*map_in_processes(time.sleep, [100] * 8, 2)])
"""


def test_workers_do_not_receive_what_a_terminal_sends_to_all_processes():
    """A worker would print a traceback beside the message of the process that stops it."""
    blocked_signals = partial(signal.pthread_sigmask, signal.SIG_BLOCK)
    for blocked in map_in_processes(blocked_signals, [[]] * 2, 2):
        assert blocked >= {signal.SIGINT, signal.SIGHUP}


def test_results_are_in_order_in_any_number_of_processes():
    items = list(range(-20, 20))
    for workers in (0, 1, 2, 3):
        assert [*map_in_processes(abs, items, workers)] == [abs(item) for item in items]


@pytest.mark.parametrize(
    ("name", "to_group"),
    [("SIGKILL", False), ("SIGTERM", False), ("SIGHUP", True), ("SIGINT", True)],
)
def test_workers_end_with_their_parent(tmp_path, name, to_group):
    (tmp_path / "main.py").write_text(WORKERS)
    with start(tmp_path / "main.py") as process:
        wait_until(lambda: len(psutil.Process(process.pid).children()) == 3)  # and a tracker
        workers = psutil.Process(process.pid).children()
        time.sleep(0.5)  # some are still importing
        (os.killpg if to_group else os.kill)(process.pid, signal.Signals[name])
        errors = process.communicate(timeout=30)[1]
    if name != "SIGKILL":  # after it, Python's own tracker of resources reports what is left
        assert errors == f"{name}: stopped\n"
    number = signal.Signals[name]
    assert process.returncode == (-number if name == "SIGKILL" else 128 + number)
    wait_until(lambda: not any(map(is_alive, workers)))


def is_alive(process: psutil.Process) -> bool:
    """An ended process whose new parent has not noticed it yet is a zombie."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
