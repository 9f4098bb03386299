"""The configuration: typed groups, their full-size defaults, and the only reader of params.yaml.

    $ python -m partloc.config --check       # validate params.yaml and print every value
    $ python -m partloc.config --full-size   # set every key of params.yaml to its default

params.yaml is read as YAML 1.2, like DVC reads it: `1e-05`, which `dvc exp run -S` writes, is a
number there and a string in YAML 1.1.
"""

import hashlib
import json
import os
import reprlib
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from partloc.system.cli import make_parser, run_command
from partloc.system.files import open_atomic

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
# Not blank, without control characters.
FolderName = Annotated[str, Field(pattern=r"^\P{Cc}*[^\s\p{Cc}]\P{Cc}*$")]

BackboneName = Literal[
    "dinov2_vitt14",
    "dinov2_vits14",
    "dinov2_vitb14",
    "dinov2_vitl14",
    "dinov2_vits14_reg",
    "dinov2_vitb14_reg",
    "dinov2_vitl14_reg",
]
BACKBONES = get_args(BackboneName)


class ConfigError(ValueError):
    """An invalid configuration. The message names the key, the value and the rule."""


class Group(BaseModel):
    """A group of keys: immutable, without type coercion and without unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class DataConfig(Group):
    """Stages `index` and `split`, and the resolution of the images."""

    data_dir: FolderName = "data/images"
    output_dir: FolderName = "outputs"
    image_size: Annotated[int, Field(ge=28, le=4096)] = 1024
    read_size: Annotated[int, Field(ge=28, le=8192)] = 1024
    train_ratio: Fraction = 0.8
    val_ratio: Fraction = 0.1
    test_ratio: Fraction = 0.1
    max_train_models: Count | None = None
    max_image_pixels: Count = 64_000_000

    @model_validator(mode="after")
    def check_ratios(self) -> "DataConfig":
        total = self.train_ratio + self.val_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train_ratio + val_ratio + test_ratio must be 1, found {total:g}")
        if self.train_ratio == 0:
            raise ValueError("train_ratio must be greater than 0")
        return self


class ModelConfig(Group):
    """The network. A model file stores this group."""

    backbone_name: BackboneName = "dinov2_vitb14"
    pretrained: bool = True
    start_from: str | None = "partloc/weights/dinov2_vitt14.pth"
    weights: str | None = None
    downsample_size: Annotated[int, Field(ge=2, le=73)] = 32
    cross_attention_layers: Annotated[int, Field(ge=0, le=24)] = 1
    cross_attention_dim: Annotated[int, Field(ge=16)] = 192
    mlp_hidden_dim: Count = 256
    match_size: Annotated[int, Field(ge=0, le=256)] = 32
    depth_maps: bool = True
    hypotheses: Annotated[int, Field(ge=1, le=64)] = 24
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def check_attention_width(self) -> "ModelConfig":
        width = self.cross_attention_dim
        if width % (64 if width > 64 else 4):
            raise ValueError(
                "cross_attention_dim must be a multiple of 64 (heads of 64 channels), or of 4 up "
                f"to 64, found {width}"
            )
        return self


class TrainConfig(Group):
    """The optimisation and the loss."""

    batch_size: Count = 2
    accumulation_steps: Count = 1
    num_epochs: Count = 50
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2.0e-4
    freeze_backbone: bool = False
    augmentation: Literal["none", "light", "strong"] = "strong"
    backbone_lr_factor: NonNegative = 0.1
    warmup_epochs: NonNegative = 1.0
    weight_decay: NonNegative = 0.05
    sampling: Literal["uniform", "balanced"] = "uniform"
    crop_jitter: Annotated[float, Field(ge=0, le=1)] = 0.2
    w_trans: NonNegative = 1.0
    w_scale: NonNegative = 0.8
    w_match: NonNegative = 0.2
    w_rank: NonNegative = 0.3
    w_depth: NonNegative = 0.1
    w_confidence: NonNegative = 0.1
    w_gt_pose: NonNegative = 1.0
    scale_loss: Literal["log", "l1"] = "log"
    twin_aware: bool = True
    use_amp: bool = True
    use_gradient_checkpointing: bool | Literal["auto"] = True
    state_every_minutes: Positive = 10.0


class DemoConfig(Group):
    """Stage `demo`: the procedural data set."""

    num_models: Annotated[int, Field(ge=8)] = 234


class MachineConfig(Group):
    """Settings that may differ between machines. No stage depends on them."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")] = "auto"
    memory_budget_gb: Positive = 16.0
    num_workers: Annotated[int, Field(ge=0)] = 2
    num_processes: Annotated[int, Field(ge=0)] = 0

    @property
    def used_processes(self) -> int:
        """Number of processes of a stage that uses several, at least 1."""
        return self.num_processes or os.cpu_count() or 1


class Config(Group):
    """The whole configuration, one field for each group of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    demo: DemoConfig = DemoConfig()
    machine: MachineConfig = MachineConfig()


AnyGroup = TypeVar("AnyGroup", bound=Group)


def load_config(path: Path | str = "params.yaml") -> Config:
    """Read and validate a params file. A missing key takes its full-size default.

    Raises: ConfigError naming the file and every invalid key.
    """
    return validate(Config, _read_values(Path(path)), str(path))


def _read_values(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAMLError  # not at the top: a model file needs no YAML

    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected the pipeline's params.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: e.g. a 13th month
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected groups of keys, found {type(values).__name__}")
    return values


def require_pipeline_values(path: Path) -> None:
    """Raises: ConfigError naming every key with which DVC would fail before a stage can explain it:
    a missing one, since DVC does not know the defaults, or a folder that it refuses."""
    values, config = _read_values(path), load_config(path)
    groups = ("data", "model")  # with keys that dvc.yaml reads one by one
    found = set(values) | {f"{group}.{key}" for group in groups for key in values.get(group) or {}}
    needed = [f"data.{key}" for key in DataConfig.model_fields]
    needed += ["model.start_from", "model.weights"]
    needed += [name for name in Config.model_fields if name not in ("data", "machine")]
    problems = [
        f"{name}: missing; DVC, which runs the pipeline, does not know its default"
        for name in needed
        if name not in found
    ]
    problems += _folder_problems(path.resolve().parent, config.data)
    if problems:
        raise ConfigError(f"{path}: {'; '.join(problems)}")


def _folder_problems(project: Path, data: DataConfig) -> Iterator[str]:
    for key in ("data_dir", "output_dir"):
        if "://" in getattr(data, key):
            yield f"data.{key}: expected a local folder, found {getattr(data, key)!r}"
    data_dir, output_dir = ((project / name).resolve() for name in (data.data_dir, data.output_dir))
    if not output_dir.is_relative_to(project):
        yield f"data.output_dir: expected a folder in {project}, found {data.output_dir!r}"
    if output_dir.is_relative_to(data_dir):
        yield (
            f"data.output_dir: expected a folder outside data.data_dir {data.data_dir!r}, found "
            f"{data.output_dir!r}"
        )


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2. Raises: YAMLError."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def validate(group: type[AnyGroup], values: dict[str, Any], source: str) -> AnyGroup:
    """Build a group from plain values; `source` names their origin in messages.

    Raises: ConfigError naming every invalid key.
    """
    try:
        return group.model_validate(values)
    except ValidationError as error:
        problems: dict[str, list[Any]] = {}
        for problem in error.errors():
            # Locations below group and key are the alternatives of a union type.
            problems.setdefault(".".join(map(str, problem["loc"][:2])), []).append(problem)
        messages = [_describe(group, name or "params", found) for name, found in problems.items()]
        raise ConfigError(f"{source}: " + "; ".join(messages)) from None


def digest(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _describe(group: type[Group], name: str, problems: list[Any]) -> str:
    """One message from pydantic's errors of one key: the rule and the value."""
    problem, *alternatives = problems
    if problem["type"] == "extra_forbidden":
        return f"unknown key {name}; {_suggest_key(group, name)}"
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}"
    rules = [problem["msg"], *(a["msg"].removeprefix("Input should be ") for a in alternatives)]
    return f"{name}: {', or '.join(rules)}, found {_short_repr(problem['input'])}"


def _short_repr(value: Any) -> str:
    """YAML can write a list of exponential length in a few lines."""
    return reprlib.repr(value) if isinstance(value, list | dict) else f"{value!r:.100}"


def _suggest_key(group: type[Group], unknown: str) -> str:
    """A hint for an unknown key: its path in another group, a similar key, or all known keys."""
    parent, _, key = unknown.rpartition(".")
    names: dict[str, list[str]] = {}  # from a name to its paths
    for path in _key_paths(group):
        names.setdefault(path.rpartition(".")[2], []).append(path)
    siblings = [name for name in names if f"{parent}.{name}".lstrip(".") in names[name]]
    for candidates in ({key} & names.keys(), siblings, names):
        if similar := get_close_matches(key, candidates, n=1, cutoff=0.75):
            return f"did you mean {' or '.join(names[similar[0]])}?"
    return f"known keys: {', '.join(siblings)}"


def _key_paths(group: type[Group], prefix: str = "") -> list[str]:
    """Dotted paths of all groups and keys: ["seed", "data", "data.data_dir", ...]."""
    paths = []
    for name, field in group.model_fields.items():
        paths.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            paths += _key_paths(field.annotation, f"{prefix}{name}.")
    return paths


def set_full_size(path: Path) -> None:
    """Rewrite a params file with every key at its full-size default. Comments stay."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 100
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = yaml.load(path.read_text(encoding="utf-8"))
    for group, values in Config().model_dump().items():
        if isinstance(values, dict):
            document.setdefault(group, {}).update(values)
        else:
            document[group] = values
    with open_atomic(path) as file:
        yaml.dump(document, file)


def run(arguments: list[str] | None) -> None:
    parser = make_parser(__doc__, prog="python -m partloc.config")
    parser.add_argument("--check", action="store_true", help="print the resolved configuration")
    parser.add_argument("--full-size", action="store_true", help="set every key to its default")
    args = parser.parse_args(arguments)
    config = load_config(args.config)
    if not args.full_size:
        require_pipeline_values(args.config)
    if not (args.full_size or args.check):
        print(f"{args.config}: valid", file=sys.stderr)
    if args.full_size:
        set_full_size(args.config)
        print(f"{args.config}: every key is at its full-size default", file=sys.stderr)
    if args.check:
        print(json.dumps(config.model_dump(), indent=2))


def main(arguments: list[str] | None = None) -> None:
    run_command(partial(run, arguments))


if __name__ == "__main__":
    main()
