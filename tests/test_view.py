"""The camera that is fitted from labels is the one that drew the pictures."""

from pathlib import Path

import numpy as np
import torch
from folders import write_folder

from partloc.camera import project
from partloc.config import DataConfig
from partloc.data import PairTable
from partloc.demo import write_demo
from partloc.index import build_index
from partloc.view import fit_view


def table_of(folder: Path) -> PairTable:
    manifest = build_index(DataConfig(data_dir=str(folder)), workers=0).manifest
    numbers = ["tx", "ty", "tz", "scale"]
    return PairTable(manifest.astype(dict.fromkeys(numbers, float)), folder)


def test_the_demo_s_camera_is_found_from_a_few_dozen_models(tmp_path):
    write_demo(tmp_path / "demo", num_models=40, image_size=96, seed=0, workers=0)
    table = table_of(tmp_path / "demo")
    view = fit_view(table, max_pixels=10_000_000, seed=0)
    places = table.translation @ view.slope.T + view.offset
    truth = torch.from_numpy(2 * project(table.translation.numpy())[0] - 1).float()
    error = (places - truth).norm(dim=1).mean()
    constant = (truth - truth.mean(0)).norm(dim=1).mean()
    assert error < 0.2 * constant
    assert view.inliers > 0.4
    again = fit_view(table, max_pixels=10_000_000, seed=0)
    assert torch.equal(view.slope, again.slope)


def test_too_few_parts_give_no_camera(tmp_path):
    table = table_of(write_folder(tmp_path / "images"))
    assert fit_view(table, max_pixels=10_000_000, seed=0) is None


def test_labels_that_have_nothing_to_do_with_the_pictures_do_not_agree(tmp_path):
    write_demo(tmp_path / "demo", num_models=26, image_size=64, seed=0, workers=0)
    table = table_of(tmp_path / "demo")
    shuffled = np.random.default_rng(0).permutation(len(table))
    table.translation = table.translation[shuffled]
    assert fit_view(table, max_pixels=10_000_000, seed=0).inliers < 0.25
