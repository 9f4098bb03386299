"""What every command shares: its parser, how it handles signals and errors, its exit status.

Modules that take long to import are imported in functions: until `exit_on_signals` is called, a
signal ends the command with a traceback.
"""

import argparse
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

# Errors that a user can correct: one line, no traceback. All others are bugs.
USER_ERRORS = (ValueError, OSError, FloatingPointError, MemoryError)
USER_ERROR_STATUS = 2
BROKEN_PIPE_STATUS = 128 + 13  # as a process that SIGPIPE, which Windows does not have, ends

# Packages that prediction does not need, and the extra of partloc that installs each.
EXTRA_OF_PACKAGE = {
    **dict.fromkeys(("dvc", "pandas", "ruamel", "tensorboard"), "train"),
    **dict.fromkeys(("pyvista", "vtk"), "demo"),
    "gradio": "web",
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
}

MAX_SUMMARY_LINES = 12
# A signal to the process group may kill a worker before it reaches the main process.
SIGNAL_TIMEOUT_S = 1.0


class Interrupted(BaseException):
    """The process received SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def make_parser(
    description: str | None, config: Path | None = Path("params.yaml"), prog: str | None = None
) -> argparse.ArgumentParser:
    """Make a parser whose help is a module's docstring, with the option --config.

    config: default of --config; None for a command without that option.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if config:
        help_text = f"default {config.name}"
        parser.add_argument("--config", type=Path, default=config, metavar="FILE", help=help_text)
    return parser


def positive_int(text: str) -> int:
    """Type of an argument. Raises: ValueError below 1, which argparse turns into a message."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def print_json(value: Any) -> None:
    """Print one line of JSON; what standard output cannot encode is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text)


def run_command(main: Callable[[], None], stopped: str = "stopped") -> None:
    """Run `main` and exit with status 0, or 2 after a user error, or 128 + number of a signal.

    stopped: message after a signal, e.g. how to resume. A closed pipe, as after `| head -1`, ends
    the command without a message.
    """
    try:
        with signals_as_exceptions():
            main()
            sys.stdout.flush()
    except Interrupted as interrupt:
        print(f"{interrupt}: {stopped}", file=sys.stderr)
        sys.exit(128 + interrupt.signum)
    except BrokenPipeError:
        _discard_output()
        sys.exit(BROKEN_PIPE_STATUS)
    except ModuleNotFoundError as error:
        _exit_without_package(error)
    except USER_ERRORS as error:
        print(f"error: {error_message(error)}", file=sys.stderr)
        sys.exit(USER_ERROR_STATUS)


def load_command(name: str) -> Callable[[], None]:
    """The function that runs a command; exits with status 2 if the command's extra is missing."""
    try:
        command: Callable[[], None] = import_module(f"partloc.commands.{name}").main
    except ModuleNotFoundError as error:
        _exit_without_package(error)
    return command


def _exit_without_package(error: ModuleNotFoundError) -> NoReturn:
    """Raises: the error if no extra installs the package, which is then a bug."""
    package = str(error.name).partition(".")[0]
    if package not in EXTRA_OF_PACKAGE:
        raise error
    extra = EXTRA_OF_PACKAGE[package]
    print(
        f"error: this needs the package {package}; install partloc[{extra}]: "
        f"pip install '.[{extra}]' in a clone",
        file=sys.stderr,
    )
    sys.exit(USER_ERROR_STATUS)


def print_summary(summary: object, *written: Path) -> None:
    """End a command: print what it did, and where the results are, to stderr.

    A longer summary is cut to MAX_SUMMARY_LINES, so that it fits the screen.
    """
    lines = str(summary).splitlines()
    room = MAX_SUMMARY_LINES - 1
    if len(lines) > room:
        lines[room - 1 :] = [f"... and {len(lines) - room + 1} more lines"]
    lines.append(f"written: {', '.join(map(str, written))}")
    print("\n".join(lines), file=sys.stderr)


def _discard_output() -> None:
    """Redirect both streams, which the interpreter flushes at exit, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())


def error_message(error: Exception) -> str:
    """The message of an error. A DataLoader worker's is the last line of its traceback."""
    text = str(error).strip()
    if text.startswith("Caught "):
        text = text.splitlines()[-1].partition(": ")[2]
    return text or type(error).__name__


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection, and exclude what was allocated meanwhile from later collections.

    For imports and the construction of a model, which live until the process exits. Scanning them
    repeatedly takes a quarter of the time of a command that predicts one part.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _handled_signals() -> list[signal.Signals]:
    """SIGINT and SIGTERM; also SIGHUP, unless it is ignored, as under `nohup`."""
    handled = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    return handled


def exit_on_signals() -> dict[signal.Signals, Any]:
    """Let signals end the process at once, with one line and status 128 + number.

    For imports: an exception in the middle of one may be lost, or be reported as another error.
    Returns: the previous handlers.
    """

    def handle(signum: int, _frame: FrameType | None) -> None:
        with suppress(OSError):  # standard error is closed
            os.write(2, f"{signal.Signals(signum).name}: stopped\n".encode())
        os._exit(128 + signum)

    return {number: signal.signal(number, handle) for number in _handled_signals()}


@contextmanager
def importing() -> Iterator[None]:
    """`exit_on_signals` for the imports in this block."""
    previous = exit_on_signals()
    try:
        yield
    finally:
        _restore(previous)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Raise Interrupted on SIGINT, SIGTERM and SIGHUP.

    Workers may receive the signal too, and their deaths may be noticed first. Any exception around
    a signal is therefore replaced by Interrupted.
    Raises: Interrupted; ChildProcessError when a worker died without a signal.
    """
    received: list[int] = []
    main_pid = os.getpid()

    def handle(signum: int, _frame: FrameType | None) -> None:
        if os.getpid() != main_pid:  # a worker that was forked a moment ago
            os._exit(128 + signum)
        if hasattr(signal, "SIGCHLD"):  # not on Windows
            # torch's handler would raise for workers that the same signal kills.
            signal.signal(signal.SIGCHLD, lambda *_: None)
        received.append(signum)
        raise Interrupted(received[0])

    previous = {number: signal.signal(number, handle) for number in _handled_signals()}
    try:
        yield
    except Exception as error:
        worker_death = _as_worker_death(error)
        if worker_death:
            _wait_for_signal(received)
        if received:
            raise Interrupted(received[0]) from None
        if worker_death:
            raise worker_death from error
        raise
    finally:
        _restore(previous)


def _as_worker_death(error: Exception) -> ChildProcessError | None:
    """The error to report if `error` says that a worker process died, else None."""
    from concurrent.futures.process import BrokenProcessPool

    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        key = "num_workers"
    elif isinstance(error, BrokenProcessPool):
        key = "num_processes"
    else:
        return None
    return ChildProcessError(
        f"{str(error).splitlines()[0]} Out of memory? Try a lower machine.{key}; "
        "finished work is kept"
    )


def _wait_for_signal(received: list[int]) -> None:
    """Wait until a signal arrives, at most SIGNAL_TIMEOUT_S."""
    end = time.monotonic() + SIGNAL_TIMEOUT_S
    while not received and time.monotonic() < end:
        try:
            time.sleep(0.05)
        except RuntimeError:  # torch's handler reports the death of another worker
            continue
