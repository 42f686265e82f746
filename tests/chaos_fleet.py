"""Servers and workers in processes of their own, killed at random and started again, and who can work meanwhile."""

import asyncio
import random
import time
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import psutil
import psycopg

from tests.postgres import Postgres
from tests.process import DidNotStart, GatewayProcess
from tests.worker_process import WorkerProcess

MOST_DOWN: Final = 2
KILLED_WHILE_STARTING: Final = 0.15
PAUSE_SECONDS: Final = 0.8
DOWN_SECONDS: Final = (0.2, 1.5)
LOOK_SECONDS: Final = 0.25
LEASE_MICROSECONDS: Final = 15_000_000
_UP_AGAIN_SECONDS: Final = 120.0


@dataclass
class Member:
    """One process of the fleet, which is started again whenever it was killed."""

    kind: str
    process: GatewayProcess | WorkerProcess
    up: bool = False
    starting: asyncio.Task[None] | None = None


class Fleet:
    """What serves and works on one database."""

    def __init__(
        self, seed: int, servers: list[GatewayProcess], workers: list[WorkerProcess], database: Postgres
    ) -> None:
        self.members = [
            *(Member("server", server) for server in servers),
            *(Member("worker", worker) for worker in workers),
        ]
        self.database = database
        self.database_up = True
        self.kills: Counter[str] = Counter()
        self.restarts = 0
        self._rng = random.Random(f"{seed}:kills")
        self._last_outage = float("-inf")

    @property
    def can_work(self) -> bool:
        """Whether a worker is there, and the database."""
        return self.database_up and any(member.up for member in self.members if member.kind == "worker")

    async def start(self) -> None:
        """Start the first server alone, which makes the first key, then the others at once."""
        await self._started(self.members[0])
        for member in self.members[1:]:
            self._start(member)
        await self.all_up()

    async def all_up(self) -> None:
        """Return once every process is up; what broke while it started is raised here."""
        async with asyncio.timeout(_UP_AGAIN_SECONDS):
            await asyncio.gather(*(member.starting for member in self.members if member.starting is not None))

    async def kill_one(self) -> None:
        """Wait for a random while, and until enough are up, then kill one that is, or one that is about to be."""
        await asyncio.sleep(self._rng.uniform(0, PAUSE_SECONDS))
        async with asyncio.timeout(_UP_AGAIN_SECONDS):
            while sum(not member.up for member in self.members) > MOST_DOWN:
                self._none_ended()
                await asyncio.sleep(0.01)
        self._none_ended()
        starting = [member for member in self.members if not member.up]
        early = bool(starting) and self._rng.random() < KILLED_WHILE_STARTING
        victim = self._rng.choice(starting if early else [member for member in self.members if member.up])
        await self._kill(victim)
        self.kills[f"starting {victim.kind}" if early else victim.kind] += 1
        self._start(victim)

    async def restart_database(self) -> None:
        """Have the database end at once, and start it again a moment later."""
        self.database_up = False
        await asyncio.to_thread(self.database.crash)
        await asyncio.sleep(self._rng.uniform(*DOWN_SECONDS))
        await asyncio.to_thread(self.database.start)
        self.database_up = True
        self._last_outage = time.monotonic()
        self.restarts += 1

    async def end(self) -> None:
        """Kill everything."""
        for member in self.members:
            await self._kill(member)

    async def _kill(self, member: Member) -> None:
        member.up = False
        member.process.kill()
        if member.starting is not None:
            member.starting.cancel()
            await asyncio.gather(member.starting, return_exceptions=True)
            member.starting = None
        member.process.kill()  # what its start may have spawned in between

    def _start(self, member: Member) -> None:
        member.starting = asyncio.create_task(self._started(member), name=f"start-{member.kind}")

    async def _started(self, member: Member) -> None:
        """Start a process; again and again where it was the database that was away."""
        while True:
            began = time.monotonic()
            try:
                await member.process.start()
            except DidNotStart as error:
                if self.database_up and began > self._last_outage:
                    seconds = time.monotonic() - began
                    raise DidNotStart(f"a {member.kind}, {seconds:.0f} s: {error}\n{self._sessions()}") from None
                await asyncio.sleep(0.1)
            else:
                member.up = True
                return

    def _sessions(self) -> str:
        """Return what the database is doing for whom, and what they wait for."""
        rows = self.database.query(
            "SELECT pid, application_name, state, wait_event_type, wait_event, pg_blocking_pids(pid), left(query, 100) "
            "FROM pg_stat_activity WHERE backend_type = 'client backend'"
        )
        return "\n".join(map(str, rows))

    def _none_ended(self) -> None:
        """Fail where a process has ended that nobody killed, or did not start."""
        for member in self.members:
            if member.starting is not None and member.starting.done():
                member.starting.result()
            if member.up:
                state = psutil.Process(member.process.pid).status()
                assert state != psutil.STATUS_ZOMBIE, f"a {member.kind} ended by itself:\n{member.process.log}"


@dataclass
class Watch:
    """Looks at the leases of runs all the time, and tells how long a run whose holder had died waited for another.

    A wait is counted from the holder's last sign of life, when it claimed or renewed, which is up to five seconds
    before it died. ``waits`` leaves out the time in which there was no worker or no database, ``whole`` does not.
    """

    fleet: Fleet
    waits: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    _worked: list[tuple[float, float]] = field(default_factory=lambda: [(time.time(), 0.0)])
    _held: dict[str, tuple[str, int]] = field(default_factory=dict)

    async def work(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._tick()
            if self.fleet.database_up:
                rows = await asyncio.to_thread(self._look)
                if rows is not None:
                    self._note(rows)

    def summary(self) -> str:
        if not self.waits:
            return "no run was taken over"
        return (
            f"{len(self.waits)} taken over after {median(self.waits):.1f} s (median), {max(self.waits):.1f} s (most)"
            f"; with the time in which nobody could, {median(self.whole):.1f} s and {max(self.whole):.1f} s"
        )

    def _look(self) -> list[Any] | None:
        try:
            return self.fleet.database.query(
                "SELECT id, lease_owner, lease_until FROM runs WHERE status = 'running' AND lease_owner IS NOT NULL"
            )
        except psycopg.OperationalError:
            return None  # it has just ended

    def _tick(self) -> None:
        at, (before, worked) = time.time(), self._worked[-1]
        self._worked.append((at, worked + (at - before if self.fleet.can_work else 0.0)))

    def _worked_at(self, at: float) -> float:
        return self._worked[max(0, bisect_right(self._worked, at, key=lambda tick: tick[0]) - 1)][1]

    def _note(self, rows: list[Any]) -> None:
        held = {run_id: (owner, until) for run_id, owner, until in rows}
        for run_id, (owner, until) in held.items():
            earlier_owner, earlier_until = self._held.get(run_id, (owner, until))
            claimed = until - LEASE_MICROSECONDS
            if owner == earlier_owner or claimed < earlier_until:
                continue  # the same holder, or one who was handed the run in good order
            alive, taken = (earlier_until - LEASE_MICROSECONDS) / 1e6, claimed / 1e6
            self.waits.append(self._worked_at(taken) - self._worked_at(alive))
            self.whole.append(taken - alive)
        self._held = held
