"""Refusals at the door as lines of the security log: credentials, signatures, addresses, limits."""

from relay.core.facts import RequestFacts
from relay.surface.observe import Answered
from relay.telemetry.layout import NO_ROUTE
from relay.telemetry.security import SecurityLog

_LIMITED = 429


class SecurityLines:
    """Tells of each request that was refused for what its caller is, has or does too often."""

    def __init__(self, security: SecurityLog) -> None:
        self._security = security

    def begin(self, facts: RequestFacts) -> None:
        """Say nothing yet."""

    def end(self, answered: Answered) -> None:
        """Tell of a refusal. A request is told of once, a wrong credential rather than the limit it has met."""
        facts = answered.facts
        if not facts.refused and answered.status != _LIMITED:
            return
        reason = facts.refused or "rate_limited"
        self._security.say(
            _kind(reason),
            f"{_kind(reason).replace('_', ' ')}: {reason}",
            reason=reason,
            request_id=facts.request_id,
            route=facts.route or NO_ROUTE,
            status=answered.status,
            client=facts.client,
            principal=answered.principal,
            workspace=answered.workspace,
        )


def _kind(reason: str) -> str:
    if reason == "rate_limited":
        return "limit_refusal"
    return "signature_refusal" if reason == "unknown_receiver" or reason.startswith("signature_") else "auth_failure"
