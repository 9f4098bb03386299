"""Checks answers against answer.schema.json; knows the keywords that it uses, and no others."""

import json
from math import inf
from typing import Any

from checkout import ROOT

SCHEMA = json.loads((ROOT / "partloc/inference/answer.schema.json").read_text("utf-8"))
TYPES = {"object": dict, "array": list, "string": str, "number": (int, float)}
KEYWORDS = {
    *("$schema", "$defs", "title", "description", "type"),
    *("required", "additionalProperties", "properties", "items", "minItems", "maxItems"),
    *("minimum", "maximum", "exclusiveMinimum"),
}


def require_valid(value: Any, schema: dict = SCHEMA) -> None:
    """Raises: AssertionError if a value does not match the schema."""
    if "$ref" in schema:
        return require_valid(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    if "oneOf" in schema:
        assert [is_valid(value, option) for option in schema["oneOf"]].count(True) == 1
        return None
    assert schema.keys() <= KEYWORDS
    assert isinstance(value, TYPES[schema["type"]]) and not isinstance(value, bool), value
    if schema["type"] == "object":
        assert schema["additionalProperties"] is False
        assert {*schema["required"]} <= value.keys() <= schema["properties"].keys()
        for key, item in value.items():
            require_valid(item, schema["properties"][key])
    elif schema["type"] == "array":
        assert schema["minItems"] <= len(value) <= schema.get("maxItems", inf)
        for item in value:
            require_valid(item, schema["items"])
    elif schema["type"] == "number":
        assert schema.get("minimum", -inf) <= value <= schema.get("maximum", inf), value
        assert value > schema.get("exclusiveMinimum", -inf), value
    return None


def is_valid(value: Any, schema: dict = SCHEMA) -> bool:
    try:
        require_valid(value, schema)
    except AssertionError:
        return False
    return True
