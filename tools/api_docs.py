"""Writes docs/api.md, the reference of the Python interface, from the docstrings of `partloc`.

$ python -m tools.api_docs
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import partloc
from partloc.data.image_input import ImageInput
from partloc.system.cli import make_parser, run_command

API_FILE = Path(__file__).resolve().parents[1] / "docs/api.md"
INTRODUCTION = """# Python interface

Written from the docstrings by `python -m tools.api_docs`. All names are importable from `partloc`.
The package has type annotations (`py.typed`).

    from partloc import Locator
    locator = Locator.from_pretrained()                  # or Locator("models/best_model.pth")
    leg = locator.locate("chair-whole.png", "chair-leg.png")
    print(leg.translation, leg.scale, leg.confidence)
    parts = locator.locate("chair-whole.png", ["chair-leg.png", "chair-seat.png"])      # a list

`ImageInput` is a path, a Pillow image, an array or an open file.
"""


def describe(heading: str, value: object) -> str:
    """A heading and the docstring as text; Markdown would join the lines of its lists."""
    text = inspect.getdoc(value) or ""
    return f"{heading}\n\n```text\n{text}\n```\n"


def signature(name: str, function: Callable[..., object]) -> str:
    """`name(arguments)` without "self", with short names of types."""
    text = str(inspect.signature(function)).replace(str(ImageInput), "ImageInput")
    text = re.sub(r"\b(?:typing|collections\.abc|partloc\.inference\.estimate)\.", "", text)
    text = re.sub(r"\(self(?:, )?", "(", text)
    text = re.sub(r"(-> |\[)'(\w+)'", r"\1\2", text)  # a name in quotes is a class defined later
    return f"`{name}{text}`"


def public_methods(of: type) -> dict[str, Callable[..., object]]:
    methods = {name: getattr(of, name) for name in vars(of) if not name.startswith("_")}
    return {name: method for name, method in methods.items() if callable(method)}


def make_page() -> str:
    sections = [INTRODUCTION]
    for name in sorted(partloc.__all__):
        value = getattr(partloc, name)
        if issubclass(value, Exception):
            sections.append(describe(f"## {name}", value))
            continue
        sections.append(describe(f"## {name}\n\n{signature(name, value)}", value))
        for method, function in public_methods(value).items():
            title = f"{name}.{method}"
            sections.append(describe(f"### {title}\n\n{signature(title, function)}", function))
    return "\n".join(sections)


def main() -> None:
    make_parser(__doc__, config=None).parse_args()
    API_FILE.write_text(make_page(), encoding="utf-8")
    print(f"written: {API_FILE}")


if __name__ == "__main__":
    run_command(main)
