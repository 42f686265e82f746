"""The delivery log of webhook endpoints, and sending again."""

from typing import Annotated, Any, Final, Literal

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import from_json

from relay.core.access import Access
from relay.core.clock import iso, parse_iso
from relay.core.principal import Scope
from relay.store.deliveries import DeliveryRow
from relay.surface.body import KIB
from relay.surface.declare import Call, Routes
from relay.webhooks.log import DEFAULT_PAGE, MAX_PAGE, DeliveryLog, Filters, LoggedAttempt

_BODY_LIMIT: Final = 16 * KIB
_MANAGE: Final[frozenset[Scope]] = frozenset({"webhooks:manage"})


def _time(value: str) -> str:
    parse_iso(value)
    return value


_Time = Annotated[str, Field(max_length=40, examples=["2030-01-02T03:04:05Z"]), AfterValidator(_time)]
_Id = Annotated[str, Field(pattern=r"^[a-z]{3}_[0-9a-f]{32}$")]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeliveryQuery(_In):
    """Filters, all of which must hold. ``since`` is inclusive."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: _Id | None = None
    endpoint: _Id | None = None
    status: Literal["pending", "succeeded", "dead"] | None = None
    type: Annotated[str, Field(pattern=r"^[a-z_.]{1,64}$", examples=["action.failed"])] | None = None
    since: _Time | None = None


class ReplaySince(_In):
    """From which time on what failed is sent again."""

    since: _Time


class DeliveryItem(BaseModel):
    """A delivery. ``message_id`` is the ``webhook-id`` that the receiver sees, the same in every attempt and replay.

    ``next_attempt_at`` is there while it is pending. ``status_code`` and ``error`` are those of the last attempt.
    """

    id: str
    message_id: str
    endpoint_id: str
    type: str
    status: Literal["pending", "succeeded", "dead"]
    attempts: int
    status_code: int | None
    error: str | None
    replay_of: str | None
    created_at: str
    next_attempt_at: str | None
    finished_at: str | None


class DeliveryList(BaseModel):
    """Deliveries, newest first."""

    items: list[DeliveryItem]
    next_cursor: str | None


class AttemptItem(BaseModel):
    """One attempt. ``answer`` is the first KiB of what the receiver said, as plain text: escape it."""

    number: int
    started_at: str
    duration_ms: int
    status_code: int | None
    error: str | None
    detail: str | None
    answer: str | None


class Delivery(DeliveryItem):
    """A delivery with its attempts in order, and the body that is sent, null once it has been erased."""

    tries: list[AttemptItem]
    body: Any


class Replayed(BaseModel):
    """How many messages are sent again; ``more`` when there are others left to ask for."""

    replayed: int
    more: bool


def deliveries_routes(log: DeliveryLog) -> Routes:
    """Return the routes of the delivery log."""
    routes = Routes()

    @routes.get("/webhooks/deliveries", access=_access("list"), summary="List deliveries")
    async def list_deliveries(call: Call, query: Annotated[DeliveryQuery, Query()]) -> DeliveryList:
        """Return the deliveries of the caller's workspace, newest first."""
        filters = Filters(query.endpoint, query.status, query.type, parse_iso(query.since) if query.since else None)
        rows, cursor = await log.page(call.principal.workspace_id, filters, limit=query.limit, cursor=query.cursor)
        return DeliveryList(items=[DeliveryItem(**_view(row)) for row in rows], next_cursor=cursor)

    @routes.get("/webhooks/deliveries/{delivery_id}", access=_access("read"), summary="Look at a delivery")
    async def read_delivery(call: Call, delivery_id: str) -> Delivery:
        """Return a delivery with its attempts."""
        row, attempts, body = await log.get(call.principal.workspace_id, delivery_id)
        return Delivery(
            **_view(row), tries=[_attempt(attempt) for attempt in attempts], body=from_json(body) if body else None
        )

    @routes.post(
        "/webhooks/deliveries/{delivery_id}/replay",
        access=_access("replay"),
        status_code=202,
        summary="Deliver a message again",
    )
    async def replay(call: Call, delivery_id: str) -> DeliveryItem:
        """Deliver a message again, under the same message id, and return the new delivery."""
        return DeliveryItem(**_view(await log.replay(call.principal, delivery_id, call.request_id)))

    @routes.post(
        "/webhooks/endpoints/{endpoint_id}/replay",
        access=_access("replay_failed"),
        body_limit=_BODY_LIMIT,
        status_code=202,
        summary="Deliver what failed again",
    )
    async def replay_failed(call: Call, endpoint_id: str, body: ReplaySince) -> Replayed:
        """Deliver every dead letter of an endpoint since a time again, each message once."""
        count, more = await log.replay_failed(call.principal, endpoint_id, parse_iso(body.since), call.request_id)
        return Replayed(replayed=count, more=more)

    return routes


def _access(what: str) -> Access:
    return Access("bearer", _MANAGE, (), f"api:deliveries:{what}")


def _view(row: DeliveryRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "message_id": row.message_id,
        "endpoint_id": row.endpoint_id,
        "type": row.type,
        "status": row.status,
        "attempts": row.attempts,
        "status_code": row.status_code,
        "error": row.error_code,
        "replay_of": row.replay_of,
        "created_at": iso(row.created_at),
        "next_attempt_at": iso(row.due_at) if row.status == "pending" else None,
        "finished_at": None if row.finished_at is None else iso(row.finished_at),
    }


def _attempt(attempt: LoggedAttempt) -> AttemptItem:
    row = attempt.row
    return AttemptItem(
        number=row.number,
        started_at=iso(row.started_at),
        duration_ms=row.duration_ms,
        status_code=row.status_code,
        error=row.error_code,
        detail=row.error_detail,
        answer=attempt.answer,
    )
