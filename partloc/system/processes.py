"""Worker processes that end with the process that starts them."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK_ITEMS = 4  # that a worker process receives at once


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """Like `map`, in order, in `workers` processes; in this process for fewer than 2.

    The workers end with this process, also when it is killed.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    workers = min(workers, len(items))
    if workers < 2:
        yield from map(function, items)
        return
    pool = None
    try:
        with _terminal_signals_blocked():  # in the new processes, too: this one stops them
            # Processes are spawned because forking a process that has threads can deadlock.
            pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent)
            # Once more, because the start of Python's tracker of resources unblocks SIGINT.
            with _terminal_signals_blocked():
                results = pool.map(function, items, chunksize=CHUNK_ITEMS)
        yield from results
    except BaseException:
        # The workers first, so that the pool has nothing to wait for; and the pool waits, because
        # otherwise its thread may be closing a pipe to which the interpreter writes at exit.
        for process in active_children():
            process.terminate()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _terminal_signals_blocked() -> Iterator[None]:
    """Delay what a terminal sends to all processes, SIGINT and SIGHUP.

    Processes that are started meanwhile inherit this and never receive them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _end_with_parent() -> None:
    """Let this worker process end when its parent does: a killed one cannot stop it."""
    from multiprocessing import parent_process
    from threading import Thread

    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
