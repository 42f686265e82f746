"""Counting in process: bounded tables, one per rule.

Memory: a subject costs at most 400 bytes, and 8 more for each hit that its log holds. A table has at most
:data:`MAX_SUBJECTS` subjects. Only expired ones are evicted; newcomers beyond the bound share one bucket, so that no
flood of addresses can wash out the count of another.
"""

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Final

from relay.core.clock import MICROSECONDS
from relay.core.limit import Quota
from relay.limits.counters import FORGIVE, LOG_MOST, LONGEST_BLOCK, Hit, Verdict, interval
from relay.limits.rules import Rule

MAX_SUBJECTS: Final = 50_000
BYTES_PER_SUBJECT: Final = 400
BYTES_PER_HIT: Final = 8

_OVERFLOW: Final = b"(overflow)"
_EVICTED_AT_ONCE: Final = 4

Clock = Callable[[], int]


def monotonic() -> int:
    """Return microseconds of a clock that never goes back."""
    return monotonic_ns() // 1_000


class _LogTable:
    """The moving log: the times of the hits that still count, oldest first; subjects by their last hit."""

    __slots__ = ("_count", "_limit", "_logs", "_most", "_policy", "_window")

    def __init__(self, rule: Rule, most: int) -> None:
        self._policy = rule.policy
        self._limit = rule.limit
        self._count = rule.limit.count
        self._window = rule.limit.seconds * MICROSECONDS
        self._most = most
        self._logs: OrderedDict[bytes, array[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logs)

    def full(self, subject: bytes, now: int) -> bool:
        log = self._logs.get(subject)
        if log is None:
            log = self._logs.get(self._place(subject, now))
        if not log:
            return False
        if log[0] <= (floor := now - self._window):
            del log[: bisect_right(log, floor)]
        return len(log) >= self._count

    def quota(self, subject: bytes, now: int) -> Quota:
        self.full(subject, now)
        log, window = self._logs.get(self._place(subject, now)), self._window
        if not log:
            return Quota(self._policy, self._limit, self._count, 0, 0)
        left = self._count - len(log)
        if left > 0:
            return Quota(self._policy, self._limit, left, log[0] + window - now, 0)
        return Quota(self._policy, self._limit, 0, log[0] + window - now, log[-self._count] + window - now)

    def add(self, subject: bytes, now: int) -> Quota:
        """Count a hit for which :meth:`full` has just found room."""
        logs = self._logs
        log = logs.get(subject)
        if log is None:
            subject = self._place(subject, now)
            log = logs.get(subject)
        if log is None:
            log = logs[subject] = array("q", (now,))
        else:
            log.append(now)
            logs.move_to_end(subject)
        left, reset = self._count - len(log), log[0] + self._window - now
        return Quota(self._policy, self._limit, left, reset, 0 if left else reset)

    def remove(self, subject: bytes, at: int, now: int) -> None:
        log = self._logs.get(self._place(subject, now))
        if log is not None and at in log:
            log.remove(at)

    def _place(self, subject: bytes, now: int) -> bytes:
        """Return under which name a subject is counted: its own, or for newcomers to a full table that of all these."""
        logs, floor = self._logs, now - self._window
        if subject in logs:
            return subject
        for _ in range(_EVICTED_AT_ONCE):
            oldest = next(iter(logs), None)
            if oldest is None or ((log := logs[oldest]) and log[-1] > floor):
                break
            del logs[oldest]
        return subject if len(logs) < self._most else _OVERFLOW


class _CellTable:
    """GCRA: for each subject the theoretical arrival time of its next hit."""

    __slots__ = ("_count", "_interval", "_limit", "_most", "_policy", "_slack", "_times")

    def __init__(self, rule: Rule, most: int) -> None:
        self._policy = rule.policy
        self._limit = rule.limit
        self._count = rule.limit.count
        self._interval = interval(rule)
        self._slack = self._interval * (self._count - 1)
        self._most = most
        self._times: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def full(self, subject: bytes, now: int) -> bool:
        arrival = self._times.get(subject)
        if arrival is None:
            arrival = self._times.get(self._place(subject, now), now)
        return arrival - now > self._slack

    def quota(self, subject: bytes, now: int) -> Quota:
        return self._quota(self._times.get(self._place(subject, now), now) - now)

    def add(self, subject: bytes, now: int) -> Quota:
        """Count a hit for which :meth:`full` has just found room."""
        times = self._times
        arrival = times.get(subject)
        if arrival is None:
            subject = self._place(subject, now)
            arrival = times.get(subject, now)
        times[subject] = arrival = (arrival if arrival > now else now) + self._interval
        times.move_to_end(subject)
        return self._quota(arrival - now)

    def remove(self, subject: bytes, at: int, now: int) -> None:
        place = self._place(subject, now)
        if self._times.get(place, 0) > now:
            self._times[place] -= self._interval

    def _quota(self, debt: int) -> Quota:
        if debt <= 0:
            return Quota(self._policy, self._limit, self._count, 0, 0)
        out = -(-debt // self._interval)
        reset = debt - (out - 1) * self._interval
        if out < self._count:
            return Quota(self._policy, self._limit, self._count - out, reset, 0)
        return Quota(self._policy, self._limit, 0, reset, debt - self._slack)

    def _place(self, subject: bytes, now: int) -> bytes:
        times = self._times
        if subject in times:
            return subject
        for _ in range(_EVICTED_AT_ONCE):
            oldest = next(iter(times), None)
            if oldest is None or times[oldest] > now:
                break
            del times[oldest]
        return subject if len(times) < self._most else _OVERFLOW


class _Blocks:
    """Who is refused for failed credentials: how often it came to that, and until when."""

    def __init__(self, rule: Rule, most: int) -> None:
        self._first = rule.limit.seconds * MICROSECONDS
        self._most = most
        self._blocks: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def left(self, subject: bytes, now: int) -> int:
        _, until = self._blocks.get(subject) or self._blocks.get(_OVERFLOW, (0, 0))
        return max(0, until - now)

    def block(self, subject: bytes, now: int) -> int:
        blocks = self._blocks
        while blocks and next(iter(blocks.values()))[1] + FORGIVE <= now:
            blocks.popitem(last=False)
        if subject not in blocks and len(blocks) >= self._most:
            subject = _OVERFLOW
        times, until = blocks.get(subject, (0, 0))
        times = times + 1 if now < until + FORGIVE else 1
        span = min(self._first << min(times - 1, 20), max(self._first, LONGEST_BLOCK))
        blocks[subject] = (times, now + span)
        blocks.move_to_end(subject)
        return span


class MemoryCounters:
    """The counters of one process. ``most`` bounds the subjects of each rule."""

    def __init__(self, *, clock: Clock = monotonic, most: int = MAX_SUBJECTS) -> None:
        self._clock = clock
        self._most = most
        self._tables: dict[str, _LogTable | _CellTable] = {}
        self._blocks: dict[str, _Blocks] = {}

    async def take(self, hits: Sequence[Hit]) -> Verdict:
        """Count every hit when all of them are allowed, else none."""
        now, tables = self._clock(), self._tables
        for rule, subject in hits:
            if (tables.get(rule.policy) or self._table(rule)).full(subject, now):
                return Verdict(False, tuple([self._table(rule).quota(subject, now) for rule, subject in hits]), now)
        return Verdict(True, tuple([tables[rule.policy].add(subject, now) for rule, subject in hits]), now)

    async def give_back(self, hits: Sequence[Hit], at: int) -> None:
        """Forget hits that were counted at that time."""
        now = self._clock()
        for rule, subject in hits:
            self._table(rule).remove(subject, at, now)

    async def fail(self, hit: Hit) -> int:
        """Count a failed credential; return for how many microseconds its subject is refused, 0 for not at all."""
        now = self._clock()
        table = self._table(hit.rule)
        blocks = self._blocks.get(hit.rule.policy)
        if blocks is None:
            blocks = self._blocks[hit.rule.policy] = _Blocks(hit.rule, self._most)
        if left := blocks.left(hit.subject, now):
            return left
        if table.full(hit.subject, now):
            return blocks.block(hit.subject, now)
        table.add(hit.subject, now)
        return 0

    def subjects(self) -> int:
        """Return how many subjects are held, over all rules."""
        return sum(len(table) for table in self._tables.values())

    def _table(self, rule: Rule) -> _LogTable | _CellTable:
        table = self._tables.get(rule.policy)
        if table is None:
            kind = _LogTable if rule.limit.count <= LOG_MOST else _CellTable
            table = self._tables[rule.policy] = kind(rule, self._most)
        return table
