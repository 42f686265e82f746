"""The queue within one process: a bounded number of handlers at once, no memory beyond the process."""

from typing import Final

from relay.queue.lane import Lane, Lanes

MAX_WAITING: Final = 10_000


class LocalQueue(Lanes):
    """A :class:`~relay.queue.protocol.Queue` over asyncio tasks.

    An id that waits already is not added twice. Beyond :data:`MAX_WAITING` waiting ids of a kind a put is dropped; the
    sweep of whoever put it brings it back. Without ``work`` nobody would ever call a handler: ``start`` refuses it.
    """

    def __init__(self, concurrency: int) -> None:
        super().__init__(concurrency)
        self._waiting: dict[str, dict[str, None]] = {}
        self._running = False

    async def put(self, kind: str, id: str) -> None:
        lane, waiting = self.lane(kind), self._waiting.setdefault(kind, {})
        if len(waiting) < MAX_WAITING:
            waiting[id] = None
            self._fill(lane)

    async def start(self, *, work: bool = True) -> None:
        if not work:
            raise ValueError("a queue within one process has nobody else to leave the work to")
        self.begun = self._running = True
        for lane in self.lanes.values():
            self._fill(lane)

    async def stop(self, grace: float) -> None:
        self._running = False
        await self.drain(grace)

    def freed(self, lane: Lane, again: str | None) -> None:
        self._fill(lane)

    def _fill(self, lane: Lane) -> None:
        """Start handlers while there is room; an id under way keeps its place until that handler has ended."""
        waiting = self._waiting.get(lane.kind)
        if not self._running or not waiting:
            return
        while (id := next((id for id in waiting if not lane.is_active(id)), None)) is not None and lane.reserve():
            del waiting[id]
            lane.begin(id)
