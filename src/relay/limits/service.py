"""The limits of one server process: its rules, its counters, and word of when they are away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from relay.limits.counters import Counters
from relay.limits.limiter import Limiter
from relay.limits.memory import MemoryCounters
from relay.limits.rules import rules_for
from relay.limits.state import LimitState
from relay.settings.model import Settings
from relay.telemetry.metrics import Metrics

LOST = "limits:backend:lost"
RECOVERED = "limits:backend:recovered"

Note = Callable[[str], Awaitable[None]]

log = logging.getLogger("relay.limits")


class LimitService:
    """Counts in process, or in Redis where ``REDIS_URL`` is set. ``note`` writes down that Redis went or came back.

    ``installation`` is the installation's id: replicas of one share their counts, and no two share any.
    """

    def __init__(self, settings: Settings, installation: str, note: Note, metrics: Metrics | None = None) -> None:
        self.rules = rules_for(settings)
        self.state = LimitState()
        metrics = metrics or Metrics.off()
        self._fallback = metrics.gauge("relay_limiter_fallback")
        self._shared = metrics.gauge("relay_limiter_shared")
        self._note = note
        self._notes: asyncio.Queue[str] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None
        counters: Counters = MemoryCounters()
        self._link = None
        if settings.redis_url is not None:
            # Not at the top: a process without Redis never needs its client.
            from relay.limits.link import RedisLink
            from relay.limits.redis import RedisCounters

            self._link = RedisLink(settings.redis_url.get_secret_value(), self._changed)
            counters = RedisCounters(self._link, installation)
        self.limiter = Limiter(counters, self.state, observe=settings.rate_limit_mode == "observe")

    async def start(self) -> None:
        """Connect to Redis, or begin to try; a server starts without it and refuses what it then must."""
        self._shared.set(float(self.shared))
        if self._link is not None:
            self._writer = asyncio.create_task(self._write_notes(), name="limits-notes")
            await self._link.start()

    async def stop(self) -> None:
        """Disconnect and write down what is left to write; to be called while the database is open."""
        if self._link is None or self._writer is None:
            return
        await self._link.stop()
        await self._notes.join()
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        self._writer = None

    @property
    def shared(self) -> bool:
        """Whether the count is kept in Redis."""
        return self._link is not None

    async def answers(self) -> bool:
        """Say whether limits can be checked now as they should be."""
        return self._link is None or self._link.up

    def _changed(self, up: bool) -> None:
        if not up:
            self.state.losses += 1
        self._fallback.set(float(not up))
        self._notes.put_nowait(RECOVERED if up else LOST)

    async def _write_notes(self) -> None:
        while True:
            tag = await self._notes.get()
            try:
                await self._note(tag)
            except Exception as error:  # the limits go on; what could not be recorded stands in the log
                log.error("%s could not be recorded: %s", tag, type(error).__name__)
            finally:
                self._notes.task_done()
