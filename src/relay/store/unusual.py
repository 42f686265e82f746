"""What the watch for unusual use stands on: its place in the log under a lease, sightings of keys, and habits.

Only one process holds the lease; each change of hands raises the fence, and what is written names the fence and the
place that it was reckoned from. So nothing is counted twice, whatever becomes of the processes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, update

from relay.core.clock import DAY
from relay.store.envelopes import EnvelopeRepository
from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import api_keys, audit_events, audit_head, envelopes
from relay.store.tables.unusual import unusual_cursor, unusual_sightings
from relay.store.vault import Sealed, Vault
from relay.store.writer import Tx

PURPOSE: Final = "habits"
SIGHTING_KEPT: Final = 7 * DAY
"""For how long a sighting waits where nobody reads it."""

_C: Final = unusual_cursor.c
_S: Final = unusual_sightings.c
_E: Final = audit_events.c
_READ: Final = Query(select(_C.seq, _C.began_at, _C.holder, _C.lease_until, _C.fence).with_for_update())
_BEGIN: Final = Query(insert(unusual_cursor))
_TAKE: Final = Query(
    update(unusual_cursor).values(holder=bindparam("who"), lease_until=bindparam("until"), fence=bindparam("number"))
)
_MOVE: Final = Query(update(unusual_cursor).values(seq=bindparam("reached"), lease_until=bindparam("until")))
_LEAVE: Final = Query(update(unusual_cursor).where(_C.fence == bindparam("held")).values(lease_until=0))
_SEEN: Final = Query(
    update(unusual_sightings)
    .where(_S.key_id == bindparam("key"), _S.block == bindparam("net"))
    .values(seen_at=bindparam("at"))
)
_SIGHT: Final = Query(insert(unusual_sightings))
_TAKEN: Final = Query(
    delete(unusual_sightings).where(
        _S.key_id == bindparam("key"), _S.block == bindparam("net"), _S.seen_at == bindparam("at")
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """How far the log was read, and since when there are findings. ``fence`` is the holder's."""

    seq: int
    began_at: int
    fence: int


@dataclass(frozen=True, slots=True)
class Sighting:
    """A key was used from a network. ``seen_at`` is in microseconds."""

    key_id: str
    workspace_id: str
    block: str
    seen_at: int


@dataclass(frozen=True, slots=True)
class Logged:
    """What an audit event says about the use of a key."""

    seq: int
    occurred_at: int
    workspace_id: str
    key_id: str
    tag: str
    action: str
    decision: str
    outcome: str


class LostLease(Exception):
    """Another process reads the log now; nothing was written."""


def take_lease(tx: Tx, holder: str, at: int, until: int, start: int) -> Place | None:
    """Return the place in the log when ``holder`` has the lease until then, None while another process has it.

    The first of all begins after ``start``.
    """
    row = tx.one(_READ)
    if row is None:
        tx.run(_BEGIN, one=1, seq=start, began_at=at, holder=holder, lease_until=until, fence=1)
        return Place(start, at, 1)
    seq, began_at, held_by, lease_until, fence = row
    if held_by != holder and lease_until > at:
        return None
    if held_by != holder:
        fence += 1
    tx.run(_TAKE, who=holder, until=until, number=fence)
    return Place(seq, began_at, fence)


def move(tx: Tx, place: Place, reached: int, until: int) -> None:
    """Move the place in the log on; :class:`LostLease`, before anything was written, when it is not the holder's."""
    row = tx.one(_READ)
    if row is None or (row[0], row[4]) != (place.seq, place.fence):
        raise LostLease
    tx.run(_MOVE, reached=reached, until=until)


def leave(tx: Tx, place: Place) -> None:
    """Give the lease back, so that another process need not wait for its end."""
    tx.run(_LEAVE, held=place.fence)


def note_sightings(tx: Tx, sightings: Sequence[Sighting]) -> None:
    """Keep sightings until they are taken, once for each key and network."""
    # In the order of ids: two processes that lock the same rows in different orders would wait for each other.
    for one in sorted(sightings, key=lambda one: (one.key_id, one.block)):
        if not tx.run(_SEEN, key=one.key_id, net=one.block, at=one.seen_at):
            tx.run(
                _SIGHT,
                key_id=one.key_id,
                block=one.block,
                workspace_id=one.workspace_id,
                seen_at=one.seen_at,
                expires_at=one.seen_at + SIGHTING_KEPT,
            )


def drop_sightings(tx: Tx, sightings: Sequence[Sighting]) -> None:
    """Forget sightings that have been taken in; one that was renewed meanwhile stays."""
    for one in sorted(sightings, key=lambda one: (one.key_id, one.block)):
        tx.run(_TAKEN, key=one.key_id, net=one.block, at=one.seen_at)


def keep_habits(tx: Tx, sealed: Sealed) -> None:
    """Replace the habits of one key or workspace."""
    EnvelopeRepository(sealed.workspace_id).drop(tx, purpose=PURPOSE, record_id=sealed.record_id)
    Vault.put(tx, sealed)


async def waiting_sightings(reader: Reader, limit: int) -> list[Sighting]:
    """Return the sightings that have waited longest."""
    statement = select(_S.key_id, _S.workspace_id, _S.block, _S.seen_at).order_by(_S.seen_at).limit(limit)
    return [Sighting(*row) for row in await reader.all(statement)]


async def log_size(reader: Reader) -> int:
    """Return how many events the log holds."""
    row = await reader.one(select(audit_head.c.size))
    return int(row[0]) if row else 0


async def first_since(reader: Reader, at: int) -> int:
    """Return the place before the first event that is not older than ``at``, by halving the log."""
    low, high = 0, await log_size(reader)
    while low < high:
        middle = (low + high) // 2 + 1
        row = await reader.one(select(_E.occurred_at).where(_E.seq == middle))
        if row is None or row[0] >= at:
            high = middle - 1
        else:
            low = middle
    return low


async def logged(reader: Reader, after: int, upto: int, tags: Collection[str]) -> list[Logged]:
    """Return the events of API keys with ``after`` < seq <= ``upto`` that have one of the tags, in order."""
    statement = (
        select(_E.seq, _E.occurred_at, _E.workspace_id, _E.principal, _E.tag, _E.action, _E.decision, _E.outcome)
        .where(_E.seq > after, _E.seq <= upto, _E.tag.in_(tags), func.substr(_E.principal, 1, 4) == "key_")
        .order_by(_E.seq)
    )
    return [Logged(*row) for row in await reader.all(statement)]


async def parents_of(reader: Reader, key_ids: Collection[str]) -> dict[str, str | None]:
    """Return for each of these keys that exist who minted it as a child token, None for one that is none."""
    rows = await reader.all(select(api_keys.c.id, api_keys.c.parent_id).where(api_keys.c.id.in_(key_ids)))
    return {str(key): parent for key, parent in rows}


async def predecessors_of(reader: Reader, key_ids: Collection[str]) -> dict[str, str]:
    """Return for each of these keys that followed another by rotation which one that was."""
    rows = await reader.all(select(api_keys.c.successor_id, api_keys.c.id).where(api_keys.c.successor_id.in_(key_ids)))
    return {str(key): str(before) for key, before in rows}


async def lease_of(reader: Reader) -> tuple[int, str, int] | None:
    """Return how far the log was read, and who has the lease until when; None before anybody had it."""
    row = await reader.one(select(_C.seq, _C.holder, _C.lease_until))
    return (int(row[0]), str(row[1]), int(row[2])) if row else None


async def sealed_habits(reader: Reader, records: Collection[str]) -> dict[tuple[str, str], bytes]:
    """Return the envelopes of habits that there are, by workspace and record."""
    statement = select(envelopes.c.workspace_id, envelopes.c.record_id, envelopes.c.body).where(
        envelopes.c.purpose == PURPOSE, envelopes.c.record_id.in_(records)
    )
    return {(str(workspace), str(record)): bytes(body) for workspace, record, body in await reader.all(statement)}
