"""The model files that come with the package."""

import os
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[1] / "weights"
SHIPPED_MODELS = {"dinov2_vitt14": _FOLDER / "dinov2_vitt14.pth"}
DEFAULT_MODEL = "dinov2_vitt14"


def find_pretrained(path_or_name: str | os.PathLike[str] | None = None) -> Path:
    """The file of a shipped model by its name, None being the default; or a path of a model file.

    Raises: FileNotFoundError if it is neither.
    """
    name = DEFAULT_MODEL if path_or_name is None else os.fspath(path_or_name)
    path = SHIPPED_MODELS.get(name, Path(name))
    if not path.is_file():
        names = ", ".join(SHIPPED_MODELS)
        raise FileNotFoundError(f"{path}: no such model file; shipped models by name: {names}")
    return path
