"""Deciding by the counters: what is refused, what only would be, and what happens while Redis is away."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Final

from relay.core.clock import MICROSECONDS
from relay.core.limit import Limit
from relay.core.problem import QuotaExceeded, Unavailable
from relay.limits.counters import Counters, CountersUnavailable, Hit, Verdict
from relay.limits.memory import MemoryCounters
from relay.limits.rules import Rule
from relay.limits.state import LimitState

LOCAL_SHARE: Final = 10
"""While Redis is away each process gives reads this part of their limits."""

RETRY_SECONDS: Final = 2
_SAY_SECONDS: Final = 60.0

log = logging.getLogger("relay.limits")


class Limiter:
    """Takes what a stage asks for and says no where that is due. ``observe`` counts and reports instead."""

    def __init__(self, counters: Counters, state: LimitState, *, observe: bool = False) -> None:
        self._counters = counters
        self._local = MemoryCounters()
        self._share: dict[str, Rule] = {}
        self._said: dict[str, float] = {}
        self.state = state
        self.observe = observe

    async def take(self, hits: Sequence[Hit], *, change: bool) -> Verdict:
        """Return what the counters say, having counted every hit or none; the caller decides with :meth:`refusal`.

        While Redis is away: 503 for a ``change``, and for the rest what a tenth of the limits, kept by this process
        alone, allows. An observer is let through.
        """
        try:
            return await self._counters.take(hits)
        except CountersUnavailable:
            self._unanswered(change)
            if self.observe:
                return Verdict(True, (), 0)
            return await self._local.take([self._shared(hit) for hit in hits])

    async def give_back(self, hits: Sequence[Hit], at: int) -> None:
        """Undo what :meth:`take` counted at that time; while Redis is away it stays counted."""
        if not at:  # nothing was counted
            return
        try:
            await self._counters.give_back(hits, at)
        except CountersUnavailable:
            self.state.unanswered += 1

    async def fail(self, hit: Hit, *, change: bool) -> QuotaExceeded | None:
        """Count a failed credential; return the refusal of a caller that has shown too many, None for another."""
        try:
            blocked = await self._counters.fail(hit)
        except CountersUnavailable:
            self._unanswered(change)
            if self.observe:
                return None
            blocked = await self._local.fail(self._shared(hit))
        if not blocked or self.only_observed([hit.rule.policy]):
            return None
        what = "The rate limit of failed credentials from this address is used up; a valid one is not affected."
        return QuotaExceeded(what, policies=[hit.rule.policy], retry_after=seconds(blocked))

    def refusal(self, verdict: Verdict) -> QuotaExceeded | None:
        """Return the refusal that a verdict asks for, None when it allows or when limits are only observed.

        It knows this stage alone; the surface postpones it where the stages before have nothing left either.
        """
        if verdict.allowed:
            return None
        violated = [quota for quota in verdict.quotas if quota.wait > 0]
        if self.only_observed([quota.policy for quota in violated]):
            return None
        wait = max(quota.wait for quota in violated)
        names = " and ".join(f"{q.policy} ({q.limit.count} per {q.limit.seconds} s)" for q in violated)
        what = f"The rate limit {names} is used up."
        return QuotaExceeded(what, policies=[quota.policy for quota in violated], retry_after=seconds(wait))

    def only_observed(self, policies: Sequence[str]) -> bool:
        """Count a refusal by these policies; return whether it is not carried out because the mode is to observe."""
        counts = self.state.observed if self.observe else self.state.refused
        counts.update(policies)
        for policy in policies:
            if monotonic() - self._said.get(policy, -_SAY_SECONDS) >= _SAY_SECONDS:
                self._said[policy] = monotonic()
                done = "would have refused" if self.observe else "has refused"
                log.warning("the rate limit %s %s a request, %d by now", policy, done, counts[policy])
        return self.observe

    def _unanswered(self, change: bool) -> None:
        self.state.unanswered += 1
        if self.observe:
            return
        if change:
            self.state.refused_blind += 1
            raise Unavailable(
                "The rate limits cannot be checked now; nothing was executed. Try again.", retry_after=RETRY_SECONDS
            )
        self.state.counted_locally += 1

    def _shared(self, hit: Hit) -> Hit:
        rule = self._share.get(hit.rule.policy)
        if rule is None:
            limit = Limit(max(1, hit.rule.limit.count // LOCAL_SHARE), hit.rule.limit.seconds)
            rule = self._share[hit.rule.policy] = replace(hit.rule, limit=limit)
        return Hit(rule, hit.subject)


def seconds(microseconds: int) -> int:
    """Return whole seconds, rounded up."""
    return -(-microseconds // MICROSECONDS)
