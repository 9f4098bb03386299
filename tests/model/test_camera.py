"""The camera that is fitted from labels is the one that drew the pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from folders import write_folder
from torch.testing import assert_close
from toys import tiny_config

from partloc.config import DataConfig
from partloc.data.index import build_index
from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.model.camera import View
from partloc.model.locator import PartLocator
from partloc.model.model_file import save_model
from partloc.pose import PartPose
from partloc.synthetic.camera import DISTANCE, FORWARD, project
from partloc.synthetic.dataset import write_demo
from partloc.training.camera_fit import _robust_view, fit_view
from partloc.training.run import start_from_data


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view") / "demo"
    write_demo(folder, num_models=40, image_size=96, seed=0, workers=0)
    return folder


def table_of(folder: Path) -> PairTable:
    manifest = build_index(DataConfig(data_dir=str(folder)), workers=0).manifest
    numbers = ["tx", "ty", "tz", "scale"]
    return PairTable(manifest.astype(dict.fromkeys(numbers, float)), folder)


def test_the_demo_s_camera_is_found_from_a_few_dozen_models(demo_dir):
    table = table_of(demo_dir)
    view = fit_view(table, max_pixels=10_000_000, seed=0)
    places = view.place(PartPose(table.translation, table.scale))
    uv, distance = project(table.translation.numpy())
    truth = torch.from_numpy(2 * uv - 1).float()
    error = (places[:, :2] - truth).norm(dim=1).mean()
    constant = (truth - truth.mean(0)).norm(dim=1).mean()
    assert error < 0.08 * constant
    larger = places[:, 2:].exp() / table.scale  # than in the middle, through perspective
    assert_close(larger[:, 0], torch.from_numpy(DISTANCE / distance).float(), atol=0.1, rtol=0)
    assert_close(view.forward, torch.from_numpy(FORWARD).float(), atol=0.05, rtol=0)
    assert view.inliers > 0.4
    again = fit_view(table, max_pixels=10_000_000, seed=0)
    assert torch.equal(view.slope, again.slope)


def seen_through(view: View, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=chance) - 0.5
    return points, view.place(PartPose(points, torch.ones(count, 1)))[:, :2]


@pytest.mark.parametrize("fading", [0.0, 0.3, 0.6])
def test_a_camera_is_found_from_its_places_however_strong_its_perspective(fading):
    slope = torch.tensor([[-0.8, 0.7, 0.1], [0.3, 0.5, -0.9]])
    view = View(slope, torch.tensor([0.02, -0.03]), torch.tensor(fading), 1.0)
    points, places = seen_through(view)
    places[::5] += 0.4  # some are matched wrongly
    found = _robust_view(points, places)
    assert_close(found.fading, view.fading, atol=0.03, rtol=0)
    assert_close(found.slope, slope, atol=0.03, rtol=0)


def test_a_place_and_its_depth_are_a_pose():
    slope = torch.tensor([[-0.8, 0.7, 0.1], [0.3, 0.5, -0.9]])
    view = View(slope, torch.tensor([0.02, -0.03]), torch.tensor(0.3), 1.0)
    points = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.4, -0.4]])
    pose = PartPose(points, torch.tensor([[0.2], [0.9]]))
    back = view.pose(view.place(pose), view.depth(pose.translation))
    assert_close(back.translation, pose.translation)
    assert_close(back.scale, pose.scale)
    nearer = pose.translation - 0.2 * view.forward
    larger = view.place(PartPose(nearer, pose.scale))[:, 2] - view.place(pose)[:, 2]
    assert (larger > 0).all()


def test_too_few_parts_give_no_camera(tmp_path):
    table = table_of(write_folder(tmp_path / "images"))
    assert fit_view(table, max_pixels=10_000_000, seed=0) is None


def test_labels_that_have_nothing_to_do_with_the_pictures_do_not_agree(tmp_path):
    write_demo(tmp_path / "demo", num_models=26, image_size=64, seed=0, workers=0)
    table = table_of(tmp_path / "demo")
    shuffled = np.random.default_rng(0).permutation(len(table))
    table.translation = table.translation[shuffled]
    assert fit_view(table, max_pixels=10_000_000, seed=0).inliers < 0.25


def test_a_few_parts_do_not_overrule_a_known_camera(tmp_path, demo_dir):
    table = table_of(demo_dir)
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


def test_a_model_to_start_from_keeps_its_camera_where_the_data_s_is_the_same(tmp_path, demo_dir):
    table = table_of(demo_dir)
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


def test_labels_in_one_plane_tell_no_camera(demo_dir):
    """Any direction off it fits them, and all depths would be read along a wrong one."""
    table = table_of(demo_dir)
    assert fit_view(table, max_pixels=10_000_000, seed=0).inliers > 0.4
    table.translation[:, 1] *= 1e-3
    assert fit_view(table, max_pixels=10_000_000, seed=0) is None
    model = PartLocator(tiny_config(model={"match_size": 8}).model, Preprocessing(28))
    remark = start_from_data(model, table, tiny_config(model={"match_size": 8}))
    assert "too few, or all in a plane" in remark and not model.knows_view


def test_a_camera_that_sees_all_parts_in_one_place_still_gives_numbers(tmp_path):
    model = PartLocator(tiny_config(model={"match_size": 8}).model, Preprocessing(28))
    model.set_prior(table_of(write_folder(tmp_path / "images")))
    slope = torch.tensor([[1e-4, 0.0, 0.0], [2e-4, 0.0, 0.0]])  # of no direction of depth
    model.set_view(View(slope, torch.zeros(2), torch.tensor(0.0), 1.0))
    found = model(torch.rand(1, 3, 28, 28), torch.rand(1, 3, 28, 28), torch.tensor([0]))
    assert all(field.isfinite().all() for field in (*found.hypotheses, found.log_share))
