"""One unit of time: whole microseconds since the Unix epoch, UTC."""

import time
from datetime import UTC, date, datetime, timedelta
from typing import Final

MICROSECONDS: Final = 1_000_000
MINUTE: Final = 60 * MICROSECONDS
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


def now() -> int:
    """Return the current time in microseconds since the epoch."""
    return time.time_ns() // 1_000


def iso(microseconds: int) -> str:
    """Return RFC 3339 text in UTC with microseconds, e.g. ``2030-01-02T03:04:05.000006Z``."""
    seconds, fraction = divmod(microseconds, MICROSECONDS)
    # Not strftime: its %Y does not pad.
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}.{fraction:06d}Z"


def parse_iso(text: str) -> int:
    """Return the microseconds of an RFC 3339 time; ValueError when it is none or names no offset.

    In UTC it must lie in the years 1 to 9999, so that it can be written again.
    """
    stamp = datetime.fromisoformat(text)
    if stamp.tzinfo is None:
        raise ValueError("the time needs an offset, for instance a trailing Z")
    try:
        stamp = stamp.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time must lie in the years 1 to 9999, in UTC") from None
    whole = int(stamp.replace(microsecond=0).timestamp())
    return whole * MICROSECONDS + stamp.microsecond


def end_of_day(day: date) -> int:
    """Return the moment at which a day ends in UTC, the first of the next one."""
    midnight = datetime.combine(day, datetime.min.time(), UTC) + timedelta(days=1)
    return int(midnight.timestamp()) * MICROSECONDS
