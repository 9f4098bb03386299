"""The cost of a configuration: FLOPs and memory."""

import torch
from toys import make_small_model, tiny_config

from partloc.config import Config
from partloc.training.summary import count_flops, main, summarize_model


def test_the_summary_of_the_full_size_states_patches_tokens_and_flops(capsys):
    summary = summarize_model(Config())
    assert summary["patches of an image"] == "73 x 73"
    assert summary["tokens after pooling"] == "32 x 32"
    # 1,957 GFLOP per image by hand: 12 blocks of linears (24 N D^2) and attention (4 N^2 D).
    assert 3900 < float(summary["forward, a pair"].split()[0]) < 4100
    assert main(["--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml: no such file" in capsys.readouterr().err


def test_counting_flops_leaves_the_model_usable():
    """FLOPs are counted on tensors without values."""
    model = make_small_model()
    count_flops(model)
    images = torch.rand(1, 3, 56, 56)
    prediction = model(images, images, torch.tensor([0]))
    prediction.pose.translation.sum().backward()
    assert type(prediction.pose.translation.detach()) is torch.Tensor


def test_the_summary_of_a_frozen_encoder_counts_the_trained_part_only():
    tuned, frozen = (
        summarize_model(tiny_config(model={"match_size": 8}, train={"freeze_backbone": freezes}))
        for freezes in (False, True)
    )
    assert "outputs are cached" in frozen["memory, computed"]
    for name in ("training, a pair", "memory, computed"):
        assert float(frozen[name].split()[0]) < 0.8 * float(tuned[name].split()[0]), name
    assert frozen["forward, a pair"] == tuned["forward, a pair"]
