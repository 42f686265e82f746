"""Actions as functions of a model: how they are called, which are offered, what a model's arguments come to."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from relay.catalog import ActionSpec
from relay.core.principal import Principal
from relay.core.schema import schema_of
from relay.crypto.digest import sha256_hex
from relay.llm.messages import Function

MAX_FUNCTIONS: Final = 40
MAX_ARGUMENT_BYTES: Final = 65_536
MAX_DEPTH: Final = 32
MAX_NAME: Final = 64
_TAIL: Final = 10
_INTEGER: Final = 2**53 - 1
_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class BadArguments(ValueError):
    """The arguments are not one JSON object of a bearable size; the message says what is wrong, in Relay's words."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions that a model is offered, and the action that each of them is."""

    functions: tuple[Function, ...]
    specs: dict[str, ActionSpec]

    def spec(self, function: str) -> ActionSpec | None:
        """Return the action of a function that was offered, None for any other name."""
        return self.specs.get(function)


def function_name(action: str) -> str:
    """Return the name of an action as a function: no action's name holds a hyphen, so that none is another's.

    Models take ``[A-Za-z0-9_-]{1,64}``; a longer one ends in a digest of the whole.
    """
    name = action.replace(".", "-")
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - _TAIL - 1]}-{sha256_hex(action.encode())[:_TAIL]}"


def may_run(principal: Principal, spec: ActionSpec) -> bool:
    """Say whether a principal has the scopes to run an action."""
    return {"actions:execute", spec.scope} <= principal.scopes


def may_preview(principal: Principal) -> bool:
    """Say whether a principal has the scope to see what an action would do."""
    return "actions:preview" in principal.scopes


def usable(principal: Principal, visible: Sequence[ActionSpec]) -> list[ActionSpec]:
    """Return the actions that a principal could run or preview in a conversation; never a trap."""
    preview = may_preview(principal)
    return [spec for spec in visible if not spec.honey and (preview or may_run(principal, spec))]


def offer(specs: Sequence[ActionSpec]) -> Offer:
    """Return actions as functions, in the order of their names."""
    named = {function_name(spec.name): spec for spec in sorted(specs, key=lambda spec: spec.name)}
    functions = tuple(Function(name, _description(spec), schema_of(spec.params)) for name, spec in named.items())
    return Offer(functions, named)


def _description(spec: ActionSpec) -> str:
    return f"{spec.summary} ({spec.name}, {spec.effect})"


def is_name(text: str) -> bool:
    """Say whether models take this for the name of a function."""
    return _WORD.fullmatch(text) is not None


def shown_name(function: str) -> str:
    """Return the name of a function that there is not, as it may be repeated: nobody has vouched for it."""
    return function if is_name(function) else "(not a name)"


def arguments_of(text: str) -> dict[str, Any]:
    """Return a model's arguments, which are any text whatever, as a JSON object; :class:`BadArguments` otherwise.

    Refused are a member that stands there twice, NaN and infinities, numbers beyond ±(2^53−1), text that is not
    Unicode, more than :data:`MAX_ARGUMENT_BYTES` and more than :data:`MAX_DEPTH` levels. Nothing at all is no
    arguments.
    """
    if len(text) > MAX_ARGUMENT_BYTES:
        raise BadArguments(f"they are longer than {MAX_ARGUMENT_BYTES // 1024} KiB")
    if not text.strip():
        return {}
    try:
        text.encode()
        value = json.loads(text, object_pairs_hook=_members, parse_constant=_no_constant)
        _check(value, 0)
    except BadArguments:
        raise
    except (ValueError, RecursionError):
        raise BadArguments("they are not valid JSON (RFC 8259)") from None
    if not isinstance(value, dict):
        raise BadArguments("they are not a JSON object")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadArguments("a member stands in them twice")
    return found


def _no_constant(name: str) -> Any:
    raise BadArguments(f"{name} is no number of JSON")


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadArguments(f"they are nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for name, member in value.items():
            name.encode()
            _check(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _check(member, depth + 1)
    elif isinstance(value, str):
        value.encode()
    elif isinstance(value, int | float) and not -_INTEGER <= value <= _INTEGER:
        raise BadArguments("a number lies beyond ±(2^53−1)")
