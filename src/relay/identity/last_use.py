"""When a key was last used: to the minute, best effort, never at the cost of a request."""

import asyncio
import contextlib
import logging
from functools import partial
from itertools import islice
from typing import Final

from relay.core.clock import MINUTE
from relay.store.api_keys import note_used
from relay.store.peppers import Rehash, rehash
from relay.store.writer import StoreUnavailable, Writer
from relay.telemetry.surviving import surviving

FLUSH_SECONDS: Final = 60
ROWS_PER_UNIT: Final = 500

log = logging.getLogger("relay.identity")


class LastUse:
    """Collects uses in memory and writes them each minute. A crash loses up to a minute of them.

    ``noted`` maps a key's id to the moment it was last used, ``rehashed`` to its hash under the newest pepper where it
    may have been found by the older one; there are never more entries than keys that were used.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._task: asyncio.Task[None] | None = None
        self.noted: dict[str, int] = {}
        self.rehashed: dict[str, Rehash] = {}

    def start(self) -> None:
        """Begin to write each minute."""
        if self._task is None:
            self._task = asyncio.create_task(self._flush_for_ever(), name="keys-last-use")

    async def stop(self) -> None:
        """Stop, writing what has been collected."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self.flush()

    async def flush(self) -> None:
        """Write what has been collected. What the database does not take is tried again the next time."""
        await self._flush_rehashed()
        while self.noted:
            some = dict(islice(self.noted.items(), ROWS_PER_UNIT))
            for key_id in some:
                del self.noted[key_id]
            rows = [(key_id, moment - moment % MINUTE) for key_id, moment in some.items()]
            try:
                await self._writer.run(partial(note_used, used=rows))
            except StoreUnavailable as error:
                self.noted = some | self.noted
                log.warning("the last use of %d keys could not be written: %s", len(self.noted), error)
                return

    async def _flush_rehashed(self) -> None:
        while self.rehashed:
            some = dict(islice(self.rehashed.items(), ROWS_PER_UNIT))
            for key_id in some:
                del self.rehashed[key_id]
            try:
                await self._writer.run(partial(rehash, changes=sorted(some.values())))
            except StoreUnavailable as error:
                self.rehashed = some | self.rehashed
                log.warning("%d keys could not be re-hashed now: %s", len(self.rehashed), error)
                return

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            with surviving(log, "writing when keys were used"):
                await self.flush()
