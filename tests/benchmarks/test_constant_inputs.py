"""The benchmark of constant inputs: each variant really removes its input."""

import copy

import pytest
import torch
from toys import CAMERA, randomize_output_layers, tiny_config

from benchmarks.constant_inputs import VARIANTS, measure
from benchmarks.metric_tables import constant_inputs_table
from partloc.data.transforms import Preprocessing
from partloc.model.build import build_locator
from partloc.model.model_file import save_model
from partloc.model.proposals import ProposalLocator


@pytest.fixture
def model() -> ProposalLocator:
    """A model in which everything matters."""
    config = tiny_config(model={"match_size": 8, "depth_maps": True})
    torch.manual_seed(0)
    model = build_locator(config.model, Preprocessing(28)).eval()
    assert isinstance(model, ProposalLocator)
    randomize_output_layers(model)
    torch.nn.init.normal_(model.cross_attention.output[-1].weight, std=0.3)
    model.set_camera(CAMERA)
    return model


def predict(model: ProposalLocator, whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(whole, part, torch.tensor([0])).pose.translation


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_constant_input_changes_the_answer(model, variant):
    images = torch.rand(2, 1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    changed = copy.deepcopy(model)
    VARIANTS[variant](changed)
    assert not torch.allclose(predict(model, *images), predict(changed, *images), atol=1e-6)


def test_with_a_constant_encoder_its_weights_do_not_matter(model):
    images = torch.rand(2, 1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    VARIANTS["encoder: constant"](model)
    before = predict(model, *images)
    torch.nn.init.normal_(model.encoder.backbone.vit.patch_embed.proj.weight)
    assert torch.equal(predict(model, *images), before)


def test_the_table_compares_all_variants(model, tables, tmp_path):
    path = tmp_path / "model.pth"
    save_model(path, model, {})
    rows = measure(path, tiny_config(), tables[1])
    assert [row["variant"] for row in rows] == ["all inputs", *VARIANTS]
    assert rows[0]["translation_error"]["difference"] == 0
    lines = constant_inputs_table(rows).splitlines()
    assert len(lines) == 2 + len(rows) and lines[2].startswith("| all inputs |")
