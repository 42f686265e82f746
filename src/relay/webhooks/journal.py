"""The transitions of deliveries, each one transaction: what an attempt came to, and the claim of the next."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sqlalchemy import and_, bindparam, insert, select

from relay.core.clock import now
from relay.crypto.envelope import Envelopes, sealed_with
from relay.store.database import Database
from relay.store.deliveries import AttemptRow, DeliveriesOfAllWorkspaces, DeliveryRepository, DeliveryRow
from relay.store.endpoints import PURPOSE as ENDPOINT_PURPOSE
from relay.store.endpoints import EndpointRepository, EndpointRow, EndpointsOfAllWorkspaces
from relay.store.query import Query
from relay.store.tables import envelopes as envelopes_table
from relay.store.writer import Tx
from relay.telemetry.metrics import Metrics
from relay.webhooks.health import close_stranded, note_failure, note_success
from relay.webhooks.outbox import PURPOSE as MESSAGE_PURPOSE
from relay.webhooks.outbox import Outbox
from relay.webhooks.schedule import Schedule
from relay.webhooks.sealed import Sealed
from relay.webhooks.turns import in_turn

ANSWER_PURPOSE: Final = "webhook-answer"
ERASED: Final = "event_erased"

_BODY: Final = Query(
    select(envelopes_table.c.body).where(
        and_(
            envelopes_table.c.purpose == MESSAGE_PURPOSE,
            envelopes_table.c.record_id == bindparam("message"),
            envelopes_table.c.workspace_id == bindparam("ws"),
        )
    )
)
_PUT: Final = Query(insert(envelopes_table))


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that this process makes. ``body`` is None once the event has been erased.

    ``suspect`` says that the endpoint's breaker is open: this is the only delivery to it under way.
    """

    delivery: DeliveryRow
    fence: int
    sealed: Sealed
    legacy: bool
    suspect: bool
    body: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attempted:
    """What an attempt came to: a status, or the error that kept one from coming.

    ``asked`` is how long the receiver asks to be spared (microseconds), ``answer`` the beginning of what it said.
    """

    claim: Claim
    started_at: int
    duration_ms: int
    status_code: int | None = None
    error: tuple[str, str] | None = None
    asked: int | None = None
    answer: bytes = field(default=b"", repr=False)

    @property
    def succeeded(self) -> bool:
        """Whether the receiver has taken the message."""
        return self.status_code is not None and 200 <= self.status_code < 300


@dataclass(frozen=True, slots=True)
class _Found:
    endpoint: EndpointRow
    delivery: DeliveryRow
    suspect: bool
    config: bytes
    body: bytes | None


class Journal:
    """Claims deliveries and writes what became of them. The schedule bounds how many are under way."""

    def __init__(
        self,
        database: Database,
        keys: Envelopes,
        outbox: Outbox,
        schedule: Schedule,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or Metrics.off()
        self._deliveries = metrics.counter("relay_webhook_deliveries_total")
        self._seconds = metrics.histogram("relay_webhook_delivery_duration_seconds")
        self._database = database
        self._keys = keys
        self._outbox = outbox
        self._schedule = schedule

    async def next(self, endpoint_id: str, done: Attempted | None = None) -> Claim | None:
        """Write what an attempt came to and claim what is due next, in one transaction.

        None when nothing is due, as many as may be are under way, or the endpoint is paused or disabled.
        StoreUnavailable when neither could be written.
        """

        def unit(tx: Tx) -> _Found | None:
            if done is not None:
                self._finish(tx, done)
            return self._claim(tx, endpoint_id)

        found = await in_turn(self._database.writer, unit, outcome=done is not None)
        return None if found is None else self._opened(found)

    async def finish(self, done: Attempted) -> None:
        """Write what an attempt came to."""
        await in_turn(self._database.writer, lambda tx: self._finish(tx, done), outcome=True)

    async def give_back(self, claim: Claim) -> None:
        """Return a delivery that was not attempted: it is due at once, and counts no attempt."""
        row = claim.delivery

        def unit(tx: Tx) -> None:
            EndpointRepository(row.workspace_id).lock(tx, row.endpoint_id)
            DeliveryRepository(row.workspace_id).give_back(tx, row.id, fence=claim.fence, due_at=now())

        await in_turn(self._database.writer, unit, outcome=True)

    async def close_stranded(self, endpoint_id: str, workspace_id: str) -> None:
        """Make dead letters of what came for an endpoint while it was disabled or deleted."""
        await in_turn(self._database.writer, lambda tx: close_stranded(tx, endpoint_id, workspace_id, now()))

    async def void_leases(self) -> int:
        """Take back every lease: right at the start of the only process that sends."""
        return await self._database.writer.run(lambda tx: DeliveriesOfAllWorkspaces.void_leases(tx, now()))

    def _claim(self, tx: Tx, endpoint_id: str) -> _Found | None:
        endpoint, at = EndpointsOfAllWorkspaces.lock_free(tx, endpoint_id), now()
        if endpoint is None or (endpoint.paused_until or 0) > at:
            return None
        suspect = endpoint.failures >= self._schedule.breaker
        room = 1 if suspect else self._schedule.concurrency
        if DeliveriesOfAllWorkspaces.leased(tx, endpoint_id, at) >= room:
            return None
        deliveries = DeliveryRepository(endpoint.workspace_id)
        due = deliveries.next_due(tx, endpoint_id, at)
        config = EndpointRepository(endpoint.workspace_id).sealed(tx, endpoint_id)
        if due is None or config is None:
            return None
        if not deliveries.claim(tx, due, at + self._schedule.lease):
            return None
        body = tx.one(_BODY, message=due.message_id, ws=endpoint.workspace_id)
        return _Found(endpoint, due, suspect, config, bytes(body[0]) if body else None)

    def _finish(self, tx: Tx, done: Attempted) -> None:
        row, at = done.claim.delivery, now()
        endpoint = EndpointRepository(row.workspace_id).lock(tx, row.endpoint_id)
        deliveries = DeliveryRepository(row.workspace_id)
        given_up, made = deliveries.status(tx, row.id) == "dead", row.attempts + 1
        wait = None if given_up or done.claim.body is None else self._schedule.retry_after(made, done.asked)
        ended = done.succeeded or wait is None
        moved = deliveries.finish(
            tx,
            row.id,
            fence=done.claim.fence,
            status="succeeded" if done.succeeded else "dead" if wait is None else "pending",
            due_at=at if wait is None else at + wait,
            finished_at=at if ended else None,
            status_code=done.status_code,
            error_code=done.error[0] if done.error else None,
        )
        if not moved:  # the lease ran out and another attempt counts
            return
        outcome = "delivered" if done.succeeded else "dead" if wait is None else "failed"
        tx.after_commit.append(partial(self._count, outcome, done.duration_ms / 1000))
        deliveries.insert_attempt(tx, _attempt(done, made))
        # Sealed here, since the key may have changed since the answer came.
        if (answer := self._sealed_answer(done)) is not None:
            tx.run(_PUT, **answer)
        if endpoint is None:
            return
        if done.succeeded:
            note_success(tx, endpoint)
        elif done.claim.body is not None:
            note_failure(tx, self._outbox, self._schedule, endpoint, at, done.status_code or 0)

    def _count(self, outcome: str, seconds: float) -> None:
        self._deliveries.add(outcome)
        self._seconds.observe(seconds)

    def _sealed_answer(self, done: Attempted) -> dict[str, Any] | None:
        if not done.answer:
            return None
        row = done.claim.delivery
        record = answer_id(row.id, row.attempts + 1)
        body = self._keys.seal(done.answer, workspace=row.workspace_id, purpose=ANSWER_PURPOSE, record=record)
        return {
            "purpose": ANSWER_PURPOSE,
            "record_id": record,
            "workspace_id": row.workspace_id,
            "kek_id": sealed_with(body),
            "body": body,
            "expires_at": row.expires_at,
        }

    def _opened(self, found: _Found) -> Claim:
        workspace, delivery = found.endpoint.workspace_id, found.delivery
        config = self._keys.open(found.config, workspace=workspace, purpose=ENDPOINT_PURPOSE, record=found.endpoint.id)
        body = found.body
        if body is not None:
            body = self._keys.open(body, workspace=workspace, purpose=MESSAGE_PURPOSE, record=delivery.message_id)
        return Claim(
            delivery=delivery,
            fence=delivery.fence + 1,
            sealed=Sealed.unpack(config),
            legacy=bool(found.endpoint.legacy_signature),
            suspect=found.suspect,
            body=body,
        )


def answer_id(delivery_id: str, number: int) -> str:
    """Return the name under which the answer to an attempt is kept."""
    return f"{delivery_id}.{number}"


def _attempt(done: Attempted, number: int) -> AttemptRow:
    row = done.claim.delivery
    code, detail = done.error or (None, None)
    return AttemptRow(
        delivery_id=row.id,
        number=number,
        workspace_id=row.workspace_id,
        started_at=done.started_at,
        duration_ms=done.duration_ms,
        status_code=done.status_code,
        error_code=code,
        error_detail=detail,
        expires_at=row.expires_at,
    )
