"""What limits ask of whoever keeps the count.

The moving log holds what the table says, at most so many in any window, up to :data:`LOG_MOST`; above, GCRA (ITU-T
I.371, the generic cell rate algorithm) keeps one number per key: so many at once, refilled evenly, hence in a window
that begins with a full quota up to twice as many.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from relay.core.clock import MICROSECONDS
from relay.core.limit import Quota
from relay.limits.rules import LONGEST_BLOCK_SECONDS, Rule

LOG_MOST: Final = 300
LONGEST_BLOCK: Final = LONGEST_BLOCK_SECONDS * MICROSECONDS
"""The longest that failed credentials are refused for, in microseconds."""

FORGIVE: Final = LONGEST_BLOCK
"""How long after a block has ended its length is remembered, in microseconds."""


class CountersUnavailable(Exception):
    """The count cannot be had now. Whether something was counted is not known."""


class Hit(NamedTuple):
    """One request as one rule counts it. ``subject`` is a digest: of fixed length, and free of any separator."""

    rule: Rule
    subject: bytes


class Verdict(NamedTuple):
    """What one stage says. ``quotas`` stand as they are after it, in the order of the hits.

    ``at`` is the counters' own time of the hits, by which they can be given back.
    """

    allowed: bool
    quotas: tuple[Quota, ...]
    at: int


class Counters(Protocol):
    """Counts hits. Every method is one atomic step, and raises :class:`CountersUnavailable` within a bounded time."""

    async def take(self, hits: Sequence[Hit]) -> Verdict:
        """Count every hit when all of them are allowed, else none."""
        ...

    async def give_back(self, hits: Sequence[Hit], at: int) -> None:
        """Forget hits that :meth:`take` counted at that time."""
        ...

    async def fail(self, hit: Hit) -> int:
        """Count a failed credential; return for how many microseconds its subject is refused now, 0 for not at all.

        Once the rule's limit is used up a subject is blocked for the rule's window; each time that happens again
        within :data:`FORGIVE` of the last block's end, for twice as long, up to :data:`LONGEST_BLOCK`.
        """
        ...


def interval(rule: Rule) -> int:
    """Return GCRA's emission interval in whole microseconds, rounded up so that no more than the limit passes."""
    return -(-rule.limit.seconds * MICROSECONDS // rule.limit.count)
