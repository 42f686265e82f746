"""When a delivery is tried again, and when an endpoint is spared or given up."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from relay.core.clock import DAY, HOUR, MICROSECONDS, MINUTE

_SPREAD: Final = random.SystemRandom()
_HOLDS: Final = frozenset({429, 503})
GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Schedule:
    """Times in microseconds.

    ``retries`` are the pauses after the first failed attempt, the second, and so on; one more failure makes a dead
    letter. Each is varied by up to ``jitter`` of itself either way. After ``breaker`` failures in a row an endpoint
    is tried with one delivery at a time: ``pause`` after a failure, twice as long after the next, and so on up to
    ``longest_pause``.
    After ``give_up`` of nothing but failure it is disabled. An attempt takes at most ``timeout``, and whoever makes it
    holds the delivery for ``lease``. At most ``concurrency`` deliveries to one endpoint are under way. ``sweep`` is how
    often one looks for what has become due. ``chance`` returns a number in [0, 1).
    """

    retries: tuple[int, ...] = (
        5 * MICROSECONDS,
        5 * MINUTE,
        30 * MINUTE,
        2 * HOUR,
        5 * HOUR,
        10 * HOUR,
        10 * HOUR,
    )
    jitter: float = 0.2
    breaker: int = 5
    pause: int = 1 * MICROSECONDS
    longest_pause: int = 5 * MINUTE
    give_up: int = 5 * DAY
    timeout: int = 15 * MICROSECONDS
    lease: int = 30 * MICROSECONDS
    concurrency: int = 4
    sweep: int = 1 * MICROSECONDS
    chance: Callable[[], float] = _SPREAD.random

    def __post_init__(self) -> None:
        if self.lease <= self.timeout:
            raise ValueError("a lease must outlast an attempt")

    def retry_after(self, failed: int, asked: int | None) -> int | None:
        """Return how long to wait after that many failed attempts (1 or more), or None when that was the last.

        ``asked`` is what the receiver asked for (``Retry-After``); it counts between the pause and twice the pause.
        """
        if failed > len(self.retries):
            return None
        base = self.retries[failed - 1]
        if asked is not None:
            return min(max(asked, base), 2 * base)
        return self._varied(base)

    def pause_after(self, failures: int) -> int | None:
        """Return how long to spare an endpoint after that many failures in a row, None while the breaker is closed."""
        if failures < self.breaker:
            return None
        doublings = min(failures - self.breaker, 40)
        return self._varied(min(self.pause << doublings, self.longest_pause))

    def _varied(self, base: int) -> int:
        return round(base * (1 + self.jitter * (2 * self.chance() - 1)))


def asked_pause(status: int, header: str | None, at: int) -> int | None:
    """Return the microseconds that an answer's ``Retry-After`` (RFC 9110 section 10.2.3) asks for, None if it does not.

    Counted for 429 and 503 only. Whatever the header holds, it never raises.
    """
    if status not in _HOLDS or header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return int(text[:9]) * MICROSECONDS
    try:
        when = parsedate_to_datetime(text)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0, math.ceil(seconds * MICROSECONDS) - at)
