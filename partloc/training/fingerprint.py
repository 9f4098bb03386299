"""What the weights of a training run depend on: its parameters, its data, its starting weights, its
code."""

from pathlib import Path
from typing import Any, NamedTuple

from partloc.config import Config, ConfigError, digest
from partloc.model.depth_net import SHIPPED_WEIGHTS
from partloc.system.files import file_sha256
from partloc.training.training_state import STATE_FORMAT

_PROJECT = Path(__file__).parents[2]
# The code on which DVC's stage `train` depends.
TRAINING_CODE = (
    *("stages/train.py", "partloc/commands/train.py", "partloc/config.py"),
    *("partloc/distributed.py", "partloc/drawing.py", "partloc/pose.py"),
    *("partloc/system", "partloc/data", "partloc/model", "partloc/training"),
)
WITHOUT_EFFECT = {"train.state_every_minutes"}  # on the weights


class TrainingInputs(NamedTuple):
    """What the weights depend on, at one time.

    parameters: values by key, see `training_parameters`. files: SHA-256 of the split tables and of
    the starting weights. code: see `source_hashes`.
    """

    parameters: dict[str, Any]
    files: dict[str, str]
    code: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that identifies the run.

        It does not depend on the code, because most changes of it need no new training.
        """
        return digest([STATE_FORMAT, self.parameters, list(self.files.values())])


def read_inputs(config: Config, split_dir: Path) -> TrainingInputs:
    """Read what the weights depend on.

    Raises: FileNotFoundError naming the parameter whose file does not exist.
    """
    paths = [split_dir / "train.csv", split_dir / "val.csv"]
    for key in ("weights", "start_from"):
        if path := getattr(config.model, key):
            if not Path(path).is_file():
                raise FileNotFoundError(f"model.{key}: {path}: no such file")
            paths.append(Path(path))
    if config.model.match_size and config.model.depth_maps:
        paths.append(SHIPPED_WEIGHTS)
    files = {str(path): file_sha256(path) for path in paths}
    return TrainingInputs(training_parameters(config), files, source_hashes())


def run_fingerprint(config: Config, split_dir: Path) -> str:
    """See `TrainingInputs.fingerprint`. Raises: as `read_inputs`."""
    return read_inputs(config, split_dir).fingerprint


def training_parameters(config: Config) -> dict[str, Any]:
    """Return the parameters on which the weights depend; not machine settings or folders."""
    groups = {name: getattr(config, name).model_dump() for name in ("model", "train")}
    parameters = {
        "seed": config.seed,
        "data.image_size": config.data.image_size,
        "data.read_size": config.data.read_size,
        **{f"{name}.{key}": groups[name][key] for name in groups for key in groups[name]},
    }
    return {key: value for key, value in parameters.items() if key not in WITHOUT_EFFECT}


def source_hashes() -> dict[str, str]:
    """Return the SHA-256 of each source file of TRAINING_CODE."""
    paths = [_PROJECT / name for name in TRAINING_CODE]
    files = [file for path in paths for file in (path, *path.rglob("*.py")) if file.is_file()]
    return {str(file.relative_to(_PROJECT)): file_sha256(file) for file in sorted(files)}


def source_hash(*packages: str) -> str:
    """Return a SHA-256 of the source code of these packages of partloc; without any, of all."""
    folder = _PROJECT / "partloc"
    folders = [folder / package for package in packages or (".",)]
    return digest([file_sha256(path) for f in folders for path in sorted(f.rglob("*.py"))])


def changed_names(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the keys whose values differ, sorted."""
    return sorted(key for key in before | after if before.get(key) != after.get(key))


def require_unedited(at_start: TrainingInputs, at_end: TrainingInputs) -> None:
    """Raise ConfigError naming what was edited while the training ran.

    DVC records parameters and files as they are at the end.
    """
    names = [n for pair in zip(at_start, at_end, strict=True) for n in changed_names(*pair)]
    if names:
        raise ConfigError(
            f"edited while the training ran: {shorten(names)}. DVC would record this as the "
            "origin of the weights. The finished training is kept: undo the edit and run again to "
            "use it"
        )


def shorten(names: list[str]) -> str:
    """Join names for a message, at most five."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
