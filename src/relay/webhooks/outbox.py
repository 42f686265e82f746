"""The outbox: events for webhook endpoints, written in the same transaction as what they report.

Called once at the end of every transaction that recorded an audit event. Most have nothing to send, so that what
endpoints ask for is kept in memory, as long as the database's generation stands still.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import insert

from relay.core.clock import DAY, iso, now
from relay.core.event import EventDraft
from relay.core.ids import new_id
from relay.crypto.envelope import Envelopes, sealed_with
from relay.store.deliveries import DeliveryRow, insert_deliveries, insert_messages, new_delivery
from relay.store.endpoints import EndpointsOfAllWorkspaces
from relay.store.generation import Generation
from relay.store.query import Query
from relay.store.tables import envelopes as envelopes_table
from relay.store.writer import BrokenBatch, Tx
from relay.webhooks.types import RECEIVED, EventType, asks, expand, type_of

PURPOSE: Final = "webhook-message"
MAX_REMEMBERED: Final = 4096
LEAST_RETENTION: Final = 3 * DAY
"""Longer than the last retry can be away, or an event would be erased before it was given up."""

_INSERT_ENVELOPES: Final = Query(insert(envelopes_table))

Wake = Callable[[Collection[str]], None]
Routes = dict[str, dict[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Message:
    """An event for some endpoints of one workspace. ``body`` is what is signed and sent, byte for byte."""

    id: str
    workspace_id: str
    type: str
    body: bytes
    created_at: int
    endpoints: tuple[str, ...]


def message(kind: EventType, draft: EventDraft, endpoints: tuple[str, ...]) -> Message:
    """Return the message that tells ``endpoints`` of an audit event; ValueError when it has no form as JSON."""
    body = to_json({"type": kind.name, "timestamp": iso(draft.occurred_at), "data": kind.data(draft)})
    return Message(new_id("msg"), draft.workspace_id, kind.name, body, draft.occurred_at, endpoints)


class Outbox:
    """Writes messages and deliveries. One instance serves a process; the writer calls it from one thread at a time."""

    def __init__(self, keys: Envelopes, *, retention: int) -> None:
        self._keys = keys
        self.retention = max(retention, LEAST_RETENTION)
        self._generation: Generation | None = None
        self._read_under: int | None = None
        self._number: int | None = None
        self._routes: Routes = {}
        self._changed_in: Tx | None = None
        self._requests: dict[str, str] = {}
        self._wake: Wake | None = None

    def follow(self, generation: Generation) -> None:
        """Where no other process writes, keep what endpoints ask for in memory as long as this stands still.

        Until then each transaction that has something to tell reads whether it has changed, so that an endpoint made
        by another process misses nothing that comes after it.
        """
        self._generation = generation

    def listen(self, wake: Wake) -> None:
        """Have ``wake`` called with endpoints that have something due, once that is durable."""
        self._wake = wake

    def finish(self, tx: Tx, drafts: Sequence[EventDraft]) -> None:
        """Write the messages that ``drafts`` lead to, in the transaction of ``tx``.

        A draft that has no form as JSON breaks the batch: only the unit that recorded it fails.
        """
        told = [(kind, draft) for draft in drafts if (kind := type_of(draft)) is not None]
        if not told or not (routes := self._current(tx)):
            return
        found = []
        for kind, draft in told:
            if endpoints := _asking(routes.get(draft.workspace_id, {}), kind, draft):
                found.append(_message(kind, draft, endpoints))
                self._remember(found[-1].id, draft.request_id)
        if found:
            self.put(tx, found)

    def put(self, tx: Tx, messages: Sequence[Message]) -> list[DeliveryRow]:
        """Write messages with a delivery to each of their endpoints, all due now, and return the deliveries."""
        at = now()
        until = at + self.retention
        insert_messages(tx, [_row(message, until) for message in messages])
        tx.many(_INSERT_ENVELOPES, [self._sealed(message, until) for message in messages])
        deliveries = [
            new_delivery(
                new_id("dlv"),
                workspace_id=message.workspace_id,
                endpoint_id=endpoint,
                message_id=message.id,
                type=message.type,
                at=at,
                expires_at=until,
            )
            for message in messages
            for endpoint in message.endpoints
        ]
        insert_deliveries(tx, deliveries)
        self.due(tx, {delivery.endpoint_id for delivery in deliveries})
        return deliveries

    def request_of(self, message_id: str) -> str:
        """Return the id of the request that led to a message, empty where this process does not know it (any more).

        For logs and traces alone: it is kept in memory, and for the newest messages.
        """
        return self._requests.get(message_id, "")

    def _remember(self, message_id: str, request_id: str) -> None:
        if not request_id:
            return
        self._requests[message_id] = request_id
        if len(self._requests) > MAX_REMEMBERED:
            self._requests.pop(next(iter(self._requests)), None)

    def due(self, tx: Tx, endpoints: Iterable[str]) -> None:
        """Wake whoever sends to these endpoints once the transaction is durable."""
        wake, woken = self._wake, frozenset(endpoints)
        if wake is not None and woken:
            tx.after_commit.append(lambda: wake(woken))

    def routes_changed(self, tx: Tx) -> None:
        """Void what is kept: this transaction changes what endpoints ask for, if it becomes durable."""
        self._changed_in = tx

    def _current(self, tx: Tx) -> Routes:
        current = self._generation.current() if self._generation is not None else None
        if self._changed_in is None and current is not None and current == self._read_under:
            return self._routes
        if self._changed_in is tx:  # may yet be rolled back: for this transaction only
            return _read(tx)
        # The number is read first: a change that comes between moves it on, and is read the next time.
        number = EndpointsOfAllWorkspaces.generation(tx)
        if self._changed_in is not None or number != self._number:
            self._routes = _read(tx)
        self._number, self._read_under, self._changed_in = number, current, None
        return self._routes

    def _sealed(self, message: Message, until: int) -> dict[str, Any]:
        body = self._keys.seal(message.body, workspace=message.workspace_id, purpose=PURPOSE, record=message.id)
        return {
            "purpose": PURPOSE,
            "record_id": message.id,
            "workspace_id": message.workspace_id,
            "kek_id": sealed_with(body),
            "body": body,
            "expires_at": until,
        }


def _asking(wanted: dict[str, tuple[str, ...]], kind: EventType, draft: EventDraft) -> tuple[str, ...]:
    """Return the endpoints of a workspace that ask for an event, each once."""
    every = wanted.get(kind.name, ())
    if kind.name != RECEIVED:
        return every
    of_type = (name for pattern, names in wanted.items() if asks(pattern, draft) for name in names)
    return tuple(dict.fromkeys((*every, *of_type)))


def _message(kind: EventType, draft: EventDraft, endpoints: tuple[str, ...]) -> Message:
    try:
        return message(kind, draft, endpoints)
    except ValueError as error:
        raise BrokenBatch from error


def _row(message: Message, until: int) -> dict[str, Any]:
    return {
        "id": message.id,
        "workspace_id": message.workspace_id,
        "type": message.type,
        "created_at": message.created_at,
        "expires_at": until,
    }


def _read(tx: Tx) -> Routes:
    found: dict[str, dict[str, list[str]]] = {}
    for endpoint, workspace, wanted in EndpointsOfAllWorkspaces.routes(tx):
        for name in expand(wanted):
            found.setdefault(workspace, {}).setdefault(name, []).append(endpoint)
    return {
        workspace: {name: tuple(endpoints) for name, endpoints in kinds.items()} for workspace, kinds in found.items()
    }
