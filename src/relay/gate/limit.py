"""The limiting stages: a request's address, its caller, and each action as it is performed.

Each stage counts all of its rules or none. A request that its caller's stage refuses has still been received and
authenticated, so it keeps its place in its address's count; nothing later is used up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from relay.catalog import ActionSpec
from relay.core.access import Access
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import QuotaExceeded, TooManyRunning, Unauthenticated
from relay.core.signed import Signed
from relay.gate.authenticate import FailureCount
from relay.limits.counters import Hit, Verdict
from relay.limits.limiter import Limiter
from relay.limits.rules import CREDENTIALS, GLOBAL, GLOBAL_NETWORK, UNLIMITED, Rule, action_rules
from relay.limits.subjects import address_subjects, subject

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
RATE_LIMITED: Final = "rate_limited"
RUNNING_RETRY_SECONDS: Final = 2

_REMEMBERED: Final = 4096


class Stages(Protocol):
    """What admission asks of the limits."""

    async def address(self, access: Access, facts: RequestFacts) -> None:
        """Count a request of an address; 429 when a limit is used up, 503 when that cannot be known."""
        ...

    async def caller(self, access: Access, facts: RequestFacts, principal: Principal) -> None:
        """Count a request of a workspace and a principal; refuses likewise."""
        ...

    async def signer(self, access: Access, facts: RequestFacts, signed: Signed) -> None:
        """Count a request that a signature admits, for its receiver's workspace; refuses likewise."""
        ...

    async def failed(self, facts: RequestFacts, failure: Unauthenticated) -> None:
        """Count a credential that was shown and is not valid; 429 instead of its 401 when there were too many."""
        ...


class RequestLimits:
    """The stages of a process, by the rules of its installation."""

    def __init__(self, rules: Mapping[str, Rule], limiter: Limiter, failures: FailureCount) -> None:
        self._rules = rules
        self._limiter = limiter
        self._failures = failures
        self._address_hits = lru_cache(_REMEMBERED)(self._hits_of_address)
        self._caller_hits = lru_cache(_REMEMBERED)(self._hits_of_caller)

    async def address(self, access: Access, facts: RequestFacts) -> None:
        """Count a request of an address; 429 when a limit is used up, 503 when that cannot be known."""
        hits = self._address_hits(access.limits, facts.client)
        if not hits:
            return
        verdict = await self._limiter.take(hits, change=facts.method not in READS)
        if not verdict.allowed:
            try:
                self._refuse(facts, verdict)
            except QuotaExceeded:
                self._failures.count(reason=RATE_LIMITED, route=facts.route, client=facts.client)
                raise
        facts.quotas += verdict.quotas

    async def caller(self, access: Access, facts: RequestFacts, principal: Principal) -> None:
        """Count a request of a workspace and a principal; refuses likewise."""
        await self._known(access, facts, principal.workspace_id, principal.account)

    async def signer(self, access: Access, facts: RequestFacts, signed: Signed) -> None:
        """Count a request that a signature admits, for its receiver's workspace; refuses likewise."""
        await self._known(access, facts, signed.workspace_id, signed.receiver_id)

    async def failed(self, facts: RequestFacts, failure: Unauthenticated) -> None:
        """Count a credential that was shown and is not valid; 429 instead of its 401 when there were too many."""
        if failure.reason == "missing_token":
            return
        hit = Hit(self._rules[CREDENTIALS], address_subjects(facts.client)[0])
        refusal = await self._limiter.fail(hit, change=facts.method not in READS)
        if refusal is not None:
            self._failures.count(reason=RATE_LIMITED, route=facts.route, client=facts.client)
            raise refusal from None

    async def _known(self, access: Access, facts: RequestFacts, workspace_id: str, principal_id: str) -> None:
        hits = self._caller_hits(access.limits, workspace_id, principal_id)
        if not hits:
            return
        verdict = await self._limiter.take(hits, change=facts.method not in READS)
        if not verdict.allowed:
            self._refuse(facts, verdict)
        facts.quotas += verdict.quotas

    def _refuse(self, facts: RequestFacts, verdict: Verdict) -> None:
        refusal = self._limiter.refusal(verdict)
        if refusal is not None:
            facts.quotas += verdict.quotas
            raise refusal

    def _hits_of_address(self, limits: tuple[str, ...], client: str) -> tuple[Hit, ...]:
        address, network = address_subjects(client)
        subjects = {"address": address, "network": network}
        return tuple(Hit(rule, found) for rule in self._named(limits) if (found := subjects.get(rule.per)) is not None)

    def _hits_of_caller(self, limits: tuple[str, ...], workspace_id: str, principal_id: str) -> tuple[Hit, ...]:
        subjects = {"workspace": subject("workspace", workspace_id), "principal": subject("principal", principal_id)}
        return tuple(Hit(rule, subjects[rule.per]) for rule in self._named(limits) if rule.per in subjects)

    def _named(self, limits: tuple[str, ...]) -> list[Rule]:
        names = () if UNLIMITED in limits else (GLOBAL, GLOBAL_NETWORK, *limits)
        return [self._rules[name] for name in names]


class ActionLimits:
    """The limits that actions declare, per workspace, whichever door they come through; runs included."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._rules: dict[str, tuple[Rule, ...]] = {}

    async def take(self, principal: Principal, spec: ActionSpec) -> "Taken":
        """Count an execution; 429 when a limit is used up, 503 when that cannot be known."""
        if not spec.limits:
            return _NOTHING
        rules = self._rules.get(spec.name)
        if rules is None:
            rules = self._rules[spec.name] = action_rules(spec)
        hits = [Hit(rule, subject("workspace", principal.workspace_id)) for rule in rules]
        verdict = await self._limiter.take(hits, change=True)
        refusal = self._limiter.refusal(verdict)
        if refusal is not None:
            raise refusal
        return Taken(self._limiter, hits if verdict.allowed else (), verdict.at)

    def full(self, spec: ActionSpec) -> None:
        """Refuse an execution for which there is no place beside those under way, unless limits are only observed."""
        policy = f"{spec.name}-running"
        if self._limiter.only_observed([policy]):
            return
        what = f"{spec.concurrency} attempts of {spec.name} are under way in this workspace, as many as may be."
        raise TooManyRunning(what, retry_after=RUNNING_RETRY_SECONDS, running=spec.concurrency)


@dataclass(frozen=True, slots=True)
class Taken:
    """An execution that was counted; :meth:`give_back` undoes it when nothing came of it."""

    limiter: Limiter | None
    hits: Sequence[Hit]
    at: int

    async def give_back(self) -> None:
        """Undo the count."""
        if self.limiter is not None and self.hits:
            await self.limiter.give_back(self.hits, self.at)


_NOTHING: Final = Taken(None, (), 0)
