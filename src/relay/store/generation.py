"""How caches learn of changes that another process made: a number that moves, and a bound on how old it may be."""

import asyncio
import contextlib
import logging
import time
from typing import Final

from sqlalchemy import func, select

from relay.store.reader import Reader
from relay.store.tables import generations
from relay.store.writer import StoreUnavailable
from relay.telemetry.surviving import surviving

log = logging.getLogger("relay.store")

POLL_SECONDS: Final = 0.5
STALE_SECONDS: Final = 1.0


class Generation:
    """A counter that changes when cached facts (keys, later policy and kill switch) may have changed.

    An entry cached under another value must not be used. :meth:`current` returns None while the database's
    state cannot be known to be at most a second old; then nothing cached may be used at all.
    """

    def __init__(self) -> None:
        self._value = 0
        self._seen: object = None
        self._fresh_until = float("inf")

    def current(self) -> int | None:
        """Return the value to compare with, or None when it is not known."""
        return self._value if time.monotonic() < self._fresh_until else None

    def changed(self) -> None:
        """Void everything cached so far."""
        self._value += 1

    def expect_observations(self) -> None:
        """From now on nothing is known unless :meth:`observed` says so: other processes write to this database."""
        self._fresh_until = float("-inf")

    def observed(self, state: object, asked_at: float) -> None:
        """Take in what the database said to a question of that time (monotonic seconds); a difference voids."""
        if state != self._seen:
            self._seen = state
            self.changed()
        self._fresh_until = asked_at + STALE_SECONDS


async def poll(generation: Generation, reader: Reader) -> None:
    """Observe the ``generations`` rows twice a second until cancelled (PostgreSQL, where others write too)."""
    statement = select(func.coalesce(func.sum(generations.c.value), 0))
    generation.expect_observations()
    while True:
        asked_at = time.monotonic()
        # Unread for a second, the caches are void by themselves.
        with surviving(log, "following the generation"), contextlib.suppress(StoreUnavailable):
            row = await reader.one(statement)
            generation.observed(row[0] if row else None, asked_at)
        await asyncio.sleep(POLL_SECONDS)
