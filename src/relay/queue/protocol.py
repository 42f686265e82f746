"""The narrow interface of every queue."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

RUN: Final = "run"
ATTEMPT: Final = "attempt"
CHAT: Final = "chat"
"""Kinds of work that one part asks another for."""

Handler = Callable[[str], Awaitable[None]]


class Queue(Protocol):
    """Calls the handler of a kind with an id, at least once after each :meth:`put`, some time later.

    A queue may forget ids (it was full, the process ended) and may deliver one twice or to another process: whoever
    puts keeps the truth in a table, sweeps it, and makes its handler safe to repeat. While a handler works on an id
    the same process does not call it with that id again; a put in the meantime leads to another call afterwards.

    Each kind has places of its own, so that no kind waits for another.
    """

    def handle(self, kind: str, handler: Handler, *, concurrency: int | None = None) -> None:
        """Register the handler of a kind, at most ``concurrency`` calls at once in this process.

        None takes the queue's own number. ValueError for a second handler, fewer than one place, or after
        :meth:`start`.
        """
        ...

    async def put(self, kind: str, id: str) -> None:
        """Ask for one call of the kind's handler. Never waits for the work, for room or for a database.

        ValueError for a kind without handler.
        """
        ...

    async def start(self, *, work: bool = True) -> None:
        """Begin. Without ``work`` this process only puts, and others call the handlers."""
        ...

    async def stop(self, grace: float) -> None:
        """Begin no more calls, wait up to ``grace`` seconds for those under way, then cancel them."""
        ...
