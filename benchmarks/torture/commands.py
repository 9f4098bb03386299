"""Commands of the project in this process, and toy projects whose trainings take a second."""

import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from toys import tiny_config, write_params, write_split

from partloc.config import Config
from partloc.model import backbone
from partloc.system.cli import USER_ERROR_STATUS, load_command


class Answer(NamedTuple):
    """How a command ended."""

    status: int
    output: str
    errors: str

    def require_refusal(self, *names: str) -> None:
        """The command ended with an error that names all files."""
        assert self.status == USER_ERROR_STATUS, f"status {self.status}: {self.errors[-300:]}"
        message = self.errors.strip().splitlines()
        assert any(line.startswith("error: ") for line in message), self.errors[-300:]
        for name in names:
            assert name in self.errors, f"{name} is not named: {self.errors[-300:]}"

    def require_success(self) -> None:
        assert self.status == 0, f"status {self.status}: {self.errors[-300:]}"


def run_in(folder: Path, command: str, *arguments: str | Path) -> Answer:
    """Run `partloc COMMAND` in a project folder.

    Raises: whatever the command raises: on a terminal it would be a traceback.
    """
    output, errors = io.StringIO(), io.StringIO()
    environment = {"DVC_ROOT": str(folder)}
    with (
        working_folder(folder),
        patch.object(sys, "argv", [command, *map(str, arguments)]),
        patch.dict(os.environ, environment),
        patch.object(os, "fsync", lambda _handle: None),  # nothing here outlives the machine
        redirect_stdout(output),
        redirect_stderr(errors),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            load_command(command)()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Answer(status, output.getvalue(), errors.getvalue())


@contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def one_block() -> Iterator[None]:
    """Encoders of one block: states are then small, and a training takes a second."""
    sizes = {name: size | {"depth": 1} for name, size in backbone.TINY_SIZES.items()}
    with patch.dict(backbone.TINY_SIZES, sizes):
        yield


def small_config(**train: Any) -> Config:
    """A network without depth maps; `train`: changed keys."""
    model = {"depth_maps": False, "dropout": 0.1}
    machine = {"num_processes": 1}
    return tiny_config(
        model=model, machine=machine, train={"num_epochs": 3, "batch_size": 8} | train
    )


def write_project(folder: Path, config: Config) -> Path:
    """A folder with the toy images, their split and params.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    write_split(folder)
    write_params(folder, config)
    return folder


def change_params(folder: Path, group: str, **values: Any) -> None:
    """Change keys of a params.yaml that is JSON."""
    path = folder / "params.yaml"
    params = json.loads(path.read_text())
    params[group] |= values
    path.write_text(json.dumps(params))


def read_files(folder: Path, *names: str) -> dict[str, bytes]:
    """The content of the regular files under some folders, by path relative to `folder`."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in names
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
