"""Why a model gave no answer, judged by what the socket saw: what may be asked again, what it may have cost."""

import random
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final, Literal, Protocol

from relay.core.clock import MICROSECONDS, now

LONGEST_WAIT: Final = 10.0
"""The longest that a question waits for a service that says when to come again, in seconds."""
_BACKOFF: Final = (0.25, 8.0)
_MOST_RETRY_AFTER: Final = 3600.0

Reason = Literal[
    "unreachable", "lost", "busy", "failing", "refused", "rejected", "timeout", "too_large", "invalid", "resting"
]

WORDS: Final[dict[Reason, str]] = {
    "unreachable": "cannot be reached",
    "lost": "ended the connection before it had answered",
    "busy": "is too busy",
    "failing": "says that it has failed",
    "refused": "refuses Relay: the key, the address or the name of the model is wrong",
    "rejected": "does not take this question",
    "timeout": "did not answer in time",
    "too_large": "gave an answer larger than one may be",
    "invalid": "gave an answer that is none",
    "resting": "has failed too often and is left alone for a while",
}
_STATUS: Final[dict[int, Reason]] = {400: "rejected", 413: "rejected", 422: "rejected", 408: "busy", 429: "busy"}
_BUSY: Final = frozenset({503, 529})
_AGAIN: Final = frozenset({"unreachable", "lost", "busy", "failing"})
_UNPAID: Final = frozenset({"unreachable", "busy", "failing", "refused", "rejected", "resting"})


class Seen(Protocol):
    """What the socket saw of a request; see :class:`relay.egress.model.Exchange`."""

    @property
    def sent(self) -> bool: ...
    @property
    def status(self) -> int | None: ...
    @property
    def retry_after(self) -> str | None: ...
    @property
    def received(self) -> int: ...
    @property
    def broken(self) -> str | None: ...
    @property
    def refusal(self) -> bytes: ...


@dataclass(eq=False)
class NoAnswer(Exception):
    """A model gave no answer. ``began`` says that a piece of one had come.

    ``status`` and ``refusal`` (the body that came with a 4xx) are for the log: callers learn neither.
    """

    reason: Reason
    retry_after: float | None = None
    began: bool = False
    status: int | None = None
    refusal: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return WORDS[self.reason]

    @property
    def again(self) -> bool:
        """Whether the same model may be asked again: nothing of an answer had come."""
        return self.reason in _AGAIN and not self.began

    @property
    def unpaid(self) -> bool:
        """Whether the service has certainly made nothing that it could want to be paid for."""
        return self.reason in _UNPAID and not self.began

    @property
    def counts(self) -> bool:
        """Whether this says something about the model, rather than about the question."""
        return self.reason != "rejected"


def judge(seen: Seen, *, timed_out: bool, began: bool) -> NoAnswer:
    """Return what has happened. ``timed_out``: the time for an answer is over."""
    return NoAnswer(_reason(seen, timed_out=timed_out), seconds_of(seen.retry_after), began, seen.status, seen.refusal)


def _reason(seen: Seen, *, timed_out: bool) -> Reason:
    if seen.status is not None and not 200 <= seen.status < 300:
        return _of_status(seen.status)
    if seen.broken == "too_large":
        return "too_large"
    if seen.broken == "unreachable":
        return "unreachable"
    if timed_out or seen.broken == "silent":
        return "timeout"
    if not seen.sent:  # the library would not even send it
        return "rejected"
    return "lost" if seen.broken == "lost" and seen.received == 0 else "invalid"


def _of_status(status: int) -> Reason:
    if status in _STATUS:
        return _STATUS[status]
    if status >= 500:
        return "busy" if status in _BUSY else "failing"
    return "refused"


def seconds_of(retry_after: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` (RFC 9110, 10.2.3) names, at most an hour; None for nonsense."""
    if retry_after is None or len(text := retry_after.strip()) > 64:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text), _MOST_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(at - now() / MICROSECONDS, 0.0), _MOST_RETRY_AFTER)


def wait_before(attempt: int, retry_after: float | None) -> float | None:
    """Return how long to wait before a further attempt (the first is 1); None when it is not worth it.

    Twice as long each time, at random between half of that and all of it, so that those who failed together do not
    come back together; never less than the service has asked for.
    """
    if retry_after is not None and retry_after > LONGEST_WAIT:
        return None
    shortest, longest = _BACKOFF
    pause = min(shortest * 2**attempt, longest)
    return max(retry_after or 0.0, random.uniform(pause / 2, pause))  # noqa: S311 - spreads load, guards nothing
