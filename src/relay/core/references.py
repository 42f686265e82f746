"""References: a parameter that takes its value from the result of an earlier step.

    {"$result_of": "s1", "pointer": "/status"}                  the value itself, of whatever type
    {"$result_of": "s1", "pointer": "/body", "as": "text"}      text stays as it is, anything else as compact JSON

``pointer`` is a JSON Pointer (RFC 6901), the whole result when left out. An object with the member ``$result_of`` is a
reference or an error, never data. What is inserted is not searched for references: a result cannot refer.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from relay.core.pointer import NoSuchPlace, pointer_of, resolve_pointer

RESULT_OF: Final = "$result_of"
MAX_REFERENCES: Final = 64
MAX_DEPTH: Final = 64
MAX_POINTER: Final = 1_024
MAX_INSERTED: Final = 1_048_576
_NOT_TEXT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Path = tuple[str | int, ...]


class BadReference(ValueError):
    """A reference is malformed or leads nowhere; ``path`` is where it stands in the parameters."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path

    @property
    def place(self) -> str:
        """The JSON Pointer of the reference within the parameters."""
        return pointer_of(self.path)


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference and where it stands."""

    path: Path
    step_id: str
    pointer: str
    as_text: bool


def find_references(params: Mapping[str, Any]) -> tuple[Reference, ...]:
    """Return every reference in ``params``, in order; :class:`BadReference` for a malformed one or too many."""
    found: list[Reference] = []

    def note(reference: Reference) -> None:
        if len(found) == MAX_REFERENCES:
            raise BadReference(reference.path, f"A step may hold {MAX_REFERENCES} references.")
        found.append(reference)

    substitute(params, note)
    return tuple(found)


def substitute(params: Mapping[str, Any], value_of: Callable[[Reference], Any]) -> dict[str, Any]:
    """Return ``params`` with each reference replaced by what ``value_of`` says; :class:`BadReference` as above."""
    if RESULT_OF in params:
        raise BadReference((), "A reference stands for a parameter, not for all of them.")
    return {name: _walked(member, (name,), value_of) for name, member in params.items()}


def resolve(params: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``params`` with each reference replaced from ``results``, the results of earlier steps by step id.

    :class:`BadReference` when a step has no result, the pointer leads nowhere in it, or what would be inserted
    exceeds :data:`MAX_INSERTED` characters of JSON in all.
    """
    left = MAX_INSERTED

    def value_of(reference: Reference) -> Any:
        nonlocal left
        value, text = _result(reference, results)
        left -= len(text)
        if left < 0:
            raise BadReference(reference.path, f"The results to be inserted exceed {MAX_INSERTED} characters.")
        return text if reference.as_text and not isinstance(value, str) else value

    return substitute(params, value_of)


def _result(reference: Reference, results: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the value that a reference names and its compact JSON."""
    if reference.step_id not in results:
        raise BadReference(reference.path, f"Step {reference.step_id} has no result.")
    try:
        value = resolve_pointer(results[reference.step_id], reference.pointer)
        return value, json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except NoSuchPlace:
        message = f"The result of step {reference.step_id} has nothing at {reference.pointer}."
    except (ValueError, RecursionError):
        message = f"The result of step {reference.step_id} cannot be inserted."
    raise BadReference(reference.path, message)


def _walked(value: Any, path: Path, value_of: Callable[[Reference], Any]) -> Any:
    if len(path) > MAX_DEPTH:
        raise BadReference(path, f"Parameters may be nested {MAX_DEPTH} levels deep.")
    if isinstance(value, dict):
        if RESULT_OF in value:
            return value_of(_reference(value, path))
        return {name: _walked(member, (*path, name), value_of) for name, member in value.items()}
    if isinstance(value, list):
        return [_walked(member, (*path, place), value_of) for place, member in enumerate(value)]
    return value


def _reference(value: dict[str, Any], path: Path) -> Reference:
    step_id, pointer, form = value[RESULT_OF], value.get("pointer", ""), value.get("as", "value")
    if not value.keys() <= {RESULT_OF, "pointer", "as"}:
        raise BadReference(path, f"A reference has the members {RESULT_OF}, pointer and as, and no other.")
    if not isinstance(step_id, str) or not step_id:
        raise BadReference(path, f"{RESULT_OF} is the id of an earlier step.")
    if not isinstance(pointer, str) or len(pointer) > MAX_POINTER or (pointer and not pointer.startswith("/")):
        raise BadReference(path, "pointer is a JSON Pointer (RFC 6901): empty, or text that begins with /.")
    # Both are quoted in errors, which are stored: PostgreSQL takes no NUL, and UTF-8 has no lone surrogate.
    if _NOT_TEXT.search(step_id) or _NOT_TEXT.search(pointer):
        raise BadReference(path, "A reference holds no control character and no lone surrogate.")
    if form not in ("value", "text"):
        raise BadReference(path, "as is value or text.")
    return Reference(path, step_id, pointer, form == "text")
