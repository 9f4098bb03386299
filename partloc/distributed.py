"""The processes that work together, the device of each, and their generators of chance."""

import os
import random
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Team:
    """The processes that work together; one process alone is a team of one."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank, on every process."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: Any) -> Any:
        """The leading process's value, on every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Until everybody is here."""
        if self.size > 1:
            dist.barrier()

    def led(self, hold: AbstractContextManager[None]) -> AbstractContextManager[None]:
        """`hold` for the leading process, nothing for the others."""
        return hold if self.leads else nullcontext()


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU when there is one. Raises: ValueError when `name` is not available.

    Also lets the CPU take numbers below 1e-38 for zero, as GPUs do: a softmax over thousands of
    places is full of them, and they cost many times the time of others. Threads inherit this, so
    it comes before the first computation.
    """
    torch.set_flush_denormal(True)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # torch's text lists devices that partloc does not know
        raise ValueError(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            raise ValueError(f"device {name!r}: torch finds {found} CUDA devices here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {name!r}: torch finds no such device here")
    return device


@contextmanager
def join_team(device_name: str, patience: timedelta | None = None) -> Iterator[Team]:
    """Join the processes that torchrun started, or stand alone; at the end all leave together.

    No DistributedDataParallel may be reached any more at the end: one that outlives the group now
    and then never ends.
    patience: how long one waits for the others; torch's default is minutes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_name)
    if size == 1:
        yield Team(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    team = Team(dist.get_rank(), size, device)
    yield team
    # Not after an error: it ends this process, and torchrun then ends the others.
    team.wait()
    dist.destroy_process_group()


def seed_everything(seed: int, rank: int = 0) -> None:
    """One seed for every generator; processes of a team draw apart."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)


def peak_memory_gb(device: torch.device) -> float:
    """The most memory held so far: the device's, or the process's own on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def generator_states(device: torch.device) -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(words), next_gauss],
    }


def restore_generators(states: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, words, next_gauss = states["python"]
    random.setstate((version, tuple(words), next_gauss))


def amp_dtype(use_amp: bool, device: torch.device) -> torch.dtype | None:
    """bf16 where the GPU has it, else fp16; None (full precision) on a CPU or on request."""
    if not use_amp or device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def encoder_dtype(device: torch.device) -> torch.dtype | None:
    """Of the encoder where nothing is learned: bf16 also on a CPU that has instructions for it."""
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None
    return amp_dtype(True, device)
