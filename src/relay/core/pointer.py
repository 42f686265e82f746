"""JSON Pointer (RFC 6901)."""

from collections.abc import Iterable
from typing import Any


class NoSuchPlace(LookupError):
    """The pointer leads nowhere in this value, or is malformed."""


def pointer_of(path: Iterable[str | int]) -> str:
    """Return the pointer of a path of member names and positions."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def resolve_pointer(value: Any, pointer: str) -> Any:
    """Return what ``pointer`` names inside ``value``; :class:`NoSuchPlace` when it is malformed or names nothing."""
    if pointer == "":
        return value
    if not pointer.startswith("/"):
        raise NoSuchPlace("a JSON Pointer is empty or begins with /")
    for raw in pointer[1:].split("/"):
        value = _member(value, _unescape(raw))
    return value


def _unescape(part: str) -> str:
    if "~" in part.replace("~0", "").replace("~1", ""):
        raise NoSuchPlace("~ must be followed by 0 or 1")
    return part.replace("~1", "/").replace("~0", "~")


def _member(value: Any, part: str) -> Any:
    if isinstance(value, dict) and part in value:
        return value[part]
    if isinstance(value, list) and part.isascii() and part.isdigit() and (part == "0" or part[0] != "0"):
        position = int(part[:9])
        if len(part) <= 9 and position < len(value):
            return value[position]
    raise NoSuchPlace(f"there is no {part[:40]!r} here")
