"""partloc: predict the pose of a part in a whole 3-D model, from one image of each.

>>> from partloc import Locator
>>> Locator.from_pretrained().locate("chair-whole.png", "chair-leg.png")
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partloc.data.images import ImageError
    from partloc.inference.estimate import PoseEstimate
    from partloc.inference.locator_api import Locator
    from partloc.system.files import CheckpointError

    __version__: str

__all__ = ["CheckpointError", "ImageError", "Locator", "PoseEstimate"]

# Imported on first use: torch takes a second, and most commands need only a part of the package.
_MODULE_OF_NAME = {
    "CheckpointError": "partloc.system.files",
    "ImageError": "partloc.data.images",
    "Locator": "partloc.inference.locator_api",
    "PoseEstimate": "partloc.inference.estimate",
}


def _read_version() -> str:
    """From pyproject.toml in a checkout, whatever else is installed; otherwise as installed."""
    import tomllib
    from importlib.metadata import version

    project_file = Path(__file__).parents[1] / "pyproject.toml"
    if project_file.is_file():
        project = tomllib.loads(project_file.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == __name__:
            return str(project["version"])
    return version(__name__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _read_version()
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF_NAME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
