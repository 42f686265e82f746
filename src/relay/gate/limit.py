"""The limiting stages: a request's address, its caller, and each action as it is performed.

Each stage counts all of its rules or none. A request that its caller's stage refuses has still been received and
authenticated, so it keeps its place in its address's count; nothing later is used up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from relay.catalog import ActionSpec
from relay.core.access import Access
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import QuotaExceeded, TooManyRunning, Unauthenticated
from relay.gate.authenticate import FailureCount
from relay.limits.counters import Hit
from relay.limits.limiter import Limiter
from relay.limits.rules import CREDENTIALS, GLOBAL, GLOBAL_NETWORK, UNLIMITED, Rule, action_rules
from relay.limits.subjects import address_subjects, subject

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
RATE_LIMITED: Final = "rate_limited"
RUNNING_RETRY_SECONDS: Final = 2

_OF_ADDRESS: Final = frozenset({"address", "network"})


class Stages(Protocol):
    """What admission asks of the limits."""

    async def address(self, access: Access, facts: RequestFacts) -> None:
        """Count a request of an address; 429 when a limit is used up, 503 when that cannot be known."""
        ...

    async def caller(self, access: Access, facts: RequestFacts, principal: Principal) -> None:
        """Count a request of a workspace and a principal; refuses likewise."""
        ...

    async def failed(self, facts: RequestFacts, failure: Unauthenticated) -> None:
        """Count a credential that was shown and is not valid; 429 instead of its 401 when there were too many."""
        ...


@dataclass(frozen=True, slots=True)
class _Plan:
    """The rules of one declaration: of the address stage and of the caller's."""

    address: tuple[Rule, ...]
    caller: tuple[Rule, ...]


class RequestLimits:
    """The stages of a process, by the rules of its installation."""

    def __init__(self, rules: Mapping[str, Rule], limiter: Limiter, failures: FailureCount) -> None:
        self._rules = rules
        self._limiter = limiter
        self._failures = failures
        self._plans: dict[tuple[str, ...], _Plan] = {}

    async def address(self, access: Access, facts: RequestFacts) -> None:
        """Count a request of an address; 429 when a limit is used up, 503 when that cannot be known."""
        rules = self._plan(access.limits).address
        if not rules:
            return
        address, network = address_subjects(facts.client)
        hits = [
            Hit(rule, found) for rule in rules if (found := address if rule.per == "address" else network) is not None
        ]
        try:
            await self._counted(facts, hits)
        except QuotaExceeded:
            self._failures.count(reason=RATE_LIMITED, route=facts.route, client=facts.client)
            raise

    async def caller(self, access: Access, facts: RequestFacts, principal: Principal) -> None:
        """Count a request of a workspace and a principal; refuses likewise."""
        rules = self._plan(access.limits).caller
        if not rules:
            return
        await self._counted(facts, [Hit(rule, _caller(rule, principal)) for rule in rules])

    async def failed(self, facts: RequestFacts, failure: Unauthenticated) -> None:
        """Count a credential that was shown and is not valid; 429 instead of its 401 when there were too many."""
        if failure.reason == "missing_token":
            return
        hit = Hit(self._rules[CREDENTIALS], address_subjects(facts.client)[0])
        refusal = await self._limiter.fail(hit, change=facts.method not in READS)
        if refusal is not None:
            self._failures.count(reason=RATE_LIMITED, route=facts.route, client=facts.client)
            raise refusal from None

    async def _counted(self, facts: RequestFacts, hits: Sequence[Hit]) -> None:
        verdict = await self._limiter.take(hits, change=facts.method not in READS)
        refusal = None if verdict.allowed else self._limiter.refusal(verdict, facts.quotas)
        facts.quotas += verdict.quotas
        if refusal is not None:
            raise refusal

    def _plan(self, limits: tuple[str, ...]) -> _Plan:
        plan = self._plans.get(limits)
        if plan is None:
            names = () if UNLIMITED in limits else (GLOBAL, GLOBAL_NETWORK, *limits)
            rules = [self._rules[name] for name in names]
            plan = self._plans[limits] = _Plan(
                tuple(rule for rule in rules if rule.per in _OF_ADDRESS),
                tuple(rule for rule in rules if rule.per not in _OF_ADDRESS),
            )
        return plan


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
        hits = [Hit(rule, _caller(rule, principal)) for rule in rules]
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


def _caller(rule: Rule, principal: Principal) -> bytes:
    if rule.per == "workspace":
        return subject("workspace", principal.workspace_id)
    return subject("principal", principal.id)
