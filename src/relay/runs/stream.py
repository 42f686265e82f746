"""Watching a run: its events as they are written, by this process or another one.

The form is that of server-sent events (WHATWG HTML, 9.2): ``id`` is the event's number within the run, so that a
watcher that comes back with the last one it saw misses nothing and sees nothing twice.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Final

from relay.core.clock import iso
from relay.core.principal import Principal
from relay.core.streams import HEARTBEAT, HEARTBEAT_SECONDS, PREAMBLE, Place, Places, block
from relay.gate.authenticate import Credentials, reason_to_end
from relay.runs.changes import Changes
from relay.runs.machine import FINISHED
from relay.store.database import Database
from relay.store.runs import RunEvent, RunRepository, RunRow
from relay.store.writer import StoreUnavailable

POLL_SECONDS: Final = 0.4
CREDENTIAL_SECONDS: Final = 1.0
_BATCH: Final = 200
_MAX_DIGITS: Final = 9


class Stream:
    """One open stream. It counts against its principal until :meth:`close`, or until nobody holds it any more."""

    def __init__(
        self, streams: "Streams", place: Place, principal: Principal, run_id: str, after: int, caller: str
    ) -> None:
        self._caller = caller
        self._place = place
        self._streams = streams
        self._principal = principal
        self._run_id = run_id
        self._after = after

    def close(self) -> None:
        """Give the principal's place back; harmless when it was given back before."""
        self._place.give_back()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream's bytes until the run has ended, the credential has died or the server stops.

        The credential, and from where it may be used, is looked at each second. While the database is away nothing can
        be said about either, and the stream ends; its watcher comes back by itself.
        """
        yield PREAMBLE
        with self._streams.changes.watch(self._run_id) as woken:
            checked, beaten = -CREDENTIAL_SECONDS, time.monotonic()
            while True:
                woken.clear()
                moment = time.monotonic()
                if (reason := await self._reason_to_end(moment - checked >= CREDENTIAL_SECONDS)) is not None:
                    yield block("end", {"reason": reason})
                    return
                if moment - checked >= CREDENTIAL_SECONDS:
                    checked = moment
                for event in await self._new_events():
                    beaten = moment
                    yield block(event.kind, _shown(event), str(event.seq))
                    if event.kind == "run" and event.status in FINISHED:
                        return
                if moment - beaten >= HEARTBEAT_SECONDS:
                    beaten = moment
                    yield HEARTBEAT
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await woken.wait()

    async def _reason_to_end(self, look: bool) -> str | None:
        if self._streams.closing.is_set():
            return "shutdown"
        if not look:
            return None
        return await reason_to_end(self._streams.credentials, self._principal, self._caller)

    async def _new_events(self) -> list[RunEvent]:
        rows = RunRepository(self._principal.workspace_id)
        try:
            events = await rows.events_after(self._streams.reader, self._run_id, self._after, _BATCH)
        except StoreUnavailable:  # the look at the credential, or the next poll, says more
            return []
        if events:
            self._after = events[-1].seq
        return events


class Streams:
    """Opens streams, each in one of its principal's places."""

    def __init__(
        self, database: Database, credentials: Credentials, changes: Changes, closing: asyncio.Event, places: Places
    ) -> None:
        self.reader: Final = database.reader
        self.credentials: Final = credentials
        self.changes: Final = changes
        self.closing: Final = closing
        self._places = places

    async def place(self, principal: Principal, run: RunRow, seen: int) -> int | None:
        """Return after which event a watcher that saw number ``seen`` goes on; None when it has seen all there will be.

        A number that the run has not reached is not one of its own: the watcher begins at the start.
        """
        last = await RunRepository(principal.workspace_id).last_event(self.reader, run.id)
        if seen == last and run.status in FINISHED:
            return None
        return seen if seen <= last else 0

    def open(self, principal: Principal, run_id: str, after: int, caller: str) -> Stream:
        """Return a stream of a run's events after number ``after`` to the address ``caller``.

        429 when the principal has too many open.
        """
        return Stream(self, self._places.take(principal), principal, run_id, after, caller)


def sequence_of(last_event_id: str | None) -> int:
    """Return the number that a ``Last-Event-ID`` names, 0 (from the start) for what is not one of Relay's."""
    text = last_event_id or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else 0


def _shown(event: RunEvent) -> dict[str, str]:
    shown = {"run_id": event.run_id, "status": event.status, "at": iso(event.occurred_at)}
    return {**shown, "step_id": event.step_id} if event.step_id else shown
