"""Fixtures for all tests: one thread, full precision, and small data that tests only read.

The process that starts the test workers also reads this file. It runs no test, so torch, half a
gigabyte of memory, is imported in the fixtures.
"""

import ctypes
import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from programs import FinishedRun

    from partloc.data.table import PairTable
    from partloc.inference.predictor import Predictor

os.environ["OMP_NUM_THREADS"] = "1"  # of the programs that tests start
SLOWEST_FILES = (
    *("test_pipeline.py", "test_resume.py", "test_pretrain.py", "test_trainer.py"),
    "test_export.py",
)

# Examples of each property in test_properties.py: few, and always the same. A larger number in
# PARTLOC_EXAMPLES searches further, at random.
EXAMPLES = int(os.environ.get("PARTLOC_EXAMPLES", "0"))
settings.register_profile(
    "partloc",
    max_examples=EXAMPLES or 25,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("partloc")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, so that at the end no worker waits long for another."""
    items.sort(key=lambda item: item.path.name not in SLOWEST_FILES)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks are much faster on one thread, and sums do not depend on the core count."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def full_precision():
    """Make the CPU report no bfloat16 support, so that the encoder runs in float32."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_collection_of_modules(one_thread):
    """Spare later garbage collections the objects of imported modules: 1 instead of 300 ms each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_unused_memory() -> Iterator[None]:
    """Return memory to the system: cycles and glibc would keep a gigabyte of it in each worker."""
    yield
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@pytest.fixture(scope="session")
def toy_split(tmp_path_factory) -> Path:
    """The folder of the toy train.csv and val.csv; their images are in ../../images."""
    from toys import write_split

    return write_split(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="session")
def tables(toy_split) -> "tuple[PairTable, PairTable]":
    """The toy training and validation samples."""
    from partloc.data.split import read_manifest
    from partloc.data.table import PairTable

    images = toy_split.parents[1] / "images"
    return tuple(
        PairTable(read_manifest(toy_split / f"{name}.csv"), images) for name in ("train", "val")
    )


@pytest.fixture(scope="session")
def checkpoint(one_thread, tmp_path_factory) -> Path:
    """The model file of an untrained network."""
    from toys import make_untrained_model

    from partloc.model.model_file import save_model

    path = tmp_path_factory.mktemp("models") / "best_model.pth"
    save_model(path, make_untrained_model(), {})
    return path


@pytest.fixture
def predictor(checkpoint) -> "Predictor":
    """A predictor of the untrained network on the CPU."""
    from partloc.inference.predictor import Predictor

    return Predictor(checkpoint, "cpu")


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """A folder of images without labels."""
    from toys import write_unlabelled_images

    return write_unlabelled_images(tmp_path / "data")


@pytest.fixture
def default_signals():
    """Signals as a terminal delivers them. SIGHUP is ignored where the tests run under nohup, and
    child processes inherit that."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.fixture
def run_command(monkeypatch, capfd, tmp_path) -> "Callable[..., FinishedRun]":
    """Runs a module of partloc.commands in the folder `tmp_path`, but in this process, which has
    loaded torch already."""
    from programs import FinishedRun, run_here

    monkeypatch.chdir(tmp_path)

    def run(command: ModuleType, *arguments: str | Path) -> FinishedRun:
        return FinishedRun(run_here(monkeypatch, command, *arguments), *capfd.readouterr())

    return run
