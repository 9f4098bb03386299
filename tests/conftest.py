"""What every test shares: one thread, and small data and a model for all that only read them."""

from pathlib import Path

import pytest
import torch
from toys import answering_model, write_pictures, write_split

from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.inference.predictor import Predictor
from partloc.model.model_file import save_model


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks are much faster so, and sums do not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def full_precision():
    """Also on a CPU that would encode in half."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict)
        yield


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


@pytest.fixture(scope="session")
def checkpoint(one_thread, tmp_path_factory) -> Path:
    """The model file of an untrained network."""
    path = tmp_path_factory.mktemp("models") / "best_model.pth"
    save_model(path, answering_model(), {})
    return path


@pytest.fixture
def predictor(checkpoint) -> Predictor:
    return Predictor(checkpoint, "cpu")


@pytest.fixture
def data_dir(tmp_path) -> Path:
    return write_pictures(tmp_path / "data")
