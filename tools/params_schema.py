"""Writes docs/params.schema.json, with which editors check and complete params.yaml.

Types, limits and full-size defaults come from `partloc.config`, descriptions from the comments of
params.yaml. The first line of params.yaml names the schema for the YAML language server.

    $ python -m tools.params_schema
"""

import json
import re
from pathlib import Path
from typing import Any

from partloc.config import Config
from partloc.system.cli import make_parser, run_command

ROOT = Path(__file__).resolve().parents[1]
SCHEMA_FILE = ROOT / "docs/params.schema.json"


def read_descriptions(text: str) -> dict[str, str]:
    """From a key of a params file, such as "train" or "train.batch_size", to the comment above."""
    descriptions: dict[str, str] = {}
    group, above = "", ""
    for line in text.splitlines():
        match = re.match(r"(?: *(\w+):)?[^#]*(?:# ?(.*))?", line)
        assert match is not None  # every part of the pattern is optional
        key, comment = match.groups()
        if key is None:  # an empty line ends a comment
            above = f"{above} {comment}".strip() if comment else ""
            continue
        if not line.startswith(" "):
            group = key
        name = key if group == key else f"{group}.{key}"
        # Without a comment of its own, a key is described by that of the key above it.
        descriptions[name] = above or next(reversed(descriptions.values()), "")
        above = ""
    return descriptions


def make_schema(params_text: str) -> dict[str, Any]:
    """The JSON schema of params.yaml."""
    schema = Config.model_json_schema()
    descriptions = read_descriptions(params_text)
    for name, value in schema["properties"].items():
        value["description"] = descriptions[name]
        definition = value.get("$ref", "").rpartition("/")[2]
        for key, nested in schema["$defs"].get(definition, {}).get("properties", {}).items():
            nested["description"] = descriptions[f"{name}.{key}"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The content of SCHEMA_FILE."""
    params_text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    return json.dumps(make_schema(params_text), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    make_parser(__doc__, config=None).parse_args()
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    print(f"written: {SCHEMA_FILE}")


if __name__ == "__main__":
    run_command(main)
