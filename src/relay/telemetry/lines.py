"""What a log line is made of: plain fields without secrets, on one line, as JSON or as text.

Nothing that a caller sends can forge a line or move a terminal's cursor: whatever is not printable (line breaks, ANSI
escapes, C0 and C1, bidirectional and zero-width characters, lone surrogates) becomes a visible escape. Exceptions are
their types and frames; their own texts may quote what a caller sent.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from functools import lru_cache
from math import isfinite
from types import TracebackType
from typing import Any, Final

from relay.telemetry.redaction import CUT, HIDDEN, hints_at_secret, names_secret, redact, redact_text

MAX_MESSAGE: Final = 8192
MAX_VALUE: Final = 2048
MAX_LINE: Final = 65_536
"""In bytes, the line break left out, whatever a record holds; what has no room is ``[cut]``."""
MAX_FRAMES: Final = 40
MAX_CHAIN: Final = 5

Event = MutableMapping[str, Any]
Render = Callable[[Any, str, Event], str]

_encode: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=True, separators=(",", ":")).encode
_is_secret: Final = lru_cache(maxsize=256)(names_secret)
_BEYOND_BMP: Final = 0x10000
_SHARE: Final = MAX_LINE // 4  # of one field in a line that has no room for all, so that the small ones stay
_WIDEST: Final = 12  # bytes of a character in JSON: two surrogates, ``\ud83d\ude00``


def plain(text: str) -> str:
    """Return ``text`` on one line: what is not printable is shown as an escape, ``\\u001b`` for ESC."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(ord(char)) for char in text)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < _BEYOND_BMP else f"\\U{code:08x}"


def json_line(_logger: Any, _name: str, event: Event) -> str:
    """Return one JSON object, in ASCII alone, without a line break, of :data:`MAX_LINE` bytes at most."""
    fields = {name: _value(name, value) for name, value in event.items()}
    fields["time"] = iso_time(event["time"])
    line = _encode({name: _shown(name, value) for name, value in fields.items()})
    if hints_at_secret(line.lower()):
        fields = {name: redact_text(value) if type(value) is str else value for name, value in fields.items()}
        line = _encode({name: _shown(name, value) for name, value in fields.items()})
    if len(line) > MAX_LINE:
        line = _encode(_fitting({name: _shown(name, value) for name, value in fields.items()}))
    return line


def console_line(_logger: Any, _name: str, event: Event) -> str:
    """Return ``12:34:56 INFO    relay.http message request_id=…``; a traceback follows on indented lines.

    All of it has :data:`MAX_LINE` bytes at most.
    """
    fields = {name: _value(name, value) for name, value in event.items()}
    # Before anything is cut: half a secret is not recognised.
    fields = _fitting({name: redact_text(value) if type(value) is str else value for name, value in fields.items()})
    # The time of the terminal's place: who reads it sits in front of it.
    moment = time.strftime("%H:%M:%S", time.localtime(fields.pop("time")))
    level, logger, message = (str(fields.pop(name, "")) for name in ("level", "logger", "message"))
    frames = str(fields.pop("traceback", ""))
    words = [moment, f"{level.upper():<7}", logger, message]
    words += [f"{name}={_word(value)}" for name, value in fields.items() if value not in ("", None)]
    lines = [plain(" ".join(words)), *(plain(line) for line in frames.splitlines())]
    text = "\n    ".join(lines)
    # Escapes and indents can still make more of it; what is printable has four bytes a character at most.
    if 4 * len(text) > MAX_LINE and len(told := text.encode()) > MAX_LINE:
        return told[: MAX_LINE - len(CUT)].decode(errors="ignore") + CUT
    return text


def _fitting(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what has room in one line, fields in their order; a text without secrets keeps its beginning."""
    if len(_encode(fields)) <= MAX_LINE:
        return fields
    found: dict[str, Any] = {}
    left = MAX_LINE - len(_encode({CUT: CUT}))
    for name, value in fields.items():
        room = left - len(_encode({name: CUT}))
        if room < 0:
            found[CUT] = CUT  # and so is whatever follows
            break
        found[name] = _beginning(value, min(room, _SHARE))
        left -= len(_encode({name: found[name]}))
    return found


def _beginning(value: Any, room: int) -> Any:
    """Return ``value`` if its JSON is at most ``room`` bytes larger than that of ``[cut]``."""
    if len(_encode(value)) <= room + len(_encode(CUT)):
        return value
    return value[: room // _WIDEST] + CUT if type(value) is str else CUT


@lru_cache(maxsize=4)
def _second(epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch))


def iso_time(epoch: float) -> str:
    """Return a moment in UTC with milliseconds, as RFC 3339 writes it."""
    return f"{_second(int(epoch))}.{int(epoch * 1000) % 1000:03d}Z"


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else _encode(value)
    return text if " " not in text else f'"{text}"'


def _shown(name: str, value: Any) -> Any:
    if type(value) is not str or value.isprintable():
        return value
    # Frames are Relay's own text, one a line; everything else has no lines.
    return "\n".join(map(plain, value.splitlines())) if name == "traceback" else plain(value)


def _value(name: str, value: Any) -> Any:
    kind = type(value)
    if kind is str and len(value) <= MAX_VALUE:
        return HIDDEN if _is_secret(name) else value
    if kind is int or (kind is float and isfinite(value)):
        return HIDDEN if _is_secret(name) else value
    if value is None or kind is bool:
        return value
    if kind is str:
        return _long(name, value)
    return HIDDEN if _is_secret(name) else redact(value)


def _long(name: str, value: str) -> str:
    if _is_secret(name):
        return HIDDEN
    most = MAX_MESSAGE if name in ("message", "traceback") else MAX_VALUE
    return value if len(value) <= most else redact_text(value[: 2 * most])[:most] + CUT


def frames_of(error: BaseException) -> str:
    """Return where an exception came from, and what it was raised from, innermost last: types and frames, no texts."""
    lines: list[str] = []
    for number, link in enumerate(_chain(error)):
        if number:
            lines.append("raised after")
        lines += _frames(link.__traceback__)
        lines.append(type(link).__name__)
    return "\n".join(lines)


def _frames(found: TracebackType | None) -> Iterator[str]:
    frames = traceback.extract_tb(found)
    for frame in frames[-MAX_FRAMES:]:
        yield f"{frame.filename}:{frame.lineno} in {frame.name}"


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(chain) < MAX_CHAIN and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain
