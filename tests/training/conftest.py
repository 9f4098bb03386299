"""Fixtures for the tests of training."""

import os
from pathlib import Path

import pytest
from torch.testing import assert_close
from toys import CAMERA, make_trainer, tiny_config

from partloc.pose import PartPose


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Do not wait for the disk after each saved state."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


@pytest.fixture(autouse=True, scope="session")
def toys_have_a_camera(one_thread, tables):
    """Without a camera, half of the loss terms would be zero in every training on the toys."""
    trainer = make_trainer(tiny_config(), *tables)
    assert trainer.model.has_camera
    found = trainer.model.project(PartPose(tables[0].translation, tables[0].scale))
    expected = CAMERA.project(PartPose(tables[0].translation, tables[0].scale))
    assert_close(found, expected, atol=0.1, rtol=0)


@pytest.fixture(scope="session")
def rendered_models(tmp_path_factory) -> Path:
    """A folder of 40 models of the demo dataset, all rendered by the same camera."""
    from partloc.synthetic.dataset import write_dataset  # other tests do not need the renderer

    folder = tmp_path_factory.mktemp("rendered") / "demo"
    write_dataset(folder, num_models=40, image_size=96, seed=0, workers=0)
    return folder
