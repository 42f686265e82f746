"""Who begins attempts that wait: woken when one becomes ready, and looking for what nobody was woken for."""

import asyncio
import logging
from typing import Final

from relay.core.clock import now
from relay.gate.resume import Resumer
from relay.queue.protocol import ATTEMPT, RUN, Queue
from relay.store.attempts import due_attempts
from relay.store.database import Database
from relay.store.writer import StoreUnavailable

SWEEP_SECONDS: Final = 1.0
_AT_ONCE: Final = 200

log = logging.getLogger("relay.gate")


class Dispatch:
    """Hands ready attempts to the queue. The tables say which there are; the queue only spreads the work."""

    def __init__(self, database: Database, queue: Queue, resumer: Resumer) -> None:
        self._database = database
        self._queue = queue
        self._task: asyncio.Task[None] | None = None
        queue.handle(ATTEMPT, resumer.work)

    async def start(self) -> None:
        """Begin to look for attempts that are due. The queue is somebody else's to start."""
        self._task = asyncio.create_task(self._forever(), name="attempt-dispatch")

    async def stop(self) -> None:
        """Hand nothing more over."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wake(self, attempt_id: str, run_id: str | None) -> None:
        """Have an attempt that is ready begin, and the run that waits for it go on, without waiting for a look."""
        await self._queue.put(ATTEMPT, attempt_id)
        if run_id is not None:
            await self._queue.put(RUN, run_id)

    async def _forever(self) -> None:
        while True:
            try:
                for attempt_id in await due_attempts(self._database.reader, now(), _AT_ONCE):
                    await self._queue.put(ATTEMPT, attempt_id)
            except StoreUnavailable as error:
                log.warning("attempts that are due wait for the database: %s", error)
            except Exception as error:  # a defect in one look must not end all looking
                log.error("looking for attempts that are due failed", exc_info=error)
            await asyncio.sleep(SWEEP_SECONDS)
