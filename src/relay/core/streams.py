"""Event streams: their form (server-sent events, WHATWG HTML 9.2), and how many of them a principal holds open."""

from collections import defaultdict
from typing import Any, Final
from weakref import WeakSet

from pydantic_core import to_json

from relay.core.principal import Principal
from relay.core.problem import TooManyStreams

RETRY_SECONDS: Final = 5
"""After how long a watcher whose stream has ended comes back."""
HEARTBEAT_SECONDS: Final = 15.0
PREAMBLE: Final = b"retry: %d\n\n" % (RETRY_SECONDS * 1000)
HEARTBEAT: Final = b": still here\n\n"


def block(kind: str, data: Any, event_id: str | None = None) -> bytes:
    """Return one event. ``data`` is written as JSON, so that no text in it can begin another line or event."""
    head = b"" if event_id is None else b"id: " + event_id.encode("ascii") + b"\n"
    return head + b"event: " + kind.encode("ascii") + b"\ndata: " + to_json(data) + b"\n\n"


class Place:
    """What one open stream counts for, until :meth:`give_back` or until nobody holds it any more."""

    __slots__ = ("__weakref__", "_account", "_places")

    def __init__(self, places: "Places", account: tuple[str, str]) -> None:
        self._places = places
        self._account = account

    def give_back(self) -> None:
        """Make room for another stream; harmless when it was done before."""
        self._places.forget(self, self._account)


class Places:
    """Counts the streams that principals hold open in this process, at most ``limit`` each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Weak, so that a stream whose answer was never sent cannot keep its place for ever.
        self._taken: defaultdict[tuple[str, str], WeakSet[Place]] = defaultdict(WeakSet)

    def take(self, principal: Principal) -> Place:
        """Return a place; :class:`~relay.core.problem.TooManyStreams` (429) when the principal has none left."""
        account = (principal.workspace_id, principal.account)
        if len(self._taken[account]) >= self._limit:
            raise TooManyStreams(
                f"A key may hold {self._limit} streams open; close one.",
                headers={"Retry-After": str(RETRY_SECONDS)},
                retry_after=RETRY_SECONDS,
            )
        place = Place(self, account)
        self._taken[account].add(place)
        return place

    def forget(self, place: Place, account: tuple[str, str]) -> None:
        """Take a place out of the count."""
        self._taken[account].discard(place)
        if not self._taken[account]:
            del self._taken[account]
