"""The configuration: typed groups, their full-size defaults, and the only reader of params.yaml.

    $ python -m partloc.config --check            # is params.yaml valid? print it, resolved
    $ python -m partloc.config --full-size        # set every key of params.yaml to its default

YAML 1.2 is read, as DVC does: `1e-05`, which `dvc exp run -S` writes, is a number there.
"""

import hashlib
import json
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError

from partloc.cli import make_parser
from partloc.files import replacing

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

BACKBONES = (
    "dinov2_vitt14",
    "dinov2_vits14",
    "dinov2_vitb14",
    "dinov2_vitl14",
    "dinov2_vits14_reg",
    "dinov2_vitb14_reg",
    "dinov2_vitl14_reg",
)
BackboneName = Literal[BACKBONES]


class ConfigError(ValueError):
    """A mistake in params.yaml, told with its key, its value and the rule."""


class Group(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class DemoConfig(Group):
    """Stage `demo`: the procedural data set."""

    num_models: Annotated[int, Field(ge=8)] = 800  # models to render, spread over the families
    image_size: Annotated[int, Field(ge=32)] = 256  # side of the square images, pixels


class DataConfig(Group):
    """Stages `index` and `split`, and the size of what the encoder sees."""

    data_dir: str = "data/images"
    output_dir: str = "outputs"
    image_size: Annotated[int, Field(ge=28, le=4096)] = 1024
    read_size: Annotated[int, Field(ge=28, le=8192)] = 1024
    train_ratio: Fraction = 0.8
    val_ratio: Fraction = 0.1
    test_ratio: Fraction = 0.1
    max_train_models: Count | None = None
    max_image_pixels: Count = 64_000_000
    translation_tolerance: NonNegative = 0.05
    twin_tolerance: NonNegative = 0.015

    @model_validator(mode="after")
    def ratios_add_up(self) -> "DataConfig":
        total = self.train_ratio + self.val_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train_ratio + val_ratio + test_ratio must be 1, found {total:g}")
        if self.train_ratio == 0:
            raise ValueError("train_ratio must be greater than 0")
        return self


class ModelConfig(Group):
    """The network. Everything here travels in the checkpoint."""

    backbone_name: BackboneName = "dinov2_vitb14"
    pretrained: bool = True
    weights: str | None = None
    start_from: str | None = None
    crop: bool = True
    downsample_size: Annotated[int, Field(ge=2, le=73)] = 32
    cross_attention_layers: Annotated[int, Field(ge=0, le=24)] = 2
    cross_attention_dim: Count = 384
    cross_attention_heads: Count = 6
    similar_start: bool = True
    position: Literal["values", "none"] = "values"
    mlp_hidden_dim: Count = 512
    match_size: Annotated[int, Field(ge=0, le=256)] = 48
    depth_maps: bool = True
    hypotheses: Annotated[int, Field(ge=1, le=64)] = 16
    training_hypotheses: Annotated[int, Field(ge=1, le=64)] = 8
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def one_beginning(self) -> "ModelConfig":
        if self.start_from and (self.pretrained or self.weights):
            raise ValueError(
                "start_from brings the encoder's weights too: with it, pretrained must be false "
                f"and weights null, found {self.pretrained} and {self.weights}"
            )
        return self

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> "ModelConfig":
        if self.cross_attention_dim % (4 * self.cross_attention_heads):
            raise ValueError(
                "cross_attention_dim must be a multiple of 4 * cross_attention_heads, found "
                f"{self.cross_attention_dim} and {self.cross_attention_heads} heads"
            )
        return self


class AugmentConfig(Group):
    """Colour-only augmentation in training; geometry would change the answer."""

    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.3
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.3
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.3
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    gray_probability: Fraction = 0.1
    blur_probability: Fraction = 0.1
    noise_std: Annotated[float, Field(ge=0, le=0.5)] = 0.02

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return any(self.model_dump().values())


class TrainConfig(Group):
    """The optimisation."""

    batch_size: Count = 2
    accumulation_steps: Count = 1
    pairs_per_whole: Count = 4
    sampling: Literal["uniform", "balanced"] = "uniform"
    num_epochs: Count = 50
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2.0e-4
    backbone_lr_factor: NonNegative = 0.1
    warmup_epochs: NonNegative = 1.0
    weight_decay: NonNegative = 0.05
    grad_clip: Positive = 1.0
    crop_jitter: Annotated[float, Field(ge=0, le=1)] = 0.2
    w_trans: NonNegative = 1.0
    w_scale: NonNegative = 0.8
    w_match: NonNegative = 0.2
    w_rank: NonNegative = 0.3
    w_depth: NonNegative = 0.1
    scale_loss: Literal["log", "plain"] = "log"
    twin_aware: bool = True
    use_amp: bool = True
    use_gradient_checkpointing: bool | Literal["auto"] = "auto"
    freeze_backbone: bool = False
    cached_variants: Count = 4


class PretrainConfig(Group):
    """`make pretrain`: the starting weights of the small encoder, from procedural objects."""

    depth_models: Annotated[int, Field(ge=50)] = 100_000
    depth_steps: Annotated[int, Field(ge=2)] = 11_000
    arrangement_models: Annotated[int, Field(ge=20)] = 4000
    arrangement_steps: Annotated[int, Field(ge=2)] = 4000
    num_models: Annotated[int, Field(ge=50)] = 150_000
    num_epochs: Count = 5
    batch_size: Count = 768
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2.0e-3


class MachineConfig(Group):
    """What may differ from machine to machine; no stage depends on it."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")] = "auto"
    memory_budget_gb: Positive = 16.0
    compile: bool = False
    num_workers: Annotated[int, Field(ge=0)] = 2
    num_processes: Annotated[int, Field(ge=0)] = 0


class Config(Group):
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    demo: DemoConfig = DemoConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    pretrain: PretrainConfig = PretrainConfig()
    machine: MachineConfig = MachineConfig()


def load_config(path: Path | str = "params.yaml") -> Config:
    """Read and validate a params file; a missing key takes its full-size default.

    Raises: ConfigError naming the file and every key that is wrong.
    """
    path = Path(path)
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected the pipeline's params.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected groups of keys, found {type(raw).__name__}")
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems: dict[str, list[dict]] = {}
        for problem in error.errors():
            # Deeper there are only the kinds that a value of several kinds is not.
            problems.setdefault(".".join(map(str, problem["loc"][:2])), []).append(problem)
        lines = [_explain(name or "params", found) for name, found in problems.items()]
        raise ConfigError(f"{path}: " + "; ".join(lines)) from None


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _explain(name: str, problems: list[dict]) -> str:
    """One line for pydantic's errors of one key: rule, value found."""
    problem, *others = problems
    if problem["type"] == "extra_forbidden":
        *groups, key = name.split(".")
        known = list(_fields_of(groups))
        near = get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {name}; {hint}"
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}"
    others = "".join(f", or {other['msg'].removeprefix('Input should be ')}" for other in others)
    return f"{name}: {problem['msg']}{others}, found {problem['input']!r}"


def _fields_of(groups: list[str]) -> dict:
    cls = Config
    for group in groups:
        cls = cls.model_fields[group].annotation
    return cls.model_fields


def set_full_size(path: Path) -> None:
    """Rewrite a params file with every key at its full-size default, comments kept."""
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
    with replacing(path) as file:
        yaml.dump(document, file)


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, prog="python -m partloc.config")
    parser.add_argument("--check", action="store_true", help="print the resolved configuration")
    parser.add_argument("--full-size", action="store_true", help="set every key to its default")
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not (args.full_size or args.check):
        print(f"{args.config}: valid", file=sys.stderr)
    if args.full_size:
        set_full_size(args.config)
        print(f"{args.config}: every key is at its full-size default", file=sys.stderr)
    if args.check:
        print(json.dumps(config.model_dump(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
