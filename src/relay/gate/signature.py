"""Who signed: the body of a webhook, verified before anything parses it."""

from typing import Protocol

from relay.core.facts import RequestFacts
from relay.core.problem import BadSignature
from relay.core.signed import Evidence, Signed
from relay.gate.authenticate import FailureCount


class Signatures(Protocol):
    """What the gate needs to know about receivers of webhooks."""

    async def verify(self, facts: RequestFacts, evidence: Evidence) -> Signed:
        """Return what was signed; :class:`~relay.core.problem.BadSignature` for anything else."""
        ...


class VerifySignature:
    """Verifies signed requests. Why one failed is counted, never told."""

    def __init__(self, signatures: Signatures, failures: FailureCount) -> None:
        self._signatures = signatures
        self._failures = failures

    async def __call__(self, facts: RequestFacts, evidence: Evidence) -> Signed:
        try:
            return await self._signatures.verify(facts, evidence)
        except BadSignature as refusal:
            self._failures.count(reason=refusal.reason, route=facts.route, client=facts.client)
            raise
