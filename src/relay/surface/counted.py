"""Metrics of requests: told by the stamp and the wire of each one at its end."""

from typing import Final

from relay.core.facts import RequestFacts
from relay.surface.observe import LOCK_BROKEN, Answered
from relay.telemetry.layout import NO_ROUTE
from relay.telemetry.metrics import Metrics

_CLASSES: Final = {number: f"{number}xx" for number in range(1, 6)}
_LIMITED: Final = 429
_OF_A_DESTINATION: Final = (502, 504)


class CountedRequests:
    """Counts requests by the template of their route, what a limit refused, and what a credential was refused for."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter("relay_http_requests_total")
        self._seconds = metrics.histogram("relay_http_request_duration_seconds")
        self._limited = metrics.counter("rate_limit_hits_total")
        self._failures = metrics.counter("auth_failures_total")
        self._destinations = metrics.counter("relay_http_destination_errors_total")
        self._violations = metrics.counter("security_violations_total")
        self._signatures = metrics.counter("relay_webhook_signature_refusals_total")

    def begin(self, facts: RequestFacts) -> None:
        """See a request; nothing is counted before its end."""

    def end(self, answered: Answered) -> None:
        """Count a request. One that could not be read has no method, and took no time that says anything."""
        facts = answered.facts
        route = facts.route or NO_ROUTE
        self._requests.add(route, _CLASSES[answered.status // 100])
        if facts.method and not answered.stream:
            self._seconds.observe(answered.seconds, route)
        if answered.status == _LIMITED:
            self._limited.add(route)
        elif answered.status in _OF_A_DESTINATION or facts.elsewhere:
            self._destinations.add(route)
        if facts.refused:
            self._refused(facts.refused, route)

    def _refused(self, reason: str, route: str) -> None:
        if reason == LOCK_BROKEN:
            self._violations.add(LOCK_BROKEN, "critical")
        elif reason == "unknown_receiver" or reason.startswith("signature_"):
            self._signatures.add()
        else:
            self._failures.add(reason, route)
