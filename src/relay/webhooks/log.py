"""The delivery log: what was sent where and what came back, and sending it again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from relay.audit.record import event
from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Conflict, Gone, NotFound
from relay.store.database import Database
from relay.store.deliveries import AttemptRow, DeliveryRepository, DeliveryRow, insert_deliveries, new_delivery
from relay.store.endpoints import EndpointRepository, EndpointRow
from relay.store.envelopes import EnvelopeRepository
from relay.store.vault import Vault
from relay.store.writer import Tx
from relay.webhooks.health import resume
from relay.webhooks.journal import ANSWER_PURPOSE, answer_id
from relay.webhooks.outbox import PURPOSE as MESSAGE_PURPOSE
from relay.webhooks.outbox import Outbox
from relay.webhooks.turns import in_turn

MAX_PAGE: Final = 200
DEFAULT_PAGE: Final = 50
MAX_REPLAYED: Final = 10_000
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """An attempt and the beginning of the answer as text; None when there was none or it has been erased."""

    row: AttemptRow
    answer: str | None


@dataclass(frozen=True, slots=True)
class Filters:
    """What a page of the log is narrowed by; all must hold. ``since`` is in microseconds, inclusive."""

    endpoint: str | None = None
    status: str | None = None
    type: str | None = None
    since: int | None = None


class DeliveryLog:
    """The log of every workspace, asked for one at a time."""

    def __init__(self, database: Database, vault: Vault, outbox: Outbox) -> None:
        self._database = database
        self._vault = vault
        self._outbox = outbox

    async def page(
        self, workspace_id: str, filters: Filters, *, limit: int, cursor: str | None
    ) -> tuple[Sequence[DeliveryRow], str | None]:
        """Return up to ``limit`` deliveries older than ``cursor``, newest first, and the next cursor."""
        rows = await DeliveryRepository(workspace_id).page(
            self._database.reader,
            limit=limit + 1,
            before=cursor,
            endpoint=filters.endpoint,
            status=filters.status,
            type=filters.type,
            since=filters.since,
        )
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    async def get(self, workspace_id: str, delivery_id: str) -> tuple[DeliveryRow, list[LoggedAttempt], bytes | None]:
        """Return a delivery, its attempts and the body that is sent; 404 for one of another workspace."""
        repository, reader = DeliveryRepository(workspace_id), self._database.reader
        row = await repository.find(reader, delivery_id)
        if row is None:
            raise NotFound("There is no such delivery.")
        attempts = []
        for attempt in await repository.attempts_of(reader, delivery_id):
            record = answer_id(delivery_id, attempt.number)
            answer = await self._vault.open(workspace=workspace_id, purpose=ANSWER_PURPOSE, record_id=record)
            attempts.append(LoggedAttempt(attempt, None if answer is None else _text(answer)))
        body = await self._vault.open(workspace=workspace_id, purpose=MESSAGE_PURPOSE, record_id=row.message_id)
        return row, attempts, body

    async def replay(self, actor: Principal, delivery_id: str, request_id: str) -> DeliveryRow:
        """Deliver a message again now, under the same message id, and return the delivery that does.

        That is a new one; or, where one of this message waits there to be tried again, that one, which then waits no
        longer. 409 while the message is on its way to that endpoint, or the endpoint is disabled or gone; 410 once the
        message has been erased.
        """
        deliveries = DeliveryRepository(actor.workspace_id)
        draft = event(
            "webhooks:delivery:replayed",
            workspace_id=actor.workspace_id,
            principal=actor.id,
            request_id=request_id,
            target=delivery_id,
        )

        def unit(tx: Tx) -> DeliveryRow:
            row = deliveries.get(tx, delivery_id)
            if row is None:
                raise NotFound("There is no such delivery.")
            endpoint, at = _enabled(tx, actor.workspace_id, row.endpoint_id), now()
            pending = deliveries.pending_of(tx, row.message_id, row.endpoint_id)
            if pending is not None and not _waits(pending, endpoint, at):
                raise Conflict("This message is on its way to that endpoint.")
            if not EnvelopeRepository(actor.workspace_id).exists(tx, purpose=MESSAGE_PURPOSE, record_id=row.message_id):
                raise Gone("The message was erased after its retention.")
            if pending is None:
                (again,) = self._again(tx, [row])
            else:
                again = replace(pending, due_at=min(pending.due_at, at))
                deliveries.hasten(tx, [again.id], again.due_at)
                self._outbox.due(tx, (again.endpoint_id,))
            resume(tx, endpoint)
            tx.record(draft)
            return again

        return await in_turn(self._database.writer, unit)

    async def replay_failed(self, actor: Principal, endpoint_id: str, since: int, request_id: str) -> tuple[int, bool]:
        """Deliver all that failed at an endpoint since a time again, oldest first.

        Dead letters whose message has had no later delivery there get a new one; those that wait to be tried again
        wait no longer. Asking twice sends once. Returns how many there were, and whether there may be more than
        :data:`MAX_REPLAYED`. 404 and 409 as for :meth:`replay`.
        """
        deliveries = DeliveryRepository(actor.workspace_id)
        draft = event(
            "webhooks:endpoint:replayed",
            workspace_id=actor.workspace_id,
            principal=actor.id,
            request_id=request_id,
            target=endpoint_id,
        )
        at, held = now(), False

        def hasten(tx: Tx, after: str) -> list[str]:
            found = deliveries.waiting_since(
                tx, endpoint_id, since=since, moment=at, held=held, after=after, most=_AT_ONCE
            )
            if found:
                deliveries.hasten(tx, found, at)
            self._outbox.due(tx, (endpoint_id,))
            return found

        def resend(tx: Tx, after: str) -> list[str]:
            dead = deliveries.dead_since(tx, endpoint_id, since=since, after=after, most=_AT_ONCE)
            if dead:
                self._again(tx, dead)
            return [row.id for row in dead]

        def unit(step: Callable[[Tx, str], list[str]], after: str, first: bool, tx: Tx) -> list[str]:
            endpoint = _enabled(tx, actor.workspace_id, endpoint_id, missing=NotFound("There is no such endpoint."))
            nonlocal held
            held = held or _paused(endpoint, at)
            found = step(tx, after)
            if first:
                resume(tx, endpoint)
                tx.record(draft)
            return found

        total, first = 0, True
        for step in (hasten, resend):
            after = ""
            while total < MAX_REPLAYED:
                found = await in_turn(self._database.writer, partial(unit, step, after, first))
                total, first = total + len(found), False
                if len(found) < _AT_ONCE:
                    break
                after = found[-1]
        return total, total >= MAX_REPLAYED

    def _again(self, tx: Tx, rows: Sequence[DeliveryRow]) -> list[DeliveryRow]:
        at = now()
        again = [
            new_delivery(
                new_id("dlv"),
                workspace_id=row.workspace_id,
                endpoint_id=row.endpoint_id,
                message_id=row.message_id,
                type=row.type,
                at=at,
                expires_at=at + self._outbox.retention,
                replay_of=row.id,
            )
            for row in rows
        ]
        insert_deliveries(tx, again)
        self._outbox.due(tx, {row.endpoint_id for row in rows})
        return again


def _enabled(tx: Tx, workspace_id: str, endpoint_id: str, missing: Exception | None = None) -> EndpointRow:
    """Return an enabled endpoint, locked."""
    endpoint = EndpointRepository(workspace_id).lock(tx, endpoint_id)
    if endpoint is None:
        raise missing or Conflict("The endpoint of this delivery has been deleted.")
    if endpoint.status != "enabled":
        raise Conflict("This endpoint is disabled; enable it first.")
    return endpoint


def _waits(pending: DeliveryRow, endpoint: EndpointRow, at: int) -> bool:
    """Say whether nobody is sending a pending delivery or about to: it, or its endpoint, waits for a later time."""
    if pending.lease_until is not None and pending.lease_until > at:
        return False
    return pending.due_at > at or _paused(endpoint, at)


def _paused(endpoint: EndpointRow, at: int) -> bool:
    return (endpoint.paused_until or 0) > at


def _text(answer: bytes) -> str:
    """Return an answer as text without control or bidirectional characters: it is shown to people."""
    text = answer.decode(errors="replace")
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)
