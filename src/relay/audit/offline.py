"""Verifying an export without database, keys or server: this module imports the chain and nothing of the server.

An export is UTF-8, one RFC 8785 object a line, each line ended by a line feed:

    {"format":"relay-audit-export","origin":…,"version":1,"vkey":…}
    {…event 1…}
    …
    {"head":"…signed note over exactly these events…"}
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from relay.audit.chain import COLUMNS, MAX_ROW_BYTES, ChainBroken, Walk
from relay.audit.notes import check_note
from relay.crypto.signing import Checkpoint, SignatureError

FORMAT: Final = "relay-audit-export"
VERSION: Final = 1
MAX_LINE_BYTES: Final = 2 * MAX_ROW_BYTES

_NO_EXPORT: Final = "this is not an export made by relay audit export"
_HEADER: Final = {"format", "origin", "version", "vkey"}
_COLUMNS: Final = set(COLUMNS)
_INTEGERS: Final = frozenset({"seq", "occurred_at"})

_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


class ExportBroken(Exception):
    """The file is not an intact export. ``line`` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FileVerification:
    """What a file's verification found: ``size`` events hold, and with ``ok`` nothing else is wrong.

    ``pinned`` says that the signature was checked with a key that the verifier was given. Without it the key came from
    the file itself, and whoever made the file chose it.
    """

    ok: bool
    origin: str
    vkey: str
    pinned: bool
    size: int
    head: str
    line: int | None = None
    reason: str | None = None


def header_line(origin: str, vkey: str) -> str:
    """Return an export's first line, without its line feed."""
    return _encode({"format": FORMAT, "version": VERSION, "origin": origin, "vkey": vkey})


def head_line(note: str) -> str:
    """Return an export's last line, without its line feed."""
    return _encode({"head": note})


def verify_export(stream: BinaryIO, *, key: str | None = None, head: str | None = None) -> FileVerification:
    """Verify an export, whatever bytes ``stream`` holds, in memory for one line.

    ``key`` is the verifier key that must have signed it. ``head`` is a signed head from earlier: its log must be the
    beginning of this one. OSError when reading fails; every other fault is in the answer.
    """
    check = _Check(key, head)
    try:
        check.run(stream)
    except ExportBroken as broken:
        return check.answer(broken)
    return check.answer(None)


class _Check:
    """One verification under way."""

    def __init__(self, key: str | None, head: str | None) -> None:
        self._key = key
        self._given = head
        self._walk = Walk()
        self._origin = ""
        self._vkey = ""

    def answer(self, broken: ExportBroken | None) -> FileVerification:
        return FileVerification(
            ok=broken is None,
            origin=self._origin,
            vkey=self._vkey,
            pinned=self._key is not None,
            size=self._walk.size,
            head=self._walk.head,
            line=broken.line if broken else None,
            reason=broken.reason if broken else None,
        )

    def run(self, stream: BinaryIO) -> None:
        lines = _objects(stream)
        try:
            first = next(lines, (1, {}))
        except ExportBroken as broken:
            raise ExportBroken(1, f"{_NO_EXPORT}: {broken.reason}") from None
        self._header(*first)
        earlier = self._earlier()
        self._agree(earlier)
        number = 1
        for number, found in lines:
            if found.keys() == {"head"}:
                self._signed(number, found["head"])
                break
            self._follow(number, found)
            self._agree(earlier)
        else:
            raise ExportBroken(number, "the export ends without its signed head: it was cut off")
        for number, _ in lines:
            raise ExportBroken(number, "something follows the signed head")
        if earlier is not None and earlier.size > self._walk.size:
            raise ExportBroken(number, f"the given head covers {earlier.size} events: the log was cut off")

    def _header(self, number: int, found: dict[str, Any]) -> None:
        if found.keys() != _HEADER or found["format"] != FORMAT:
            raise ExportBroken(number, _NO_EXPORT)
        if found["version"] != VERSION or type(found["version"]) is not int:
            raise ExportBroken(number, "this is an export of a version that is not known here")
        if not isinstance(found["vkey"], str) or not isinstance(found["origin"], str):
            raise ExportBroken(number, "the header is malformed")
        self._origin, self._vkey = found["origin"], found["vkey"]
        if self._key is not None and self._key != self._vkey:
            raise ExportBroken(number, "the export names another key than the one given")
        if self._vkey.partition("+")[0] != self._origin:
            raise ExportBroken(number, "the key named in the header is not this log's")

    def _earlier(self) -> Checkpoint | None:
        if self._given is None:
            return None
        try:
            return check_note(self._given, (self._vkey,))
        except SignatureError as error:
            raise ExportBroken(1, f"the given head does not verify with the key of this export: {error}") from None

    def _follow(self, number: int, found: dict[str, Any]) -> None:
        if found.keys() != _COLUMNS:
            raise ExportBroken(number, "this is not an event")
        for name, value in found.items():
            if type(value) is not (int if name in _INTEGERS else str):
                raise ExportBroken(number, f"{name} is of the wrong type")
        try:
            self._walk.follow([found[name] for name in COLUMNS])
        except ChainBroken as broken:
            raise ExportBroken(number, str(broken)) from None

    def _agree(self, earlier: Checkpoint | None) -> None:
        if earlier is None or earlier.size != self._walk.size:
            return
        if earlier.root.hex() != self._walk.head:
            raise ExportBroken(self._walk.size + 1, "the given head covers other events: the log was rewritten")

    def _signed(self, number: int, note: Any) -> None:
        try:
            signed = check_note(note if isinstance(note, str) else "", (self._vkey,))
        except SignatureError as error:
            raise ExportBroken(number, f"the signed head does not verify: {error}") from None
        if (signed.size, signed.root.hex()) != (self._walk.size, self._walk.head):
            raise ExportBroken(number, "the signed head covers other events")


def _objects(stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and objects; :class:`ExportBroken` for any line that is not its object's canonical form."""
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise ExportBroken(number, "the line is too long")
        if not raw.endswith(b"\n"):
            raise ExportBroken(number, "the line is cut off")
        yield number, _object(number, raw[:-1])


def _object(number: int, raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
        found = json.loads(text)
        # One spelling for one object: what another reader might read differently (a key given twice) is refused.
        canonical = isinstance(found, dict) and _encode(found) == text
    except (ValueError, RecursionError):
        raise ExportBroken(number, "the line is no JSON") from None
    if not canonical:
        raise ExportBroken(number, "the line is not a canonical JSON object")
    result: dict[str, Any] = found
    return result
