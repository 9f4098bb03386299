"""The camera that is fitted from labels is the one that drew the pictures."""

from pathlib import Path

import numpy as np
import torch
from folders import write_folder
from toys import tiny_config

from partloc.camera import project
from partloc.checkpoint import save_model
from partloc.config import DataConfig
from partloc.data import Preprocessing
from partloc.demo import write_demo
from partloc.index import build_index
from partloc.model import PartLocator
from partloc.plan import PairTable
from partloc.run import start_from_data
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


def test_a_few_parts_do_not_overrule_a_known_camera(tmp_path):
    write_demo(tmp_path / "demo", num_models=40, image_size=96, seed=0, workers=0)
    table = table_of(tmp_path / "demo")
    known = fit_view(table, max_pixels=10_000_000, seed=0)
    write_demo(tmp_path / "few", num_models=8, image_size=96, seed=5, workers=0)
    few = table_of(tmp_path / "few")
    own = fit_view(few, max_pixels=10_000_000, seed=0)
    assert not torch.allclose(own.slope, known.slope, atol=0.01)
    kept = fit_view(few, max_pixels=10_000_000, seed=0, known=known)
    assert torch.equal(kept.slope, known.slope)

    few.translation = few.translation[:, [1, 2, 0]]  # but what they plainly say counts
    other = fit_view(few, max_pixels=10_000_000, seed=0, known=known)
    assert not torch.allclose(other.slope, known.slope, atol=0.1)


def test_a_model_to_start_from_keeps_its_camera_where_the_data_s_is_the_same(tmp_path):
    write_demo(tmp_path / "demo", num_models=40, image_size=96, seed=0, workers=0)
    table = table_of(tmp_path / "demo")
    config = tiny_config(model={"match_size": 8})
    first = PartLocator(config.model, Preprocessing(28))
    start_from_data(first, table, config)
    first.lift.weight.data += 0.01  # as training moves it
    path = tmp_path / "weights.pth"
    save_model(path, first, {}, half=True)
    begin = tiny_config(model={"match_size": 8, "start_from": str(path)})

    def begun(on: PairTable) -> tuple[PartLocator, str]:
        model = PartLocator(begin.model, Preprocessing(28))
        return model, start_from_data(model, on, begin)

    same, remark = begun(table)
    assert "agree with that of the starting weights" in remark
    assert torch.allclose(same.lift.weight, first.lift.weight, atol=1e-2)
    assert torch.allclose(same.center, first.center, atol=1e-3)

    table.translation = table.translation[:, [1, 2, 0]]  # other axes are another camera
    other, remark = begun(table)
    assert "starting weights" not in remark
    assert not torch.allclose(other.view_slope, first.view_slope, atol=0.1)

    few, remark = begun(table_of(write_folder(tmp_path / "images")))
    assert "that of the starting weights is taken" in remark
    assert torch.allclose(few.view_slope, first.view_slope, atol=1e-2)
