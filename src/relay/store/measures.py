"""How much of what there is: figures about the database for metrics. They name no workspace and no row.

No statement takes more than :data:`MOST_COUNTED` rows: a figure that stands there means that many or more. Every one
reads from an index, but for that about keys, which sorts them by their end and is asked for less often. None takes a
lock.
"""

from typing import Final

from sqlalchemy import ColumnElement, Executable, Integer, Select, and_, func, literal_column, or_, select

from relay.core.clock import DAY, MICROSECONDS, now
from relay.store.reader import Reader
from relay.store.tables import api_keys, attempts, audit_events, audit_head, run_events, runs
from relay.store.tables.approvals import approvals
from relay.store.tables.budgets import kill_switch
from relay.store.tables.chat import chat_sessions, chat_turns
from relay.store.tables.webhooks_out import webhook_deliveries, webhook_endpoints
from relay.telemetry.layout import Series, zeros

MOST_COUNTED: Final = 10_000
SHORT_LIFE: Final = 14 * DAY
"""A key that was made to live no longer than this is meant to end: its end is no news. The earliest warning of its
workspace comes as long before (``relay.webhooks.watch``)."""

_LIMIT: Final = literal_column(str(MOST_COUNTED), Integer)
_OPEN_RUNS: Final = ("queued", "running", "pending_approval")
_OPEN_TURNS: Final = ("running", "awaiting_approval")

Figures = dict[str, dict[Series, float]]


class Measures:
    """Reads figures; every method raises StoreUnavailable when the database cannot be read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def read(self) -> Figures:
        """Return what changes from moment to moment: work that waits, the log, endpoints, switches."""
        at = now()
        return {
            **await self._runs(),
            **await self._approvals(at),
            **await self._queue(at),
            **await self._chat(at),
            **await self._endpoints(),
            **await self._audit(),
            **await self._kill_switch(),
        }

    async def keys(self) -> Figures:
        """Return the figures about API keys, which cost the most rows and change slowly.

        The soonest end is of keys without successor that were made to live longer than :data:`SHORT_LIFE`.
        """
        at, key = now(), api_keys.c
        living = (
            select(key.kind, key.created_at, key.expires_at, key.successor_id)
            .where(key.revoked_at.is_(None), key.quarantined_at.is_(None), key.expires_at > at)
            .where(key.parent_id.is_(None), key.honey == 0)
            .order_by(key.expires_at)
            .limit(_LIMIT)
            .subquery()
        )
        long_lived = living.c.expires_at - living.c.created_at > SHORT_LIFE
        ends = func.min(living.c.expires_at).filter(living.c.successor_id.is_(None), long_lived)
        rows = await self._reader.all(select(living.c.kind, func.count(), ends).group_by(living.c.kind))
        found: Figures = zeros("relay_keys", "relay_key_soonest_end_timestamp_seconds")
        for kind, count, _ in rows:
            found["relay_keys"][(str(kind),)] = float(count)
        soonest = min((end for _, _, end in rows if end is not None), default=0)
        found["relay_key_soonest_end_timestamp_seconds"][()] = soonest / MICROSECONDS
        return found

    async def _runs(self) -> Figures:
        found: Figures = zeros("relay_runs")
        for status in _OPEN_RUNS:
            some = select(runs.c.id).where(runs.c.status == literal_column(f"'{status}'")).limit(_LIMIT).subquery()
            found["relay_runs"][(status,)] = await self._number(select(func.count()).select_from(some))
        return found

    async def _approvals(self, at: int) -> Figures:
        pending = (
            select(approvals.c.created_at)
            .where(approvals.c.status == literal_column("'pending'"))
            .order_by(approvals.c.expires_at)
            .limit(_LIMIT)
            .subquery()
        )
        count, age = await self._count_and_age(pending.c.created_at, at)
        return {"relay_approvals_waiting": {(): count}, "relay_approvals_oldest_seconds": {(): age}}

    async def _queue(self, at: int) -> Figures:
        found: Figures = zeros("relay_queue_depth", "relay_queue_oldest_seconds")
        for kind, due in (("run", _due_runs(at)), ("attempt", _due_attempts(at)), ("delivery", _due_deliveries(at))):
            count, age = await self._count_and_age(due.subquery().c.since, at)
            found["relay_queue_depth"][(kind,)] = count
            found["relay_queue_oldest_seconds"][(kind,)] = age
        return found

    async def _chat(self, at: int) -> Figures:
        found: Figures = zeros("relay_chat_turns_open")
        for status in _OPEN_TURNS:
            turn = select(chat_turns.c.id).where(chat_turns.c.status == literal_column(f"'{status}'"))
            counted = select(func.count()).select_from(turn.limit(_LIMIT).subquery())
            found["relay_chat_turns_open"][(status,)] = await self._number(counted)
        sessions = select(chat_sessions.c.id).limit(_LIMIT).subquery()
        _, age = await self._count_and_age(_abandoned_turns(at).subquery().c.since, at)
        return {
            **found,
            "relay_chat_sessions": {(): await self._number(select(func.count()).select_from(sessions))},
            "relay_chat_abandoned_seconds": {(): age},
        }

    async def _endpoints(self) -> Figures:
        found: Figures = zeros("relay_webhook_endpoints")
        some = select(webhook_endpoints.c.status, webhook_endpoints.c.failures).limit(_LIMIT).subquery()
        failing = and_(some.c.status == "enabled", some.c.failures > 0)
        rows = await self._reader.all(
            select(some.c.status, failing.label("failing"), func.count()).group_by(some.c.status, "failing")
        )
        for status, fails, count in rows:
            found["relay_webhook_endpoints"][("failing" if fails else str(status),)] = float(count)
        return found

    async def _audit(self) -> Figures:
        size = await self._number(select(audit_head.c.size))
        newest = select(audit_events.c.occurred_at).order_by(audit_events.c.seq.desc()).limit(1)
        return {
            "relay_audit_size": {(): size},
            "relay_audit_last_event_timestamp_seconds": {(): await self._number(newest) / MICROSECONDS},
        }

    async def _kill_switch(self) -> Figures:
        found: Figures = zeros("relay_kill_switch_on")
        some = select(kill_switch.c.kind).limit(_LIMIT).subquery()
        for kind, count in await self._reader.all(select(some.c.kind, func.count()).group_by(some.c.kind)):
            found["relay_kill_switch_on"][(str(kind),)] = float(count)
        return found

    async def _number(self, statement: Executable) -> float:
        row = await self._reader.one(statement)
        return float(row[0]) if row is not None and row[0] is not None else 0.0

    async def _count_and_age(self, since: ColumnElement[int], at: int) -> tuple[float, float]:
        row = await self._reader.one(select(func.count(), func.min(since)))
        if row is None or row[1] is None:
            return 0.0, 0.0
        return float(row[0]), max(0, at - row[1]) / MICROSECONDS


def _due_runs(at: int) -> Select[tuple[int]]:
    """Runs that nobody works on: queued, since their last change, or begun by a process that is gone."""
    waiting = or_(
        runs.c.status == literal_column("'queued'"),
        and_(runs.c.status == literal_column("'running'"), runs.c.lease_until < at),
    )
    some = select(runs.c.id, runs.c.lease_until).where(waiting).order_by(runs.c.id).limit(_LIMIT).subquery()
    changed = select(func.max(run_events.c.occurred_at)).where(run_events.c.run_id == some.c.id).scalar_subquery()
    return select(func.coalesce(some.c.lease_until, changed).label("since"))


def _abandoned_turns(at: int) -> Select[tuple[int]]:
    """Turns that run and that nobody works on: since their lease ended, or where it was given back, they began."""
    turn = chat_turns.c
    left = or_(turn.lease_until.is_(None), turn.lease_until < at)
    return (
        select(func.coalesce(turn.lease_until, turn.created_at).label("since"))
        .where(turn.status == literal_column("'running'"), left)
        .limit(_LIMIT)
    )


def _due_attempts(at: int) -> Select[tuple[int]]:
    ready = attempts.c.status == literal_column("'ready'")
    return (
        select(attempts.c.not_before.label("since"))
        .where(ready, attempts.c.not_before <= at)
        .order_by(attempts.c.not_before)
        .limit(_LIMIT)
    )


def _due_deliveries(at: int) -> Select[tuple[int]]:
    """Deliveries that could be made; those that an endpoint's pause or end holds back are not waited for."""
    row, endpoint = webhook_deliveries.c, webhook_endpoints.c
    return (
        select(row.due_at.label("since"))
        .join_from(webhook_endpoints, webhook_deliveries, row.endpoint_id == endpoint.id)
        .where(
            endpoint.status == literal_column("'enabled'"),
            or_(endpoint.paused_until.is_(None), endpoint.paused_until <= at),
            row.status == literal_column("'pending'"),
            row.due_at <= at,
            or_(row.lease_until.is_(None), row.lease_until < at),
        )
        .limit(_LIMIT)
    )
