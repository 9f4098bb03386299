"""Fixtures for the tests of training."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Do not wait for the disk after each saved state."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


@pytest.fixture(scope="session")
def rendered_models(tmp_path_factory) -> Path:
    """A folder of 40 models of the demo dataset, all rendered by the same camera."""
    from partloc.synthetic.dataset import write_dataset  # other tests do not need the renderer

    folder = tmp_path_factory.mktemp("rendered") / "demo"
    write_dataset(folder, num_models=40, image_size=96, seed=0, workers=0)
    return folder
