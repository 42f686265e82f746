"""Webhook endpoints. A secret stands in the answer that made it and nowhere else."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from relay.core.access import Access
from relay.core.clock import iso
from relay.core.principal import Scope
from relay.core.validation import printable, validated
from relay.egress.target import MAX_URL
from relay.surface.body import KIB, read_json
from relay.surface.declare import Call, Routes
from relay.webhooks.endpoints import (
    DEFAULT_OVERLAP_HOURS,
    MAX_DESCRIPTION,
    MAX_EVENTS,
    MAX_OVERLAP_HOURS,
    MAX_PATTERN,
    Changes,
    Endpoint,
    Endpoints,
    NewSecret,
)
from relay.webhooks.health import REASONS

_BODY_LIMIT: Final = 16 * KIB
_BODY_SECONDS: Final = 10.0
_MANAGE: Final[frozenset[Scope]] = frozenset({"webhooks:manage"})

_Url = Annotated[str, Field(min_length=1, max_length=MAX_URL, examples=["https://hooks.example.com/relay"])]
_Events = Annotated[
    list[
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=MAX_PATTERN,
                examples=["action.succeeded", "run.*", "webhook.received:order.paid", "*"],
            ),
        ]
    ],
    Field(min_length=1, max_length=MAX_EVENTS),
]
_Description = Annotated[str, AfterValidator(printable), Field(max_length=MAX_DESCRIPTION, examples=["billing"])]
_Switch = Annotated[bool, Field(strict=True)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CreateEndpoint(_In):
    """A new endpoint. ``events`` are types, prefixes such as ``run.*``, or ``*`` for every type.

    ``webhook.received:`` and a sender's type, or a prefix of such types, asks for what was received of that type alone.
    """

    url: _Url
    events: _Events
    description: _Description = ""
    legacy_signature: _Switch = False


class ChangeEndpoint(_In):
    """What is to change; what is left out stays as it is."""

    url: _Url | None = None
    events: _Events | None = None
    description: _Description | None = None
    legacy_signature: _Switch | None = None
    enabled: _Switch | None = None


class RotateSecret(_In):
    """For how long deliveries are signed with the old secret as well."""

    overlap_hours: Annotated[int, Field(strict=True, ge=0, le=MAX_OVERLAP_HOURS)] = DEFAULT_OVERLAP_HOURS


class EndpointSecret(BaseModel):
    """A secret that signs, without its text. ``created_at`` is null where an earlier version of Relay made it."""

    created_at: str | None
    ends_at: str | None


class EndpointItem(BaseModel):
    """An endpoint without its secrets. ``failures`` counts the attempts that failed since the last success.

    ``secrets`` says since when and until when each of them signs, oldest first.
    """

    id: str
    url: str
    events: list[str]
    description: str
    legacy_signature: bool
    status: Literal["enabled", "disabled"]
    disabled_reason: str | None
    disabled_detail: str | None
    disabled_at: str | None
    failures: int
    failing_since: str | None
    paused_until: str | None
    secrets: list[EndpointSecret]
    created_by: str
    created_at: str
    changed_at: str


class EndpointList(BaseModel):
    """Every endpoint of the workspace, newest first."""

    items: list[EndpointItem]


class NewEndpoint(EndpointItem):
    """An endpoint that was just made. ``secret`` is shown this once."""

    secret: str


class RotatedEndpoint(NewEndpoint):
    """An endpoint with a new secret, and until when the old one still signs."""

    older_until: str


class DeletedEndpoint(BaseModel):
    """An endpoint that is no more."""

    id: str


class TestSent(BaseModel):
    """The delivery that carries the test event."""

    delivery_id: str


def endpoints_routes(endpoints: Endpoints) -> Routes:
    """Return the routes of webhook endpoints."""
    routes = Routes()

    @routes.get("/webhooks/endpoints", access=_access("list"), summary="List endpoints")
    async def list_endpoints(call: Call) -> EndpointList:
        """Return every endpoint of the caller's workspace, newest first."""
        return EndpointList(
            items=[EndpointItem(**_view(found)) for found in await endpoints.list(call.principal.workspace_id)]
        )

    @routes.post(
        "/webhooks/endpoints",
        access=_access("create"),
        body_limit=_BODY_LIMIT,
        status_code=201,
        summary="Make an endpoint",
    )
    async def create_endpoint(call: Call, body: CreateEndpoint) -> NewEndpoint:
        """Make an endpoint. Its secret is in this answer and nowhere else."""
        made = await endpoints.create(
            call.principal,
            url=body.url,
            events=body.events,
            description=body.description,
            legacy_signature=body.legacy_signature,
            request_id=call.request_id,
        )
        return NewEndpoint(**_view(made.endpoint), secret=made.secret)

    @routes.get("/webhooks/endpoints/{endpoint_id}", access=_access("read"), summary="Look at an endpoint")
    async def read_endpoint(call: Call, endpoint_id: str) -> EndpointItem:
        """Return one endpoint."""
        return EndpointItem(**_view(await endpoints.get(call.principal.workspace_id, endpoint_id)))

    @routes.patch(
        "/webhooks/endpoints/{endpoint_id}",
        access=_access("change"),
        body_limit=_BODY_LIMIT,
        summary="Change an endpoint",
    )
    async def change_endpoint(call: Call, endpoint_id: str, body: ChangeEndpoint) -> EndpointItem:
        """Change an endpoint, disable it, or enable it again."""
        changes = Changes(
            url=body.url,
            events=body.events,
            description=body.description,
            legacy_signature=body.legacy_signature,
            enabled=body.enabled,
        )
        return EndpointItem(**_view(await endpoints.change(call.principal, endpoint_id, changes, call.request_id)))

    @routes.delete("/webhooks/endpoints/{endpoint_id}", access=_access("delete"), summary="Delete an endpoint")
    async def delete_endpoint(call: Call, endpoint_id: str) -> DeletedEndpoint:
        """Remove an endpoint with its secrets; its deliveries stay in the log."""
        await endpoints.delete(call.principal, endpoint_id, call.request_id)
        return DeletedEndpoint(id=endpoint_id)

    @routes.post(
        "/webhooks/endpoints/{endpoint_id}/rotate",
        access=_access("rotate"),
        body_limit=_BODY_LIMIT,
        summary="Give an endpoint a new secret",
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": RotateSecret.model_json_schema()}}}},
    )
    async def rotate_secret(call: Call, endpoint_id: str) -> RotatedEndpoint:
        """Make a new secret; deliveries are signed with the old one as well until the overlap is over."""
        asked = await _rotation(call)
        made: NewSecret = await endpoints.rotate(call.principal, endpoint_id, asked.overlap_hours, call.request_id)
        assert made.older_until is not None
        return RotatedEndpoint(**_view(made.endpoint), secret=made.secret, older_until=iso(made.older_until))

    @routes.post(
        "/webhooks/endpoints/{endpoint_id}/test",
        access=_access("test"),
        status_code=202,
        summary="Send a test event",
    )
    async def test_endpoint(call: Call, endpoint_id: str) -> TestSent:
        """Send ``webhook.test`` to an endpoint now, whatever types it asks for."""
        return TestSent(delivery_id=await endpoints.test(call.principal, endpoint_id, call.request_id))

    return routes


async def _rotation(call: Call) -> RotateSecret:
    """Return what a rotation asks for. Its body may be left out, which is why the route does not declare one."""
    lengths = [value for name, value in call.facts.headers if name in (b"content-length", b"transfer-encoding")]
    if lengths in ([], [b"0"]):
        return RotateSecret()
    return validated(RotateSecret, await read_json(call.facts, call.receive, _BODY_LIMIT, _BODY_SECONDS))


def _access(what: str) -> Access:
    return Access("bearer", _MANAGE, (), f"api:endpoints:{what}")


def _time(at: int | None) -> str | None:
    return None if at is None else iso(at)


def _view(endpoint: Endpoint) -> dict[str, Any]:
    row = endpoint.row
    return {
        "id": row.id,
        "url": endpoint.url,
        "events": row.wanted(),
        "description": row.description,
        "legacy_signature": bool(row.legacy_signature),
        "status": row.status,
        "disabled_reason": row.disabled_reason,
        "disabled_detail": REASONS.get(row.disabled_reason) if row.disabled_reason else None,
        "disabled_at": _time(row.disabled_at),
        "failures": row.failures,
        "failing_since": _time(row.failing_since),
        "paused_until": _time(row.paused_until),
        "secrets": [{"created_at": _time(life.since), "ends_at": _time(life.until)} for life in endpoint.secrets],
        "created_by": row.created_by,
        "created_at": iso(row.created_at),
        "changed_at": iso(row.changed_at),
    }
