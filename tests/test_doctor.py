"""The command `doctor` says whether a training at full size can start, and why not."""

import json
import sys
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from folders import write_folder
from toys import tiny_config

from partloc.commands import doctor
from partloc.config import Config, ModelConfig
from partloc.diagnosis import environment, full_size
from partloc.diagnosis.environment import Check
from partloc.system.cli import EXTRA_OF_PACKAGE
from partloc.training.activation_memory import StepMemory

# Fake tensors access a missing gradient; torch's own filter of that warning is overruled by ours.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")


@pytest.fixture(autouse=True, scope="module")
def measured_once():
    """Measures the memory of each configuration once: a second and more each time."""
    measure, known = full_size._step_memory, {}

    def step_memory(config: Config, precision: torch.dtype | None) -> StepMemory:
        key = config.model_dump_json(), precision
        if key not in known:
            known[key] = measure(config, precision)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full_size, "_step_memory", step_memory)
        yield


# -- memory ------------------------------------------------------------------------------------


def test_the_most_pairs_that_fit_are_the_last_ones_below_the_budget():
    config = tiny_config()
    roomy = full_size.check_memory(config, 1000.0, None)
    assert not roomy.problems and roomy.facts["most_pairs"] == full_size.MAX_PAIRS
    budget = roomy.facts["needed_gb"]
    exact = full_size._step_memory(config, None)
    needed = full_size._peak_bytes(exact, config.train.batch_size, config) / 1e9
    tight = full_size.check_memory(config, 1.001 * needed / 0.9, None)
    assert not tight.problems and tight.facts["most_pairs"] == config.train.batch_size
    short = full_size.check_memory(config, 0.99 * needed / 0.9, None)
    assert "train.batch_size: " in short.problems[0] and budget >= 0


def test_full_size_fits_a_gpu_with_16_gb_and_not_one_with_2():
    config = Config()
    memory = full_size._step_memory(config, torch.bfloat16)
    assert 2 <= full_size._most_pairs(memory, config, 14.4) < 32
    assert full_size._most_pairs(memory, config, 1.8) == 0
    (problem,) = full_size.check_memory(config, 2.0, torch.bfloat16).problems
    assert "dinov2_vits14 with data.image_size: 518 fits" in problem


# -- device ------------------------------------------------------------------------------------


def test_a_gpu_is_no_problem(monkeypatch):
    monkeypatch.setattr(environment, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (15_000_000_000, 16_000_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    check = environment.check_device("cuda:0")
    assert check.problems == []
    assert check.facts == {
        "device": "cuda:0",
        "model": "Tesla T4",
        "memory_gb": 16.0,
        "free_gb": 15.0,
        "mixed_precision": "float16",
    }


# -- weights -----------------------------------------------------------------------------------


def test_the_shipped_weights_match_their_checksums():
    check = full_size.check_weights(ModelConfig(pretrained=False))
    states = check.facts["dinov2_vitt14.pth"], check.facts["encoder"]
    assert states == ("checksum matches", ModelConfig().start_from)
    assert check.problems == []


def test_damaged_shipped_weights_are_a_problem(tmp_path, monkeypatch):
    damaged = tmp_path / "small.pth"
    damaged.write_bytes(b"half of a file")
    damaged.with_suffix(".sha256").write_text("0" * 64)
    monkeypatch.setattr(full_size, "SHIPPED_MODELS", {"small": damaged})
    (problem,) = full_size.check_weights(ModelConfig(pretrained=False)).problems
    assert "small.pth: checksum differs" in problem


def test_local_weights_have_to_exist(tmp_path):
    missing = ModelConfig(weights=str(tmp_path / "gone.pth"))
    (problem,) = full_size.check_weights(missing).problems
    assert "gone.pth: no such file" in problem


def test_weights_of_the_hub_are_in_the_cache_or_can_be_downloaded(monkeypatch):
    monkeypatch.setattr(full_size, "try_to_load_from_cache", lambda **_: "/cache/model.safetensors")
    assert full_size.check_weights(ModelConfig()).problems == []
    monkeypatch.setattr(full_size, "try_to_load_from_cache", lambda **_: None)
    monkeypatch.setattr(full_size, "get_hf_file_metadata", lambda *_, **__: None)
    assert full_size.check_weights(ModelConfig()).facts["encoder"] == "downloaded on first use"

    def offline(*_arguments, **_options):
        raise ConnectionError

    monkeypatch.setattr(full_size, "get_hf_file_metadata", offline)
    (problem,) = full_size.check_weights(ModelConfig()).problems
    assert "not in the cache and cannot be downloaded (ConnectionError)" in problem


# -- data and project --------------------------------------------------------------------------


def test_a_glance_at_the_data_counts_files_by_their_names(tmp_path):
    folder = write_folder(tmp_path / "images")
    (folder / "lamp/lamp-shade.json").unlink()
    (folder / "chair/chair-whole.png").unlink()
    check = full_size.check_data(folder)
    counts = [check.facts[key] for key in ("models", "samples", "without_label", "without_whole")]
    assert counts == [3, 5, 1, 1] and check.problems == []


def test_a_folder_without_samples_is_a_problem(tmp_path):
    (problem,) = full_size.check_data(tmp_path).problems
    assert "no part with image and label beside a whole" in problem
    (problem,) = full_size.check_data(tmp_path / "gone").problems
    assert problem.endswith("gone: no such folder")


def test_the_project_is_a_clone_with_a_commit(tmp_path):
    assert environment.check_project(ROOT).facts["pipeline"]
    (problem,) = environment.check_project(tmp_path).problems
    assert "no dvc.yaml" in problem


def test_a_missing_extra_is_a_problem_only_if_training_needs_it(monkeypatch):
    version = environment._version
    missing = {"gradio", "onnx", "onnxruntime", "onnxscript", "pyvista"}
    monkeypatch.setattr(
        environment, "_version", lambda name: None if name in missing else version(name)
    )
    check = environment.check_software()
    assert check.facts["missing"] == {
        "demo": ["pyvista"],
        "web": ["gradio"],
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
    }
    assert check.problems == []
    missing |= {"ruamel.yaml", "dvc"}
    assert environment.check_software().problems == [
        "training needs dvc, ruamel.yaml: pip install '.[train]'"
    ]
    assert {"train", "demo", "web", "onnx"} == {*EXTRA_OF_PACKAGE.values()}


# -- the command -------------------------------------------------------------------------------


def test_the_configuration_is_that_of_the_file_unless_it_is_the_demos(tmp_path):
    config, description = doctor.choose_config(ROOT / "params.yaml")
    assert config.model == Config().model and "is the demo's" in description
    path = tmp_path / "params.yaml"
    path.write_text("model: {backbone_name: dinov2_vits14}\n")
    assert doctor.choose_config(path)[0].model.backbone_name == "dinov2_vits14"
    path.write_text("model: {backbone_name: dinov2_vitt14}\ndata: {data_dir: my/renders}\n")
    config, _ = doctor.choose_config(path)
    assert (config.model, config.data.data_dir) == (Config().model, "my/renders")
    assert doctor.choose_config(tmp_path / "gone.yaml")[0] == Config()


@pytest.mark.parametrize(("problems", "status"), [([], 0), (["no GPU"], 1)])
@pytest.mark.parametrize("as_json", [False, True])
def test_the_exit_status_is_the_verdict(problems, status, as_json, monkeypatch, capsys):
    checks = [Check("device", {"device": "cpu", "free_gb": 0.0}, problems)]
    monkeypatch.setattr(doctor, "run_checks", lambda _args: ("full size", checks))
    monkeypatch.setattr(sys, "argv", ["doctor", *(["--json"] if as_json else [])])
    code = 0
    try:
        doctor.main()
    except SystemExit as end:
        code = end.code
    assert code == status
    out = capsys.readouterr().out
    if as_json:
        report = json.loads(out)
        assert (report["ready"], report["problems"]) == (not problems, problems)
        assert report["device"] == {"device": "cpu", "free_gb": 0.0}
    else:
        assert out.splitlines()[-1] == f"{'not ' if problems else ''}ready for full size"


def test_a_cpu_is_not_ready_for_full_size(monkeypatch, capsys, tmp_path):
    """The real checks, but for the network and OpenGL."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(environment, "check_rendering", lambda: Check("rendering", {}))
    monkeypatch.setattr(full_size, "try_to_load_from_cache", lambda **_: "/cache")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder: Path = write_folder(tmp_path / "images")
    monkeypatch.setattr(sys, "argv", ["doctor", "--json", "--data-dir", str(folder)])
    with pytest.raises(SystemExit) as end:
        doctor.main()
    assert end.value.code == 1
    report = json.loads(capsys.readouterr().out)
    assert [problem for problem in report["problems"] if "no GPU" in problem]
    assert report["memory"]["backbone"] == "dinov2_vitb14" and report["data"]["samples"] == 10
