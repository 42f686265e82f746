"""Approvals: what waits for a person, and the person's decision. A look decides nothing."""

from typing import Annotated, Any, Final, Literal

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from relay.approvals.decide import Decided, Decisions, Wish
from relay.approvals.requests import MAX_PAGE, Request, Requests
from relay.core.access import Access
from relay.core.clock import iso
from relay.core.principal import Scope
from relay.core.validation import printable
from relay.gate.ask import AttemptState
from relay.gate.perform import Performer
from relay.surface.body import KIB
from relay.surface.declare import Call, Routes
from relay.web.api.actions import AttemptError

DEFAULT_PAGE: Final = 20
MAX_COMMENT: Final = 1000
_BODY_LIMIT: Final = 16 * KIB
_DECIDE: Final[frozenset[Scope]] = frozenset({"approvals:decide"})

Status = Literal["pending", "approved", "denied", "expired", "withdrawn", "cancelled"]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ApprovalQuery(_In):
    """A page of requests: those that are pending first, the oldest at the top; then the others, newest first."""

    status: Status | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[str, Field(max_length=100)] | None = None


class DecisionRequest(_In):
    """A decision. ``digest`` is that of the step that was looked at, 64 lower-case hex digits."""

    digest: Annotated[str, Field(max_length=200, examples=["0" * 64])]
    comment: Annotated[str, AfterValidator(printable), Field(max_length=MAX_COMMENT)] = ""


class DecisionItem(BaseModel):
    """What one person decided, and what they said; the comment is null after its retention or where there was none."""

    approver: str
    decision: Literal["approve", "deny"]
    comment: str | None
    decided_at: str


class ApprovalItem(BaseModel):
    """A request, with what would really happen: ``summary`` and ``rendering`` come from the action itself.

    ``params`` and ``rendering`` have secrets masked; they are null after their retention. ``approvers`` persons have to
    agree, ``approvals`` have; with ``other_person`` one of them must have no part in the requester's key.
    """

    approval_id: str
    attempt_id: str
    status: Status
    action: str
    effect: str
    summary: str | None
    params: dict[str, Any] | None
    rendering: dict[str, Any] | None
    warnings: list[str]
    digest: str
    requested_by: str
    reason: str
    policy_id: str
    policy_version: int
    approvers: int
    other_person: bool
    approvals: int
    decisions: list[DecisionItem]
    seen_version: str | None
    run_id: str | None
    step_id: str | None
    created_at: str
    expires_at: str
    decided_at: str | None


class ApprovalList(BaseModel):
    """Requests of the workspace."""

    items: list[ApprovalItem]
    next_cursor: str | None


class DecisionAnswer(BaseModel):
    """How request and attempt stand after a decision. What has been approved then runs by itself."""

    approval_id: str
    approval_status: Status
    approvals: int
    approvers: int
    attempt_id: str
    status: str
    action: str
    digest: str
    requested_by: str
    error: AttemptError | None
    held_until: str | None
    created_at: str
    finished_at: str | None


def approvals_routes(requests: Requests, decisions: Decisions, performer: Performer) -> Routes:
    """Return the routes under ``/approvals``."""
    routes = Routes()

    async def answer(call: Call, decided: Decided) -> DecisionAnswer:
        state = await performer.attempts.state(call.principal.workspace_id, decided.attempt_id)
        return _decided(decided, state)

    @routes.get("/approvals", access=_access("list"), summary="List requests")
    async def list_requests(call: Call, query: Annotated[ApprovalQuery, Query()]) -> ApprovalList:
        """Return the requests of the caller's workspace, those that are pending first."""
        found, cursor = await requests.page(
            call.principal.workspace_id, status=query.status, cursor=query.cursor, limit=query.limit
        )
        return ApprovalList(items=[_item(request) for request in found], next_cursor=cursor)

    @routes.get("/approvals/{approval_id}", access=_access("read"), summary="Request")
    async def show(call: Call, approval_id: str) -> ApprovalItem:
        """Return one request. Where a notice leads to; it decides nothing."""
        return _item(await requests.show(call.principal.workspace_id, approval_id))

    @routes.post(
        "/approvals/{approval_id}/approve", access=_access("approve"), body_limit=_BODY_LIMIT, summary="Approve"
    )
    async def approve(call: Call, body: DecisionRequest, approval_id: str) -> DecisionAnswer:
        """Agree to exactly the step with this digest; it runs by itself once everybody has who must."""
        wish = Wish("approve", body.digest, body.comment, call.request_id)
        return await answer(call, await decisions.decide(call.principal, approval_id, wish))

    @routes.post("/approvals/{approval_id}/deny", access=_access("deny"), body_limit=_BODY_LIMIT, summary="Deny")
    async def deny(call: Call, body: DecisionRequest, approval_id: str) -> DecisionAnswer:
        """End a request: the step will not run. One person is enough."""
        wish = Wish("deny", body.digest, body.comment, call.request_id)
        return await answer(call, await decisions.decide(call.principal, approval_id, wish))

    @routes.post(
        "/approvals/{approval_id}/withdraw",
        access=Access("bearer", frozenset({"actions:execute"}), (), "api:approvals:withdraw"),
        summary="Withdraw",
    )
    async def withdraw(call: Call, approval_id: str) -> DecisionAnswer:
        """End one's own request; a person with ``workspace:admin`` may end any."""
        return await answer(call, await decisions.withdraw(call.principal, approval_id, call.request_id))

    return routes


def _access(what: str) -> Access:
    return Access("bearer", _DECIDE, (), f"api:approvals:{what}")


def _item(request: Request) -> ApprovalItem:
    approval, attempt, rendering = request.approval, request.attempt, request.rendering
    return ApprovalItem(
        approval_id=approval.id,
        attempt_id=approval.attempt_id,
        status=approval.status,  # type: ignore[arg-type]
        action=approval.action,
        effect=attempt.effect,
        summary=rendering.summary if rendering is not None else None,
        params=request.params,
        rendering=rendering.body if rendering is not None else None,
        warnings=list(rendering.warnings) if rendering is not None else [],
        digest=approval.digest,
        requested_by=approval.requester_id,
        reason=approval.reason,
        policy_id=approval.policy_id,
        policy_version=approval.policy_version,
        approvers=approval.approvers,
        other_person=bool(approval.other_person),
        approvals=sum(decision.decision == "approve" for decision in request.decisions),
        decisions=[
            DecisionItem(
                approver=decision.approver_id,
                decision=decision.decision,  # type: ignore[arg-type]
                comment=request.comments.get(decision.approver_id),
                decided_at=iso(decision.decided_at),
            )
            for decision in request.decisions
        ],
        seen_version=approval.seen_version,
        run_id=attempt.run_id,
        step_id=attempt.step_id,
        created_at=iso(approval.created_at),
        expires_at=iso(approval.expires_at),
        decided_at=iso(approval.decided_at) if approval.decided_at is not None else None,
    )


def _decided(decided: Decided, state: AttemptState) -> DecisionAnswer:
    failure = state.failure
    return DecisionAnswer(
        approval_id=decided.approval_id,
        approval_status=decided.status,  # type: ignore[arg-type]
        approvals=decided.persons,
        approvers=decided.approvers,
        attempt_id=state.attempt_id,
        status=state.status,
        action=state.action,
        digest=state.digest,
        requested_by=state.requested_by,
        error=AttemptError(code=failure.code, detail=failure.detail) if failure is not None else None,
        held_until=iso(state.held_until) if state.held_until is not None else None,
        created_at=iso(state.created_at),
        finished_at=iso(state.finished_at) if state.finished_at is not None else None,
    )
