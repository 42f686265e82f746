"""The audit log of the caller's workspace, and whether the whole log holds."""

from typing import Annotated, Any, Final

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from relay.audit.details import DetailsState
from relay.audit.log import DEFAULT_LIMIT, MAX_LIMIT, AuditLog, Filters, checked_text, parse_cursor
from relay.audit.verify import Verifier
from relay.audit.view import entry_view, verification_view
from relay.core.access import Access
from relay.core.clock import parse_iso
from relay.core.principal import Scope
from relay.surface.declare import Call, Routes

_READ: Final[frozenset[Scope]] = frozenset({"audit:read"})


def _cursor(value: str) -> str:
    parse_cursor(value)
    return value


def _time(value: str) -> str:
    parse_iso(value)
    return value


_Text = Annotated[str, AfterValidator(checked_text)]
_Time = Annotated[str, Field(max_length=40, examples=["2030-01-02T03:04:05Z"]), AfterValidator(_time)]


class AuditQuery(BaseModel):
    """Filters, all of which must hold. ``tag`` may end in ``*``; ``since`` is inclusive, ``until`` exclusive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    cursor: Annotated[str, Field(max_length=100), AfterValidator(_cursor)] | None = None
    tag: _Text | None = None
    principal: _Text | None = None
    action: _Text | None = None
    outcome: _Text | None = None
    since: _Time | None = None
    until: _Time | None = None
    q: _Text | None = None

    def filters(self) -> Filters:
        """Return what the log filters by."""
        return Filters(
            tag=self.tag,
            principal=self.principal,
            action=self.action,
            outcome=self.outcome,
            since=parse_iso(self.since) if self.since else None,
            until=parse_iso(self.until) if self.until else None,
            q=self.q,
        )


class AuditItem(BaseModel):
    """One event. ``hash`` covers every column before it; ``commitment`` binds the details, which can be erased."""

    seq: int
    id: str
    occurred_at: str
    workspace_id: str
    principal: str
    request_id: str
    tag: str
    target: str
    action: str
    decision: str
    digest: str
    outcome: str
    commitment: str
    prev_hash: str
    hash: str
    details: dict[str, Any] | None
    details_state: DetailsState


class AuditPage(BaseModel):
    """Events, newest first. While ``next_cursor`` is not null there may be more, even after an empty page."""

    items: list[AuditItem]
    next_cursor: str | None


class AuditProblem(BaseModel):
    """Where the log does not hold, and why."""

    seq: int
    reason: str


class AuditVerification(BaseModel):
    """Whether the log of the whole installation holds. ``problem`` is there only when it does not."""

    ok: bool
    size: int
    head: str
    checked_at: str
    heads: int
    details: int
    details_erased: int
    problem: AuditProblem | None = None

    @model_serializer(mode="wrap")
    def _without_absent_problem(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        view: dict[str, Any] = handler(self)
        if self.problem is None:
            del view["problem"]
        return view


def audit_routes(log: AuditLog, verifier: Verifier) -> Routes:
    """Return the routes of the audit log."""
    routes = Routes()

    @routes.get("/audit", access=_access("list"), summary="List audit events")
    async def list_events(call: Call, query: Annotated[AuditQuery, Query()]) -> AuditPage:
        """Return the events of the caller's workspace, newest first."""
        scoped = log.of(call.principal.workspace_id)
        page = await scoped.page(query.filters(), limit=query.limit, cursor=query.cursor)
        items = [AuditItem(**entry_view(entry)) for entry in page.entries]
        return AuditPage(items=items, next_cursor=page.next_cursor)

    @routes.get("/audit/verify", access=_access("verify"), summary="Verify the audit log")
    async def verify(call: Call) -> AuditVerification:
        """Verify what was added since the last verification; the command line verifies everything, always."""
        return AuditVerification(**verification_view(await verifier.verify()))

    return routes


def _access(what: str) -> Access:
    return Access("bearer", _READ, (), f"api:audit:{what}")
