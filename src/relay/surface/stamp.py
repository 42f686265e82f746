"""The third lock and the outermost layer: no success leaves that ``admit`` did not sign.

It also gives every request its id, turns every exception into a problem and adds the headers that every answer has.
"""

import logging
import re
import traceback
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.core.admission import Admission
from relay.core.facts import RequestFacts
from relay.core.ids import new_id
from relay.core.problem import BadRequest, Internal, MethodNotAllowed, NotFound, Problem, Unavailable
from relay.store.writer import StoreUnavailable
from relay.surface.answers import document_headers, send_problem

FACTS: Final = "relay.facts"
ADMISSION: Final = "relay.admission"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{7,127}")

log = logging.getLogger("relay.http")


class Unstamped(RuntimeError):
    """A handler answered with success although the request had not been admitted, or gave no answer at all."""


class Stamp:
    """Wraps the whole application. Websockets are refused: no route is one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
        elif kind == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts = facts_of(scope)
        scope[FACTS] = facts
        request_id = facts.request_id.encode()
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                if message["status"] < 400:
                    _require_admission(scope, facts)
                message["headers"] = document_headers(message.get("headers", ()), request_id)
                started = True
            elif not started:
                raise Unstamped(f"{scope['method']} sent {message['type']} before an answer had begun")
            await send(message)

        try:
            await self._app(scope, receive, stamped)
            if not started:
                raise Unstamped(f"{scope['method']} was not answered")
        except Exception as error:  # the last line of defence: whatever it is, the caller gets a problem
            problem = problem_of(error)
            if problem.status >= 500:
                log_failure(facts, scope, error)
            if started:
                raise ConnectionAbortedError("the answer had begun") from None
            await send_problem(stamped, problem, scope["path"], facts.request_id)


def facts_of(scope: Scope) -> RequestFacts:
    """Return the facts of a request; a well-formed ``X-Request-ID`` of the caller is kept."""
    client = scope.get("client")
    facts = RequestFacts(
        request_id="", client=client[0] if client else "", method=scope["method"], headers=scope["headers"]
    )
    given = facts.header(b"x-request-id")
    facts.request_id = given.decode() if given and _REQUEST_ID.fullmatch(given) else new_id("req")
    return facts


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
    extra: dict[str, Any] = {"request_id": facts.request_id, "route": facts.route, "error": type(error).__name__}
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s %s failed: %s\n%s", scope["method"], facts.route or "?", type(error).__name__, frames, extra=extra)
