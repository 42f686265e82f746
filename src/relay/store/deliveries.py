"""Messages to webhook endpoints and their deliveries. A delivery under way is leased under a fencing number.

While a delivery is leased its ``due_at`` is the lease's end, so that one whose sender died is due again by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import and_, bindparam, exists, func, insert, literal_column, or_, select, update
from sqlalchemy.orm import aliased

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables.webhooks_out import (
    webhook_attempts,
    webhook_deliveries,
    webhook_endpoints,
    webhook_messages,
)
from relay.store.writer import Tx

DeliveryStatus = Literal["pending", "succeeded", "dead"]


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A message on its way to one endpoint. ``fence`` counts the claims, ``attempts`` those that came to an end."""

    id: str
    workspace_id: str
    endpoint_id: str
    message_id: str
    type: str
    status: DeliveryStatus
    attempts: int
    due_at: int
    lease_until: int | None
    fence: int
    created_at: int
    finished_at: int | None
    replay_of: str | None
    status_code: int | None
    error_code: str | None
    expires_at: int


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt of a delivery, numbered from 1."""

    delivery_id: str
    number: int
    workspace_id: str
    started_at: int
    duration_ms: int
    status_code: int | None
    error_code: str | None
    error_detail: str | None
    expires_at: int


_D: Final = webhook_deliveries.c
_COLUMNS: Final = [_D[name] for name in DeliveryRow.__dataclass_fields__]
_ATTEMPT: Final = [webhook_attempts.c[name] for name in AttemptRow.__dataclass_fields__]
# In the statement's text: only then does SQLite see that the index over what is due serves it.
_PENDING: Final = _D.status == literal_column("'pending'")
_THIS: Final = and_(_D.id == bindparam("delivery"), _D.workspace_id == bindparam("ws"))
_OF_ENDPOINT: Final = and_(_D.endpoint_id == bindparam("endpoint"), _D.workspace_id == bindparam("ws"))

_INSERT_MESSAGE: Final = Query(insert(webhook_messages))
_INSERT: Final = Query(insert(webhook_deliveries))
_INSERT_ATTEMPT: Final = Query(insert(webhook_attempts))
_DUE: Final = Query(
    select(*_COLUMNS)
    .where(_OF_ENDPOINT, _PENDING, _D.due_at <= bindparam("moment"))
    .order_by(_D.due_at, _D.id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_LEASED: Final = Query(
    select(func.count())
    .select_from(webhook_deliveries)
    .where(_D.endpoint_id == bindparam("endpoint"), _D.lease_until > bindparam("moment"))
)
_CLAIM: Final = Query(
    update(webhook_deliveries)
    .where(_THIS, _PENDING, _D.fence == bindparam("held"))
    .values(fence=_D.fence + 1, lease_until=bindparam("until"), due_at=bindparam("until"))
)
_FINISH: Final = Query(
    update(webhook_deliveries)
    .where(_THIS, _D.fence == bindparam("held"), _D.lease_until.is_not(None))
    .values(
        status=bindparam("to_status"),
        attempts=_D.attempts + 1,
        due_at=bindparam("due"),
        lease_until=None,
        finished_at=bindparam("finished"),
        status_code=bindparam("answered"),
        error_code=bindparam("code"),
    )
)
_GIVE_BACK: Final = Query(
    update(webhook_deliveries)
    .where(_THIS, _PENDING, _D.fence == bindparam("held"))
    .values(lease_until=None, due_at=bindparam("due"))
)
_GIVE_UP: Final = Query(
    update(webhook_deliveries)
    .where(_OF_ENDPOINT, _PENDING)
    .values(status="dead", finished_at=bindparam("finished"), error_code=bindparam("code"))
)
_pending = aliased(webhook_deliveries)
_CLOSE: Final = Query(
    update(webhook_deliveries)
    .where(
        _D.id.in_(
            select(_pending.c.id)
            .where(_pending.c.endpoint_id == bindparam("endpoint"), _pending.c.status == literal_column("'pending'"))
            .with_for_update(skip_locked=True)
        )
    )
    .values(status="dead", finished_at=bindparam("finished"), error_code=bindparam("code"))
)
_VOID_LEASES: Final = Query(
    update(webhook_deliveries).where(_D.lease_until.is_not(None)).values(lease_until=None, due_at=bindparam("due"))
)
_STATUS: Final = Query(select(_D.status).where(_THIS))
_PENDING_OF: Final = Query(
    select(*_COLUMNS)
    .where(
        _D.message_id == bindparam("message"),
        _D.endpoint_id == bindparam("endpoint"),
        _D.workspace_id == bindparam("ws"),
        _PENDING,
    )
    .limit(1)
)
_HASTEN: Final = Query(update(webhook_deliveries).where(_THIS, _PENDING).values(due_at=bindparam("due")))
_GET: Final = Query(select(*_COLUMNS).where(_THIS))
_later = aliased(webhook_deliveries)
_DEAD: Final = Query(
    select(*_COLUMNS)
    .where(
        _OF_ENDPOINT,
        _D.id > bindparam("after"),
        _D.status == "dead",
        _D.created_at >= bindparam("since"),
        ~exists().where(
            _later.c.message_id == _D.message_id, _later.c.endpoint_id == _D.endpoint_id, _later.c.id > _D.id
        ),
    )
    .order_by(_D.id)
    .limit(bindparam("most"))
)

_WAITING: Final = Query(
    select(_D.id)
    .where(
        _OF_ENDPOINT,
        _PENDING,
        _D.id > bindparam("after"),
        _D.attempts > 0,
        _D.due_at > bindparam("later"),
        # The due time of one under way is the end of its lease.
        or_(_D.lease_until.is_(None), _D.lease_until <= bindparam("moment")),
        _D.created_at >= bindparam("since"),
    )
    .order_by(_D.id)
    .limit(bindparam("most"))
)


def _values(row: DeliveryRow | AttemptRow) -> Mapping[str, Any]:
    return {name: getattr(row, name) for name in type(row).__dataclass_fields__}


def new_delivery(
    id: str,
    *,
    workspace_id: str,
    endpoint_id: str,
    message_id: str,
    type: str,
    at: int,
    expires_at: int,
    replay_of: str | None = None,
) -> DeliveryRow:
    """Return a delivery that is due at once."""
    return DeliveryRow(
        id=id,
        workspace_id=workspace_id,
        endpoint_id=endpoint_id,
        message_id=message_id,
        type=type,
        status="pending",
        attempts=0,
        due_at=at,
        lease_until=None,
        fence=0,
        created_at=at,
        finished_at=None,
        replay_of=replay_of,
        status_code=None,
        error_code=None,
        expires_at=expires_at,
    )


def insert_messages(tx: Tx, rows: Sequence[dict[str, Any]]) -> None:
    """Add messages: id, workspace_id, type, created_at, expires_at."""
    tx.many(_INSERT_MESSAGE, rows)


def insert_deliveries(tx: Tx, rows: Sequence[DeliveryRow]) -> None:
    """Add deliveries."""
    tx.many(_INSERT, [dict(_values(row)) for row in rows])


class DeliveryRepository:
    """The deliveries of one workspace."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def next_due(self, tx: Tx, endpoint_id: str, moment: int) -> DeliveryRow | None:
        """Return the delivery of an endpoint that has been due the longest, if any is."""
        row = tx.one(_DUE, endpoint=endpoint_id, ws=self._workspace, moment=moment)
        return DeliveryRow(*row) if row else None

    def claim(self, tx: Tx, row: DeliveryRow, until: int) -> bool:
        """Lease a delivery; False when another process was quicker."""
        return tx.run(_CLAIM, delivery=row.id, ws=self._workspace, held=row.fence, until=until) == 1

    def finish(
        self,
        tx: Tx,
        delivery_id: str,
        *,
        fence: int,
        status: DeliveryStatus,
        due_at: int,
        finished_at: int | None,
        status_code: int | None,
        error_code: str | None,
    ) -> bool:
        """Write what an attempt came to; False when the lease was lost to another claim."""
        return (
            tx.run(
                _FINISH,
                delivery=delivery_id,
                ws=self._workspace,
                held=fence,
                to_status=status,
                due=due_at,
                finished=finished_at,
                answered=status_code,
                code=error_code,
            )
            == 1
        )

    def give_back(self, tx: Tx, delivery_id: str, *, fence: int, due_at: int) -> bool:
        """Make a delivery that was leased due then; False when the lease was lost to another claim."""
        return tx.run(_GIVE_BACK, delivery=delivery_id, ws=self._workspace, held=fence, due=due_at) == 1

    def give_up(self, tx: Tx, endpoint_id: str, *, at: int, reason: str) -> int:
        """Make every pending delivery of an endpoint a dead letter; return how many there were."""
        return tx.run(_GIVE_UP, endpoint=endpoint_id, ws=self._workspace, finished=at, code=reason)

    def status(self, tx: Tx, delivery_id: str) -> str | None:
        """Return the status of a delivery, None when there is no such one."""
        row = tx.one(_STATUS, delivery=delivery_id, ws=self._workspace)
        return str(row[0]) if row else None

    def insert_attempt(self, tx: Tx, row: AttemptRow) -> None:
        """Add an attempt to the log."""
        tx.run(_INSERT_ATTEMPT, **_values(row))

    def get(self, tx: Tx, delivery_id: str) -> DeliveryRow | None:
        """Return a delivery, or None; nobody changes it while its endpoint is locked."""
        row = tx.one(_GET, delivery=delivery_id, ws=self._workspace)
        return DeliveryRow(*row) if row else None

    def pending_of(self, tx: Tx, message_id: str, endpoint_id: str) -> DeliveryRow | None:
        """Return the pending delivery of a message to a locked endpoint, if there is one."""
        row = tx.one(_PENDING_OF, message=message_id, endpoint=endpoint_id, ws=self._workspace)
        return DeliveryRow(*row) if row else None

    def hasten(self, tx: Tx, delivery_ids: Sequence[str], due_at: int) -> None:
        """Make pending deliveries of a locked endpoint, none of which is under way, due then."""
        tx.many(_HASTEN, [{"delivery": id, "ws": self._workspace, "due": due_at} for id in delivery_ids])

    def waiting_since(
        self, tx: Tx, endpoint_id: str, *, since: int, moment: int, held: bool, after: str, most: int
    ) -> list[str]:
        """Return deliveries of an endpoint that have failed and wait for a later time than ``moment``, oldest first.

        With ``held``, those as well that are due and wait for the endpoint itself.
        """
        rows = tx.all(
            _WAITING,
            endpoint=endpoint_id,
            ws=self._workspace,
            since=since,
            moment=moment,
            later=0 if held else moment,
            after=after,
            most=most,
        )
        return [str(row[0]) for row in rows]

    def dead_since(self, tx: Tx, endpoint_id: str, *, since: int, after: str, most: int) -> list[DeliveryRow]:
        """Return dead letters of an endpoint, oldest first, whose message has had no later delivery there."""
        rows = tx.all(_DEAD, endpoint=endpoint_id, ws=self._workspace, since=since, after=after, most=most)
        return [DeliveryRow(*row) for row in rows]

    async def find(self, reader: Reader, delivery_id: str) -> DeliveryRow | None:
        """Return a delivery, or None."""
        row = await reader.one(select(*_COLUMNS).where(_D.id == delivery_id, _D.workspace_id == self._workspace))
        return DeliveryRow(*row) if row else None

    async def attempts_of(self, reader: Reader, delivery_id: str) -> list[AttemptRow]:
        """Return the attempts of a delivery in order."""
        statement = select(*_ATTEMPT).where(
            webhook_attempts.c.delivery_id == delivery_id, webhook_attempts.c.workspace_id == self._workspace
        )
        return [AttemptRow(*row) for row in await reader.all(statement.order_by(webhook_attempts.c.number))]

    async def page(
        self,
        reader: Reader,
        *,
        limit: int,
        before: str | None = None,
        endpoint: str | None = None,
        status: str | None = None,
        type: str | None = None,
        since: int | None = None,
    ) -> list[DeliveryRow]:
        """Return up to ``limit`` deliveries, newest first, older than ``before``; the filters must all hold."""
        statement = select(*_COLUMNS).where(_D.workspace_id == self._workspace)
        for column, wanted in ((_D.endpoint_id, endpoint), (_D.status, status), (_D.type, type)):
            if wanted is not None:
                statement = statement.where(column == wanted)
        if since is not None:
            statement = statement.where(_D.created_at >= since)
        if before is not None:
            statement = statement.where(_D.id < before)
        return [DeliveryRow(*row) for row in await reader.all(statement.order_by(_D.id.desc()).limit(limit))]


class DeliveriesOfAllWorkspaces:
    """What the sender alone needs: what is due, wherever it belongs."""

    @staticmethod
    def leased(tx: Tx, endpoint_id: str, moment: int) -> int:
        """Return how many deliveries of an endpoint are under way."""
        row = tx.one(_LEASED, endpoint=endpoint_id, moment=moment)
        return int(row[0]) if row else 0

    @staticmethod
    async def endpoints_due(reader: Reader, moment: int, limit: int) -> list[str]:
        """Return enabled endpoints that are not paused and have something due: one index look-up for each endpoint."""
        e = webhook_endpoints.c
        due = exists().where(_D.endpoint_id == e.id, _PENDING, _D.due_at <= moment)
        statement = (
            select(e.id)
            .where(e.status == "enabled", or_(e.paused_until.is_(None), e.paused_until <= moment), due)
            .limit(limit)
        )
        return [str(row[0]) for row in await reader.all(statement)]

    @staticmethod
    async def stranded(reader: Reader, limit: int) -> list[tuple[str, str]]:
        """Return endpoints, with their workspaces, that are deleted or disabled and have something pending.

        An event that is written at the moment of the deletion leaves such a delivery. One index look-up for each
        endpoint that has something pending.
        """
        pending, e = aliased(webhook_deliveries).c, webhook_endpoints.c
        waits = pending.status == literal_column("'pending'")
        seen = select(func.min(pending.endpoint_id).label("id")).where(waits).cte("seen", recursive=True)
        following = select(func.min(pending.endpoint_id)).where(waits, pending.endpoint_id > seen.c.id)
        seen = seen.union_all(select(following.correlate(seen).scalar_subquery()).where(seen.c.id.is_not(None)))
        workspace = select(pending.workspace_id).where(waits, pending.endpoint_id == seen.c.id).limit(1)
        statement = (
            select(seen.c.id, workspace.correlate(seen).scalar_subquery())
            .where(seen.c.id.is_not(None), ~exists().where(e.id == seen.c.id, e.status == "enabled"))
            .order_by(seen.c.id)
            .limit(limit)
        )
        return [(str(id), str(ws)) for id, ws in await reader.all(statement) if ws is not None]

    @staticmethod
    def close(tx: Tx, endpoint_id: str, *, at: int, reason: str) -> int:
        """Make dead letters of what is pending for an endpoint that has nobody to lock; skips what others change."""
        return tx.run(_CLOSE, endpoint=endpoint_id, finished=at, code=reason)

    @staticmethod
    def void_leases(tx: Tx, moment: int) -> int:
        """Take back every lease and return how many; right only where no other process can be sending."""
        return tx.run(_VOID_LEASES, due=moment)
