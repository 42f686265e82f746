"""Requests as spans: a trace begins here, or goes on where the caller's ``traceparent`` is well-formed."""

from contextvars import ContextVar, Token
from typing import Final

from relay.core.facts import RequestFacts
from relay.surface.observe import Answered
from relay.telemetry import spans
from relay.telemetry.layout import NO_ROUTE
from relay.telemetry.spans import Recording, Tracer
from relay.telemetry.traceparent import parse_traceparent

_ERROR: Final = 500
_under_way: ContextVar[tuple[Recording, Token[Recording | None]] | None] = ContextVar("relay_request", default=None)


class TracedRequests:
    """Begins and ends the span of each request; without a tracer it passes on what the caller has said."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    def begin(self, facts: RequestFacts) -> None:
        """Begin the span of a request. Its route is not known yet."""
        parent = parse_traceparent(facts.header(b"traceparent"))
        if self._tracer is None:
            spans.enter(None, parent)
            return
        attributes = {"http.request.method": facts.method, "relay.request_id": facts.request_id}
        recording = self._tracer.begin(facts.method, "server", parent, None, attributes)
        self._tracer.remember(facts.request_id, recording.place)
        _under_way.set((recording, spans.enter(recording, None)))

    def end(self, answered: Answered) -> None:
        """End it, named by its route."""
        found = _under_way.get()
        if found is None or not answered.facts.method:
            return
        recording, token = found
        _under_way.set(None)
        route = answered.facts.route or NO_ROUTE
        recording.name(f"{answered.facts.method} {route}")
        recording.set(http__route=route, http__response__status_code=answered.status)
        if answered.principal:
            recording.set(relay__principal=answered.principal, relay__workspace=answered.workspace)
        if answered.status >= _ERROR:
            recording.fail(str(answered.status))
        spans.leave(token)
        recording.end()
