"""Text from outside: what comes in is refused or made normal, what goes out is made visible.

``clean`` is for what callers send and people will read or models obey; ``visible`` for what models and tools return,
which nobody can send back.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Any, Final

from relay.core.hidden import Visible, code_point, hidden_in, kind_of, visible
from relay.core.problem import Invalid

__all__ = ["Visible", "clean", "clean_json", "visible"]

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 10_000
"""Of members and elements in one JSON value, its texts and numbers included."""

_MAX_POINTER: Final = 200
# UAX 15, 13: no language stacks more marks on a letter, and putting n of them in order takes time of n².
_MOST_MARKS: Final = 30


def clean(text: str, pointer: str, *, most: int | None = None) -> str:
    """Return ``text`` in Unicode's form C, with ``\\n`` for every line break.

    :class:`~relay.core.problem.Invalid` names ``pointer`` and says which character at which place may not stand
    there: control characters but tab and line breaks, what turns the direction of reading, tag characters, halves of
    surrogate pairs, noncharacters, and invisible characters out of their place; more than 30 marks on one letter; and
    more than ``most`` characters. A byte order mark in front is left out. The text itself is never repeated.

    Idempotent; in time linear in the text. The result is at most three times as long.
    """
    marked = text.startswith("\ufeff")
    text = text.removeprefix("\ufeff")
    if text.isascii() and text.isprintable():
        return _bounded(text, pointer, most)
    if (found := hidden_in(text)) is not None:
        raise _refused(pointer, found.group()[0], found.start() + marked)
    if (piled := _piles().search(text)) is not None:
        message = f"More than {_MOST_MARKS} marks stand on one letter, from character {piled.start() + marked + 1} on."
        raise _invalid(pointer, message)
    plain = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _bounded(plain, pointer, most)


def clean_json(value: Any, pointer: str) -> Any:
    """Return a JSON value with every text in it, names of members included, as :func:`clean` returns it.

    Refused too: more than :data:`MAX_DEPTH` levels or :data:`MAX_VALUES` members and elements, and names that are
    the same in Unicode's form C.
    """
    return _Walk().cleaned(value, pointer, 1)


class _Walk:
    def __init__(self) -> None:
        self._left = MAX_VALUES

    def cleaned(self, value: Any, pointer: str, depth: int) -> Any:
        if isinstance(value, str):
            return clean(value, pointer)
        if isinstance(value, dict | list):
            self._left -= len(value)
            if depth > MAX_DEPTH or self._left < 0:
                raise _invalid(pointer, f"At most {MAX_DEPTH} levels and {MAX_VALUES} values may stand here.")
            if isinstance(value, dict):
                return self._object(value, pointer, depth)
            return [self.cleaned(item, _below(pointer, str(at)), depth + 1) for at, item in enumerate(value)]
        return value

    def _object(self, value: dict[Any, Any], pointer: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for given, member in value.items():
            name = _clean_name(str(given), pointer)
            if name in found:
                raise _invalid(pointer, "Two members have names that are the same in Unicode's form C.")
            found[name] = self.cleaned(member, _below(pointer, name), depth + 1)
        return found


def _clean_name(name: str, pointer: str) -> str:
    try:
        return clean(name, pointer)
    except Invalid as refused:
        message = refused.extensions["errors"][0]["message"]
        raise _invalid(pointer, f"In the name of a member: {message}") from None


def _below(pointer: str, name: str) -> str:
    """Return the pointer of a member, or that of what it is in where names are too long to be repeated."""
    longer = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
    return longer if len(longer) <= _MAX_POINTER else pointer


@lru_cache(maxsize=1)
def _piles() -> re.Pattern[str]:
    # Made when it is first needed: it takes some milliseconds.
    marks = "".join(chr(code) for code in range(0x300, 0x1E94B) if unicodedata.combining(chr(code)))
    return re.compile(f"[{marks}]{{{_MOST_MARKS + 1}}}")


def _bounded(text: str, pointer: str, most: int | None) -> str:
    if most is not None and len(text) > most:
        raise _invalid(pointer, f"At most {most} characters may stand here, in Unicode's form C.")
    return text


def _refused(pointer: str, character: str, at: int) -> Invalid:
    return _invalid(pointer, f"Character {at + 1} is {code_point(character)}, {kind_of(character)}; leave it out.")


def _invalid(pointer: str, message: str) -> Invalid:
    return Invalid("The request is not valid; see errors.", errors=[{"pointer": pointer, "message": message}])
