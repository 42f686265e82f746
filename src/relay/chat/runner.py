"""Who works on turns: begins them, claims those that are left, keeps leases, sweeps for what nobody works on."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

from relay.chat.entries import CallEntry
from relay.chat.journal import Claim
from relay.chat.lease import CancelAsked, Hold, Interrupted, LeaseLost, new_holder
from relay.chat.looking import Looking
from relay.chat.progress import Progress, Running
from relay.chat.work import Tools, Work
from relay.core.clock import now
from relay.queue.protocol import CHAT, Queue
from relay.runs.changes import Changes
from relay.store.chat import TurnRow
from relay.store.chat_reading import ChatReading, turn_of_any_workspace, turns_to_go_on, turns_to_take, turns_with_news
from relay.store.writer import StoreUnavailable
from relay.telemetry import context
from relay.telemetry.surviving import surviving

SWEEP_SECONDS: Final = 1.0
RENEW_SECONDS: Final = 2.0
CONCURRENCY: Final = 256
"""Turns that one process goes on with at once; they wait for models, mostly."""
_SWEEP_LIMIT: Final = 500

log = logging.getLogger("relay.chat")


class Runner:
    """The runner of one process. A turn is worked on where its message came in; the tables say what else there is."""

    def __init__(
        self, tools: Tools, looking: Looking, changes: Changes, queue: Queue, *, sweep_seconds: float = SWEEP_SECONDS
    ) -> None:
        self._tools = tools
        self._looking = looking
        self._changes = changes
        self._queue = queue
        self._sweep_seconds = sweep_seconds
        self._stopping = False
        self._sweeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._holds: dict[str, Hold] = {}
        self._progress: dict[str, Progress] = {}
        queue.handle(CHAT, self.work, concurrency=CONCURRENCY)

    async def start(self, *, sole_process: bool) -> None:
        """Pick up what an earlier process left, then sweep for what is left behind from now on.

        A sole process takes over at once; otherwise a lease that is there may belong to a live sibling.
        """
        if sole_process:
            await self._tools.journal.void_leases()
        await self._sweep()
        self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="chat-sweep")

    async def stop(self, grace: float) -> None:
        """Let go of every turn at its next step, and wait up to ``grace`` seconds for calls that are under way."""
        self._stopping = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for hold in self._holds.values():
            hold.end(Interrupted)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def begin(self, claim: Claim) -> None:
        """Work on a turn that this process has claimed, in the background."""
        task = asyncio.create_task(self._work_alone(claim), name=f"turn-{claim.turn.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_alone(self, claim: Claim) -> None:
        with surviving(log, "a turn"):
            await self._work_on(claim)

    def cancel(self, turn_id: str) -> bool:
        """End a turn that this process works on, after the call under way; False when it works on no such turn."""
        hold = self._holds.get(turn_id)
        if hold is not None:
            hold.end(CancelAsked)
        return hold is not None

    def running(self, session_id: str) -> Running | None:
        """Return the running answer of a session that this process works on, None where there is none."""
        progress = self._progress.get(session_id)
        return None if progress is None else progress.now()

    def works_on(self, session_id: str) -> bool:
        """Say whether this process works on a turn of a session."""
        return session_id in self._progress

    async def work(self, turn_id: str) -> None:
        """Take in what has become of a turn's calls, and go on with it if nothing waits and nobody else works on it.

        The queue's handler; safe to call at any time.
        """
        if self._stopping or turn_id in self._holds:
            return
        try:
            turn = await turn_of_any_workspace(self._tools.database.reader, turn_id)
            if turn is None:
                return
            if turn.status != "running":
                await self.take_in(turn)
            claim = await self._tools.journal.claim(turn_id, new_holder())
        except StoreUnavailable:
            return  # the sweep comes back to it
        if claim is not None:
            await self._work_on(claim)

    async def take_in(self, turn: TurnRow) -> None:
        """Record what has become of calls that wait, of a turn that nobody works on."""
        reading = ChatReading(turn.workspace_id, self._tools.database.reader)
        for row in await reading.calls(turn):
            if row.status not in ("pending_approval", "running") or row.attempt_id is None:
                continue
            call = await self._looking.call_entry(row)
            if call is None:
                call = CallEntry(row.id, row.action, "unknown", {}, "", "write", attempt_id=row.attempt_id)
            spec = self._looking.spec(row.action)
            done = await self._tools.performing.looked_at(spec, row, call)
            if done is not None:
                await self._tools.journal.moved(row, done)

    async def _work_on(self, claim: Claim) -> None:
        turn, session = claim.turn, claim.session
        progress = self._progress[session.id] = Progress(session.id, turn.id, self._changes)
        with context.alone(request_id=turn.request_id, principal=session.credential_id, workspace=turn.workspace_id):
            try:
                async with self._kept(claim) as hold:
                    await self._worked(claim, hold, progress)
            finally:
                if self._progress.get(session.id) is progress:
                    del self._progress[session.id]
                self._changes.notify(session.id)
        if not self._stopping:
            await self._others(turn)

    async def _worked(self, claim: Claim, hold: Hold, progress: Progress) -> None:
        try:
            with self._tools.journal.counts.working():
                await Work(self._tools, claim, hold, progress).go()
        except LeaseLost:
            log.warning("turn %s is worked on elsewhere now, or is gone", claim.turn.id)
        except Interrupted:
            with contextlib.suppress(StoreUnavailable):  # the lease then ends by itself
                await self._tools.journal.release(claim)

    async def _others(self, turn: TurnRow) -> None:
        """Have the turns of the session looked at that could not go on while this one ran."""
        with contextlib.suppress(StoreUnavailable):  # the sweep comes back to them
            reading = ChatReading(turn.workspace_id, self._tools.database.reader)
            for other in await reading.awaiting(turn.session_id):
                await self._queue.put(CHAT, other)

    @contextlib.asynccontextmanager
    async def _kept(self, claim: Claim) -> AsyncIterator[Hold]:
        hold = self._holds[claim.turn.id] = Hold(self._tools.journal.lease_seconds)
        if self._stopping:
            hold.end(Interrupted)
        task = asyncio.create_task(self._renew(claim, hold), name=f"lease-{claim.turn.id}")
        try:
            yield hold
        finally:
            if self._holds.get(claim.turn.id) is hold:
                del self._holds[claim.turn.id]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _renew(self, claim: Claim, hold: Hold) -> None:
        seconds = min(RENEW_SECONDS, self._tools.journal.lease_seconds / 3)
        while not hold.is_lost:
            await asyncio.sleep(seconds)
            hold.look()
            asked = time.monotonic()
            with contextlib.suppress(StoreUnavailable):  # tried again; the hold ends by its own clock
                renewed = await self._tools.journal.renew(claim)
                if renewed is False:
                    hold.end(LeaseLost)
                    return
                hold.prolong(asked)
                if renewed is None:
                    hold.end(CancelAsked)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            # The next sweep finds the same where the database is away.
            with surviving(log, "a sweep of chats"), contextlib.suppress(StoreUnavailable):
                await self._sweep()

    async def _sweep(self) -> None:
        reader = self._tools.database.reader
        found = dict.fromkeys(await turns_to_take(reader, now(), _SWEEP_LIMIT))
        found |= dict.fromkeys(await turns_with_news(reader, _SWEEP_LIMIT))
        found |= dict.fromkeys(await turns_to_go_on(reader, _SWEEP_LIMIT))
        for turn_id in found:
            await self._queue.put(CHAT, turn_id)
