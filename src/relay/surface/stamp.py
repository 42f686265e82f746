"""The third lock and the outermost layer: no success leaves that ``admit`` did not sign.

It also gives every request its id, turns every exception into a problem and adds the headers that every answer has.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.core.admission import Admission
from relay.core.facts import RequestFacts
from relay.core.problem import (
    AddressNotAllowed,
    BadRequest,
    InsufficientScope,
    Internal,
    Limited,
    MethodNotAllowed,
    ModelUnavailable,
    NotFound,
    Problem,
    Unauthenticated,
    Unavailable,
)
from relay.limits.headers import wait_of
from relay.store.writer import StoreUnavailable
from relay.surface.answers import EmptyAnswer, Header, document_headers, send_problem
from relay.surface.cors import Declared
from relay.surface.edge import Edge
from relay.surface.observe import BROKEN, CLIENT_GONE, GONE, LOCK_BROKEN, Observation, Observer
from relay.telemetry.lines import frames_of
from relay.telemetry.logs import FIELDS

FACTS: Final = "relay.facts"
ADMISSION: Final = "relay.admission"

Count = Callable[[RequestFacts], Awaitable[object]]

log = logging.getLogger("relay.http")


def _no_route(path: str) -> frozenset[str]:
    return frozenset()


class Unstamped(RuntimeError):
    """A handler answered with success although the request had not been admitted, or gave no answer at all."""


class Stamp:
    """Wraps the whole application. Websockets are refused: no route is one.

    ``edge`` settles what comes before any route; ``declared`` tells it which there are. ``count`` is called for each
    request that gets no further than the edge, so that those are limited like all others. ``observers`` are told of
    every request.
    """

    def __init__(
        self,
        app: ASGIApp,
        edge: Edge | None = None,
        declared: Declared = _no_route,
        count: Count | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._app = app
        self._edge = edge or Edge()
        self._declared = declared
        self._count = count
        self._observers = tuple(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
        elif kind == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts = self._edge.facts_of(scope)
        scope[FACTS] = facts
        stamped = _Stamped(scope, facts, self._edge.headers(facts), send)
        observation = Observation(self._observers, facts)
        try:
            await self._answered(scope, receive, facts, stamped, send)
        except BaseException:
            stamped.broken = True
            raise
        finally:
            observation.end(stamped.outcome(), stamped.sent, stream=stamped.stream)

    async def _answered(
        self, scope: Scope, receive: Receive, facts: RequestFacts, stamped: "_Stamped", send: Send
    ) -> None:
        try:
            own = await self._own_answer(scope, facts)
            if own is not None:
                # Past the stamp, by a way that the application does not have: it is not asked, and there is no body.
                stamped.started, stamped.status = True, own.status
                await _send_empty(send, own, stamped.headers(own.headers))
                return
            await self._app(scope, receive, stamped)
            if not stamped.started:
                raise Unstamped(f"{scope['method']} was not answered")
        except Exception as error:  # the last line of defence: whatever it is, the caller gets a problem
            problem = _reported(error, scope, facts)
            if stamped.started:
                raise ConnectionAbortedError("the answer had begun") from None
            await send_problem(stamped, problem, scope["path"], facts.request_id)
        except asyncio.CancelledError:
            if not stamped.started:  # the shutdown's grace is over, and the server would answer with a text of its own
                stopped = Internal("Relay was stopped before this was answered. Look at what became of it.")
                await send_problem(stamped, stopped, scope["path"], facts.request_id)
            raise

    async def _own_answer(self, scope: Scope, facts: RequestFacts) -> EmptyAnswer | None:
        try:
            answer = self._edge.answer(scope, facts, self._declared)
        except Problem:
            if self._count is not None:
                await self._count(facts)
            raise
        if answer is not None and self._count is not None:
            await self._count(facts)
        return answer


async def _send_empty(send: Send, answer: EmptyAnswer, headers: list[Any]) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


class _Stamped:
    """The ``send`` of one request: it lets successes out that were admitted, and gives every answer its headers."""

    __slots__ = ("_base", "_facts", "_scope", "_send", "broken", "sent", "started", "status", "stream")

    def __init__(self, scope: Scope, facts: RequestFacts, base: tuple[Header, ...], send: Send) -> None:
        self._scope = scope
        self._facts = facts
        self._base = base
        self._send = send
        self.started = False
        self.broken = False
        self.status = BROKEN
        self.sent = 0
        self.stream = False

    def outcome(self) -> int:
        """Return the status that the request is observed with, at its end."""
        gone = self._scope.get(GONE)
        if gone is not None and gone():
            return CLIENT_GONE
        return BROKEN if self.broken and self.started and self.status < BROKEN else self.status

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] < 400:
                _require_admission(self._scope, self._facts)
            self.stream = any(_is_event_stream(header) for header in message.get("headers", ()))
            message["headers"] = self.headers(message.get("headers", ()))
            self.started, self.status = True, message["status"]
        elif not self.started:
            raise Unstamped(f"{self._scope['method']} sent {message['type']} before an answer had begun")
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)

    def headers(self, sent: Iterable[Header]) -> list[Any]:
        """Return the headers of an answer that brings ``sent``."""
        facts = self._facts
        return document_headers(sent, facts.request_id.encode(), self._base, facts.quotas)


def _is_event_stream(header: Header) -> bool:
    return header[0] == b"content-type" and header[1].startswith(b"text/event-stream")


def _reported(error: Exception, scope: Scope, facts: RequestFacts) -> Problem:
    """Return the problem that an exception is to this caller; one that is Relay's own fault is logged."""
    problem = problem_of(error)
    facts.refused = LOCK_BROKEN if isinstance(error, Unstamped) else facts.refused or _refusal_of(problem)
    facts.elsewhere = isinstance(problem, ModelUnavailable)
    if isinstance(problem, Limited):
        problem.postpone(wait_of(facts.quotas))
    if isinstance(error, StoreUnavailable):
        log.warning("%s %s: %s", scope["method"], facts.route or "?", error, extra={"request_id": facts.request_id})
    elif not isinstance(error, Problem) and problem.status >= 500:
        log_failure(facts, scope, error)
    return problem


def _refusal_of(problem: Problem) -> str:
    """Return what was wrong with the credential, empty where it was not that."""
    if isinstance(problem, Unauthenticated):
        return problem.reason
    if isinstance(problem, AddressNotAllowed):
        return "address_not_allowed"
    return "insufficient_scopes" if isinstance(problem, InsufficientScope) else ""


def _require_admission(scope: Scope, facts: RequestFacts) -> None:
    admission: object = scope.get(ADMISSION)
    if type(admission) is not Admission or not admission.covers(facts):
        raise Unstamped(f"{scope['method']} answered without admission")


def problem_of(error: Exception) -> Problem:
    """Return the problem that an exception is to the caller. What is not meant for callers becomes a bare 500."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StoreUnavailable):
        return Unavailable("The database cannot take this now; nothing was executed. Try again.")
    if isinstance(error, HTTPException):
        return _of_status(error)
    return Internal("Something broke inside Relay. The request id leads to it in the log.")


def _of_status(error: HTTPException) -> Problem:
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return NotFound("There is nothing at this path.")
    if error.status_code == 405:
        return MethodNotAllowed("This path exists under another method.", headers=headers)
    return BadRequest("The request cannot be understood.") if error.status_code < 500 else Internal()


def log_failure(facts: RequestFacts, scope: Scope, error: Exception) -> None:
    """Log where it broke. The exception's text stays out: it may quote what the caller sent."""
    name = type(error).__name__
    extra: dict[str, Any] = {"request_id": facts.request_id, "route": facts.route, "error": name}
    extra[FIELDS] = {"traceback": frames_of(error)}
    log.error("%s %s failed: %s", scope["method"], facts.route or "?", name, extra=extra)
