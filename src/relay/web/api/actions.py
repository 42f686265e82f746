"""Actions: list, preview, execute, and look at an attempt."""

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.responses import Response

from relay.approvals.requests import Requests
from relay.catalog import ActionSpec, Catalog
from relay.core.access import Access
from relay.core.clock import iso
from relay.core.principal import Principal
from relay.core.problem import (
    BadRequest,
    Denied,
    EgressDenied,
    InProgress,
    OutcomeUnknown,
    Problem,
    StateChanged,
    UpstreamRefused,
)
from relay.gate.ask import Ask, AttemptState, PreviewState
from relay.gate.perform import Performer
from relay.gate.probe import STATE_CHANGED
from relay.surface.body import LARGE_BODY_LIMIT
from relay.surface.declare import Call, Routes

MAX_IDEMPOTENCY_KEY: Final = 255
IDEMPOTENCY_HEADER: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and request have one effect; 1 to 255 visible ASCII characters.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY},
}
_TWIN_RETRY_SECONDS: Final = 5

_Name = Annotated[str, Field(min_length=1, max_length=100, examples=["email.send"])]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreviewRequest(_In):
    """An action and its parameters. ``connection`` is reserved for connectors that act on a granted account."""

    action: _Name
    params: dict[str, Any]
    connection: None = None


class ExecuteRequest(_In):
    """Either a preview, or an action and its parameters."""

    preview_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")] | None = None
    action: _Name | None = None
    params: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_of_both(cls, data: Any) -> Any:
        # Before the fields are looked at: a misspelt one is told together with what is missing instead of it.
        given = {name for name in cls.model_fields if data.get(name) is not None} if isinstance(data, dict) else None
        if given is None or given in ({"preview_id"}, {"action", "params"}):
            return data
        raise ValueError("give preview_id alone, or action and params")


class ActionItem(BaseModel):
    """An action of the catalogue. ``untrusted_result``: what it returns may hold what others have written."""

    name: str
    version: int
    summary: str
    effect: str
    scope: str
    untrusted_result: bool
    params: dict[str, Any]
    result: dict[str, Any]


class ActionList(BaseModel):
    """The actions that the caller could run."""

    actions: list[ActionItem]


class PreviewAnswer(BaseModel):
    """What the action would really do. ``rendering`` is for people: secrets masked, everything else as it will be.

    ``seen_version`` is of what it changes, where that could be read: while it is another one, the preview does not run.
    """

    preview_id: str
    action: str
    effect: str
    summary: str
    params: dict[str, Any]
    rendering: dict[str, Any]
    decision: str
    reason: str
    warnings: list[str]
    digest: str
    seen_version: str | None
    expires_at: str


class ExecuteAnswer(BaseModel):
    """What became of the action."""

    attempt_id: str
    status: str
    action: str
    result: dict[str, Any] | None
    duration_ms: int | None


class WaitingAnswer(BaseModel):
    """An attempt that waits: for the approval that ``approval_id`` names, or, ``running``, until ``held_until``."""

    attempt_id: str
    status: Literal["pending_approval", "running"]
    action: str
    approval_id: str | None = None
    held_until: str | None = None


class AttemptError(BaseModel):
    """Why an attempt did not succeed."""

    code: str
    detail: str


class AttemptAnswer(BaseModel):
    """An attempt as it stands. ``params`` are masked; they and ``result`` are null after their retention.

    ``approval_id`` names the request that it has led to. Until ``held_until`` an attempt that is allowed can be
    recalled, or waits to be tried again. ``tries`` is how often it has begun. ``comments`` is what those who decided
    about it said, by principal: for whoever asked for it and for keys with ``approvals:decide``, null for others.
    """

    attempt_id: str
    status: str
    action: str
    version: int
    effect: str
    digest: str
    requested_by: str
    params: dict[str, Any] | None
    result: dict[str, Any] | None
    error: AttemptError | None
    duration_ms: int | None
    approval_id: str | None
    held_until: str | None
    tries: int
    comments: dict[str, str] | None
    created_at: str
    finished_at: str | None


def actions_routes(performer: Performer, catalog: Catalog, requests: Requests) -> Routes:
    """Return the routes under ``/actions`` and ``/attempts``."""
    routes = Routes()
    items: dict[str, ActionItem] = {}

    @routes.get(
        "/actions", access=Access("bearer", frozenset({"actions:preview"}), (), "api:actions:list"), summary="List"
    )
    async def list_actions(call: Call) -> ActionList:
        """Return what the caller could run, with the JSON Schemas of parameters and results."""
        return ActionList(actions=list(_items(await performer.visible(call.principal), items)))

    @routes.post(
        "/actions/preview",
        access=Access("bearer", frozenset({"actions:preview"}), (), "api:actions:preview"),
        body_limit=LARGE_BODY_LIMIT,
        summary="Preview",
    )
    async def preview(call: Call, body: PreviewRequest) -> PreviewAnswer:
        """Return what an action would really do, and a preview that can be executed once."""
        made = await performer.preview(
            call.principal, body.action, body.params, request_id=call.request_id, client=call.caller
        )
        return _preview_answer(made)

    @routes.post(
        "/actions/execute",
        access=Access("bearer", frozenset({"actions:execute"}), ("execute",), "api:actions:execute"),
        body_limit=LARGE_BODY_LIMIT,
        summary="Execute",
        openapi_extra={"parameters": [IDEMPOTENCY_HEADER]},
        response_model=ExecuteAnswer,
        responses={202: {"model": WaitingAnswer, "description": "It waits, for an approval or held back."}},
    )
    async def execute(call: Call, body: ExecuteRequest) -> ExecuteAnswer | Response:
        """Run a preview, or an action with parameters, and return what became of it, or that it waits (202)."""
        ask = Ask(
            request_id=call.request_id,
            client=call.caller,
            action=body.action,
            params=body.params,
            preview_id=body.preview_id,
            idempotency_key=idempotency_key(call),
        )
        return _answer(await performer.perform(call.principal, ask))

    @routes.get(
        "/attempts/{attempt_id}",
        access=Access("bearer", frozenset({"actions:preview"}), (), "api:attempts:read"),
        summary="Attempt",
    )
    async def attempt(call: Call, attempt_id: str) -> AttemptAnswer:
        """Return an attempt of the caller's workspace as it stands."""
        workspace = call.principal.workspace_id
        state = await performer.attempts.state(workspace, attempt_id)
        params = _masked(catalog, state, await performer.attempts.params(workspace, attempt_id))
        return _attempt_answer(state, params, await comments(call.principal, state))

    @routes.post(
        "/attempts/{attempt_id}/recall",
        access=Access("bearer", frozenset({"actions:execute"}), (), "api:attempts:recall"),
        summary="Recall",
    )
    async def recall(call: Call, attempt_id: str) -> AttemptAnswer:
        """Cancel an attempt that is held back and has not begun."""
        workspace = call.principal.workspace_id
        await performer.holds.recall(call.principal, attempt_id, call.request_id)
        state = await performer.attempts.state(workspace, attempt_id)
        params = _masked(catalog, state, await performer.attempts.params(workspace, attempt_id))
        return _attempt_answer(state, params, await comments(call.principal, state))

    async def comments(principal: Principal, state: AttemptState) -> dict[str, str] | None:
        if principal.id != state.requested_by and "approvals:decide" not in principal.scopes:
            return None
        if state.approval_id is None:
            return {}
        return await requests.comments(principal.workspace_id, state.approval_id)

    return routes


def idempotency_key(call: Call) -> str | None:
    """Return the request's ``Idempotency-Key``, None when there is none, 400 when it is not one visible ASCII text."""
    given = [value for name, value in call.facts.headers if name == b"idempotency-key"]
    if not given:
        return None
    key = given[0]
    if len(given) > 1 or not 0 < len(key) <= MAX_IDEMPOTENCY_KEY or any(not 0x21 <= byte <= 0x7E for byte in key):
        raise BadRequest("Idempotency-Key is one header of 1 to 255 visible ASCII characters.")
    return key.decode()


def _items(specs: Iterable[ActionSpec], known: dict[str, ActionItem]) -> Iterable[ActionItem]:
    for spec in specs:
        if spec.name not in known:
            known[spec.name] = ActionItem(
                name=spec.name,
                version=spec.version,
                summary=spec.summary,
                effect=spec.effect,
                scope=spec.scope,
                untrusted_result=spec.untrusted_result,
                params=spec.params.model_json_schema(),
                result=spec.result.model_json_schema(mode="serialization"),
            )
        yield known[spec.name]


def _preview_answer(made: PreviewState) -> PreviewAnswer:
    considered = made.considered
    return PreviewAnswer(
        preview_id=made.preview_id,
        action=considered.spec.name,
        effect=considered.spec.effect,
        summary=considered.rendering.summary,
        params=considered.spec.redact(considered.step.params),
        rendering=considered.rendering.body,
        decision=considered.decision.effect,
        reason=considered.decision.reason,
        warnings=list(considered.warnings),
        digest=considered.step.digest,
        seen_version=made.seen_version,
        expires_at=iso(made.expires_at),
    )


def _answer(state: AttemptState) -> ExecuteAnswer | Response:
    if state.status == "pending_approval" or (state.status == "running" and state.held_until is not None):
        return _waiting(state)
    if state.status == "succeeded":
        return ExecuteAnswer(
            attempt_id=state.attempt_id,
            status=state.status,
            action=state.action,
            result=state.result,
            duration_ms=state.duration_ms,
        )
    raise _problem(state)


def _waiting(state: AttemptState) -> Response:
    waits: Literal["pending_approval", "running"] = "running" if state.status == "running" else "pending_approval"
    answer = WaitingAnswer(
        attempt_id=state.attempt_id,
        status=waits,
        action=state.action,
        approval_id=state.approval_id,
        held_until=iso(state.held_until) if state.held_until is not None else None,
    )
    return Response(answer.model_dump_json(exclude_none=True), status_code=202, media_type="application/json")


def _problem(state: AttemptState) -> Problem:
    about: dict[str, Any] = {"attempt_id": state.attempt_id, "attempt_status": state.status}
    if state.status == "running":
        return InProgress(
            "The same request is still running; ask again.",
            headers={"Retry-After": str(_TWIN_RETRY_SECONDS)},
            retry_after=_TWIN_RETRY_SECONDS,
            **about,
        )
    failure = state.failure
    detail = failure.detail if failure is not None else ""
    about["code"] = failure.code if failure is not None else state.status
    if state.status == "failed":
        if failure is not None and failure.status == EgressDenied.status:
            return EgressDenied(detail, **about)
        return UpstreamRefused(detail, **about)
    if state.status == "unknown":
        return OutcomeUnknown(detail, **about)
    if about["code"] == STATE_CHANGED:
        return StateChanged(detail, **about)
    return Denied(f"The attempt is {state.status}. {detail}".rstrip(), **about)


def _masked(catalog: Catalog, state: AttemptState, params: bytes | None) -> dict[str, Any] | None:
    spec = catalog.get(state.action)
    if params is None or spec is None or spec.version != state.version:
        return None
    try:
        return spec.redact(spec.params.model_validate_json(params))
    except ValidationError:  # stored before a rule of the action became stricter
        return None


def _attempt_answer(
    state: AttemptState, params: dict[str, Any] | None, comments: dict[str, str] | None
) -> AttemptAnswer:
    failure = state.failure
    return AttemptAnswer(
        attempt_id=state.attempt_id,
        status=state.status,
        action=state.action,
        version=state.version,
        effect=state.effect,
        digest=state.digest,
        requested_by=state.requested_by,
        params=params,
        result=state.result,
        error=AttemptError(code=failure.code, detail=failure.detail) if failure is not None else None,
        duration_ms=state.duration_ms,
        approval_id=state.approval_id,
        held_until=iso(state.held_until) if state.held_until is not None else None,
        tries=state.tries,
        comments=comments,
        created_at=iso(state.created_at),
        finished_at=iso(state.finished_at) if state.finished_at is not None else None,
    )
