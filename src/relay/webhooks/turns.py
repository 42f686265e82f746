"""Units that want an endpoint for themselves, asked again while another process has it."""

import asyncio
import random
import time
from typing import Final, TypeVar

from relay.store.endpoints import EndpointHeld
from relay.store.writer import StoreUnavailable, Unit, Writer

T = TypeVar("T")

PATIENCE_SECONDS: Final = 10.0
"""Longer than the database lets a process that froze keep a lock."""

_SPREAD: Final = random.SystemRandom()
_SHORTEST, _LONGEST = 0.002, 0.03


async def in_turn(writer: Writer, unit: Unit[T], *, outcome: bool = False) -> T:
    """Run a unit as :meth:`Writer.run` does, again and again while it meets a held endpoint.

    Nobody waits for an endpoint inside a transaction: a batch changes many endpoints in whatever order they come, and
    two processes that waited for one another would be a deadlock. :class:`StoreUnavailable` when it stays held.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await writer.run(unit, outcome=outcome)
        except EndpointHeld:
            if time.monotonic() >= until:
                raise StoreUnavailable("another process keeps the endpoint") from None
        await asyncio.sleep(_SPREAD.uniform(_SHORTEST, _LONGEST))
