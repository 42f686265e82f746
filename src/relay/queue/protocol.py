"""The narrow interface of every queue."""

from collections.abc import Awaitable, Callable
from typing import Protocol

Handler = Callable[[str], Awaitable[None]]


class Queue(Protocol):
    """Calls the handler of a kind with an id, at least once after each :meth:`put`, some time later.

    A queue may forget ids (it was full, the process ended) and may deliver one twice or to another process: whoever
    puts keeps the truth in a table, sweeps it, and makes its handler safe to repeat. While a handler works on an id
    the same process does not call it with that id again; a put in the meantime leads to another call afterwards.
    """

    def handle(self, kind: str, handler: Handler) -> None:
        """Register the handler of a kind; ValueError for a second one."""
        ...

    async def put(self, kind: str, id: str) -> None:
        """Ask for one call of the kind's handler. Never waits for the work or for room."""
        ...

    async def start(self) -> None:
        """Begin to call handlers."""
        ...

    async def stop(self, grace: float) -> None:
        """Begin no more calls, wait up to ``grace`` seconds for those under way, then cancel them."""
        ...
