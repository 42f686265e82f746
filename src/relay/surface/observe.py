"""What is told about every request, measured once: the access log, metrics and traces observe the same facts.

The stamp tells of each request that it sees, the wire of those that it could not read. An observer that breaks is
logged and costs nobody an answer.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from relay.core.facts import RequestFacts
from relay.telemetry import context

CLIENT_GONE: Final = 499
"""Status of a request whose caller left before the answer was whole; nobody was sent it."""
LOCK_BROKEN: Final = "lock_broken"
"""What ``facts.refused`` says of a request that the stamp stopped on its way out: a defect let it past the gate."""
BROKEN: Final = 500
"""Status of a request whose answer had begun and was then cut off by Relay."""
GONE: Final = "relay.gone"
"""Key of an ASGI scope: a function that says whether the caller has left. The wire puts it there."""

log = logging.getLogger("relay.http")


@dataclass(frozen=True, slots=True)
class Answered:
    """One request at its end.

    ``facts.route`` is the template of the route, empty when none answered. ``status`` is the one that the caller was
    sent, :data:`CLIENT_GONE` or :data:`BROKEN`. ``seconds`` run from the request's head to the end of the answer,
    ``sent`` counts the bytes of its body. ``stream`` says that it was an event stream, which lasts as long as its
    reader wants. ``principal`` and ``workspace`` are ids, empty where nobody was authenticated; the request may have
    been refused all the same.
    """

    facts: RequestFacts
    status: int
    seconds: float
    sent: int
    stream: bool
    principal: str
    workspace: str


class Observer(Protocol):
    """Is told of every request, in the event loop: it must neither wait nor block."""

    def begin(self, facts: RequestFacts) -> None:
        """See a request before anything is asked of it; ``facts.route`` is not known yet."""
        ...

    def end(self, answered: Answered) -> None:
        """See what became of it."""
        ...


class Observation:
    """One request as it is observed, from its head on; binds its id to everything that is logged meanwhile."""

    __slots__ = ("_began", "_facts", "_observers", "_token")

    def __init__(self, observers: Sequence[Observer], facts: RequestFacts) -> None:
        self._observers = observers
        self._facts = facts
        self._began = time.perf_counter()
        self._token = context.begin(request_id=facts.request_id)
        for observer in observers:
            try:
                observer.begin(facts)
            except Exception:  # whatever broke in an observer, the caller gets an answer
                log.exception("an observer of requests broke")

    def end(self, status: int, sent: int, *, stream: bool) -> None:
        """Tell what became of the request. To be called once."""
        bound = context.current()
        answered = Answered(
            self._facts,
            status,
            time.perf_counter() - self._began,
            sent,
            stream,
            bound.get("principal", ""),
            bound.get("workspace", ""),
        )
        tell(self._observers, answered)
        context.restore(self._token)


def tell(observers: Sequence[Observer], answered: Answered) -> None:
    """Tell every observer of a request that has ended."""
    for observer in observers:
        try:
            observer.end(answered)
        except Exception:  # as above: whatever broke in an observer, the others are told
            log.exception("an observer of requests broke")
