"""Initialisation of a model before training: starting weights and camera."""

import torch
from folders import write_folder
from toys import index_table, tiny_config

from partloc.data.table import PairTable
from partloc.data.transforms import Preprocessing
from partloc.model.build import build_locator
from partloc.model.locator import PartLocator
from partloc.model.model_file import save_model
from partloc.training.initialization import initialize_model


def test_starting_weights_keep_their_camera_unless_the_data_has_another_one(
    tmp_path, rendered_models
):
    table = index_table(rendered_models)
    config = tiny_config(model={"match_size": 8})
    first = build_locator(config.model, Preprocessing(28))
    initialize_model(first, table, config)
    first.position_decoder.lift.weight.data += 0.01  # as if it were trained
    path = tmp_path / "weights.pth"
    save_model(path, first, {}, half=True)
    starting_config = tiny_config(model={"match_size": 8, "start_from": str(path)})

    def start_on(table: PairTable) -> tuple[PartLocator, str]:
        model = build_locator(starting_config.model, Preprocessing(28))
        return model, initialize_model(model, table, starting_config)

    same, message = start_on(table)
    assert "camera: that of the starting weights, " in message
    assert torch.allclose(
        same.position_decoder.lift.weight, first.position_decoder.lift.weight, atol=1e-2
    )
    assert torch.allclose(same.prior.center, first.prior.center, atol=1e-3)

    table.translation = table.translation[:, [1, 2, 0]]  # other axes are another camera
    other, message = start_on(table)
    assert "starting weights" not in message
    assert not torch.allclose(
        other.position_decoder.camera.slope, first.position_decoder.camera.slope, atol=0.1
    )

    few, message = start_on(index_table(write_folder(tmp_path / "images")))
    assert "the camera of the starting weights is used" in message
    assert torch.allclose(
        few.position_decoder.camera.slope, first.position_decoder.camera.slope, atol=1e-2
    )


def test_labels_in_a_plane_are_reported(rendered_models):
    table = index_table(rendered_models)
    table.translation[:, 1] *= 1e-3
    config = tiny_config(model={"match_size": 8})
    model = build_locator(config.model, Preprocessing(28))
    message = initialize_model(model, table, config)
    assert "too few matched parts, or all in a plane" in message and not model.has_camera
