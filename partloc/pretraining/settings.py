"""Settings of the pretrainings: how much to render, how long to train.

They are constants of the package's weights rather than of a user's project, so they are not in
params.yaml. A command line may override them: `--set depth_steps=200`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from ruamel.yaml import YAMLError

from partloc.config import Config, ConfigError, Count, Group, load_config, parse_yaml, validate


class PretrainSettings(Group):
    """Sizes of the procedural data sets and of the trainings.

    Rates, losses and augmentation are in params.yaml or in the module of each training.
    """

    # Depth network: models to render; optimiser steps of 512 images, which take 19 GB.
    depth_models: Annotated[int, Field(ge=50)] = 100_000
    depth_steps: Annotated[int, Field(ge=2)] = 11_000

    # Encoder: models to render; epochs; pairs in a batch, which take 21 GB; peak learning rate of
    # all weights.
    num_models: Annotated[int, Field(ge=50)] = 150_000
    num_epochs: Count = 5
    batch_size: Count = 768
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2.0e-3


class PretrainingConfig(Config):
    """The configuration of the pipeline with the settings of the pretrainings."""

    pretrain: PretrainSettings = PretrainSettings()


def load_pretraining_config(path: Path | str, overrides: Sequence[str] = ()) -> PretrainingConfig:
    """Read a params file and apply overrides such as "depth_steps=200".

    Raises: ConfigError naming the file, or the override, and every invalid key.
    """
    config = load_config(path)
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected KEY=VALUE")
        try:
            values[key] = parse_yaml(text)
        except YAMLError as error:
            raise ConfigError(f"--set {override}: not valid YAML: {error}") from None
    groups = {name: getattr(config, name) for name in Config.model_fields}
    return PretrainingConfig(**groups, pretrain=validate(PretrainSettings, values, "--set"))
