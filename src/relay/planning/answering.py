"""From what a model answered to what it proposes, for any answer whatever. Nothing here trusts a value."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from relay.llm.messages import Answer
from relay.planning.unclear import shown
from relay.planning.wording import PROPOSE

MAX_ANSWER: Final = 256 * 1024
_MAX_STARTS: Final = 16
_MAX_NAMED: Final = 5
_KNOWN: Final = frozenset({"steps", "explanation"})


@dataclass(frozen=True, slots=True)
class Answered:
    """What an answer holds: ``steps`` of any JSON value each, the model's words, and what about it is not in order.

    ``words`` are a model's, as it wrote them. ``faults`` are sentences of Relay's own.
    """

    steps: tuple[Any, ...]
    words: str
    faults: tuple[str, ...]


class _Unreadable(ValueError):
    """A text is not JSON that can be read in one way only."""


def answered(answer: Answer) -> Answered:
    """Return what ``answer`` proposes.

    Read is the first call of ``propose_plan``, or, where nothing was called, the JSON in the text: servers that know no
    function calls write it there. Whatever else was called is a fault, and so is an answer that was cut short.
    """
    calls = [call for call in answer.calls if call.name == PROPOSE]
    faults = []
    if len(calls) < len(answer.calls):
        strange = dict.fromkeys(shown(call.name, 40) for call in answer.calls if call.name != PROPOSE)
        faults.append(f"The model called {', '.join(list(strange)[:_MAX_NAMED])}, which nobody offered.")
    if len(calls) > 1:
        faults.append(f"The model gave {len(calls)} plans; all but the first are left out.")
    if answer.cut:
        faults.append("The model's answer was cut short.")
    if calls:
        return _read(calls[0].arguments, answer.text, faults)
    if not answer.calls and (found := _in_text(answer.text)) is not None:
        return _plan(found, "", faults)
    return Answered((), answer.text, (*faults, "The model gave no plan."))


def _read(text: str, words: str, faults: list[str]) -> Answered:
    try:
        return _plan(_json(text), words, faults)
    except _Unreadable as error:
        return Answered((), words, (*faults, f"The model's plan cannot be read: {error}."))


def _plan(value: Any, words: str, faults: list[str]) -> Answered:
    if not isinstance(value, dict):
        return Answered((), words, (*faults, "The model's plan is not a JSON object."))
    steps, explanation = value.get("steps"), value.get("explanation")
    if extra := value.keys() - _KNOWN:
        names = ", ".join(shown(name, 40) for name in sorted(extra)[:_MAX_NAMED])
        faults = [*faults, f"The model's plan has members that mean nothing: {names}."]
    if not isinstance(steps, list):
        faults, steps = [*faults, "The model's plan has no list of steps."], []
    return Answered(tuple(steps), explanation if isinstance(explanation, str) else words, tuple(faults))


def _in_text(text: str) -> Mapping[str, Any] | None:
    """Return the first object in a text that is a plan, or a call of ``propose_plan`` written out."""
    for value in _objects(text[:MAX_ANSWER]):
        if "steps" in value:
            return value
        if value.get("name") == PROPOSE:
            inner = value.get("arguments", value.get("parameters"))
            if isinstance(inner, dict):
                return inner
            if isinstance(inner, str):
                return next(_objects(inner), None)
    return None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    at = text.find("{")
    for _ in range(_MAX_STARTS):
        if at < 0:
            return
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


def _json(text: str) -> Any:
    if len(text) > MAX_ANSWER:
        raise _Unreadable(f"it is longer than {MAX_ANSWER // 1024} KiB")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise _Unreadable("it is not JSON") from None
    except ValueError as error:
        raise _Unreadable(str(error)) from None
    except RecursionError:
        raise _Unreadable("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        # Two readers would take different ones.
        raise _Unreadable("it has a member twice")
    return value


def _no_constant(_: str) -> None:
    raise _Unreadable("it holds a number that JSON does not have")


def _whole(digits: str) -> int:
    if len(digits) > 32:
        # Python refuses to read thousands of digits, with words of its own.
        raise _Unreadable("it holds a number that is too large")
    return int(digits)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_whole)
