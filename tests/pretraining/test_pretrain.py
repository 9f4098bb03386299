"""The command `partloc pretrain`: it improves a model, stops, continues, and writes one file."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toys import CAMERA, make_small_model, tiny_config, write_params

from partloc.commands import pretrain
from partloc.model.model_file import load_model, save_model
from partloc.model.proposals import ProposalLocator
from partloc.pretraining import batches as batches_module
from partloc.pretraining import trainer as trainer_module
from partloc.pretraining.batches import RenderedBatch, RenderedBatches
from partloc.pretraining.trainer import PretrainingTrainer, predict_batch, validate
from partloc.system.files import matches_checksum
from partloc.training.run_folder import RunFolder

STEPS = 4


def start_model() -> ProposalLocator:
    model = make_small_model(hypotheses=2)
    assert isinstance(model, ProposalLocator)
    model.set_camera(CAMERA)
    return model


@pytest.fixture(scope="module")
def batches() -> list[RenderedBatch]:
    """Batches of two models instead of four: half the time to render and to train on them."""
    dataset = RenderedBatches(0, start_model().preprocessing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "MODELS_PER_BATCH", 2)
        return [dataset[number] for number in range(STEPS)]


def test_a_resumed_training_equals_an_uninterrupted_one(batches, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "SECONDS_PER_STATE", 0)
    reference = PretrainingTrainer(start_model(), batches[:1])
    reference.train(batches, RunFolder(tmp_path, "reference"), STEPS)
    interrupted = PretrainingTrainer(start_model(), batches[:1])
    folder = RunFolder(tmp_path, "interrupted")
    interrupted.train(batches[:2], folder, STEPS)
    resumed = PretrainingTrainer(start_model(), batches[:1])
    resumed.restore(folder.load_state())
    assert resumed.step == 2
    resumed.train(batches[2:], folder, STEPS)
    expected = reference.finished_model().state_dict()
    for name, value in resumed.finished_model().state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert resumed.history == reference.history and resumed.pairs == reference.pairs


def test_every_network_is_trained(batches):
    """Encoder, projection, gate, attention, matching, depth network, comparisons and heads."""
    trainer = PretrainingTrainer(start_model(), batches[:1])
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    for batch in batches:
        trainer.update_weights(batch)
    after = dict(trainer.model.named_parameters())
    groups: dict[str, bool] = {}
    for name, value in before.items():
        network = ".".join(name.split(".")[: 2 if name.startswith("encoder") else 1])
        groups[network] = groups.get(network, False) or not torch.equal(value, after[name])
    assert len(groups) > 8 and all(groups.values()), groups


def test_each_batch_is_predicted_with_its_own_camera_and_the_model_gets_its_own_back(batches):
    model = start_model()
    trainer = PretrainingTrainer(model, batches[:1])
    for batch in batches[:2]:
        predict_batch(model, batch)
        assert torch.equal(model.position_decoder.camera.slope, batch.camera.slope)
    trainer.update_weights(batches[0])
    assert torch.equal(trainer.finished_model().pinhole_camera.slope, CAMERA.slope)


def test_the_finished_model_is_a_mixture_of_starting_and_averaged_weights(batches):
    trainer = PretrainingTrainer(start_model(), batches[:1])
    for weight in trainer.average.parameters():
        weight.add_(1.0)
    mixed, start = trainer.finished_model(0.25), start_model()
    for weight, first in zip(mixed.parameters(), start.parameters(), strict=True):
        assert torch.allclose(weight, first + 0.75, atol=1e-6)


def test_validation_reports_the_error_without_tokens_and_keeps_the_gate(batches):
    model = start_model().eval()
    torch.nn.init.normal_(model.cross_attention.output[-1].weight)
    torch.nn.init.normal_(model.pose_head.output.weight)
    gate = model.token_gate.clone()
    metrics = validate(model, batches[:1])
    assert torch.equal(model.token_gate, gate)
    assert metrics["translation_error"] != metrics["translation_error_without_tokens"]
    assert metrics["depth_error"] > 0


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("project")
    write_params(root, tiny_config())
    save_model(root / "start.pth", start_model(), {})
    return root


def render_batches(dataset: RenderedBatches, start: int, stop: int) -> Iterator[RenderedBatch]:
    """Replaces load_batches, without a process of its own."""
    return (dataset[number] for number in range(start, stop))


def test_the_command_writes_weights_and_a_later_call_trains_further(
    project, run_command, monkeypatch
):
    monkeypatch.chdir(project)
    monkeypatch.setenv("DVC_ROOT", str(project))  # for the run folder
    monkeypatch.setattr(pretrain, "NUM_VAL_BATCHES", 1)
    monkeypatch.setattr(batches_module, "MODELS_PER_BATCH", 2)  # of those rendered in this process

    def train_to(steps: int, *options: str) -> None:
        arguments = ("--steps", str(steps), "--start-from", "start.pth", "--out", "out.pth")
        arguments += options
        done = run_command(pretrain, *arguments)
        assert done.status == 0, done.err

    train_to(1)
    assert matches_checksum(project / "out.pth")
    first = load_model(project / "out.pth").state_dict()
    first_pairs = json.loads((project / "out.json").read_text())["pairs"]
    # The first call has started a process that renders; the others render in this one.
    monkeypatch.setattr(pretrain, "load_batches", render_batches)
    train_to(2)
    second = load_model(project / "out.pth").state_dict()
    assert any(not torch.equal(second[name], first[name]) for name in first)
    summary = json.loads((project / "out.json").read_text())
    assert summary["pairs"] > 10 and summary["history"][0]["step"] == 0
    assert 0 < first_pairs < summary["pairs"]
    train_to(2, "--start-share", "1")  # trains no further
    written, start = (load_model(project / f"{n}.pth").state_dict() for n in ("out", "start"))
    assert all(torch.equal(written[name], start[name].half().float()) for name in written)
    assert run_command(pretrain, "--start-share", "1.5").status == 2


def test_a_missing_model_file_is_reported(project, run_command, monkeypatch):
    monkeypatch.chdir(project)
    done = run_command(pretrain, "--start-from", "nope.pth")
    assert done.status == 2 and "nope.pth" in done.err
