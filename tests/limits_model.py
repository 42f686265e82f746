"""Both algorithms as simply as they can be said: every hit is kept for ever and looked at again each time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from relay.core.limit import Quota
from relay.limits.counters import FORGIVE, LOG_MOST, LONGEST_BLOCK, Counters, Hit
from relay.limits.rules import Rule
from tests.limits_kit import Clock, rule, someone


@dataclass
class Model:
    """The verdicts of a stage, from all hits that were ever counted."""

    hits: dict[tuple[str, bytes], list[int]] = field(default_factory=dict)
    blocks: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def take(self, hits: Sequence[Hit], now: int) -> tuple[bool, list[Quota]]:
        allowed = all(self.wait(hit, now) == 0 for hit in hits)
        if allowed:
            for hit in hits:
                self._of(hit).append(now)
        return allowed, [self.quota(hit, now) for hit in hits]

    def give_back(self, hits: Sequence[Hit], at: int) -> None:
        for hit in hits:
            if at in self._of(hit):
                self._of(hit).remove(at)

    def fail(self, hit: Hit, now: int) -> int:
        times, until = self.blocks.get(hit.subject, (0, 0))
        if now < until:
            return until - now
        if self.wait(hit, now) == 0:
            self._of(hit).append(now)
            return 0
        times = times + 1 if now < until + FORGIVE else 1
        span = min(hit.rule.limit.seconds * 1_000_000 * 2 ** (times - 1), LONGEST_BLOCK)
        self.blocks[hit.subject] = (times, now + span)
        return span

    def wait(self, hit: Hit, now: int) -> int:
        count, window = hit.rule.limit.count, hit.rule.limit.seconds * 1_000_000
        if count > LOG_MOST:
            return max(0, self._debt(hit, now) - self._interval(hit.rule) * (count - 1))
        later = now
        while sum(1 for at in self._of(hit) if at > later - window) >= count:
            later = min(at for at in self._of(hit) if at > later - window) + window
        return later - now

    def quota(self, hit: Hit, now: int) -> Quota:
        count, window = hit.rule.limit.count, hit.rule.limit.seconds * 1_000_000
        if count > LOG_MOST:
            debt, interval = self._debt(hit, now), self._interval(hit.rule)
            out = 0
            while out * interval < debt:
                out += 1
            reset = debt - max(out - 1, 0) * interval
        else:
            counted = [at for at in self._of(hit) if at > now - window]
            out, reset = len(counted), (min(counted) + window - now if counted else 0)
        left = max(0, count - out)
        return Quota(hit.rule.policy, hit.rule.limit, left, reset, 0 if left else self.wait(hit, now))

    def _debt(self, hit: Hit, now: int) -> int:
        arrival = 0
        for at in self._of(hit):
            arrival = max(arrival, at) + self._interval(hit.rule)
        return max(0, arrival - now)

    def _of(self, hit: Hit) -> list[int]:
        return self.hits.setdefault((hit.rule.policy, hit.subject), [])

    @staticmethod
    def _interval(found: Rule) -> int:
        microseconds, rest = divmod(found.limit.seconds * 1_000_000, found.limit.count)
        return microseconds + (1 if rest else 0)


RULES = (rule(1, 1, "one"), rule(3, 2, "three"), rule(7, 3, "seven"), rule(301, 1, "cell"), rule(999, 2, "odd"))
_HITS = st.lists(
    st.builds(Hit, st.sampled_from(RULES), st.sampled_from([someone("a"), someone("b")])),
    min_size=1,
    max_size=3,
    unique_by=lambda hit: hit.rule.policy,
)
_PAUSES = st.one_of(
    st.just(0),
    st.integers(1, 5),
    st.integers(0, 400_000),
    st.sampled_from([999_999, 1_000_000, 1_000_001, 2_000_000, 3_000_000]),
    st.integers(0, 5_000_000),
)
SCHEDULES = st.lists(st.tuples(_PAUSES, _HITS, st.integers(1, 400), st.booleans()), min_size=1, max_size=30)
"""Pauses in microseconds, each followed by a stage that is asked so many times, the last time perhaps given back."""

FAILURES = st.lists(
    st.one_of(st.just(0), st.integers(0, 400_000_000), st.sampled_from([300_000_000, 600_000_000, 900_000_000])),
    min_size=1,
    max_size=60,
)


async def agrees(
    counters: Counters, clock: Clock, schedule: list[tuple[int, list[Hit], int, bool]], most: int = 400
) -> None:
    """Drive counters and model through a schedule and compare every verdict."""
    model = Model()
    for pause, hits, times, undone in schedule:
        clock.at += pause
        verdict = None
        for _ in range(min(times, most)):
            verdict = await counters.take(hits)
            expected = model.take(hits, clock.at)
            assert (verdict.allowed, list(verdict.quotas)) == expected
        # Giving back a cell's hit is exact only while no quiet time lies between: then it is a hit less.
        if undone and verdict is not None and verdict.allowed:
            await counters.give_back(hits, verdict.at)
            model.give_back(hits, verdict.at)


async def agrees_on_failures(counters: Counters, clock: Clock, pauses: list[int]) -> None:
    """Drive a subject's failed credentials through a schedule and compare every answer."""
    model, hit = Model(), Hit(rule(2, 300, "credentials", "address"), someone("a"))
    for pause in pauses:
        clock.at += pause
        assert await counters.fail(hit) == model.fail(hit, clock.at)
