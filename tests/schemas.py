"""A small checker of JSON Schema: the keywords that the catalogue of events uses. Any other one fails."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

_IGNORED = {"$schema", "title", "description", "properties"}
_TYPES: dict[str, type] = {"object": dict, "string": str, "integer": int, "boolean": bool}
_KEYWORDS: dict[str, Callable[[Any, Any], bool]] = {
    "type": lambda wanted, value: (
        isinstance(value, _TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))
    ),
    "const": lambda wanted, value: value == wanted,
    "enum": lambda wanted, value: value in wanted,
    "pattern": lambda wanted, value: re.search(wanted, value) is not None,
    "format": lambda wanted, value: wanted == "date-time" and datetime.fromisoformat(value).tzinfo is not None,
    "minimum": lambda wanted, value: value >= wanted,
    "maximum": lambda wanted, value: value <= wanted,
    "required": lambda wanted, value: set(wanted) <= set(value),
}


def check(schema: dict[str, Any], value: Any, place: str = "") -> None:
    """Fail with the place unless ``value`` is as the schema says, without members that it does not name."""
    for keyword in schema.keys() - _IGNORED:
        assert _KEYWORDS[keyword](schema[keyword], value), f"{place}: {value!r} is not {keyword} {schema[keyword]!r}"
    if "properties" in schema:
        for name, member in value.items():
            assert name in schema["properties"], f"{place}/{name} is not in the schema"
            check(schema["properties"][name], member, f"{place}/{name}")
