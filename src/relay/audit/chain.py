"""The chain itself, without I/O: a row's canonical form, its hash, and walking from row to row.

    hash = hex SHA-256("relay-audit-v1" LF canonical(row without hash))

The canonical form is RFC 8785. Each row holds the hash of the row before it; before the first stand 64 zeros.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from json.encoder import encode_basestring as _quote
from typing import Any, Final

from relay.core.event import AuditEvent
from relay.crypto.digest import sha256_hex

GENESIS: Final = "0" * 64
COLUMNS: Final[tuple[str, ...]] = tuple(field.name for field in fields(AuditEvent))
MAX_ROW_BYTES: Final = 8192

_LABEL: Final = "relay-audit-v1\n"
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


class ChainBroken(Exception):
    """The chain does not hold. ``seq`` is where the damage shows; it may begin earlier when rows were made to fit."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"event {seq}: {reason}")
        self.seq = seq
        self.reason = reason


def canonical_row(
    seq: int,
    id: str,
    occurred_at: int,
    workspace_id: str,
    principal: str,
    request_id: str,
    tag: str,
    target: str,
    action: str,
    decision: str,
    digest: str,
    outcome: str,
    commitment: str,
    prev_hash: str,
) -> str:
    """Return the RFC 8785 form of a row without its hash.

    Spelt out, because it runs for every event: the keys are fixed and the values are texts and integers within
    ±(2^53−1), for which the escapes of ``json`` are those of RFC 8785, 3.2.2.2.
    """
    return (
        f'{{"action":{_quote(action)},"commitment":{_quote(commitment)},"decision":{_quote(decision)}'
        f',"digest":{_quote(digest)},"id":{_quote(id)},"occurred_at":{occurred_at},"outcome":{_quote(outcome)}'
        f',"prev_hash":{_quote(prev_hash)},"principal":{_quote(principal)},"request_id":{_quote(request_id)}'
        f',"seq":{seq},"tag":{_quote(tag)},"target":{_quote(target)},"workspace_id":{_quote(workspace_id)}}}'
    )


def hash_of(canonical: str) -> str:
    """Return the hash of a row from its canonical form; UnicodeEncodeError for a lone surrogate."""
    return sha256_hex((_LABEL + canonical).encode())


def row_hash(row: Sequence[Any]) -> str:
    """Return the hash that ``row`` (the values of :data:`COLUMNS`, ``hash`` last or left out) ought to carry."""
    return hash_of(canonical_row(*row[:14]))


class Walk:
    """Follows a chain row by row: ``size`` rows so far, the last of which has the hash ``head``."""

    __slots__ = ("head", "size")

    def __init__(self, size: int = 0, head: str = GENESIS) -> None:
        self.size = size
        self.head = head

    def follow(self, row: Sequence[Any]) -> None:
        """Take the next row (the values of :data:`COLUMNS`); :class:`ChainBroken` unless it belongs exactly here."""
        expected = self.size + 1
        if row[0] != expected:
            raise ChainBroken(expected, f"is missing; the next row says it is event {row[0]!r}")
        if row[13] != self.head:
            raise ChainBroken(expected, "does not follow from the event before it")
        try:
            right = row_hash(row)
        except (TypeError, UnicodeEncodeError):
            raise ChainBroken(expected, "holds a value that no event can hold") from None
        if row[14] != right:
            raise ChainBroken(expected, "was changed: its hash does not match its content")
        self.size = expected
        self.head = right


def row_line(row: Sequence[Any]) -> str:
    """Return the RFC 8785 form of a whole row, its hash included: a line of an export."""
    return _encode(dict(zip(COLUMNS, row, strict=True)))
