"""The queue within one process: a bounded number of handlers at once, no memory beyond the process."""

import asyncio
import logging
from typing import Final

from relay.queue.protocol import Handler

MAX_WAITING: Final = 10_000

log = logging.getLogger("relay.queue")

Entry = tuple[str, str]


class LocalQueue:
    """A :class:`~relay.queue.protocol.Queue` over asyncio tasks, ``concurrency`` of them at most.

    An id that waits already is not added twice. Beyond :data:`MAX_WAITING` waiting ids a put is dropped; the
    sweep of whoever put it brings it back.
    """

    def __init__(self, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError("a queue needs room for one handler")
        self._concurrency = concurrency
        self._handlers: dict[str, Handler] = {}
        self._waiting: dict[Entry, None] = {}
        self._active: dict[Entry, asyncio.Task[None]] = {}
        self._running = False

    def handle(self, kind: str, handler: Handler) -> None:
        if kind in self._handlers:
            raise ValueError(f"{kind} has a handler already")
        self._handlers[kind] = handler

    async def put(self, kind: str, id: str) -> None:
        if kind not in self._handlers:
            raise ValueError(f"nobody handles {kind}")
        if len(self._waiting) < MAX_WAITING:
            self._waiting[kind, id] = None
            self._fill()

    async def start(self) -> None:
        self._running = True
        self._fill()

    async def stop(self, grace: float) -> None:
        self._running = False
        tasks = set(self._active.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace)
        for task in late:
            task.cancel()
        if late:
            log.warning("%d handlers did not end within %g s and were cancelled", len(late), grace)
            await asyncio.wait(late)

    def _fill(self) -> None:
        """Start handlers while there is room; an id under way keeps its place until that handler has ended."""
        if not self._running:
            return
        ready = (entry for entry in list(self._waiting) if entry not in self._active)
        for entry in ready:
            if len(self._active) >= self._concurrency:
                return
            del self._waiting[entry]
            task = asyncio.create_task(self._call(entry), name=f"queue-{entry[0]}-{entry[1]}")
            self._active[entry] = task
            task.add_done_callback(lambda _, entry=entry: self._ended(entry))  # type: ignore[misc]

    def _ended(self, entry: Entry) -> None:
        del self._active[entry]
        self._fill()

    async def _call(self, entry: Entry) -> None:
        kind, id = entry
        try:
            await self._handlers[kind](id)
        except Exception as error:  # a handler's defect must not stop the queue; its own sweep tries again
            log.error("the handler of %s %s failed: %s", kind, id, type(error).__name__, exc_info=error)
