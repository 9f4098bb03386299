"""How deep a part is, is read off two depth maps, which a small network tells from pictures."""

import math

import pytest
import torch
from torch.testing import assert_close
from toys import SINGLE_PROCESS, make_table, randomize_output_layers, tiny_config

from partloc.data.transforms import Preprocessing
from partloc.model import depth_net as depth
from partloc.model.camera import PinholeCamera
from partloc.model.depth_net import (
    MAP_SIDE,
    DepthReading,
    fit_depth,
    load_depth_net,
    read_depth,
)
from partloc.model.locator import PartLocator
from partloc.model.prediction import Prediction
from partloc.pose import PartPose
from partloc.training.losses import DEPTH_PIXEL_OFFSET, LossTerms, depth_loss, training_loss
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
        found = torch.full((len(pictures), 2, MAP_SIDE, MAP_SIDE), 0.1)
        found[:1, :1] = 0.3
        return found


def seeing_model(**changes: object) -> PartLocator:
    """Untrained, with a camera that looks along no axis."""
    torch.manual_seed(0)
    config = tiny_config(model={"match_size": 8, "crop": False, **changes}).model
    model = PartLocator(config, Preprocessing(56)).eval()
    slope = torch.tensor([[-0.8, 0.7, 0.1], [0.3, 0.5, -0.9]])
    model.set_camera(PinholeCamera(slope, torch.zeros(2), torch.tensor(0.3), 1.0))
    return model


PLACE, DEEP = torch.tensor([[0.1, -0.2, -0.7]]), torch.tensor([[0.15]])  # the true ones


def asked(model: PartLocator) -> Prediction:
    """Of pictures of chance on a plain ground, and beside it at PLACE and DEEP."""
    torch.manual_seed(1)
    pictures = torch.ones(2, 1, 3, 56, 56)
    pictures[..., 12:44, 12:44] = torch.rand(2, 1, 3, 32, 32)
    return model(*pictures, torch.tensor([0]), model.pinhole_camera.unproject(PLACE, DEEP))


def test_an_untrained_model_answers_with_the_depth_that_the_maps_say():
    model = seeing_model()
    model.depth_net = FlatMaps()
    found = asked(model)
    size = PLACE[:, 2:].exp()
    deep = (0.3 - 0.1 * size) / model.pinhole_camera.image_scale
    assert_close(model.pinhole_camera.depth(found.gt_prediction.translation), deep)
    assert_close(model.pinhole_camera.project(found.gt_prediction), PLACE)
    # And tells by how much they are off, in half sides.
    depth_error = found.depth_error
    off = (deep - DEEP) * model.pinhole_camera.image_scale
    assert_close(depth_error.depth, off.expand_as(depth_error.depth))
    assert_close(
        depth_error.expected_error,
        (math.exp(0.1) * (1 + size)).expand_as(depth_error.expected_error),
    )
    assert depth_error.visibility.max() <= 1
    assert_close(
        found.select(torch.tensor([0, 0])).depth_error.depth, depth_error.depth.expand(2, -1)
    )


def test_what_was_cropped_changes_the_unit_in_which_maps_are_off_and_nothing_else():
    model = seeing_model(crop=True)
    model.depth_net = FlatMaps()
    found = asked(model)
    half_side = found.crops[:, 2:3].exp()
    assert half_side < 0.8
    off = model.pinhole_camera.depth(found.gt_prediction.translation) - DEEP  # model units
    assert_close(
        found.depth_error.depth * half_side / model.pinhole_camera.image_scale,
        off.expand(1, 32 * 32),
    )


def test_the_true_depth_is_a_surprise_where_the_maps_are_sure_of_another_one():
    off = torch.tensor([[0.0, 0.2, 9.0]])
    expected, trust = torch.tensor([[0.1, 0.4, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    surprise = math.log(0.1) + 0.2 / 0.4 + math.log(0.4)
    found = depth_loss(DepthReading(off, expected, trust))
    assert_close(found, torch.tensor([surprise / (2 + DEPTH_PIXEL_OFFSET)]))
    hidden = DepthReading(off, expected, torch.zeros(1, 3))
    assert_close(depth_loss(hidden), torch.zeros(1))


def test_poses_teach_the_depth_network_by_this_alone_and_nothing_else_by_it():
    model = seeing_model()
    randomize_output_layers(model)
    weights = dict(model.named_parameters())
    pose = model.pinhole_camera.unproject(PLACE, DEEP)
    targets = PartPose(*(field[:, None] for field in pose))

    def moved(w_depth: float) -> tuple[LossTerms, dict[str, torch.Tensor]]:
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
    before = depth_loss(asked(model).depth_error).item()
    with torch.no_grad():
        for name, weight in model.depth_net.named_parameters(prefix="depth_net"):
            weight -= 1e-3 * taught[name]
    assert depth_loss(asked(model).depth_error).item() < before


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
        model.position_decoder.camera.slope.zero_()
    table = make_table({"a": 2, "b": 2})
    trainer = Trainer(tiny_config(train=train), model, table, table, SINGLE_PROCESS)
    taught = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    weights = list(trainer.model.depth_net.parameters())
    assert weights and all((id(weight) in taught) == learns for weight in weights)
