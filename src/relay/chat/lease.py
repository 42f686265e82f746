"""A turn's lease as its holder knows it: whether it still may work, and what makes it stop."""

import asyncio
import contextlib
import os
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from relay.runs.journal import LeaseLost
from relay.runs.work import Interrupted

T = TypeVar("T")


def new_holder() -> str:
    """Return a name for whoever takes a turn; for people who look at the table."""
    return f"chat-{os.urandom(12).hex()}"


class CancelAsked(Exception):
    """Somebody has asked to end the turn."""


class Hold:
    """Over when the lease was lost or its time is up by this process's clock, when the process stops, or on demand."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._until = time.monotonic() + lease_seconds
        self._why: type[Exception] | None = None
        self._over = asyncio.Event()

    def prolong(self, since: float) -> None:
        """Take in that the lease was prolonged by somebody who asked at ``since`` (monotonic)."""
        self._until = since + self._lease_seconds

    def end(self, why: type[Exception]) -> None:
        """End the hold; the first reason counts."""
        self._why = self._why or why
        self._over.set()

    def look(self) -> None:
        """End the hold when its time is up."""
        if time.monotonic() >= self._until:
            self.end(LeaseLost)

    @property
    def is_lost(self) -> bool:
        """Whether the lease is gone, so that nothing more may be written."""
        return self._why is LeaseLost or time.monotonic() >= self._until

    @property
    def is_over(self) -> bool:
        """Whether something has ended it."""
        return self._why is not None

    def ensure(self) -> None:
        """Return while it lasts; ``LeaseLost``, ``Interrupted`` (the process stops) or :class:`CancelAsked` after."""
        self.look()
        if self._why is not None:
            raise self._why

    async def pause(self, seconds: float) -> None:
        """Wait, at most until it is over, and raise as :meth:`ensure`."""
        self.ensure()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        self.ensure()

    async def lasting(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns, or cancel it when the hold ends first and raise as :meth:`ensure`."""
        task = asyncio.ensure_future(work)
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.ensure()
            return await task
        finally:
            over.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))


__all__ = ["CancelAsked", "Hold", "Interrupted", "LeaseLost", "new_holder"]
