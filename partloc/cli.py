"""How every command begins, with its arguments, and how it ends: with its result, or with one line
that says what to put right."""

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# What a user can put right; all else is a mistake of ours, and shows its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError, MemoryError)

# A signal to the whole process group may kill workers before it is seen here.
GRACE_S = 1.0


class Interrupted(BaseException):
    """SIGINT or SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def make_parser(
    description: str | None, config: Path | None = Path("params.yaml"), prog: str | None = None
) -> argparse.ArgumentParser:
    """A script's docstring as its help, and --config, which this file is unless another is given;
    None: no such option."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if config:
        help_text = f"default {config.name}"
        parser.add_argument("--config", type=Path, default=config, metavar="FILE", help=help_text)
    return parser


def count(text: str) -> int:
    """An argument's type. Raises: ValueError below 1, which argparse turns into a message."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def run_command(main: Callable[[], None], stopped: str = "stopped") -> None:
    """Run `main`. Exits with 2 after an error of the user's, with 128 and the signal's number
    after a signal; `stopped` says what then remains."""
    try:
        with on_signals():
            main()
    except Interrupted as stop:
        print(f"{stop}: {stopped}", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except USER_ERRORS as error:
        print(f"error: {reason_of(error)}", file=sys.stderr)
        sys.exit(2)


def reason_of(error: Exception) -> str:
    """An error's message; a loader's worker hands it over as the last line of a traceback."""
    text = str(error).strip()
    if text.startswith("Caught "):
        text = text.splitlines()[-1].partition(": ")[2]
    return text or type(error).__name__


@contextmanager
def loading() -> Iterator[None]:
    """Import and build without looking for garbage, and never look at what was loaded again.

    It stays to the end. Going through it again and again on the way, and once more at the exit,
    is a quarter of the time of a command that answers one question.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def on_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted.

    Workers may get the signal too and be seen dying first: whatever is raised round a signal is
    that signal.
    Raises: Interrupted; ChildProcessError when a worker died by itself.
    """
    received: list[int] = []
    owner = os.getpid()

    def handle(signum: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that has only just been forked
            os._exit(128 + signum)
        # From here on torch need not raise for workers that die of the same signal.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        received.append(signum)
        raise Interrupted(received[0])

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception as error:
        of_the_loader = isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
        a_worker_died = of_the_loader or isinstance(error, BrokenProcessPool)
        if a_worker_died:
            _await(received)
        if received:
            raise Interrupted(received[0]) from None
        if a_worker_died:
            number = "num_workers" if of_the_loader else "num_processes"
            raise ChildProcessError(
                f"{str(error).splitlines()[0]} Too little memory? Try a lower machine.{number}; "
                "what is finished is kept"
            ) from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _await(received: list[int]) -> None:
    """Give a signal time to arrive; other workers' deaths are reported meanwhile."""
    end = time.monotonic() + GRACE_S
    while not received and time.monotonic() < end:
        try:
            time.sleep(0.05)
        except RuntimeError:
            continue
