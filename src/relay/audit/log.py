"""Reading the log, newest first, one workspace at a time; the command line may read everything."""

import base64
import binascii
import logging
import re
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, select

from relay.audit.chain import COLUMNS
from relay.audit.details import DetailsState, DetailsUnreadable, open_details, sealed_details
from relay.core.event import AuditEvent
from relay.crypto.envelope import Envelopes
from relay.store.reader import Reader
from relay.store.tables import audit_events

MAX_LIMIT: Final = 200
DEFAULT_LIMIT: Final = 50
SCAN_ROWS: Final = 50_000
MAX_TEXT: Final = 200

_CURSOR: Final = b"before:"
_ESCAPED: Final = re.compile(r"[%_/]")
_SEARCHED: Final = ("id", "tag", "target", "action", "principal", "request_id", "decision", "outcome")

log = logging.getLogger("relay.audit")


def checked_text(value: str) -> str:
    """Return a filter's text; ValueError unless it is one printable line of 1 to 200 characters."""
    if not 1 <= len(value) <= MAX_TEXT or not value.isprintable():
        raise ValueError(f"a filter is one printable line of 1 to {MAX_TEXT} characters")
    return value


@dataclass(frozen=True, slots=True)
class Filters:
    """What to list; None means any.

    ``tag`` is a whole tag or, with ``*`` at its end, a beginning. ``since`` (inclusive) and ``until`` (exclusive) are
    in microseconds. ``q`` is one line that is looked for in ids, tag, target, action, principal, decision and outcome,
    with A-Z and a-z taken as equal; details are not searched. ValueError for a text that :func:`checked_text` refuses.
    """

    tag: str | None = None
    principal: str | None = None
    action: str | None = None
    outcome: str | None = None
    since: int | None = None
    until: int | None = None
    q: str | None = None

    def __post_init__(self) -> None:
        for text in (self.tag, self.principal, self.action, self.outcome, self.q):
            if text is not None:
                checked_text(text)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its details. They are None unless ``details_state`` is ``shown``: there were ``none``, they were
    ``erased``, or what stands in their place is ``unreadable``, which is a sign of tampering or of a missing key."""

    event: AuditEvent
    details: dict[str, Any] | None
    details_state: DetailsState


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, newest first. More may follow while ``next_cursor`` is not None, even after an empty page."""

    entries: tuple[Entry, ...]
    next_cursor: str | None


class AuditLog:
    """The way to a workspace's log."""

    def __init__(self, reader: Reader, envelopes: Envelopes) -> None:
        self._reader = reader
        self._envelopes = envelopes

    def of(self, workspace_id: str) -> "ScopedLog":
        """Return the log of one workspace; ValueError for the empty name, which is the installation's."""
        if not workspace_id:
            raise ValueError("a workspace has a name")
        return ScopedLog(self._reader, self._envelopes, audit_events.c.workspace_id == workspace_id)

    def everything(self) -> "ScopedLog":
        """Return the whole log, the installation's own events included. For the command line alone."""
        return ScopedLog(self._reader, self._envelopes, None)


class ScopedLog:
    """What one reader may see of the log; no method of it leaves the scope."""

    def __init__(self, reader: Reader, envelopes: Envelopes, scope: ColumnElement[bool] | None) -> None:
        self._reader = reader
        self._envelopes = envelopes
        self._scope = () if scope is None else (scope,)

    async def page(self, filters: Filters, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page:
        """Return up to ``limit`` (1 to 200) entries before ``cursor``; ValueError for a malformed one.

        One call looks at no more than 50,000 rows, so that a filter that matches nothing costs milliseconds; then
        the page holds what was found and the cursor goes on from there.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit lies between 1 and {MAX_LIMIT}")
        below = self._scope if cursor is None else (*self._scope, audit_events.c.seq < parse_cursor(cursor))
        floor = None if filters == Filters() else await self._floor(below)
        window = below if floor is None else (*below, audit_events.c.seq >= floor)
        rows = await self._reader.all(_newest(window + _conditions(filters)).limit(limit + 1))
        following = None
        if len(rows) > limit:
            rows = rows[:limit]
            following = make_cursor(rows[-1].seq)
        elif floor is not None:
            following = make_cursor(floor)
        return Page(await self._entries([AuditEvent(*row) for row in rows]), following)

    async def entry(self, event_id: str) -> Entry | None:
        """Return the event of this id, None where the scope has none."""
        rows = await self._reader.all(_newest((*self._scope, audit_events.c.id == event_id)))
        return next(iter(await self._entries([AuditEvent(*row) for row in rows])), None)

    async def _floor(self, below: tuple[ColumnElement[bool], ...]) -> int | None:
        """Return the lowest sequence number this call looks at, or None when it reaches the log's beginning.

        Both columns stand in one index, so that this does not touch the rows.
        """
        seq = audit_events.c.seq
        statement = select(seq).where(and_(True, *below)).order_by(seq.desc()).limit(2).offset(SCAN_ROWS - 1)
        found = await self._reader.all(statement)
        return int(found[0].seq) if len(found) == 2 else None

    async def _entries(self, events: list[AuditEvent]) -> tuple[Entry, ...]:
        committed = [event.id for event in events if event.commitment]
        sealed = await sealed_details(self._reader, committed)
        return tuple(self._entry(event, sealed.get(event.id)) for event in events)

    def _entry(self, event: AuditEvent, body: bytes | None) -> Entry:
        if not event.commitment:
            return Entry(event, None, "none")
        if body is None:
            return Entry(event, None, "erased")
        try:
            details = open_details(
                self._envelopes, body, workspace=event.workspace_id, event_id=event.id, committed=event.commitment
            )
        except DetailsUnreadable as error:
            log.error("the details of audit event %s cannot be read: %s", event.id, error)
            return Entry(event, None, "unreadable")
        return Entry(event, details, "shown")


def make_cursor(seq: int) -> str:
    """Return the cursor of the page that begins before ``seq``."""
    return base64.urlsafe_b64encode(_CURSOR + str(seq).encode()).decode().rstrip("=")


def parse_cursor(cursor: str) -> int:
    """Return the sequence number that the page must stay below; ValueError unless :func:`make_cursor` made it."""
    try:
        raw = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError):
        raise ValueError("the cursor was not made by Relay") from None
    digits = raw.removeprefix(_CURSOR)
    if len(digits) > 18 or not digits.isdigit() or make_cursor(int(digits)) != cursor:
        raise ValueError("the cursor was not made by Relay")
    return int(digits)


def _newest(conditions: tuple[ColumnElement[bool], ...]) -> Select[Any]:
    columns = (audit_events.c[name] for name in COLUMNS)
    return select(*columns).where(and_(True, *conditions)).order_by(audit_events.c.seq.desc())


def _conditions(filters: Filters) -> tuple[ColumnElement[bool], ...]:
    column = audit_events.c
    found: list[ColumnElement[bool]] = []
    for name in ("principal", "action", "outcome"):
        if (value := getattr(filters, name)) is not None:
            found.append(column[name] == value)
    if filters.tag is not None:
        prefix = filters.tag.removesuffix("*")
        found.append(
            column.tag == prefix if prefix == filters.tag else func.substr(column.tag, 1, len(prefix)) == prefix
        )
    if filters.since is not None:
        found.append(column.occurred_at >= filters.since)
    if filters.until is not None:
        found.append(column.occurred_at < filters.until)
    if filters.q is not None:
        found.append(_contains(filters.q))
    return tuple(found)


def _contains(q: str) -> ColumnElement[bool]:
    # The columns are joined by a line feed, which the text looked for cannot hold: no match runs across two columns.
    joined: ColumnElement[str] = audit_events.c[_SEARCHED[0]]
    for name in _SEARCHED[1:]:
        joined = joined + "\n" + audit_events.c[name]
    # Both sides go through the database's own lower(), which on SQLite knows A-Z only.
    return func.lower(joined).like(func.lower("%" + _ESCAPED.sub(r"/\g<0>", q) + "%"), escape="/")
