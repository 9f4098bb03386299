"""What every test shares: one thread, and one small data set for all that only read it."""

from pathlib import Path

import pytest
import torch
from toys import write_split

from partloc.plan import PairTable
from partloc.split import read_manifest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks are much faster so, and sums do not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_split(tmp_path_factory) -> Path:
    """The folder of the toys' train.csv and val.csv; the pictures lie in ../../images."""
    return write_split(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="session")
def tables(toy_split) -> tuple[PairTable, PairTable]:
    """The toys' training and validation samples."""
    images = toy_split.parents[1] / "images"
    return tuple(
        PairTable(read_manifest(toy_split / f"{name}.csv"), images) for name in ("train", "val")
    )
