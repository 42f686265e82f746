"""Room for large bodies: how many bytes of them one process reads at once."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from relay.core.problem import Unavailable

MIB: Final = 1024 * 1024
SMALL: Final = MIB
"""Bodies up to this size need no room."""
_RETRY_SECONDS: Final = 2


class Room:
    """Bytes that large bodies share, first come, first served.

    A body takes what it may grow to before its first byte is read, so that two of them never wait for each other, and
    gives it back once it has been read and parsed. ``size`` is at least that of the largest body of any route.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def taken(self, size: int, seconds: float) -> AsyncIterator[None]:
        """Hold ``size`` bytes; :class:`~relay.core.problem.Unavailable` (503) when there is no room in that time."""
        if size <= SMALL:
            yield
            return
        size = min(size, self._size)
        await self._take(size, seconds)
        try:
            yield
        finally:
            self._free += size
            self._admit()

    async def _take(self, size: int, seconds: float) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:
            self._leave(size, turn)
            if isinstance(error, TimeoutError):
                raise Unavailable("Too many large bodies are being read at once.", retry_after=_RETRY_SECONDS) from None
            raise

    def _leave(self, size: int, turn: "asyncio.Future[None]") -> None:
        """Take back a turn that nobody waits for any more, also one that came at that very moment."""
        if turn.done() and not turn.cancelled():
            self._free += size
        else:
            self._waiting = deque(waiting for waiting in self._waiting if waiting[1] is not turn)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)
