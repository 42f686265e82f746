"""How many answers are waited for at once, and how many questions may wait for their turn."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from relay.core.problem import ModelUnavailable

WAIT_SECONDS: Final = 10.0


class Slots:
    """``size`` answers at once; as many questions again wait, each for at most ``wait`` seconds.

    ``changed`` hears how many are under way.
    """

    def __init__(self, size: int, changed: Callable[[int], None], wait: float = WAIT_SECONDS) -> None:
        self._size = size
        self._free = asyncio.Semaphore(size)
        self._wait = wait
        self._waiting = 0
        self._busy = 0
        self._changed = changed

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold a place; :class:`~relay.core.problem.ModelUnavailable` when none becomes free in time."""
        await self._take()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)
            self._free.release()

    async def _take(self) -> None:
        if self._free.locked() and self._waiting >= self._size:
            raise ModelUnavailable("As many questions wait for a model as may.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait):
                await self._free.acquire()
        except TimeoutError:
            raise ModelUnavailable("The models answer as many questions at once as they may.") from None
        finally:
            self._waiting -= 1

    def _count(self, change: int) -> None:
        self._busy += change
        self._changed(self._busy)
