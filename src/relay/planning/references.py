"""References to what an earlier step returned: ``{"$result_of": "s1", "pointer": "/status"}``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from relay.core.pointer import pointer_of
from relay.core.references import RESULT_OF
from relay.planning.reading import Token
from relay.planning.segmenting import word_of
from relay.planning.unclear import Unclear, shown
from relay.planning.words import plain_word

_DETERMINERS: Final = frozenset({"the", "its", "that", "their", "this"})
_WHOLE: Final = frozenset({"result", "response", "answer", "output", "reply"})
_ORDINALS: Final = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1, "previous": -1}
_LONGEST: Final = 8
_STEP_NOUNS: Final = frozenset({"step", "call", "request", "action"})


@dataclass(frozen=True, slots=True)
class Earlier:
    """A step that comes before: its id, the names of its result's fields and what it is about, for titles."""

    step_id: str
    fields: frozenset[str]
    about: str


@dataclass(frozen=True, slots=True)
class Reference:
    """What "the result" means here. ``pointer`` is a JSON Pointer (RFC 6901); empty for the whole result."""

    step_id: str
    pointer: str

    def as_value(self, *, as_text: bool) -> dict[str, str]:
        """Return the reference as a parameter's value; ``as_text`` asks for compact JSON of what is no text."""
        return {RESULT_OF: self.step_id, "pointer": self.pointer, **({"as": "text"} if as_text else {})}


def reference_at(tokens: Sequence[Token], at: int, earlier: Sequence[Earlier]) -> tuple[Reference, int] | None:
    """Return the reference that begins at ``tokens[at]`` and the index after it, or None.

    "the result" (response, answer, output, reply) means the whole result of the step before; "the status" its
    field of that name; "… of step 1" and "… of the first call" another step's. What a value follows at once
    ("the body “Hello”") refers to nothing. :class:`Unclear` when there is no such step or field.
    """
    determined = word_of(tokens[at]) in _DETERMINERS
    if not determined and plain_word(tokens[at].text) not in _WHOLE:
        return None
    words = [plain_word(word_of(token)) for token in tokens[at : at + _LONGEST]]
    here = int(determined)
    whole = here < len(words) and words[here] in _WHOLE
    here += int(whole)
    named = words[here] if here < len(words) else ""
    known = {plain_word(name) for step in earlier for name in step.fields}
    named = named if named in known and (whole or determined) else ""
    if not named and not (whole and (determined or earlier)):
        return None
    here += int(bool(named))
    if named == "status" and here < len(words) and words[here] == "code":
        here += 1
    if at + here < len(tokens) and tokens[at + here].kind in ("quote", "json", "url"):
        return None
    step, width = _which_step(words, here)
    return _reference(earlier, step, named), at + here + width


def _reference(earlier: Sequence[Earlier], step: int, named: str) -> Reference:
    if not -len(earlier) <= step < len(earlier):
        raise Unclear("there is no earlier step whose result could be meant")
    source = earlier[step]
    if not named:
        return Reference(source.step_id, "")
    field = next((name for name in sorted(source.fields) if plain_word(name) == named), None)
    if field is None:
        raise Unclear(f"the result of step {source.step_id} has no {shown(named)}")
    return Reference(source.step_id, pointer_of((field,)))


def _which_step(words: Sequence[str], here: int) -> tuple[int, int]:
    """Return the step meant by "of step 2" or "of the first call" at ``here`` and its width in words."""
    rest = list(words[here : here + 4])
    if not rest or rest[0] not in ("of", "from"):
        return -1, 0
    if len(rest) > 2 and rest[1] == "step" and rest[2].isdecimal():
        return int(rest[2]) - 1, 3
    if len(rest) > 3 and rest[1] == "the" and rest[2] in _ORDINALS and rest[3] in _STEP_NOUNS:
        return _ORDINALS[rest[2]], 4
    return -1, 0
