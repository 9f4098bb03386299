"""The depth of a part is the difference of two depth maps, which a small network estimates."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from toys import SINGLE_PROCESS, make_table, randomize_output_layers, tiny_config

from partloc.data.transforms import Preprocessing
from partloc.model import depth_net
from partloc.model.build import build_locator
from partloc.model.camera import PinholeCamera
from partloc.model.crop import content_crops, resample_crops
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
from partloc.pretraining.depth_maps import crop_depth_maps, depth_map_losses
from partloc.synthetic.dataset import sample_model
from partloc.synthetic.render import render_depth_map, render_image
from partloc.synthetic.scene import scene_geometry
from partloc.system.files import checksum_path
from partloc.training.losses import DEPTH_PIXEL_OFFSET, LossTerms, depth_loss, training_loss
from partloc.training.trainer import Trainer

DEMO_CAMERA = PinholeCamera.from_view(45, 30, 30)


def maps(depths: torch.Tensor, log_error: float = -3.0) -> torch.Tensor:
    """(n, n) -> (1, 2, n, n)."""
    return torch.stack([depths, torch.full_like(depths, log_error)])[None]


def test_the_depth_is_that_of_the_visible_pixels():
    torch.manual_seed(0)
    part = torch.rand(20, 20)
    size, mask = torch.tensor([[0.4]]), torch.ones(1, 1, 20, 20)
    whole, color_difference = 0.25 + 0.4 * part, torch.zeros(1, 1, 20, 20)
    whole[:5] -= 0.3  # occluded by an object of the same colour
    whole[12:] -= 0.2  # occluded by an object of another colour
    color_difference[..., 12:, :] = 4.0
    fit = fit_depth(read_depth(maps(whole), maps(part), color_difference, mask, size), mask)
    assert_close(fit.depth, torch.tensor([[0.25]]), atol=0.01, rtol=0)
    assert_close(fit.visible_fraction, torch.tensor([[12 / 20]]), atol=0.01, rtol=0)
    visible = read_depth(maps(0.25 + 0.4 * part), maps(part), 0 * color_difference, mask, size)
    assert fit_depth(visible, mask).residual < 0.01 < fit.residual


def test_pixels_are_weighted_by_their_expected_error():
    whole = torch.full((20, 20), 0.1)
    whole[:, :11] = 0.6
    errors = torch.full((20, 20), -3.0)
    errors[:, :11] = 1.0
    whole = torch.stack([whole, errors])[None]
    flat, same = maps(torch.zeros(20, 20)), torch.zeros(1, 1, 20, 20)
    mask = torch.ones(1, 1, 20, 20)
    fit = fit_depth(read_depth(whole, flat, same, mask, torch.tensor([[0.5]])), mask)
    assert_close(fit.depth, torch.tensor([[0.1]]), atol=0.02, rtol=0)


def demo_images(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whole models of the demo: images (N, 3, 2 S, 2 S), crops and true depth maps."""
    scenes = [scene_geometry(sample_model(0, number).parts)[:2] for number in range(count)]
    preprocessing = Preprocessing(160)
    images = torch.stack([preprocessing(Image.fromarray(render_image(*s, 192))) for s in scenes])
    crops = content_crops(images)
    maps = torch.from_numpy(np.stack([render_depth_map(triangles, 128) for triangles, _ in scenes]))
    depths = crop_depth_maps(maps, crops, DEMO_CAMERA.image_scale)
    return resample_crops(images, crops, 2 * MAP_SIDE), crops, depths


def test_the_shipped_network_predicts_depth_and_its_error_on_demo_models():
    images, crops, depths = demo_images(26)
    with torch.inference_mode():
        camera = DEMO_CAMERA.code.expand(len(images), -1)
        prediction = load_depth_net().eval()(images, crops, camera)
    _, errors = depth_map_losses(prediction, depths)
    _, constant_errors = depth_map_losses(torch.zeros_like(prediction), depths)
    assert errors.mean() < 0.5 * constant_errors.mean()
    # Where the predicted error is small, the true error is smaller.
    foreground = ~depths.isnan()
    error, log_error = (prediction[:, :1] - depths)[foreground].abs(), prediction[:, 1:][foreground]
    confident = log_error < log_error.median()
    assert error[confident].mean() < 0.7 * error[~confident].mean()


def test_the_depth_maps_depend_on_the_camera():
    net = depth_net.DepthNet()
    images, crops = torch.rand(2, 3, 2 * MAP_SIDE, 2 * MAP_SIDE), torch.zeros(2, 3)
    cameras = torch.stack([PinholeCamera.from_view(45, angle, 30).code for angle in (10, 60)])
    maps = net(images[:1].expand(2, -1, -1, -1), crops, cameras)
    assert not torch.allclose(maps[0], maps[1], atol=1e-4)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    damaged = tmp_path / "weights.pth"
    shipped = depth_net.SHIPPED_WEIGHTS
    damaged.write_bytes(shipped.read_bytes()[:-1])
    checksum_path(damaged).write_text(checksum_path(shipped).read_text())
    monkeypatch.setattr(depth_net, "SHIPPED_WEIGHTS", damaged)
    with pytest.raises(ValueError, match=r"weights\.pth: missing, or not the file"):
        load_depth_net()
    load_depth_net(blank=True)


class ConstantMaps(torch.nn.Module):
    """Replaces the depth network: depth 0.3 in the first image, 0.1 in the others."""

    def forward(
        self, images: torch.Tensor, crops: torch.Tensor, camera: torch.Tensor
    ) -> torch.Tensor:
        depths = torch.full((len(images), 2, MAP_SIDE, MAP_SIDE), 0.1)
        depths[:1, :1] = 0.3
        return depths


def model_with_camera(**changes: object) -> PartLocator:
    """An untrained model with a camera that looks along no axis of the frame."""
    torch.manual_seed(0)
    config = tiny_config(model={"match_size": 8, **changes}).model
    model = build_locator(config, Preprocessing(56)).eval()
    slope = torch.tensor([[-0.8, 0.7, 0.1], [0.3, 0.5, -0.9]])
    model.set_camera(PinholeCamera(slope, torch.zeros(2), torch.tensor(0.3), 1.0))
    return model


TRUE_POSITION, TRUE_DEPTH = torch.tensor([[0.1, -0.2, -0.7]]), torch.tensor([[0.15]])


def predict_pair(model: PartLocator, margin: int = 1) -> Prediction:
    """Predict random images on a plain background, with the true position and depth given.

    margin: pixels of background; with 1 the crops are the full images.
    """
    torch.manual_seed(1)
    images, side = torch.ones(2, 1, 3, 56, 56), 56 - 2 * margin
    content = slice(margin, 56 - margin)
    images[..., content, content] = torch.rand(2, 1, 3, side, side)
    gt_pose = model.pinhole_camera.unproject(TRUE_POSITION, TRUE_DEPTH)
    return model(*images, torch.tensor([0]), gt_pose)


def test_an_untrained_model_predicts_the_depth_of_the_maps():
    model = model_with_camera()
    model.depth_net = ConstantMaps()
    prediction = predict_pair(model)
    size = TRUE_POSITION[:, 2:].exp()
    expected = (0.3 - 0.1 * size) / model.pinhole_camera.image_scale
    assert_close(model.pinhole_camera.depth(prediction.gt_prediction.translation), expected)
    assert_close(model.pinhole_camera.project(prediction.gt_prediction), TRUE_POSITION)
    # The error is in half sides of the crop.
    depth, expected_error, visibility = prediction.depth_error
    error = (expected - TRUE_DEPTH) * model.pinhole_camera.image_scale
    assert_close(depth, error.expand_as(depth))
    assert_close(expected_error, (math.exp(0.1) * (1 + size)).expand_as(expected_error))
    assert visibility.max() <= 1


def test_cropping_changes_only_the_unit_of_the_depth_error():
    model = model_with_camera()
    model.depth_net = ConstantMaps()
    prediction = predict_pair(model, margin=12)
    half_side = prediction.crops[:, 2:3].exp()
    assert half_side < 0.8
    camera = model.pinhole_camera
    error = camera.depth(prediction.gt_prediction.translation) - TRUE_DEPTH  # model units
    found = prediction.depth_error.depth * half_side / camera.image_scale
    assert_close(found, error.expand(1, 32 * 32))


def test_the_depth_loss_is_the_laplace_nll_of_visible_pixels():
    error = torch.tensor([[0.0, 0.2, 9.0]])
    expected_error, visibility = torch.tensor([[0.1, 0.4, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    nll = math.log(0.1) + 0.2 / 0.4 + math.log(0.4)
    loss = depth_loss(DepthReading(error, expected_error, visibility))
    assert_close(loss, torch.tensor([nll / (2 + DEPTH_PIXEL_OFFSET)]))
    hidden = DepthReading(error, expected_error, torch.zeros(1, 3))
    assert_close(depth_loss(hidden), torch.zeros(1))


def test_the_depth_loss_trains_the_depth_network_and_nothing_else():
    model = model_with_camera()
    randomize_output_layers(model)
    weights = dict(model.named_parameters())
    pose = model.pinhole_camera.unproject(TRUE_POSITION, TRUE_DEPTH)
    targets = PartPose(*(field[:, None] for field in pose))

    def gradients(w_depth: float) -> tuple[LossTerms, dict[str, torch.Tensor]]:
        config = tiny_config(train={"w_depth": w_depth}).train
        terms = training_loss(predict_pair(model), targets, TRUE_POSITION[:, None], config)
        found = torch.autograd.grad(terms.loss.sum(), weights.values(), allow_unused=True)
        return terms, dict(zip(weights, found, strict=True))

    (terms, without), (terms_with, with_depth) = gradients(0.0), gradients(0.5)
    assert_close(terms_with.loss, terms.loss + 0.5 * terms.depth_loss)
    for name in weights:
        if name.startswith("depth_net."):
            assert not without[name].any() and with_depth[name].any(), name
        elif without[name] is not None:
            assert torch.equal(without[name], with_depth[name]), name
    # A step along the gradient lowers the loss.
    before = depth_loss(predict_pair(model).depth_error).item()
    with torch.no_grad():
        for name, weight in model.depth_net.named_parameters(prefix="depth_net"):
            weight -= 1e-3 * with_depth[name]
    assert depth_loss(predict_pair(model).depth_error).item() < before


@pytest.mark.parametrize(
    "train, has_camera, trained",
    [
        ({}, True, True),
        ({"w_depth": 0.0}, True, False),
        ({"freeze_backbone": True}, True, False),
        ({}, False, False),
    ],
)
def test_the_depth_network_is_trained_only_with_a_camera_and_a_weight(train, has_camera, trained):
    model = model_with_camera()
    if not has_camera:
        model.position_decoder.camera.slope.zero_()
    table = make_table({"a": 2, "b": 2})
    trainer = Trainer(tiny_config(train=train), model, table, table, SINGLE_PROCESS)
    groups = trainer.optimizer.param_groups
    optimized = {id(weight) for group in groups for weight in group["params"]}
    weights = list(trainer.model.depth_net.parameters())
    assert weights and all((id(weight) in optimized) == trained for weight in weights)
