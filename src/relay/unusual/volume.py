"""How much is far above a key's own last weeks: the limits of an hour and of a day, and how they come about.

    limit = the highest of   a floor
                             median + 6 deviations of the same time in the last four weeks
                             150 % of what has been reached on three days of the last four weeks

The deviation is the median absolute one, scaled to that of a normal distribution (Rousseeuw and Croux 1993), and never
below the square root of the median, the noise of counting. Medians keep one odd week from moving what is usual; the
third line keeps what a key does now and then, such as a weekly batch that starts late, from being reported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from relay.core.clock import DAY, HOUR
from relay.unusual.habits import VOLUME_DAYS, Habits, highest

DEVIATIONS: Final = 6
SCALE: Final = 1.4826
WEEKS: Final = VOLUME_DAYS // 7
ON_DAYS: Final = 3
DAY_FLOORS: Final = 4
"""The floor of a day, in floors of an hour."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What is still usual. ``typical`` is the median of the same time in the last weeks, ``busiest`` what was reached
    on three days of them, ``limit`` what follows.
    """

    window: Literal["hour", "day"]
    typical: float
    busiest: int
    limit: int


def limits_at(habits: Habits, at: int, *, floor: int, percent: int) -> tuple[Limit, Limit]:
    """Return the limits of the hour and of the day that ``at`` lies in; what those hold themselves does not count."""
    today, hour, begun = at // DAY, at // HOUR, habits.since // HOUR
    hours = [
        _count(habits, then)
        for week in range(1, WEEKS + 1)
        for then in (hour - week * 168 - 1, hour - week * 168, hour - week * 168 + 1)
        if then >= begun
    ]
    past = {day: counts for day, counts in habits.days.items() if today - VOLUME_DAYS <= day < today}
    same_days = [
        sum(past.get(today - 7 * week, ())) for week in range(1, WEEKS + 1) if today - 7 * week >= habits.since // DAY
    ]
    rank = min(ON_DAYS, max(len(past), 1))  # what runs once a week has not been there three times yet
    peak = highest((max(counts) for counts in past.values()), rank)
    total = highest((sum(counts) for counts in past.values()), rank)
    return (
        _limit("hour", hours, peak, floor, percent),
        _limit("day", same_days, total, floor * DAY_FLOORS, percent),
    )


def _count(habits: Habits, hour: int) -> int:
    counts = habits.days.get(hour // 24)
    return counts[hour % 24] if counts is not None else 0


def _limit(window: Literal["hour", "day"], same: Sequence[int], busiest: int, floor: int, percent: int) -> Limit:
    typical = median(same) if same else 0.0
    deviation = max(SCALE * median(abs(count - typical) for count in same), math.sqrt(typical)) if same else 0.0
    limit = max(floor, math.ceil(typical + DEVIATIONS * deviation), math.ceil(busiest * percent / 100))
    return Limit(window, float(typical), busiest, limit)
