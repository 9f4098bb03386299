"""Runs the cases of properties in two processes and collects their failures.

The number of a case is its seed: it alone determines what the case does.
"""

import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from tqdm import tqdm

from partloc.system.processes import map_in_processes

PROCESSES = 2
MAX_MESSAGE_CHARS = 400


class Property(NamedTuple):
    """Something that holds in every case.

    name: for --only. claim: for the table. check: called with the seed of a case and a folder of
    the property, which all cases share; raises an error, of any type, where it does not hold.
    cases: number of seeds, from 0. group: number of cases that are one job of a process. weight:
    number of repetitions in a case, which count as cases in the table.
    """

    name: str
    claim: str
    check: Callable[[int, Path], None]
    cases: int
    group: int = 1
    weight: int = 1


class Failure(NamedTuple):
    seed: int
    message: str


class Outcome(NamedTuple):
    """Of some or all cases of a property."""

    name: str
    claim: str
    cases: int
    failures: list[Failure]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return self._asdict() | {"failures": [failure._asdict() for failure in self.failures]}


def run_property(
    prop: Property, seeds: Iterable[int], folder: Path, processes: int = PROCESSES
) -> Outcome:
    """Run cases of a property, with a progress line."""
    seeds, start, failures = list(seeds), time.perf_counter(), list[Failure]()
    jobs = [seeds[first : first + prop.group] for first in range(0, len(seeds), prop.group)]
    folder.mkdir(parents=True, exist_ok=True)
    results = map_in_processes(partial(run_job, prop, folder), jobs, processes)
    with tqdm(desc=prop.name, total=len(seeds), unit="case", mininterval=2) as progress:
        for job, found in zip(jobs, results, strict=True):
            failures += found
            progress.set_postfix(failures=len(failures), refresh=False)
            progress.update(len(job))
    shutil.rmtree(folder, ignore_errors=True)
    cases = prop.weight * len(seeds)
    return Outcome(prop.name, prop.claim, cases, failures, time.perf_counter() - start)


def run_job(prop: Property, folder: Path, seeds: list[int]) -> list[Failure]:
    """The failures of some cases."""
    torch.set_num_threads(1)  # two processes share two cores
    return [failure for seed in seeds if (failure := run_case(prop, folder, seed))]


def run_case(prop: Property, folder: Path, seed: int) -> Failure | None:
    try:
        prop.check(seed, folder)
    except BaseException as error:  # also a signal's: whatever ends a case is its failure
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        text = " ".join(f"{type(error).__name__} in {where}: {error}".split())
        print(f"\n{prop.name} --seed {seed}: {text}", file=sys.stderr, flush=True)
        return Failure(seed, text[:MAX_MESSAGE_CHARS])
    return None


# -- for the properties ------------------------------------------------------------------------


def prepared(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """`folder`/`name`, made once, whichever process needs it first."""
    target, done = folder / name, folder / f"{name}.done"
    with FileLock(folder / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(target, ignore_errors=True)
            make(target)
            done.touch()
    return target


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder, removed at the end; with its real path, as messages name it."""
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()
