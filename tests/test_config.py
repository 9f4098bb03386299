"""The configuration is typed and complete, and its errors name the key, the value and the rule."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from partloc.config import (
    Config,
    ConfigError,
    digest,
    load_config,
    main,
    require_pipeline_values,
    set_full_size,
)

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"
# Keys without a comment of their own: the comment above another key describes them too.
DESCRIBED_WITH = {
    "data.val_ratio": "data.train_ratio",
    "data.test_ratio": "data.train_ratio",
    "train.w_scale": "train.w_trans",
    "train.w_match": "train.w_trans",
    "train.w_rank": "train.w_trans",
    "train.w_depth": "train.w_trans",
    "train.w_confidence": "train.w_trans",
    "train.w_gt_pose": "train.w_trans",
}
GROUPS = [name for name, value in Config().model_dump().items() if isinstance(value, dict)]
MAX_KEYS = 50


@pytest.fixture
def load(tmp_path):
    """A function from the text of a params file to its Config."""

    def load(text: str) -> Config:
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    return load


def flatten(values: dict, prefix: str = "") -> dict:
    """{"data": {"seed": 1}} -> {"data.seed": 1}, in order."""
    flat = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def read_comments(path: Path) -> dict[str, tuple[str, str]]:
    """For each key of a params file: the comment lines right above it, and the one beside it."""
    comments, group, above = {}, "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        key, beside = re.match(r"(?:\s*(\w+):)?[^#]*(?:#\s*(.*))?$", line).groups()
        if key is None:
            above = f"{above} {beside}".strip() if beside else ""
            continue
        if key in GROUPS:
            group = f"{key}."
        else:
            comments[group * line.startswith(" ") + key] = (above, beside or "")
        above = ""
    return comments


# -- values ------------------------------------------------------------------------------------


def test_an_empty_file_is_the_full_size_configuration(load):
    config = load("")
    assert config == Config()
    assert (config.data.image_size, config.model.downsample_size) == (1024, 32)
    assert (config.model.backbone_name, config.model.pretrained) == ("dinov2_vitb14", True)
    assert config.train.accumulation_steps == 1
    assert config.train.use_amp and config.train.use_gradient_checkpointing is True


def test_a_missing_key_takes_its_default(load):
    config = load("train:\n  num_epochs: 3\n")
    assert config.train.num_epochs == 3
    assert config.train.batch_size == Config().train.batch_size


def test_numbers_are_read_as_dvc_reads_them(load):
    """`dvc exp run -S` writes 1e-05, which is a string in YAML 1.1."""
    assert load("train:\n  learning_rate: 1e-05\n").train.learning_rate == 1e-05
    assert load("train:\n  weight_decay: 1\n").train.weight_decay == 1.0


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {learning_rat: 0.1}", "train.learning_rat; did you mean train.learning_rate?"),
        ("trian: {seed: 1}", "trian; did you mean train?"),
        ("batch_size: 4", "batch_size; did you mean train.batch_size?"),
        ("batchsize: 4", "batchsize; did you mean train.batch_size?"),
        ("image_size: 64", "image_size; did you mean data.image_size?"),
        ("model: {seed: 1}", "model.seed; did you mean seed?"),
        ("train: {num_workers: 1}", "train.num_workers; did you mean machine.num_workers?"),
        ("data: {zzz: 1}", "data.zzz; known keys: data_dir, output_dir, image_size"),
        ("zzz: 1", "zzz; known keys: seed, data, model, train, demo, machine"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(load, text, message):
    with pytest.raises(ConfigError, match=re.escape(f"params.yaml: unknown key {message}")):
        load(text)


@pytest.mark.parametrize("name", Config.model_fields["train"].annotation.model_fields)
def test_a_key_at_the_top_level_is_refused_with_its_path(load, name):
    with pytest.raises(ConfigError, match=rf"unknown key {name}; did you mean train\.{name}\?"):
        load(f"{name}: 1")


@pytest.mark.parametrize(
    ("text", "key", "rule", "value"),
    [
        ("train:\n  batch_size: 0", "train.batch_size", "greater than or equal to 1", "0"),
        ("train:\n  batch_size: '8'", "train.batch_size", "valid integer", "'8'"),
        ("train:\n  batch_size: 8.0", "train.batch_size", "valid integer", "8.0"),
        ("train:\n  learning_rate: 1.5", "train.learning_rate", "less than 1", "1.5"),
        ("machine:\n  memory_budget_gb: .nan", "machine.memory_budget_gb", "finite|than 0", "nan"),
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
def test_an_error_names_the_key_the_rule_and_the_value(load, text, key, rule, value):
    with pytest.raises(ConfigError, match=rf"params\.yaml: {key}: .*({rule}).*found {value}"):
        load(text)


def test_all_errors_are_reported_at_once(load):
    with pytest.raises(ConfigError, match=r"model\.dropout: .*; train\.batch_size: "):
        load("model:\n  dropout: 2\ntrain:\n  batch_size: 0\n")


def test_ratios_must_add_up_and_leave_training_samples(load):
    with pytest.raises(ConfigError, match=r"must be 1, found 1\.1"):
        load("data:\n  train_ratio: 0.9\n")
    with pytest.raises(ConfigError, match="train_ratio must be greater than 0"):
        load("data: {train_ratio: 0, val_ratio: 0.5, test_ratio: 0.5}")


def test_the_attention_width_must_hold_whole_heads(load):
    with pytest.raises(ConfigError, match="cross_attention_dim must be a multiple of 64 .* 100"):
        load("model:\n  cross_attention_dim: 100\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [("train: [", "not valid YAML"), ("- a\n", "found list"), ("seed: 1\nseed: 2\n", "not valid")],
)
def test_a_file_of_another_kind_is_refused_with_its_name(load, text, message):
    with pytest.raises(ConfigError, match=rf"params\.yaml: .*{message}"):
        load(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_an_unreadable_file_is_named(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_bytes(b"seed: 1 # caf\xe9\n")
    for path in (params, tmp_path):
        with pytest.raises(ConfigError, match=f"{path}: cannot be read: "):
            load_config(path)


@pytest.mark.parametrize("key", ["data_dir", "output_dir"])
@pytest.mark.parametrize("value", ["''", "' '", '"a\\0b"', '"a\\nb"', "null", "3"])
def test_a_folder_without_a_usable_name_is_refused_by_its_key(load, key, value):
    with pytest.raises(ConfigError, match=rf"params\.yaml: data\.{key}: "):
        load(f"data: {{{key}: {value}}}")


@pytest.mark.parametrize("value", ["out $x", "a'b", "Bücher/`x`", ".", "a", "C:\\out", " a"])
def test_other_folder_names_are_accepted(load, value):
    assert load(json.dumps({"data": {"output_dir": value}})).data.output_dir == value


# -- params.yaml -------------------------------------------------------------------------------


def test_params_yaml_lists_every_key_in_the_order_of_the_code():
    raw = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    assert list(flatten(raw)) == list(flatten(Config().model_dump()))
    assert len(flatten(raw)) <= MAX_KEYS


@pytest.mark.parametrize("key", flatten(Config().model_dump()))
def test_params_yaml_describes_a_key_and_states_its_full_size(key):
    comments = read_comments(PARAMS)
    above, beside = comments[DESCRIBED_WITH.get(key, key)][0], comments[key][1]
    assert len(above) > 20, f"{key}: no description above it"
    stated = re.fullmatch(r"full size: (\S+)", beside)
    assert stated, f"{key}: expected `# full size: ...` beside it, found {beside!r}"
    value = YAML(typ="safe").load(stated[1])
    default = flatten(Config().model_dump())[key]
    assert value == default and type(value) is type(default)


def test_the_demo_needs_no_downloads():
    config = load_config(PARAMS)
    assert config.data.data_dir == "data/demo"
    assert not config.model.pretrained and config.model.weights is None


def test_a_full_disk_leaves_the_params_file_unchanged(tmp_path, monkeypatch):
    params = tmp_path / "params.yaml"
    params.write_bytes(PARAMS.read_bytes())

    def raise_disk_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(OSError, match=r"params\.yaml: cannot be written: .*No space left"):
        set_full_size(params)
    assert params.read_bytes() == PARAMS.read_bytes()


# -- the command -------------------------------------------------------------------------------


def test_one_command_sets_every_key_to_full_size_and_keeps_the_comments(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_bytes(PARAMS.read_bytes())
    main(["--config", str(params), "--full-size"])
    assert load_config(params) == Config()
    assert read_comments(params) == read_comments(PARAMS)
    raw = YAML(typ="safe").load(params.read_text(encoding="utf-8"))
    assert list(flatten(raw)) == list(flatten(Config().model_dump()))


def check_changed(tmp_path: Path, change: Callable[[dict], object]) -> None:
    """Change the values of params.yaml and check the result."""
    values = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    change(values)
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    require_pipeline_values(tmp_path / "params.yaml")


def test_the_check_refuses_every_missing_key_that_dvc_reads(tmp_path):
    """Those that dvc.yaml interpolates or lists as parameters: DVC has no defaults for them."""
    text = "".join((ROOT / name).read_text("utf-8") for name in ("dvc.yaml", "data/dvc.yaml"))
    pipeline = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    names = set(re.findall(r"\$\{([\w.]+)\}", text)) | {"demo"}
    names -= {"optional"}  # a value of dvc.yaml itself
    names |= {name for stage in pipeline.values() for name in stage.get("params", [])}
    assert {"data.output_dir", "data.train_ratio", "seed", "train", "model.weights"} <= names
    for name in names:
        group, _, key = name.rpartition(".")
        with pytest.raises(ConfigError, match=rf"params\.yaml: .*{re.escape(name)}: missing; DVC"):
            check_changed(
                tmp_path,
                lambda values, group=group, key=key: (values[group] if group else values).pop(key),
            )
    check_changed(tmp_path, lambda values: values.pop("machine"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dir": "/elsewhere"}, "output_dir: expected a folder in .*, found '/elsewhere'"),
        ({"output_dir": "../out"}, "output_dir: expected a folder in .*, found '../out'"),
        ({"output_dir": "data/demo"}, "output_dir: expected a folder outside data.data_dir"),
        ({"data_dir": "."}, "output_dir: expected a folder outside data.data_dir '.', found 'out"),
        ({"data_dir": "s3://bucket"}, "data_dir: expected a local folder, found 's3://bucket'"),
    ],
)
def test_the_check_refuses_folders_that_dvc_refuses(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=rf"params\.yaml: .*{message}"):
        check_changed(tmp_path, lambda values: values["data"].update(changes))


def test_check_prints_the_resolved_configuration(capsys):
    main(["--config", str(PARAMS), "--check"])
    assert '"backbone_name"' in capsys.readouterr().out


def test_the_command_reports_an_error_in_one_line(tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text("train:\n  batch_size: 0\n")
    with pytest.raises(SystemExit) as stop:
        main(["--config", str(params), "--check"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: .*train\.batch_size.*\n", captured.err)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [("partloc.config", "--check"), ("partloc",)])
def test_a_closed_pipe_ends_a_command_without_a_message(command, unbuffered):
    """As after `| head -1`: the reader goes away before the command has written its output."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
