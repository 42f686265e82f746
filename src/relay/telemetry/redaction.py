"""Secrets out of texts and structures, on their way into a log line, a span or an error report.

It is the second net: no code logs a secret on purpose. It errs on the side of hiding, takes time linear in the size of
what it is given, never raises, and leaves what it has redacted as it is.
"""

import math
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, time, timedelta
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from relay.telemetry.patterns import PATTERNS, Pattern

HIDDEN: Final = "***"
CUT: Final = "[cut]"
UNREADABLE: Final = "[unreadable]"
MAX_DEPTH: Final = 8
MAX_ITEMS: Final = 100
MAX_NODES: Final = 1000
MAX_TEXT: Final = 32_768

_ROUNDS: Final = 3
_HINTS: Final = tuple(dict.fromkeys(hint for pattern in PATTERNS for hint in pattern.hints))
_LARGEST: Final = 2**63
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", re.ASCII)
_NAMES: Final = frozenset(
    "password passwords passwd passphrase pwd secret secrets token authorization cookie cookies credential credentials "
    "apikey privatekey accesskey secretkey signingkey encryptionkey pepper peppers kek fernet otp totp pin cvv jwt "
    "bearer signature".split()
)
_PAIRS: Final = frozenset(
    f"{first} {second}"
    for first, second in (
        ("api", "key"),
        ("private", "key"),
        ("access", "key"),
        ("signing", "key"),
        ("encryption", "key"),
        ("session", "id"),
    )
)
_AS_TEXT: Final = (date, time, timedelta, UUID, PurePath, IPv4Address, IPv6Address, IPv4Network, IPv6Network)


def redact_text(text: str) -> str:
    """Return ``text`` with ``***`` in place of whatever looks like a credential.

    What says which kind it was (``ghp_``, ``Bearer``, the name before a ``=``) stays.
    """
    return _settled(text) if hints_at_secret(text.lower()) else text


def hints_at_secret(lowered: str) -> bool:
    """Say whether :func:`redact_text` could find anything in a text whose lower-case form this is; quick."""
    for hint in _HINTS:  # noqa: SIM110 - called for every line, and any() costs twice as much
        if hint in lowered:
            return True
    return False


def _settled(text: str) -> str:
    # What one pattern leaves can be what another one looks for; a second round finds it.
    for _ in range(_ROUNDS):
        before, lowered = text, text.lower()
        for pattern in PATTERNS:
            if any(hint in lowered for hint in pattern.hints):
                text = pattern.regex.sub(_Hide(pattern), text)
        if text == before:
            break
    return text


class _Hide:
    """Replaces a match of one pattern."""

    __slots__ = ("_keep", "_part")

    def __init__(self, pattern: Pattern) -> None:
        self._keep = pattern.keep
        self._part = "secret" if "secret" in pattern.regex.groupindex else 0

    def __call__(self, found: re.Match[str]) -> str:
        whole, origin = found[0], found.start()
        begin, end = found.start(self._part) - origin, found.end(self._part) - origin
        return whole[: begin + self._keep] + HIDDEN + whole[end:]


def names_secret(name: str) -> bool:
    """Say whether something of this name is a secret: ``apiKey``, ``API-KEY``, ``x_api_key``, ``user.password``."""
    words = [word.lower() for word in _WORDS.findall(name[:200])]
    return any(word in _NAMES for word in words) or any(f"{a} {b}" in _PAIRS for a, b in pairwise(words))


def redact(value: Any) -> Any:
    """Return ``value`` as plain JSON data (dicts with text keys, lists, texts, numbers) without secrets.

    Hidden is whatever stands under a name that :func:`names_secret` knows, in mappings and in pairs such as headers,
    whatever pydantic keeps secret, and what :func:`redact_text` finds. Objects of unknown types are their type's
    name: their own text may say anything. Depth, number and length are bounded; what is beyond is ``[cut]``.
    """
    try:
        return _Walk().value(value, 0)
    except Exception:  # a mapping or an enum may run code of its own; a log line must not fail for it
        return UNREADABLE


@dataclass(slots=True)
class _Walk:
    """One walk through a structure, which may hold itself: depth and number of visits end it."""

    left: int = MAX_NODES

    def value(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        if type(value) is str:
            return _text(value)
        self.left -= 1
        if isinstance(value, Mapping):
            return self._mapping(value, depth) if self._goes_on(depth) else CUT
        if isinstance(value, list | tuple | AbstractSet):
            return self._items(value, depth) if self._goes_on(depth) else CUT
        return self._leaf(value, depth)

    def _goes_on(self, depth: int) -> bool:
        return depth < MAX_DEPTH and self.left > 0

    def _leaf(self, value: Any, depth: int) -> Any:
        if isinstance(value, Enum):
            return self.value(value.value, depth + 1) if self._goes_on(depth) else CUT
        if isinstance(value, str):
            return _text(str.__str__(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return _text(bytes(value[: MAX_TEXT + 1]).decode("utf-8", "backslashreplace"))
        if isinstance(value, int):
            return int(value) if -_LARGEST <= value < _LARGEST else CUT
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if type(value) in _AS_TEXT or isinstance(value, _AS_TEXT):
            return _text(str(value))
        if hasattr(type(value), "get_secret_value"):
            return HIDDEN
        return f"<{type(value).__name__}>"

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number, (key, item) in enumerate(value.items()):
            if number >= MAX_ITEMS or self.left <= 0:
                found[CUT] = CUT
                break
            name = key if type(key) is str else str(self.value(key, MAX_DEPTH))
            found[_text(name)] = self._named(name, item, depth)
        return found

    def _named(self, name: str, item: Any, depth: int) -> Any:
        if item is None or item is True or item is False or not names_secret(name):
            return self.value(item, depth + 1)
        return HIDDEN

    def _items(self, value: Any, depth: int) -> list[Any]:
        if len(value) == 2 and isinstance(value, list | tuple):
            name = self.value(value[0], depth + 1)  # a header, perhaps
            return [name, self._named(name if type(name) is str else "", value[1], depth)]
        found: list[Any] = []
        for number, item in enumerate(value):
            if number >= MAX_ITEMS or self.left <= 0:
                found.append(CUT)
                break
            found.append(self.value(item, depth + 1))
        return found


def _text(text: str) -> str:
    shown = redact_text(text[: MAX_TEXT + 1])
    return shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + CUT
