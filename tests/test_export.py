"""The ONNX file predicts what PyTorch predicts."""

import sys
from functools import partial

import pytest
import torch
from checkout import ROOT

from partloc.commands import export as command
from partloc.data.background import load_image
from partloc.export import TOLERANCE, DirectMatching, encode_pair, max_difference, predict_pair
from partloc.inference.checkpoint import find_pretrained
from partloc.model.model_file import load_model
from partloc.model.template_matching import TemplateMatching

BENCH = ROOT / "examples/bench"
PARTS = ("plank-1", "rail-1", "side-1", "side-2")


def test_matching_without_fft_gives_the_same_probabilities():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 64, 64, generator=generator)
    features = torch.rand(2, 16, 4, 4, generator=generator)
    pair = (images[:1], images[1:], features[:1], features[1:], torch.zeros(1, dtype=torch.long))
    by_fft, direct = (
        kind(16, 4).eval()(*pair, num_proposals=3) for kind in (TemplateMatching, DirectMatching)
    )
    for one, other in zip(by_fft, direct, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["partloc export", "--output", "a.onnx"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "package onnx; install partloc[onnx]: pip install '.[onnx]'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_the_exported_file_agrees_with_pytorch_on_the_example(tmp_path, monkeypatch, capsys):
    """Without the exporter's optimisation, which takes a minute."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    path = tmp_path / "partloc.onnx"
    arguments = ["--output", str(path), "--checkpoint", str(find_pretrained())]
    monkeypatch.setattr(sys, "argv", ["partloc export", *arguments])
    monkeypatch.setattr(torch.onnx, "export", partial(torch.onnx.export, optimize=False))
    command.main()
    assert f"written: {path}" in capsys.readouterr().err
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = load_model(find_pretrained()).eval()
    whole = load_image(BENCH / "bench-whole.png")
    with torch.no_grad():
        for part in PARTS:
            inputs = encode_pair(model, whole, load_image(BENCH / f"bench-{part}.png"))
            assert max_difference(session, inputs, predict_pair(model, inputs)) <= TOLERANCE
