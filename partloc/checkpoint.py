"""Files that survive: the model that users get, and the state that an interrupted run goes on from.

Every write goes to a neighbour with a fixed name, is flushed to the disk and then renamed, so a
reader sees the old file or the new one, never a part.
"""

import fcntl
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from partloc.config import ModelConfig
from partloc.data import Preprocessing
from partloc.depth import DEPTH_WEIGHTS, load_depth_net
from partloc.files import hash_file, is_whole, replacing, write_hash
from partloc.model import PartLocator

KEPT_STATES = 2
MODEL_FORMAT = "partloc-model-7"
# The parameters of a model that its weights' shapes depend on.
SHAPING = (
    *("backbone_name", "cross_attention_layers", "cross_attention_dim", "cross_attention_heads"),
    *("mlp_hidden_dim", "match_size", "depth_maps"),
)


class CheckpointError(ValueError):
    """A file that is not what it should be, or a folder that another process holds."""


def save_atomically(path: Path, value: Any) -> None:
    """torch.save through a handle: the bytes then do not depend on the file's name.

    Raises: OSError as `files.replacing`.
    """
    with replacing(path) as file:
        torch.save(value, file)


def load(path: Path) -> Any:
    """Tensors and plain values only, on the CPU.

    Raises: CheckpointError naming the file, for a missing, damaged or foreign one.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; train it (dvc repro) or pull it") from None
    except pickle.UnpicklingError:  # not torch's own text: it advises to run what is in the file
        raise CheckpointError(
            f"{path}: not a readable checkpoint: it holds more than tensors and plain values"
        ) from None
    except Exception as error:  # torch raises many types for damaged files; all of them end here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason}") from None


def save_model(path: Path, model: PartLocator, info: dict[str, Any], half: bool = False) -> None:
    """Write the model file: weights, architecture and preprocessing; nothing else is needed.

    half: weights in half precision, and the file's SHA-256 beside it: for starting weights, which
    travel with the code. A depth network that does so too is left out, and named by its SHA-256.
    """
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    depth_net = None
    if half:
        weights = {key: value.half() for key, value in weights.items()}
        if model.depth_net is not None:
            ours = {key: value.half() for key, value in _depth_weights().items()}
            if all(torch.equal(weights[key], value) for key, value in ours.items()):
                weights = {key: value for key, value in weights.items() if key not in ours}
                depth_net = hash_file(DEPTH_WEIGHTS).read_text()
    content = {
        "format": MODEL_FORMAT,
        "depth_net": depth_net,
        "model": model.config.model_dump(),
        "preprocessing": asdict(model.preprocessing),
        "weights": weights,
        "info": info,
    }
    save_atomically(path, content)
    if half:
        write_hash(path)


def load_model(path: Path) -> PartLocator:
    """Rebuild the network of a model file, in evaluation mode, on the CPU.

    Raises: CheckpointError also when the file is a checkpoint of something else.
    """
    content = _load_content(path)
    # The weights are in the file, so none are looked for elsewhere.
    beginning = {"pretrained": False, "weights": None, "start_from": None}
    config = ModelConfig(**content["model"] | beginning)
    model = PartLocator(config, Preprocessing(**content["preprocessing"]), blank=True)
    model.load_state_dict(_weights_of(content, path), assign=True)
    return model.eval()


def start_from(model: PartLocator, path: Path) -> None:
    """Give a model the weights of a model file; only the size of the images may differ.

    Raises: CheckpointError when the file is missing, damaged (its .sha256, where there is one,
        tells), or of another architecture, named by the parameters that differ.
    """
    if hash_file(path).exists() and not is_whole(path):
        raise CheckpointError(
            f"{path}: not the file that {hash_file(path).name} was written for; get both again"
        )
    content = _load_content(path)
    ours = model.config.model_dump()
    unlike = [
        f"model.{key}: {content['model'].get(key)!r} there, {ours[key]!r} here"
        for key in SHAPING
        if content["model"].get(key) != ours[key]
    ]
    if unlike:
        raise CheckpointError(f"{path}: weights of another architecture; {'; '.join(unlike)}")
    weights = _weights_of(content, path)
    table = "backbone.vit.pos_embed"
    weights[table] = model.backbone.fit_position_table(weights[table], str(path))
    model.load_state_dict(weights)


def _weights_of(content: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """All of a model file's, in single precision.

    Raises: CheckpointError when the depth network that it was made beside is not the code's.
    """
    weights = {key: value.float() for key, value in content["weights"].items()}
    if content["depth_net"] is None:
        return weights
    weights |= _depth_weights()
    ours = hash_file(DEPTH_WEIGHTS).read_text()
    if content["depth_net"] != ours:
        raise CheckpointError(
            f"{path}: expected {DEPTH_WEIGHTS.name} of SHA-256 {content['depth_net'][:12]}... "
            f"beside the code, found {ours[:12]}...; get both again, or make both (make pretrain)"
        )
    return weights


def _depth_weights() -> dict[str, torch.Tensor]:
    return load_depth_net().state_dict(prefix="depth_net.")


def _load_content(path: Path) -> dict[str, Any]:
    content = load(path)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != MODEL_FORMAT:
        raise CheckpointError(f"{path}: expected a {MODEL_FORMAT} file, found format {found!r}")
    return content


class RunFolder:
    """Resumable state of one training run, keyed by what determines its result.

    state-*.pth after an epoch and best-*.pth, the weights of the best epoch so far (the last two
    of each, with a .sha256 beside them), tensorboard/, lock, finished, code.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.path = root / fingerprint[:16]
        self.tensorboard = self.path / "tensorboard"
        self._finished = self.path / "finished"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second trainer on the same state would corrupt both.

        Raises: CheckpointError naming the process that holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as file:
            try:
                # Not flock: the loader's workers would inherit it, and outlive a killed trainer
                # by some seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                raise CheckpointError(
                    f"{self.path}: another training (process {file.read().strip() or '?'}) works "
                    "on the same configuration and data; wait for it or stop it, then run again"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    @property
    def finished(self) -> bool:
        return self._finished.exists()

    def mark_finished(self) -> None:
        """All is written elsewhere now; of the state nothing is needed any more."""
        self._finished.touch()
        for path in self._files("state") + self._files("best"):
            _remove(path)

    def write_note(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def read_note(self, name: str) -> str | None:
        path = self.path / name
        return path.read_text() if path.exists() else None

    def clear(self) -> None:
        """Drop all state but the lock: the next training starts afresh."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    def others(self) -> list[Path]:
        """The folders beside this one that hold unfinished state of other configurations."""
        return sorted(
            folder
            for folder in self.path.parent.iterdir()
            if folder != self.path and any(folder.glob("state-*.pth"))
            if not (folder / self._finished.name).exists()
        )

    def save_state(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after `epoch` finished epochs and its hash; keep the last two."""
        self._save("state", epoch, state)

    def save_best(self, epoch: int, weights: dict[str, Any]) -> None:
        """Write the best weights so far. Two are kept, since each state kept has its own best."""
        self._save("best", epoch, weights)

    def load_state(self) -> dict[str, Any] | None:
        """The newest undamaged state, or None; damaged ones are reported and passed over."""
        for path in reversed(self._files("state")):
            if is_whole(path):
                return load(path)
            print(f"warning: {path} is damaged; trying the state before", file=sys.stderr)
        return None

    def load_best(self, epoch: int) -> dict[str, Any]:
        """The weights that were the best after `epoch`. Raises: CheckpointError if damaged."""
        path = self._file("best", epoch)
        if not is_whole(path):
            raise CheckpointError(f"{path}: missing or damaged; train anew with --no-resume")
        return load(path)

    def rewind(self, epoch: int) -> None:
        """Drop what was written after `epoch`: damaged states, and a best one without its state."""
        for path in self._files("state") + self._files("best"):
            if int(path.stem[-6:]) > epoch:
                _remove(path)

    def _save(self, kind: str, epoch: int, value: dict[str, Any]) -> None:
        path = self._file(kind, epoch)
        save_atomically(path, value)
        write_hash(path)
        for old in self._files(kind)[:-KEPT_STATES]:
            _remove(old)

    def _file(self, kind: str, epoch: int) -> Path:
        return self.path / f"{kind}-{epoch:06d}.pth"

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.path.glob(f"{kind}-*.pth"))


def _remove(path: Path) -> None:
    hash_file(path).unlink(missing_ok=True)
    path.unlink()
