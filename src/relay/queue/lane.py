"""The calls of one kind that are under way in this process."""

import asyncio
import logging
from collections.abc import Callable

from relay.queue.protocol import Handler
from relay.telemetry import context

log = logging.getLogger("relay.queue")


class Lane:
    """Runs a handler on ids: at most ``room`` at once, never two on the same id.

    ``on_free`` is called whenever a place has become free, with the id whose call was asked for again meanwhile, if
    there is one.
    """

    def __init__(self, kind: str, handler: Handler, room: int, on_free: Callable[["Lane", str | None], None]) -> None:
        if room < 1:
            raise ValueError("a kind needs room for one handler")
        self.kind = kind
        self._handler = handler
        self._room = room
        self._on_free = on_free
        self._active: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._reserved = 0
        self._freed = asyncio.Event()

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The calls under way."""
        return set(self._active.values())

    def is_active(self, id: str) -> bool:
        """Say whether a call works on this id."""
        return id in self._active

    def ask_again(self, id: str) -> None:
        """Note that an id under way is to be called once more."""
        self._again.add(id)

    def reserve(self) -> bool:
        """Take a place; False when there is none. It is given back by :meth:`begin` or :meth:`give_back`."""
        if len(self._active) + self._reserved >= self._room:
            return False
        self._reserved += 1
        return True

    async def reserved(self) -> None:
        """Wait for a place and take it."""
        while not self.reserve():
            self._freed.clear()
            await self._freed.wait()

    def give_back(self) -> None:
        """Give a place back that was taken for nothing."""
        self._reserved -= 1
        self._freed.set()

    def begin(self, id: str) -> None:
        """Call the handler with a place that was taken. An id under way is called again afterwards instead."""
        self._reserved -= 1
        if id in self._active:
            self._again.add(id)
            self._freed.set()
            return
        task = asyncio.create_task(self._call(id), name=f"queue-{self.kind}-{id}")
        self._active[id] = task
        task.add_done_callback(lambda _: self._ended(id))

    async def drain(self, until: float) -> int:
        """Wait for the calls under way up to a moment of the loop's clock, then cancel them; return how many."""
        if not (tasks := self.tasks):
            return 0
        _, late = await asyncio.wait(tasks, timeout=max(0.0, until - asyncio.get_running_loop().time()))
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return len(late)

    def _ended(self, id: str) -> None:
        del self._active[id]
        again = id in self._again
        self._again.discard(id)
        self._freed.set()
        self._on_free(self, id if again else None)

    async def _call(self, id: str) -> None:
        try:
            with context.alone():  # whoever put it, a request perhaps, is not what it is done for
                await self._handler(id)
        except Exception as error:  # a handler's defect must not stop the queue; its own sweep tries again
            log.error("the handler of %s %s failed: %s", self.kind, id, type(error).__name__, exc_info=error)


class Lanes:
    """The lanes of one queue, by kind; what both queues have in common."""

    def __init__(self, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError("a queue needs room for one handler")
        self._concurrency = concurrency
        self.lanes: dict[str, Lane] = {}
        self.begun = False

    def handle(self, kind: str, handler: Handler, *, concurrency: int | None = None) -> None:
        """See :class:`~relay.queue.protocol.Queue`."""
        if kind in self.lanes:
            raise ValueError(f"{kind} has a handler already")
        if self.begun:
            raise ValueError("handlers are registered before the queue starts")
        room = self._concurrency if concurrency is None else concurrency
        self.lanes[kind] = Lane(kind, handler, room, self.freed)

    def lane(self, kind: str) -> Lane:
        """Return the lane of a kind; ValueError when it has no handler."""
        if kind not in self.lanes:
            raise ValueError(f"nobody handles {kind}")
        return self.lanes[kind]

    def freed(self, lane: Lane, again: str | None) -> None:
        """A place of a lane is free; ``again`` is an id that was put while it was worked on."""
        raise NotImplementedError

    async def drain(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for every call under way, then cancel those that are left."""
        until = asyncio.get_running_loop().time() + grace
        late = sum(await asyncio.gather(*(lane.drain(until) for lane in self.lanes.values())))
        if late:
            log.warning("%d handlers did not end within %g s and were cancelled", late, grace)
