"""Configuration: typed, complete, and strict in a friendly way."""

import os
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from partloc.config import Config, ConfigError, digest, load_config, main, set_full_size

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
# One comment is for several keys: it stands above the first of them.
SHARED = {
    "data.val_ratio": "data.train_ratio",
    "data.test_ratio": "data.train_ratio",
    "augment.contrast": "augment.brightness",
    "augment.saturation": "augment.brightness",
    "train.w_scale": "train.w_trans",
    "train.w_match": "train.w_trans",
    "train.w_rank": "train.w_trans",
    "train.w_depth": "train.w_trans",
}
GROUPS = [name for name, value in Config().model_dump().items() if isinstance(value, dict)]


@pytest.fixture
def load(tmp_path):
    """Text of a params file -> Config."""

    def load(text: str) -> Config:
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    return load


def flat(values: dict, prefix: str = "") -> dict:
    """{"data": {"seed": 1}} -> {"data.seed": 1}, in order."""
    found = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        found |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found


def comments_of(path: Path) -> dict[str, tuple[str, str]]:
    """For each key of a params file: the comment lines right above it, and the one beside it."""
    found, group, above = {}, "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        key, beside = re.match(r"(?:\s*(\w+):)?[^#]*(?:#\s*(.*))?$", line).groups()
        if key is None:
            above = f"{above} {beside}".strip() if beside else ""
            continue
        if key in GROUPS:
            group = f"{key}."
        else:
            found[group * line.startswith(" ") + key] = (above, beside or "")
        above = ""
    return found


def test_an_empty_file_is_the_full_size_configuration(load):
    config = load("")
    assert config == Config()
    assert (config.data.image_size, config.model.downsample_size) == (1024, 32)
    assert (config.model.backbone_name, config.model.pretrained) == ("dinov2_vitb14", True)
    assert config.train.accumulation_steps == 1
    assert config.train.use_amp and config.train.use_gradient_checkpointing == "auto"


def test_a_missing_key_takes_its_default_beside_given_ones(load):
    config = load("train:\n  num_epochs: 3\n")
    assert config.train.num_epochs == 3
    assert config.train.batch_size == Config().train.batch_size


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("train:\n  learning_rat: 0.1\n", "unknown key train.learning_rat; did you mean learning"),
        ("trian:\n  seed: 1\n", "unknown key trian; did you mean train?"),
        ("data:\n  zzz: 1\n", "unknown key data.zzz; known keys: data_dir, output_dir"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_right_one(load, text, answer):
    with pytest.raises(ConfigError, match=re.escape(answer)):
        load(text)


@pytest.mark.parametrize(
    ("text", "key", "rule", "found"),
    [
        ("train:\n  batch_size: 0", "train.batch_size", "greater than or equal to 1", "0"),
        ("train:\n  batch_size: '8'", "train.batch_size", "valid integer", "'8'"),
        ("train:\n  batch_size: 8.0", "train.batch_size", "valid integer", "8.0"),
        ("train:\n  learning_rate: 1.5", "train.learning_rate", "less than 1", "1.5"),
        ("train:\n  grad_clip: .nan", "train.grad_clip", "finite|greater than 0", "nan"),
        ("train:\n  twin_aware: 1", "train.twin_aware", "valid boolean", "1"),
        ("train:\n  sampling: fair", "train.sampling", "'uniform' or 'balanced'", "'fair'"),
        ("model:\n  backbone_name: resnet", "model.backbone_name", "dinov2_vitb14", "'resnet'"),
        ("machine:\n  device: gpu", "machine.device", "pattern", "'gpu'"),
        (
            *("train:\n  use_gradient_checkpointing: never", "train.use_gradient_checkpointing"),
            *("should be a valid boolean, or 'auto'", "'never'"),
        ),
        ("seed: -1", "seed", "greater than or equal to 0", "-1"),
        ("data: 3", "data", "dictionary", "3"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_the_rule(load, text, key, rule, found):
    with pytest.raises(ConfigError, match=rf"params\.yaml: {key}: .*({rule}).*found {found}"):
        load(text)


def test_all_mistakes_are_told_at_once(load):
    with pytest.raises(ConfigError, match=r"model\.dropout: .*; train\.batch_size: "):
        load("model:\n  dropout: 2\ntrain:\n  batch_size: 0\n")


def test_ratios_must_add_up_and_leave_something_to_learn_from(load):
    with pytest.raises(ConfigError, match=r"must be 1, found 1\.1"):
        load("data:\n  train_ratio: 0.9\n")
    with pytest.raises(ConfigError, match="train_ratio must be greater than 0"):
        load("data: {train_ratio: 0, val_ratio: 0.5, test_ratio: 0.5}")


def test_a_model_has_one_beginning(load):
    with pytest.raises(ConfigError, match="pretrained must be false .* found True and None"):
        load("model: {start_from: mine.pth}")
    with pytest.raises(ConfigError, match="found False and other.pth"):
        load("model: {start_from: mine.pth, pretrained: false, weights: other.pth}")
    assert load("model: {start_from: mine.pth, pretrained: false}").model.start_from == "mine.pth"


def test_heads_must_divide_the_width_of_the_attention(load):
    with pytest.raises(ConfigError, match="multiple of 4 .* found 100 and 6 heads"):
        load("model:\n  cross_attention_dim: 100\n")


def test_numbers_mean_what_dvc_takes_them_for(load):
    """`dvc exp run -S` writes 1e-05, which is text in YAML 1.1."""
    assert load("train:\n  learning_rate: 1e-05\n").train.learning_rate == 1e-05
    assert load("train:\n  grad_clip: 1\n").train.grad_clip == 1.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [("train: [", "not valid YAML"), ("- a\n", "found list"), ("seed: 1\nseed: 2\n", "not valid")],
)
def test_what_is_no_params_file_is_refused_with_its_name(load, text, answer):
    with pytest.raises(ConfigError, match=rf"params\.yaml: .*{answer}"):
        load(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_what_cannot_be_read_is_named(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_bytes(b"seed: 1 # caf\xe9\n")
    for path in (params, tmp_path):
        with pytest.raises(ConfigError, match=f"{path}: cannot be read: "):
            load_config(path)


def test_a_full_disk_leaves_the_params_file_as_it_was(tmp_path, monkeypatch):
    params = tmp_path / "params.yaml"
    params.write_bytes(PARAMS.read_bytes())

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"params\.yaml: cannot be written: .*No space left"):
        set_full_size(params)
    assert params.read_bytes() == PARAMS.read_bytes()


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_params_yaml_lists_every_key_in_the_order_of_the_code():
    raw = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    assert list(flat(raw)) == list(flat(Config().model_dump()))


@pytest.mark.parametrize("key", flat(Config().model_dump()))
def test_params_yaml_explains_a_key_and_states_its_full_size(key):
    comments = comments_of(PARAMS)
    above, beside = comments[SHARED.get(key, key)][0], comments[key][1]
    assert len(above) > 20, f"{key}: no comment above it says what it does"
    stated = re.fullmatch(r"full size: (\S+)", beside)
    assert stated, f"{key}: expected `# full size: ...` beside it, found {beside!r}"
    value = YAML(typ="safe").load(stated[1])
    default = flat(Config().model_dump())[key]
    assert value == default and type(value) is type(default)


def test_the_demo_needs_no_downloads():
    config = load_config(PARAMS)
    assert config.data.data_dir == "data/demo"
    assert not config.model.pretrained and config.model.weights is None


def test_one_command_sets_every_key_to_full_size_and_keeps_the_comments(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_bytes(PARAMS.read_bytes())
    assert main(["--config", str(params), "--full-size"]) == 0
    assert load_config(params) == Config()
    assert comments_of(params) == comments_of(PARAMS)
    raw = YAML(typ="safe").load(params.read_text(encoding="utf-8"))
    assert list(flat(raw)) == list(flat(Config().model_dump()))


def test_check_prints_the_resolved_configuration(capsys):
    assert main(["--config", str(PARAMS), "--check"]) == 0
    assert '"backbone_name"' in capsys.readouterr().out


def test_the_command_answers_a_mistake_in_one_line(tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text("train:\n  batch_size: 0\n")
    assert main(["--config", str(params), "--check"]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert re.fullmatch(r"error: .*train\.batch_size.*\n", answer.err)
