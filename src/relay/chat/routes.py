"""The chat's routes: say something, look at sessions, follow one, and decide about what waits in it."""

import asyncio
from typing import Annotated, Any, Final, Literal

from fastapi import Query
from starlette.responses import Response

from relay.approvals.decide import Decisions, Wish
from relay.chat.schemas import (
    BODY_LIMIT,
    MAX_MESSAGE,
    CallDecided,
    CallDecision,
    CallEdit,
    ChatRequest,
    EntriesQuery,
    SessionAnswer,
    SessionDeleted,
    SessionList,
    SessionsQuery,
)
from relay.chat.service import Chat
from relay.chat.shown import CallItem, TurnAnswer, shown_call, shown_entry, shown_session, shown_turn
from relay.chat.stream import ChatStream, wants_events
from relay.chat.views import Said, TurnHandle, TurnView
from relay.core.access import Access
from relay.core.clock import DAY, MICROSECONDS, now
from relay.core.hygiene import clean, clean_json
from relay.core.principal import Scope
from relay.core.problem import Invalid, ModelUnavailable, Problem, SpendingExhausted
from relay.gate.perform import Performer
from relay.llm.messages import Usage
from relay.surface.body import KIB
from relay.surface.declare import Call, Routes
from relay.surface.events import EventStream, last_event_id

WAIT_SECONDS: Final = 55
"""How long a caller of JSON waits for a turn: less than the minute after which proxies commonly give up."""
_SMALL_BODY: Final = 16 * KIB
_CHAT: Final[frozenset[Scope]] = frozenset({"chat"})
_DECIDE: Final[frozenset[Scope]] = frozenset({"chat", "approvals:decide"})

_RESUME_HEADER: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The id of the last event that was seen; the stream goes on after it.",
    "schema": {"type": "string"},
}
_PREFER_HEADER: Final[dict[str, Any]] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": f"`wait=N`: answer after N seconds at the latest, 0 to {WAIT_SECONDS} (RFC 7240).",
    "schema": {"type": "string"},
}
_STREAMED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": TurnAnswer, "content": {"text/event-stream": {}}, "description": "The turn as it ended or waits."},
    202: {"model": TurnAnswer, "description": "The turn still runs; follow the session, or look at it later."},
}


def chat_routes(chat: Chat) -> Routes:
    """Return the routes of conversations."""
    routes = Routes()
    _message_routes(routes, chat)
    _session_routes(routes, chat)
    return routes


def call_routes(chat: Chat, decisions: Decisions, performer: Performer) -> Routes:
    """Return the routes about the actions that conversations ask for."""
    routes = Routes()
    _draft_routes(routes, chat)
    _decision_routes(routes, chat, decisions, performer)
    return routes


def _access(what: str, *, limits: tuple[str, ...] = (), scopes: frozenset[Scope] = _CHAT) -> Access:
    return Access("bearer", scopes, limits, f"api:chat:{what}", frozenset({"chat"}))


def _message_routes(routes: Routes, chat: Chat) -> None:
    async def message(call: Call, body: ChatRequest) -> TurnAnswer | Response:
        """Say something, and return what came of it: what was answered, what ran, and what waits for approval.

        With ``Accept: text/event-stream`` the same as it happens. A turn goes on when its caller leaves.
        """
        said = _said(call, body)
        del body  # pictures are large, and an answer may take a while
        if wants_events(call.facts):
            return await _streamed(chat, call, said)
        handle = await chat.send(call.principal, said)
        del said
        return await _ended(chat, handle, _patience(call))

    options: dict[str, Any] = {
        "access": _access("message", limits=("chat",)),
        "body_limit": BODY_LIMIT,
        "summary": "Say something",
        "response_model": TurnAnswer,
        "responses": _STREAMED,
        "openapi_extra": {"parameters": [_PREFER_HEADER]},
    }
    routes.post("/chat/", **options)(message)
    routes.post("/chat", **options, include_in_schema=False)(message)


def _session_routes(routes: Routes, chat: Chat) -> None:
    @routes.get("/chat/sessions", access=_access("list"), summary="Sessions")
    async def sessions(call: Call, query: Annotated[SessionsQuery, Query()]) -> SessionList:
        """Return the caller's own sessions, newest first. None for the chat key, which many may hold."""
        found, cursor = await chat.page(call.principal, query.limit, query.cursor)
        return SessionList(items=[shown_session(view) for view in found], next_cursor=cursor)

    @routes.get("/chat/sessions/{session_id}", access=_access("read"), summary="Session")
    async def session(call: Call, session_id: str, query: Annotated[EntriesQuery, Query()]) -> SessionAnswer:
        """Return a session with what was said and done in it, oldest first."""
        view, entries, cursor = await chat.show(call.principal, session_id, query.limit, query.cursor)
        return SessionAnswer(
            session=shown_session(view), entries=[shown_entry(entry) for entry in entries], next_cursor=cursor
        )

    @routes.delete("/chat/sessions/{session_id}", access=_access("delete"), summary="Delete a session")
    async def delete(call: Call, session_id: str) -> SessionDeleted:
        """Delete a session with everything in it. Its turn is ended, and what waits in it is withdrawn."""
        await chat.delete(call.principal, session_id, call.request_id)
        return SessionDeleted(session_id=session_id)

    @routes.post("/chat/sessions/{session_id}/cancel", access=_access("cancel"), summary="End the turn")
    async def cancel(call: Call, session_id: str) -> TurnAnswer:
        """End the turn that runs or waits. A call under way comes to its end, since its effect may have happened."""
        return shown_turn(await chat.cancel(call.principal, session_id, call.request_id))

    @routes.get(
        "/chat/sessions/{session_id}/events",
        access=_access("events"),
        summary="Follow a session",
        openapi_extra={"parameters": [_RESUME_HEADER]},
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def events(call: Call, session_id: str) -> Response:
        """Stream what happens in a session as server-sent events, from its start or after ``Last-Event-ID``."""
        stream = await chat.follow(call.principal, session_id, last_event_id(call), call.caller)
        return EventStream(ChatStream(stream))


def _draft_routes(routes: Routes, chat: Chat) -> None:
    @routes.post("/chat/sessions/{session_id}/calls/{call_id}/edit", access=_access("edit"), summary="Edit a draft")
    async def edit(call: Call, body: CallEdit, session_id: str, call_id: str) -> CallItem:
        """Put other parameters in place of a draft that waits: a new step with a new digest, asked for anew."""
        params = clean_json(body.params, "/params")
        changed = await chat.edit_call(call.principal, session_id, call_id, params, call.request_id, call.caller)
        return shown_call(changed)

    @routes.post(
        "/chat/sessions/{session_id}/calls/{call_id}/cancel", access=_access("withdraw"), summary="Withdraw a draft"
    )
    async def withdraw(call: Call, session_id: str, call_id: str) -> CallItem:
        """Withdraw a call that waits; the conversation goes on without it."""
        return shown_call(await chat.cancel_call(call.principal, session_id, call_id, call.request_id))


def _decision_routes(routes: Routes, chat: Chat, decisions: Decisions, performer: Performer) -> None:
    async def decide(
        call: Call, session_id: str, call_id: str, decision: Literal["approve", "deny"], body: CallDecision
    ) -> CallDecided:
        workspace = call.principal.workspace_id
        approval_id = await chat.approval_of_call(workspace, session_id, call_id)
        wish = Wish(decision, body.digest, body.comment, call.request_id)
        decided = await decisions.decide(call.principal, approval_id, wish)
        await chat.decided(session_id, call_id)
        state = await performer.attempts.state(workspace, decided.attempt_id)
        return CallDecided(
            call_id=call_id,
            approval_id=decided.approval_id,
            approval_status=decided.status,
            approvals=decided.persons,
            approvers=decided.approvers,
            attempt_id=decided.attempt_id,
            status=state.status,
        )

    @routes.post(
        "/chat/sessions/{session_id}/calls/{call_id}/approve",
        access=_access("approve", scopes=_DECIDE),
        body_limit=_SMALL_BODY,
        summary="Approve a draft",
    )
    async def approve(call: Call, body: CallDecision, session_id: str, call_id: str) -> CallDecided:
        """Agree to exactly the step with this digest, under the rules of all approvals; then it runs by itself."""
        return await decide(call, session_id, call_id, "approve", body)

    @routes.post(
        "/chat/sessions/{session_id}/calls/{call_id}/deny",
        access=_access("deny", scopes=_DECIDE),
        body_limit=_SMALL_BODY,
        summary="Deny a draft",
    )
    async def deny(call: Call, body: CallDecision, session_id: str, call_id: str) -> CallDecided:
        """Refuse a draft: it will not run, and the conversation goes on without it."""
        return await decide(call, session_id, call_id, "deny", body)


def _said(call: Call, body: ChatRequest) -> Said:
    text = clean(body.message, "/message", most=MAX_MESSAGE)
    if not text:
        raise Invalid("The request is not valid; see errors.", errors=[{"pointer": "/message", "message": "Say it."}])
    return Said(
        text=text,
        request_id=call.request_id,
        client=call.caller,
        session_id=body.session_id,
        images=tuple(attachment.data for attachment in body.attachments),
    )


async def _streamed(chat: Chat, call: Call, said: Said) -> Response:
    """Begin a turn and return its events. Without a place for the stream nothing begins."""
    place = chat.place(call.principal)
    try:
        handle = await chat.send(call.principal, said)
        stream = await chat.follow(
            call.principal, handle.session_id, handle.after, call.caller, turn_id=handle.turn_id, place=place
        )
    except BaseException:
        place.give_back()
        raise
    return EventStream(ChatStream(stream, handle))


async def _ended(chat: Chat, handle: TurnHandle, seconds: int) -> TurnAnswer | Response:
    """Return the turn once it has ended or waits; 202 with what is known when that takes too long."""
    try:
        async with asyncio.timeout(seconds):
            view = await chat.finished(handle.turn_id)
    except TimeoutError:
        running = TurnView(handle.turn_id, handle.session_id, "running", "", (), Usage(), "", False)
        return Response(shown_turn(running).model_dump_json(), status_code=202, media_type="application/json")
    if (problem := _problem(view)) is not None:
        raise problem
    return shown_turn(view)


def _patience(call: Call) -> int:
    """Return for how many seconds the caller wants to wait (RFC 7240, 4.1 and 4.3), and no longer than Relay does."""
    for preference in (call.facts.header(b"prefer") or b"").lower().split(b","):
        name, _, value = preference.strip().partition(b"=")
        if name == b"respond-async":
            return 0
        if name == b"wait" and value.isdigit():
            return min(int(value[:9]), WAIT_SECONDS)
    return WAIT_SECONDS


def _problem(view: TurnView) -> Problem | None:
    """Return why models did not answer as the problem that it is, None for a turn that ended in another way.

    The session stands: whoever knows its id can go on in it.
    """
    if view.status != "failed" or view.error is None:
        return None
    code, detail = view.error
    about: dict[str, Any] = {"session_id": view.session_id, "turn_id": view.id}
    if code == ModelUnavailable.slug:
        wait = {} if view.retry_after is None else {"retry_after": view.retry_after}
        return ModelUnavailable(detail, **wait, **about)
    if not code.startswith(SpendingExhausted.slug):
        return None
    seconds = -(-(DAY - now() % DAY) // MICROSECONDS)
    if code.endswith("-session"):  # waiting does not help there, and another session can be begun at once
        return SpendingExhausted(detail, headers={"Retry-After": str(seconds)}, budget="session", **about)
    about |= {"budget": "day", "retry_after": seconds}
    return SpendingExhausted(detail, headers={"Retry-After": str(seconds)}, **about)
