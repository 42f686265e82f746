"""Who works on runs: claims them, keeps their leases, sweeps for those that nobody works on."""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Final

from relay.core.clock import now
from relay.gate.authenticate import Credentials
from relay.gate.perform import Performer
from relay.queue.protocol import RUN, Queue
from relay.runs.journal import Claim, Journal, LeaseLost
from relay.runs.work import Interrupted, SetAside, Work
from relay.store.database import Database
from relay.store.runs import RunsOfAllWorkspaces
from relay.store.vault import Vault
from relay.store.writer import StoreUnavailable
from relay.telemetry import context
from relay.telemetry.surviving import surviving

SWEEP_SECONDS: Final = 2.0
_SWEEP_LIMIT: Final = 500
_DECIDED_EVERY: Final = 15

log = logging.getLogger("relay.runs")


class Runner:
    """The runner of one process. The queue wakes it; the tables say what there is to do."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        gate: Performer,
        credentials: Credentials,
        queue: Queue,
        journal: Journal,
        *,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._database = database
        self._vault = vault
        self._gate = gate
        self._credentials = credentials
        self._queue = queue
        self._journal = journal
        self._sweep_seconds = sweep_seconds
        self._stopping = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None
        queue.handle(RUN, self.work)

    async def start(self, *, sole_process: bool) -> None:
        """Pick up what an earlier process left, then sweep for what is left behind from now on.

        A sole process takes over at once; otherwise a lease that is there may belong to a live sibling.
        """
        if sole_process:
            await self._journal.void_leases()
        await self._sweep()
        self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="runs-sweep")

    async def stop(self) -> None:
        """Begin no further step. Steps under way come to their end; the queue waits for them."""
        self._stopping.set()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper

    async def work(self, run_id: str) -> None:
        """Work on a run until it ends, if nobody else does; the queue's handler. Safe to call at any time."""
        if self._stopping.is_set():
            return
        try:
            claim = await self._journal.claim(run_id, f"run-{os.urandom(12).hex()}")
        except StoreUnavailable:
            return  # the sweep comes back to it
        if claim is None:
            return
        run = claim.run
        with context.alone(
            request_id=run.request_id, principal=run.principal_id, workspace=run.workspace_id, run_id=run.id
        ):
            await self._work_on(claim)

    async def _work_on(self, claim: Claim) -> None:
        run_id = claim.run.id
        async with self._kept(claim) as hold:
            work = Work(self._database, self._vault, self._gate, self._credentials, self._journal, claim, hold)
            try:
                await work.go()
            except LeaseLost:
                log.warning("run %s is worked on elsewhere now", run_id)
            except SetAside as aside:
                with contextlib.suppress(StoreUnavailable):  # the lease then ends by itself
                    if not await self._journal.set_aside(claim, aside.until):
                        await self._queue.put(RUN, run_id)
            except Interrupted:
                with contextlib.suppress(StoreUnavailable):  # the lease then ends by itself
                    await self._journal.release(claim)
                    await self._queue.put(RUN, run_id)

    @contextlib.asynccontextmanager
    async def _kept(self, claim: Claim) -> AsyncIterator["_Hold"]:
        hold = _Hold(self._stopping, self._journal.lease_seconds)
        task = asyncio.create_task(self._renew(claim, hold), name=f"lease-{claim.run.id}")
        try:
            yield hold
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _renew(self, claim: Claim, hold: "_Hold") -> None:
        while not hold.lost:
            await asyncio.sleep(self._journal.lease_seconds / 3)
            asked = time.monotonic()
            with contextlib.suppress(StoreUnavailable):  # tried again; the hold ends by its own clock
                if await self._journal.renew(claim):
                    hold.prolong(asked)
                else:
                    hold.lost = True

    async def _sweep_for_ever(self) -> None:
        for number in itertools.count(1):
            await asyncio.sleep(self._sweep_seconds)
            # The next sweep finds the same where the database is away.
            with surviving(log, "a sweep of runs"), contextlib.suppress(StoreUnavailable):
                if number % _DECIDED_EVERY == 0:
                    await self._resume_decided()
                await self._sweep()

    async def _resume_decided(self) -> None:
        """Whoever decides resumes the run as well; this is for decisions that left it out, an expiry for one."""
        for workspace, run_id, step_id in await RunsOfAllWorkspaces.decided(self._database.reader, _SWEEP_LIMIT):
            await self._journal.resume(workspace, run_id, step_id)

    async def _sweep(self) -> None:
        reader = self._database.reader
        for run_id in await RunsOfAllWorkspaces.waiting(reader, now(), _SWEEP_LIMIT):
            await self._queue.put(RUN, run_id)
        for run_id in await RunsOfAllWorkspaces.set_aside_in_vain(reader, now(), _SWEEP_LIMIT):
            await self._queue.put(RUN, run_id)


class _Hold:
    """A lease as its holder knows it: over when it was lost, or when its time is up by this process's own clock."""

    def __init__(self, stopping: asyncio.Event, lease_seconds: float) -> None:
        self._stopping = stopping
        self._lease_seconds = lease_seconds
        self._until = time.monotonic() + lease_seconds
        self.lost = False

    def prolong(self, since: float) -> None:
        self._until = since + self._lease_seconds

    def ensure(self) -> None:
        if self.lost or time.monotonic() >= self._until:
            raise LeaseLost
        if self._stopping.is_set():
            raise Interrupted

    async def pause(self, seconds: float) -> None:
        self.ensure()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        self.ensure()
