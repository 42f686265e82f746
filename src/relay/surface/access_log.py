"""The access log: one line for each request, with what an operator asks for and nothing that a caller chose freely.

The route is the template, never the path; there is no query, no header and no user agent. The request id may be the
caller's: the edge has let only harmless characters through.
"""

import logging
from typing import Final

from relay.core.facts import RequestFacts
from relay.surface.observe import Answered
from relay.telemetry.layout import NO_ROUTE
from relay.telemetry.logs import FIELDS

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = logging.getLogger("relay.access")


class AccessLog:
    """Writes one line at the end of each request, event streams and aborted requests included."""

    def begin(self, facts: RequestFacts) -> None:
        """Say nothing yet."""

    def end(self, answered: Answered) -> None:
        """Write the line."""
        if not log.isEnabledFor(logging.INFO):
            return
        facts = answered.facts
        route = facts.route or NO_ROUTE
        method = facts.method if facts.method in _METHODS else "(other)"
        fields = {
            "request_id": facts.request_id,
            "method": method,
            "route": route,
            "status": answered.status,
            "duration_ms": round(answered.seconds * 1000, 3),
            "bytes": answered.sent,
            "client": facts.client,
            "principal": answered.principal,
            "workspace": answered.workspace,
        }
        # Made here, since it has no place in the code that anybody would look for.
        record = logging.LogRecord(log.name, logging.INFO, "", 0, f"{method} {route} {answered.status}", None, None)
        setattr(record, FIELDS, fields)
        log.handle(record)
