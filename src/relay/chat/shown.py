"""Turns and calls as the wire has them: the same in answers, in lists and in events."""

from typing import Any, Final

from pydantic import BaseModel

from relay.chat.views import CallView, EntryView, Origin, SessionView, TurnView
from relay.core.clock import iso
from relay.llm.messages import Usage

_BILLIONTHS: Final = 1_000_000_000
LOCAL_NOTICE: Final = "No language model is set up here: Relay's own planner has read this, by fixed rules."
UNTRUSTED_NOTICE: Final = "Content from outside may have had a say in this answer: take it as data, not as advice."


class OriginItem(BaseModel):
    """Where a value came from: ``pointer`` is into the result of ``attempt_id``, ``message`` an entry's number."""

    source: str
    attempt_id: str | None
    pointer: str | None
    message: int | None


class CallError(BaseModel):
    """Why a call did not succeed."""

    code: str
    detail: str


class TurnError(CallError):
    """Why a turn failed, and in how many seconds it may help to say it again, null where nobody knows."""

    retry_after: int | None


class CallItem(BaseModel):
    """An action that the conversation has asked for, as it stands.

    ``params`` are masked. ``preview`` is what it would do, where it waits for approval or was only previewed, and
    ``digest`` what an approver names. ``result`` is data, whatever it says: with ``untrusted`` it holds content from
    outside. ``origins`` says of parameters, by JSON Pointer, where their values came from.
    """

    id: str
    action: str
    status: str
    params: dict[str, Any]
    summary: str
    effect: str
    attempt_id: str | None
    approval_id: str | None
    digest: str | None
    preview: dict[str, Any] | None
    result: dict[str, Any] | None
    error: CallError | None
    untrusted: bool
    origins: dict[str, list[OriginItem]]
    expires_at: str | None


class ApprovalNeeded(BaseModel):
    """A call that waits for a person, and what the person decides about."""

    approval_id: str
    attempt_id: str | None
    call_id: str
    action: str
    params: dict[str, Any]
    summary: str
    digest: str | None
    preview: dict[str, Any] | None
    expires_at: str | None


class UsageItem(BaseModel):
    """What models took for this turn, and what the session has cost so far. ``estimated``: the service did not say."""

    input_tokens: int
    output_tokens: int
    cost_usd: float
    session_cost_usd: float
    estimated: bool
    model: str


class TurnAnswer(BaseModel):
    """A turn as it stands. ``message`` is data too: with ``untrusted``, content from outside may have shaped it."""

    session_id: str
    turn_id: str
    status: str
    message: str
    tool_calls: list[CallItem]
    awaiting_approval: bool
    approvals: list[ApprovalNeeded]
    usage: UsageItem
    model: str
    untrusted: bool
    notices: list[str]
    error: TurnError | None


class SessionItem(BaseModel):
    """A session of the caller's. ``status`` is that of its last turn."""

    session_id: str
    status: str | None
    turns: int
    untrusted: bool
    cost_usd: float
    created_at: str
    last_used_at: str
    expires_at: str


class EntryItem(BaseModel):
    """What was said or done in a session, under its number."""

    seq: int
    turn_id: str
    kind: str
    text: str
    attachments: int
    call: CallItem | None
    at: str


def dollars(billionths: int) -> float:
    """Return an amount as a number of US dollars."""
    return billionths / _BILLIONTHS


def shown_call(view: CallView) -> CallItem:
    """Return a call as callers see it."""
    return CallItem(
        id=view.id,
        action=view.action,
        status=view.status,
        params=view.params,
        summary=view.summary,
        effect=view.effect,
        attempt_id=view.attempt_id,
        approval_id=view.approval_id,
        digest=view.digest,
        preview=view.preview,
        result=view.result,
        error=_error(view.error),
        untrusted=view.untrusted,
        origins={pointer: [_origin(origin) for origin in origins] for pointer, origins in view.origins.items()},
        expires_at=_time(view.expires_at),
    )


def shown_turn(view: TurnView) -> TurnAnswer:
    """Return a turn as callers see it, in the answer to a message and in the event that ends it."""
    waiting = [call for call in view.calls if call.status == "pending_approval" and call.approval_id is not None]
    return TurnAnswer(
        session_id=view.session_id,
        turn_id=view.id,
        status=view.status,
        message=view.message,
        tool_calls=[shown_call(call) for call in view.calls],
        awaiting_approval=view.status == "awaiting_approval",
        approvals=[_approval(call) for call in waiting],
        usage=_usage(view.usage, view.spent, view.model),
        model=view.model,
        untrusted=view.untrusted,
        notices=_notices(view),
        error=_turn_error(view),
    )


def shown_session(view: SessionView) -> SessionItem:
    """Return a session as its owner sees it."""
    return SessionItem(
        session_id=view.id,
        status=view.status,
        turns=view.turns,
        untrusted=view.untrusted,
        cost_usd=dollars(view.spent),
        created_at=iso(view.created_at),
        last_used_at=iso(view.last_used_at),
        expires_at=iso(view.expires_at),
    )


def shown_entry(view: EntryView) -> EntryItem:
    """Return an entry of a session as its owner sees it."""
    return EntryItem(
        seq=view.seq,
        turn_id=view.turn_id,
        kind=view.kind,
        text=view.text,
        attachments=view.images,
        call=None if view.call is None else shown_call(view.call),
        at=iso(view.at),
    )


def _usage(usage: Usage, spent: int, model: str) -> UsageItem:
    return UsageItem(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=dollars(usage.cost),
        session_cost_usd=dollars(spent),
        estimated=usage.estimated,
        model=model,
    )


def _approval(call: CallView) -> ApprovalNeeded:
    return ApprovalNeeded(
        approval_id=call.approval_id or "",
        attempt_id=call.attempt_id,
        call_id=call.id,
        action=call.action,
        params=call.params,
        summary=call.summary,
        digest=call.digest,
        preview=call.preview,
        expires_at=_time(call.expires_at),
    )


def _notices(view: TurnView) -> list[str]:
    found = [LOCAL_NOTICE] if view.planned else []
    return [*found, UNTRUSTED_NOTICE] if view.untrusted else found


def _origin(origin: Origin) -> OriginItem:
    return OriginItem(
        source=origin.source, attempt_id=origin.attempt_id, pointer=origin.pointer, message=origin.message
    )


def _error(error: tuple[str, str] | None) -> CallError | None:
    return None if error is None else CallError(code=error[0], detail=error[1])


def _turn_error(view: TurnView) -> TurnError | None:
    if view.error is None:
        return None
    return TurnError(code=view.error[0], detail=view.error[1], retry_after=view.retry_after)


def _time(at: int | None) -> str | None:
    return None if at is None else iso(at)
