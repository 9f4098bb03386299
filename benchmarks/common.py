"""Helpers shared by the benchmarks: options, timing, the machine's description, Markdown tables."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from partloc.system.cli import make_parser

ROOT = Path(__file__).resolve().parents[1]


class Range(NamedTuple):
    """Median, minimum and maximum of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Range":
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def speedup(baseline_seconds: list[float], seconds: list[float]) -> Range:
    """How many times faster the second list is. Round i is compared with round i."""
    return Range.of(a / b for a, b in zip(baseline_seconds, seconds, strict=True))


def time_alternating(
    rounds: int,
    *functions: Callable[[], object],
    warm_up: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Seconds of each function in each round.

    The functions take turns, so that a change in the machine's load affects all of them. The
    first `warm_up` rounds are not recorded.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for number in range(-warm_up, rounds):
        for recorded, function in zip(seconds, functions, strict=True):
            start = clock()
            function()
            if number >= 0:
                recorded.append(clock() - start)
    return seconds


def describe_machine(device: torch.device) -> str:
    """Name of the device that computes, and the version of torch."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def benchmark_parser(
    description: str | None, config: Path | None = None, output: str = "write the results as JSON"
) -> argparse.ArgumentParser:
    """A parser with --output. With a path to a params.yaml it also has --config."""
    parser = make_parser(description, config)
    parser.add_argument("--output", type=Path, metavar="FILE", help=output)
    return parser


def add_encoder_options(parser: argparse.ArgumentParser, backbone: str, image_size: int) -> None:
    parser.add_argument("--backbone", default=backbone, metavar="NAME", help=f"default {backbone}")
    size_help = f"a multiple of 14, or cropped to one; default {image_size}"
    parser.add_argument("--image-size", type=int, default=image_size, metavar="PX", help=size_help)


def add_memory_budget_option(parser: argparse.ArgumentParser) -> None:
    help_text = "memory of a training step, default 16, of 1e9 bytes"
    parser.add_argument("--budget", type=float, default=16.0, metavar="GB", help=help_text)


def table_row(cells: Iterable[object]) -> str:
    texts = [f" {cell} " if str(cell) else " " for cell in cells]
    return f"|{'|'.join(texts)}|"


def table_head(names: Iterable[str]) -> str:
    """The first two lines of a Markdown table."""
    names = list(names)
    return f"{table_row(names)}\n{'|---' * len(names)}|"


def markdown_table(names: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    return "\n".join([table_head(names), *map(table_row, rows)])
