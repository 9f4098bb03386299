"""How deep a part is, is read off two depth maps, which a small network tells from pictures."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from toys import ALONE, let_speak, table_of, tiny_config

from partloc.data.transforms import Preprocessing
from partloc.model import depth_net as depth
from partloc.model.camera import View
from partloc.model.crop import content_crops, resample
from partloc.model.depth_net import (
    SIDE,
    DepthNet,
    DepthReading,
    fit_depth,
    load_depth_net,
    read_depth,
)
from partloc.model.locator import PartLocator
from partloc.model.prediction import Prediction
from partloc.pose import PartPose
from partloc.pretraining import depth as depth_training
from partloc.pretraining.depth import (
    RECIPE,
    VARIANTS,
    DepthTrainer,
    draw_studies,
    loss_of,
    read_studies,
    targets_of,
    train_depth,
)
from partloc.synthetic.camera import DISTANCE, VIEW_ANGLE_DEG, project
from partloc.synthetic.dataset import DEMO, PRETRAINING, draw_model, scene
from partloc.synthetic.mesh import box
from partloc.synthetic.render import depth_map, picture
from partloc.training.losses import ENOUGH, LossParts, depth_loss, training_loss
from partloc.training.trainer import Trainer


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
    fit = fit_depth(read_depth(maps(whole), maps(own), unlike, mask, size), mask)
    assert_close(fit.depth, torch.tensor([[0.25]]), atol=0.01, rtol=0)
    assert_close(fit.shown, torch.tensor([[12 / 20]]), atol=0.01, rtol=0)
    in_sight = read_depth(maps(0.25 + 0.4 * own), maps(own), 0 * unlike, mask, size)
    assert fit_depth(in_sight, mask).residual < 0.01 < fit.residual


def test_a_pixel_counts_as_much_as_its_depth_is_sure():
    whole = torch.full((20, 20), 0.1)
    whole[:, :11] = 0.6
    errors = torch.full((20, 20), -3.0)
    errors[:, :11] = 1.0
    whole = torch.stack([whole, errors])[None]
    flat, same = maps(torch.zeros(20, 20)), torch.zeros(1, 1, 20, 20)
    mask = torch.ones(1, 1, 20, 20)
    fit = fit_depth(read_depth(whole, flat, same, mask, torch.tensor([[0.5]])), mask)
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
    whole = depth.DEPTH_WEIGHTS
    damaged.write_bytes(whole.read_bytes()[:-1])
    damaged.with_suffix(".sha256").write_text(whole.with_suffix(".sha256").read_text())
    monkeypatch.setattr(depth, "DEPTH_WEIGHTS", damaged)
    with pytest.raises(ValueError, match=r"depth\.pth: missing, or not the file"):
        load_depth_net()
    load_depth_net(blank=True)


class FlatMaps(torch.nn.Module):
    """Instead of the network: the first picture is at 0.3, the others at 0.1."""

    def forward(self, pictures: torch.Tensor, crops: torch.Tensor) -> torch.Tensor:
        found = torch.full((len(pictures), 2, SIDE, SIDE), 0.1)
        found[:1, :1] = 0.3
        return found


def seeing_model(**changes: object) -> PartLocator:
    """Untrained, with a camera that looks along no axis."""
    torch.manual_seed(0)
    config = tiny_config(model={"match_size": 8, "crop": False, **changes}).model
    model = PartLocator(config, Preprocessing(56)).eval()
    slope = torch.tensor([[-0.8, 0.7, 0.1], [0.3, 0.5, -0.9]])
    model.set_view(View(slope, torch.zeros(2), torch.tensor(0.3), 1.0))
    return model


PLACE, DEEP = torch.tensor([[0.1, -0.2, -0.7]]), torch.tensor([[0.15]])  # the true ones


def asked(model: PartLocator) -> Prediction:
    """Of pictures of chance on a plain ground, and beside it at PLACE and DEEP."""
    torch.manual_seed(1)
    pictures = torch.ones(2, 1, 3, 56, 56)
    pictures[..., 12:44, 12:44] = torch.rand(2, 1, 3, 32, 32)
    return model(*pictures, torch.tensor([0]), model.view.pose(PLACE, DEEP))


def test_an_untrained_model_answers_with_the_depth_that_the_maps_say():
    model = seeing_model()
    model.depth_net = FlatMaps()
    found = asked(model)
    size = PLACE[:, 2:].exp()
    deep = (0.3 - 0.1 * size) / model.view.unit
    assert_close(model.view.depth(found.guided.translation), deep)
    assert_close(model.view.place(found.guided), PLACE)
    # And tells by how much they are off, in half sides.
    misread = found.misread
    off = (deep - DEEP) * model.view.unit
    assert_close(misread.depth, off.expand_as(misread.depth))
    assert_close(misread.expected, (math.exp(0.1) * (1 + size)).expand_as(misread.expected))
    assert misread.trust.max() <= 1
    assert_close(found.pick(torch.tensor([0, 0])).misread.depth, misread.depth.expand(2, -1))


def test_what_was_cropped_changes_the_unit_in_which_maps_are_off_and_nothing_else():
    model = seeing_model(crop=True)
    model.depth_net = FlatMaps()
    found = asked(model)
    half_side = found.crops[:, 2:3].exp()
    assert half_side < 0.8
    off = model.view.depth(found.guided.translation) - DEEP  # model units
    assert_close(found.misread.depth * half_side / model.view.unit, off.expand(1, 32 * 32))


def test_the_true_depth_is_a_surprise_where_the_maps_are_sure_of_another_one():
    off = torch.tensor([[0.0, 0.2, 9.0]])
    expected, trust = torch.tensor([[0.1, 0.4, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    surprise = math.log(0.1) + 0.2 / 0.4 + math.log(0.4)
    found = depth_loss(DepthReading(off, expected, trust))
    assert_close(found, torch.tensor([surprise / (2 + ENOUGH)]))
    hidden = DepthReading(off, expected, torch.zeros(1, 3))
    assert_close(depth_loss(hidden), torch.zeros(1))


def test_poses_teach_the_depth_network_by_this_alone_and_nothing_else_by_it():
    model = seeing_model()
    let_speak(model)
    weights = dict(model.named_parameters())
    pose = model.view.pose(PLACE, DEEP)
    targets = PartPose(*(field[:, None] for field in pose))

    def moved(w_depth: float) -> tuple[LossParts, dict[str, torch.Tensor]]:
        config = tiny_config(train={"w_depth": w_depth}).train
        losses = training_loss(asked(model), targets, PLACE[:, None], config)
        found = torch.autograd.grad(losses.loss.sum(), weights.values(), allow_unused=True)
        return losses, dict(zip(weights, found, strict=True))

    (losses, plain), (more, taught) = moved(0.0), moved(0.5)
    assert_close(more.loss, losses.loss + 0.5 * losses.depth_loss)
    for name in weights:
        if name.startswith("depth_net."):
            assert not plain[name].any() and taught[name].any(), name
        elif plain[name] is not None:
            assert torch.equal(plain[name], taught[name]), name
    # Downhill it is less of a surprise.
    before = depth_loss(asked(model).misread).item()
    with torch.no_grad():
        for name, weight in model.depth_net.named_parameters(prefix="depth_net"):
            weight -= 1e-3 * taught[name]
    assert depth_loss(asked(model).misread).item() < before


@pytest.mark.parametrize(
    "train, camera, learns",
    [
        ({}, True, True),
        ({"w_depth": 0.0}, True, False),
        ({"freeze_backbone": True}, True, False),
        ({}, False, False),
    ],
)
def test_the_depth_network_learns_from_poses_where_labels_tell_depth(train, camera, learns):
    model = seeing_model()
    if not camera:
        model.view_slope.zero_()
    table = table_of({"a": 2, "b": 2})
    trainer = Trainer(tiny_config(train=train), model, table, table, ALONE)
    taught = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    weights = list(trainer.model.depth_net.parameters())
    assert weights and all((id(weight) in taught) == learns for weight in weights)


@pytest.fixture(scope="module")
def studies_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    draw_studies(folder, CONFIG, workers=0)
    return folder


CONFIG = tiny_config(demo={"image_size": 64}, pretrain={"depth_models": 50, "depth_steps": 6})


def test_depth_is_learned_from_other_models_than_poses():
    assert len({RECIPE.stream, PRETRAINING.stream, DEMO.stream}) == 3
    assert RECIPE.families == PRETRAINING.families


def test_studies_are_drawn_once_and_show_variants_of_each_whole_and_a_part_of_each(studies_dir):
    (file,) = studies_dir.rglob("*.npz")
    before = file.stat().st_mtime_ns
    draw_studies(studies_dir, CONFIG, workers=0)
    assert file.stat().st_mtime_ns == before
    studies = read_studies(studies_dir, CONFIG)
    assert studies.wholes.sum() == 50 * VARIANTS and len(studies.models) == 2 * 50 * VARIANTS
    first = studies.pictures[studies.wholes][:VARIANTS].astype(int)
    assert all(np.abs(first[i] - first[i - 1]).mean() > 2 for i in range(VARIANTS))
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

    moved = DepthTrainer.move
    monkeypatch.setattr(DepthTrainer, "move", lambda self: _stop_at(4, self) or moved(self))
    with pytest.raises(KeyboardInterrupt):
        train_depth(CONFIG, studies_dir, tmp_path / "runs-2", ALONE, in_two)
    monkeypatch.setattr(DepthTrainer, "move", moved)
    train_depth(CONFIG, studies_dir, tmp_path / "runs-2", ALONE, in_two)
    assert in_two.read_bytes() == at_once.read_bytes()
    assert in_two.with_suffix(".json").read_text() == at_once.with_suffix(".json").read_text()


@pytest.mark.parametrize(("steps", "highest"), [(2, 1), (20, 1), (59, 2)])
def test_steps_grow_longer_and_shorter_again_however_few(studies_dir, steps, highest):
    pretrain = CONFIG.pretrain.model_copy(update={"depth_steps": steps})
    config = CONFIG.model_copy(update={"pretrain": pretrain})
    trainer = DepthTrainer(config, DepthNet(), read_studies(studies_dir, config), ALONE)
    rates = []
    for _ in range(steps):
        rates += trainer.schedule.get_last_lr()[:1]
        trainer.optimizer.step()
        trainer.schedule.step()
    assert rates[highest] == pytest.approx(depth_training.LEARNING_RATE)
    assert rates[: highest + 1] == sorted(rates[: highest + 1])
    assert rates[highest:] == sorted(rates[highest:], reverse=True)


def _stop_at(step: int, trainer: DepthTrainer) -> None:
    if trainer.step == step:
        raise KeyboardInterrupt


def test_studies_of_another_seed_size_or_number_are_not_taken_for_these(tmp_path, monkeypatch):
    monkeypatch.setattr(depth_training, "CHUNK", 40)
    few = {"depth_models": 50, "depth_steps": 6}
    config = tiny_config(demo={"image_size": 64}, pretrain=few)
    draw_studies(tmp_path, config, workers=0)
    first = read_studies(tmp_path, config)
    assert first.models.max() == 49
    more = tiny_config(demo={"image_size": 64}, pretrain=few | {"depth_models": 51})
    draw_studies(tmp_path, more, workers=0)  # the last file was a short one
    assert read_studies(tmp_path, more).models.max() == 50
    assert read_studies(tmp_path, config).models.max() == 49
    for group, change in (("data", {"read_size": 72}), ("demo", {"image_size": 72}), ("seed", 1)):
        old = getattr(config, group)
        new = change if group == "seed" else old.model_copy(update=change)
        other = config.model_copy(update={group: new})
        draw_studies(tmp_path, other, workers=0)
        assert not np.array_equal(read_studies(tmp_path, other).pictures, first.pictures)
    assert np.array_equal(read_studies(tmp_path, config).pictures, first.pictures)
