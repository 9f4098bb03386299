"""How deep a part is, is read off two depth maps, which a small network tells from pictures."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from toys import ALONE, table_of, tiny_config

from partloc import depth, depth_training
from partloc.camera import DISTANCE, VIEW_ANGLE_DEG, project
from partloc.crop import content_crops, resample
from partloc.data import Preprocessing
from partloc.demo import DEMO, PRETRAINING, draw_model, scene
from partloc.depth import SIDE, fit_depth, load_depth_net
from partloc.depth_training import (
    RECIPE,
    DepthTrainer,
    draw_studies,
    loss_of,
    read_studies,
    targets_of,
    train_depth,
)
from partloc.model import PartLocator
from partloc.render import depth_map, picture
from partloc.shapes import box
from partloc.train import Trainer
from partloc.view import View


def maps(depths: torch.Tensor, log_error: float = -3.0) -> torch.Tensor:
    """(n, n) -> (1, 2, n, n)."""
    return torch.stack([depths, torch.full_like(depths, log_error)])[None]


def test_the_depth_is_that_of_the_part_in_sight_whatever_covers_the_rest():
    torch.manual_seed(0)
    own = torch.rand(20, 20)
    size, mask = torch.tensor([[0.4]]), torch.ones(1, 1, 20, 20)
    whole, unlike = 0.25 + 0.4 * own, torch.zeros(1, 1, 20, 20)
    whole[:5] -= 0.3  # behind something of its own colour
    whole[12:] -= 0.2  # and of another one
    unlike[..., 12:, :] = 4.0
    fit = fit_depth(maps(whole), maps(own), unlike, mask, size)
    assert_close(fit.depth, torch.tensor([[0.25]]), atol=0.01, rtol=0)
    assert_close(fit.shown, torch.tensor([[12 / 20]]), atol=0.01, rtol=0)
    nothing_over_it = fit_depth(maps(0.25 + 0.4 * own), maps(own), 0 * unlike, mask, size)
    assert nothing_over_it.residual < 0.01 < fit.residual


def test_a_pixel_counts_as_much_as_its_depth_is_sure():
    whole = torch.full((20, 20), 0.1)
    whole[:, :11] = 0.6
    errors = torch.full((20, 20), -3.0)
    errors[:, :11] = 1.0
    whole = torch.stack([whole, errors])[None]
    flat, same = maps(torch.zeros(20, 20)), torch.zeros(1, 1, 20, 20)
    fit = fit_depth(whole, flat, same, torch.ones(1, 1, 20, 20), torch.tensor([[0.5]]))
    assert_close(fit.depth, torch.tensor([[0.1]]), atol=0.02, rtol=0)


def test_rendered_depth_is_where_the_surface_is():
    mesh, size = box(0.8, 0.5, 0.4), 200
    low, high = mesh.box()
    found = depth_map(mesh.points[mesh.triangles], size)
    (uv,), (distance,) = project(high[None])  # the corner that points to the camera
    column, row = (uv * size).astype(int)
    assert found[row, column] == pytest.approx(distance - DISTANCE, abs=0.01)
    assert found[row, column] == pytest.approx(np.nanmin(found), abs=0.01)
    assert np.isnan(found[0]).all()
    middle_of_the_top = np.array([*(low + high)[:2] / 2, high[2]])
    (uv,), (distance,) = project(middle_of_the_top[None])
    column, row = (uv * size).astype(int)
    assert found[row, column] == pytest.approx(distance - DISTANCE, abs=0.01)


def studied(numbers: range) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Wholes of the demo: pictures (N, 3, 2 S, 2 S), crops and true depth maps."""
    scenes = [scene(draw_model(0, number).parts)[:2] for number in numbers]
    preprocessing = Preprocessing(160)
    images = torch.stack([preprocessing(Image.fromarray(picture(*s, 192))) for s in scenes])
    crops = content_crops(images)
    whole_frames = torch.from_numpy(np.stack([depth_map(s[0], 128) for s in scenes]))
    return resample(images, crops, 2 * SIDE), crops, targets_of(whole_frames, crops)


def test_the_network_that_comes_with_the_code_knows_depth_that_it_has_not_seen():
    pictures, crops, truth = studied(range(26))  # one of each family, of which it lacks three
    with torch.inference_mode():
        found = load_depth_net().eval()(pictures, crops)
    _, errors = loss_of(found, truth)
    _, constant = loss_of(torch.zeros_like(found), truth)
    assert errors.mean() < 0.5 * constant.mean()
    # It also knows where it may be wrong.
    shown = ~truth.isnan()
    off, expected = (found[:, :1] - truth)[shown].abs(), found[:, 1:][shown]
    sure = expected < expected.median()
    assert off[sure].mean() < 0.7 * off[~sure].mean()


def test_a_crop_s_depths_are_in_its_own_half_sides():
    half_frame = 3**0.5 / 2 / np.cos(np.radians(VIEW_ANGLE_DEG / 2))  # in the middle, model units
    crops = torch.tensor([[0.5, -0.5, np.log(0.25)]], dtype=torch.float32)
    frame = torch.full((1, 128, 128), float("nan"))
    frame[:, 16:48, 80:112] = 0.1
    assert_close(targets_of(frame, crops), torch.full((1, 1, SIDE, SIDE), 0.1 / 0.25 / half_frame))


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    damaged = tmp_path / "depth.pth"
    damaged.write_bytes(depth.WEIGHTS.read_bytes()[:-1])
    damaged.with_suffix(".sha256").write_text(depth.WEIGHTS.with_suffix(".sha256").read_text())
    monkeypatch.setattr(depth, "WEIGHTS", damaged)
    with pytest.raises(ValueError, match=r"depth\.pth: missing, or not the file"):
        load_depth_net()
    load_depth_net(blank=True)


class FlatMaps(torch.nn.Module):
    """Instead of the network: the first picture is at 0.3, the others at 0.1."""

    def forward(self, pictures: torch.Tensor, crops: torch.Tensor) -> torch.Tensor:
        found = torch.full((len(pictures), 2, SIDE, SIDE), 0.1)
        found[:1, :1] = 0.3
        return found


def test_an_untrained_model_answers_with_the_depth_that_the_maps_say():
    torch.manual_seed(0)
    config = tiny_config(model={"match_size": 8, "crop": False}).model
    model = PartLocator(config, Preprocessing(56)).eval()
    slope = torch.tensor([[-0.8, 0.7, 0.1], [0.3, 0.5, -0.9]])
    view = View(slope, torch.zeros(2), torch.tensor(0.3), 1.0)
    model.set_view(view)
    model.depth_net = FlatMaps()
    guide = torch.tensor([[0.1, -0.2, -0.7]])
    found = model(torch.rand(1, 3, 56, 56), torch.rand(1, 3, 56, 56), torch.tensor([0]), guide)
    deep = (0.3 - 0.1 * guide[0, 2].exp()) / view.unit
    assert_close(view.depth(found.guided.translation), deep.view(1, 1))
    assert_close(view.place(found.guided), guide)


def test_training_poses_leaves_the_depth_network_as_it_is():
    table = table_of({"a": 2, "b": 2})
    config = tiny_config(model={"match_size": 8})
    model = PartLocator(config.model, Preprocessing.of(config.data))
    trainer = Trainer(config, model, table, table, ALONE)
    taught = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    weights = list(trainer.model.depth_net.parameters())
    assert weights and not [weight for weight in weights if id(weight) in taught]


@pytest.fixture(scope="module")
def studies_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    draw_studies(folder, CONFIG, workers=0)
    return folder


CONFIG = tiny_config(demo={"image_size": 64}, pretrain={"depth_models": 50, "depth_steps": 6})


def test_depth_is_learned_from_other_models_than_poses():
    assert len({RECIPE.stream, PRETRAINING.stream, DEMO.stream}) == 3
    assert RECIPE.families == PRETRAINING.families


def test_studies_are_drawn_once_and_show_each_whole_and_some_of_its_parts(studies_dir):
    (file,) = studies_dir.iterdir()
    before = file.stat().st_mtime_ns
    draw_studies(studies_dir, CONFIG, workers=0)
    assert file.stat().st_mtime_ns == before
    studies = read_studies(studies_dir)
    assert studies.wholes.sum() == 50 and 100 < len(studies.models) <= 200
    assert studies.pictures.shape[1:] == (3, 2 * SIDE, 2 * SIDE)
    shown = ~np.isnan(studies.depths)
    assert 0.1 < shown.mean() < 0.9
    # On the ground the pictures are white.
    ground = np.repeat(np.repeat(~shown, 2, 2), 2, 3)
    assert np.median(studies.pictures.mean(1, keepdims=True)[ground]) > 250


def test_an_interrupted_training_of_depth_goes_on_to_the_same_weights(
    studies_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(depth_training, "EPOCH", 2)
    monkeypatch.setattr(depth_training, "BATCH", 8)
    at_once, in_two = tmp_path / "one" / "depth.pth", tmp_path / "two" / "depth.pth"
    train_depth(CONFIG, studies_dir, tmp_path / "runs-1", ALONE, at_once)

    moved = DepthTrainer._move
    monkeypatch.setattr(DepthTrainer, "_move", lambda self: _stop_at(4, self) or moved(self))
    with pytest.raises(KeyboardInterrupt):
        train_depth(CONFIG, studies_dir, tmp_path / "runs-2", ALONE, in_two)
    monkeypatch.setattr(DepthTrainer, "_move", moved)
    train_depth(CONFIG, studies_dir, tmp_path / "runs-2", ALONE, in_two)
    assert in_two.read_bytes() == at_once.read_bytes()
    assert in_two.with_suffix(".json").read_text() == at_once.with_suffix(".json").read_text()


def _stop_at(step: int, trainer: DepthTrainer) -> None:
    if trainer.step == step:
        raise KeyboardInterrupt
