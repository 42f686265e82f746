"""Receiving webhooks: the two ways in, the receivers behind them, and what has come."""

import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from relay.core.access import Access
from relay.core.clock import DAY, MICROSECONDS, iso
from relay.core.principal import Scope
from relay.core.validation import validated
from relay.crypto.webhooks import Scheme
from relay.identity.rules import MAX_NAME
from relay.store.received import ReceivedRow
from relay.surface.body import KIB, read_json
from relay.surface.declare import Call, Routes
from relay.webhooks.receive import Challenge, Receiving
from relay.webhooks.receivers import (
    DEFAULT_OVERLAP_HOURS,
    DEFAULT_PAGE,
    MAX_OVERLAP_HOURS,
    MAX_PAGE,
    NewSecret,
    PayloadState,
    Receiver,
    Receivers,
)

DELIVERY_LIMIT: Final = 256 * KIB
_BODY_LIMIT: Final = 16 * KIB
_BODY_SECONDS: Final = 10.0
_SIGNED_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}
}
_MANAGE: Final[frozenset[Scope]] = frozenset({"webhooks:manage"})

_Name = Annotated[str, Field(max_length=MAX_NAME, examples=["GitHub, our shop"])]
_Day = Annotated[datetime.date, Field(examples=["2030-12-31"])]
_Secret = Annotated[str | None, Field(max_length=300, repr=False)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PageQuery(_In):
    """A page of receivers."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[str, Field(max_length=100)] | None = None


class EventQuery(PageQuery):
    """A page of events; ``receiver`` and ``type`` leave out all others."""

    receiver: Annotated[str, Field(max_length=100, pattern=r"^[a-z0-9_]+$")] | None = None
    type: Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f]*$")] | None = None


class CreateReceiver(_In):
    """A new receiver. ``secret`` is the sender's where the sender makes it (Stripe, Slack); else one is made.

    ``legacy_until`` is the last day (UTC) of the legacy scheme, at most 366 days ahead, and for no other scheme.
    """

    name: _Name = ""
    scheme: Scheme
    secret: _Secret = None
    legacy_until: _Day | None = None


class ChangeReceiver(_In):
    """What shall be different; what is left out, or null, stays."""

    name: _Name | None = None
    enabled: Annotated[bool, Field(strict=True)] | None = None
    legacy_until: _Day | None = None


class RotateReceiver(_In):
    """A new secret, the sender's or one that is made, and for how long those before it live on."""

    secret: _Secret = None
    overlap_hours: Annotated[int, Field(strict=True, ge=0, le=MAX_OVERLAP_HOURS)] = DEFAULT_OVERLAP_HOURS


class SecretItem(BaseModel):
    """A secret that is alive, without its text."""

    id: str
    created_at: str
    ends_at: str | None


class ReceiverItem(BaseModel):
    """A receiver. Senders post to ``path``; ``legacy_until`` is the last day on which the legacy scheme is taken."""

    id: str
    name: str
    scheme: Scheme
    path: str
    enabled: bool
    legacy_until: str | None
    secrets: list[SecretItem]
    created_by: str
    created_at: str


class ReceiverList(BaseModel):
    """Receivers of the workspace, newest first."""

    items: list[ReceiverItem]
    next_cursor: str | None


class NewReceiver(ReceiverItem):
    """A receiver with a new secret. ``secret`` is shown this once, and null when the caller gave it."""

    secret: str | None


class DeletedReceiver(BaseModel):
    """A receiver that is no more."""

    id: str
    deleted_at: str


class DeliveryReceived(BaseModel):
    """An event is stored. ``duplicate``: it was before; ``unsigned``: nobody signed it, which is allowed here."""

    received: Literal[True] = True
    id: str
    duplicate: bool
    unsigned: bool


class ChallengeAnswer(BaseModel):
    """What Slack asked to hear back when its address was set up; nothing was stored."""

    challenge: str


class EventItem(BaseModel):
    """A verified event. ``type`` is what its sender says that it is, null when it says nothing that can be shown."""

    id: str
    receiver_id: str
    receiver_name: str
    scheme: Scheme
    type: str | None
    content_type: str
    size: int
    signed_id: str | None
    signed_at: str | None
    unsigned: bool
    received_at: str
    expires_at: str


class EventList(BaseModel):
    """What was received, newest first."""

    items: list[EventItem]
    next_cursor: str | None


class EventWithPayload(EventItem):
    """A verified event with what it says. ``payload`` is null once it is erased."""

    payload_state: PayloadState
    payload: Any


def receiving_routes(receiving: Receiving) -> Routes:
    """Return the routes that take webhooks in; whoever calls them is known by a signature alone."""
    routes = Routes()

    @routes.post(
        "/webhooks/relay",
        access=Access("signature", frozenset(), ("webhooks",), "api:webhooks:receive"),
        body_limit=DELIVERY_LIMIT,
        summary="Receive a webhook for the installation",
        openapi_extra=_SIGNED_BODY,
    )
    async def receive_own(call: Call) -> DeliveryReceived | ChallengeAnswer:
        """Store an event that `WEBHOOK_SIGNING_SECRET` signed; it belongs to workspace `default`."""
        return await _receive(call, receiving)

    @routes.post(
        "/webhooks/in/{receiver}",
        access=Access("signature", frozenset(), ("webhooks",), "api:webhooks:receive"),
        body_limit=DELIVERY_LIMIT,
        summary="Receive a webhook for a receiver",
        openapi_extra=_SIGNED_BODY,
    )
    async def receive(call: Call, receiver: str) -> DeliveryReceived | ChallengeAnswer:
        """Store an event that one of the receiver's secrets signed, under the receiver's own scheme."""
        return await _receive(call, receiving)

    return routes


def receivers_routes(receivers: Receivers) -> Routes:
    """Return the routes by which a workspace manages its receivers and looks at what they received."""
    routes = Routes()

    @routes.get("/webhooks/receivers", access=_access("list"), summary="List receivers")
    async def list_receivers(call: Call, query: Annotated[PageQuery, Query()]) -> ReceiverList:
        """Return the receivers of the caller's workspace, newest first."""
        page = await receivers.page(call.principal.workspace_id, cursor=query.cursor, limit=query.limit)
        return ReceiverList(items=[ReceiverItem(**_view(item)) for item in page.items], next_cursor=page.next_cursor)

    @routes.post(
        "/webhooks/receivers",
        access=_access("create"),
        body_limit=_BODY_LIMIT,
        status_code=201,
        summary="Make a receiver",
    )
    async def create_receiver(call: Call, body: CreateReceiver) -> NewReceiver:
        """Make a receiver, pinned to one scheme. A secret that was made is in this answer and nowhere else."""
        made = await receivers.create(
            call.principal,
            name=body.name,
            scheme=body.scheme,
            secret=body.secret,
            legacy_until=body.legacy_until,
            request_id=call.request_id,
        )
        return _new(made)

    @routes.patch(
        "/webhooks/receivers/{receiver_id}",
        access=_access("change"),
        body_limit=_BODY_LIMIT,
        summary="Change a receiver",
    )
    async def change_receiver(call: Call, receiver_id: str, body: ChangeReceiver) -> ReceiverItem:
        """Rename, enable or disable a receiver, or move its legacy date. It holds everywhere at once."""
        changed = await receivers.change(
            call.principal,
            receiver_id,
            name=body.name,
            enabled=body.enabled,
            legacy_until=body.legacy_until,
            request_id=call.request_id,
        )
        return ReceiverItem(**_view(changed))

    @routes.delete("/webhooks/receivers/{receiver_id}", access=_access("delete"), summary="Delete a receiver")
    async def delete_receiver(call: Call, receiver_id: str) -> DeletedReceiver:
        """Delete a receiver with its secrets. What it has received stays as long as it would have."""
        at = await receivers.delete(call.principal, receiver_id, request_id=call.request_id)
        return DeletedReceiver(id=receiver_id, deleted_at=iso(at))

    @routes.post(
        "/webhooks/receivers/{receiver_id}/rotate",
        access=_access("rotate"),
        body_limit=_BODY_LIMIT,
        summary="Give a receiver a new secret",
        openapi_extra={
            "requestBody": {"content": {"application/json": {"schema": RotateReceiver.model_json_schema()}}}
        },
    )
    async def rotate_receiver(call: Call, receiver_id: str) -> NewReceiver:
        """Add a secret; those before it end after the overlap. At most five live at once."""
        asked = await _rotation(call)
        made = await receivers.rotate(
            call.principal,
            receiver_id,
            secret=asked.secret,
            overlap_hours=asked.overlap_hours,
            request_id=call.request_id,
        )
        return _new(made)

    @routes.post("/webhooks/receivers/{receiver_id}/test", access=_access("test"), summary="Try a receiver out")
    async def test_receiver(call: Call, receiver_id: str) -> DeliveryReceived:
        """Sign a `webhook.test` event with the receiver's newest secret and take it in as if it had been sent."""
        accepted = await receivers.try_out(call.principal, receiver_id, request_id=call.request_id)
        return DeliveryReceived(id=accepted.event_id, duplicate=accepted.duplicate, unsigned=accepted.unsigned)

    @routes.get("/webhooks/events", access=_access("events"), summary="List what was received")
    async def list_events(call: Call, query: Annotated[EventQuery, Query()]) -> EventList:
        """Return verified events, newest first, without their payloads."""
        page = await receivers.events(
            call.principal.workspace_id,
            cursor=query.cursor,
            limit=query.limit,
            receiver_id=query.receiver,
            kind=query.type,
        )
        return EventList(items=[EventItem(**_event(row)) for row in page.items], next_cursor=page.next_cursor)

    @routes.get("/webhooks/events/{event_id}", access=_access("event"), summary="Show what was received")
    async def show_event(call: Call, event_id: str) -> EventWithPayload:
        """Return a verified event with its payload."""
        found = await receivers.event(call.principal.workspace_id, event_id)
        return EventWithPayload(**_event(found.row), payload_state=found.state, payload=found.payload)

    return routes


async def _receive(call: Call, receiving: Receiving) -> DeliveryReceived | ChallengeAnswer:
    done = await receiving.accept(call.signed, call.facts)
    if isinstance(done, Challenge):
        return ChallengeAnswer(challenge=done.text)
    return DeliveryReceived(id=done.event_id, duplicate=done.duplicate, unsigned=done.unsigned)


async def _rotation(call: Call) -> RotateReceiver:
    """Return what a rotation asks for. Its body may be left out, which is why the route does not declare one."""
    lengths = [value for name, value in call.facts.headers if name in (b"content-length", b"transfer-encoding")]
    if lengths in ([], [b"0"]):
        return RotateReceiver()
    return validated(RotateReceiver, await read_json(call.facts, call.receive, _BODY_LIMIT, _BODY_SECONDS))


def _access(what: str) -> Access:
    return Access("bearer", _MANAGE, (), f"api:receivers:{what}")


def _new(made: NewSecret) -> NewReceiver:
    return NewReceiver(**_view(made.receiver), secret=made.text)


def _view(receiver: Receiver) -> dict[str, Any]:
    row = receiver.row
    return {
        "id": row.id,
        "name": row.name,
        "scheme": row.scheme,
        "path": f"/webhooks/in/{row.id}",
        "enabled": bool(row.enabled),
        "legacy_until": _day(row.legacy_until),
        "secrets": [
            {"id": secret.id, "created_at": iso(secret.created_at), "ends_at": _iso(secret.expires_at)}
            for secret in receiver.secrets
        ],
        "created_by": row.created_by,
        "created_at": iso(row.created_at),
    }


def _event(row: ReceivedRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "receiver_id": row.receiver_id,
        "receiver_name": row.receiver_name,
        "scheme": row.scheme,
        "type": row.type or None,
        "content_type": row.content_type,
        "size": row.size,
        "signed_id": row.signed_id,
        "signed_at": _iso(row.signed_at),
        "unsigned": bool(row.unsigned),
        "received_at": iso(row.received_at),
        "expires_at": iso(row.expires_at),
    }


def _iso(moment: int | None) -> str | None:
    return None if moment is None else iso(moment)


def _day(end: int | None) -> str | None:
    if end is None:
        return None
    return str(datetime.datetime.fromtimestamp((end - DAY) // MICROSECONDS, datetime.UTC).date())
