"""Distributed processes, their devices, random-number generators, precision and memory use."""

import os
import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import numpy as np
import psutil
import torch
import torch.distributed as dist


@dataclass(frozen=True)
class DistributedContext:
    """Rank and device of this process, and communication with the other processes.

    A run in one process has a context too: rank 0 of world size 1, where every collective
    operation returns at once.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only process that prints and writes files."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, ordered by rank, on every process."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value on every process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Block until all processes have called this."""
        if self.world_size > 1:
            dist.barrier()

    def on_main(self, manager: AbstractContextManager[None]) -> AbstractContextManager[None]:
        """Return `manager` on the main process and a context manager without effect elsewhere."""
        return manager if self.is_main else nullcontext()


def choose_device(name: str) -> torch.device:
    """Return the device `name`; `auto` is a GPU if there is one, else the CPU.

    The device becomes torch's current one: CUDA events and streams without an explicit device are
    recorded there. Convolutions in float32 keep full precision; on Ampere and later GPUs torch
    would round their inputs to TF32, which has three significant digits.

    Also makes the CPU flush denormal numbers (below 1e-38) to zero, as GPUs do: a softmax over
    thousands of positions is full of them, and they cost many times the time of others. Threads
    inherit this setting, so the call has to precede the first computation.

    Raises: ValueError if the device is unknown or not available.
    """
    torch.set_flush_denormal(True)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:  # torch's message lists devices that partloc does not support
        raise ValueError(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(f"device {name!r}: torch finds {count} CUDA devices")
        torch.cuda.set_device(device.index or 0)
        torch.backends.cudnn.allow_tf32 = False
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {name!r}: torch finds no such device")
    return device


@contextmanager
def distributed_context(
    device_name: str, timeout: timedelta | None = None
) -> Iterator[DistributedContext]:
    """Join the process group that torchrun started, or run as a single process without it.

    No DistributedDataParallel may be reachable when the block ends: one that outlives the process
    group occasionally hangs.

    Args:
        device_name: as for `choose_device`; with several GPUs, each process takes the one of its
            local rank.
        timeout: of collective operations; torch's default is minutes.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_name)
    if world_size == 1:
        yield DistributedContext(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    context = DistributedContext(dist.get_rank(), world_size, device)
    yield context
    # Not after an error: it ends this process, and torchrun then ends the others.
    context.barrier()
    dist.destroy_process_group()


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed all global generators with `seed + rank`, so that each process draws other numbers."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)


def rng_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all global generators as tensors and plain values."""
    numpy_state = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())
    kind, keys, position, has_gauss, gauss = numpy_state
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(words), next_gauss],
    }


def restore_rng_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore what `rng_states` returned."""
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, words, next_gauss = states["python"]
    random.setstate((version, tuple(words), next_gauss))


def training_dtype(use_amp: bool, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype of training: bfloat16 if the GPU supports it, else float16.

    Turing GPUs (T4, RTX 20) emulate bfloat16, slower than full precision: they take float16.
    None means full precision: on a CPU, or if `use_amp` is false.
    """
    if not use_amp or device.type != "cuda":
        return None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def inference_dtype(device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype of the encoder in inference; bfloat16 also on capable CPUs."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        return torch.bfloat16 if has_bf16 else None
    return training_dtype(True, device)


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory so far in 1e9 bytes: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return memory.peak_wset / 1e9
    import resource  # not available on Windows

    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 1e9
