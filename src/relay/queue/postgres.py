"""The queue of several processes: wake-ups in procrastinate's tables of the PostgreSQL database that they share.

A message carries a kind and an id, nothing else. It is taken out of the table when the work begins and not when it
ends, so that it never stands for work under way: who works on what, and for how long, is said by the leases of the
tables themselves. So no message outlives its process for long, and commits need not wait for the disk.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final

import psycopg
from procrastinate import PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager, get_channel_for_queues
from psycopg import sql

from relay.queue.lane import Lane, Lanes
from relay.store.link import STATEMENT_SECONDS, PatientAsyncConnection
from relay.store.target import Target
from relay.store.writer import StoreUnavailable

MAX_POSTS: Final = 10_000
POLL_SECONDS: Final = 5.0
HEARTBEAT_SECONDS: Final = 10.0
STALLED_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 3
_POOL_SECONDS: Final = 5.0
_FLUSH_SECONDS: Final = 3.0
_AT_ONCE: Final = 200
_LISTEN_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0
_AWAY: Final = (ConnectorException, psycopg.Error, OSError)
_WAITING: Final = (
    "SELECT queueing_lock FROM procrastinate_jobs WHERE status = 'todo' AND queueing_lock = ANY(%(locks)s)"
)

log = logging.getLogger("relay.queue")

Entry = tuple[str, str]


class ProcrastinateQueue(Lanes):
    """A :class:`~relay.queue.protocol.Queue` over one PostgreSQL database, for any number of processes.

    A put is worked on at once where this process has a place for it; otherwise it becomes a message for whichever
    process has. A message that waits already is not added twice. While the database is away, or beyond
    :data:`MAX_POSTS` messages that could not be sent yet, puts are dropped; the sweep of whoever put them brings them
    back.
    """

    def __init__(self, target: Target, concurrency: int) -> None:
        super().__init__(concurrency)
        self._conninfo = target.conninfo
        self._connector = _connector(target.conninfo)
        self._manager = JobManager(self._connector)
        self._worker_id: int | None = None
        self._registering = asyncio.Lock()
        self._working = False
        self._open = False
        self._posts: dict[Entry, None] = {}
        self._posted = asyncio.Event()
        self._woken: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._poster: asyncio.Task[None] | None = None

    async def put(self, kind: str, id: str) -> None:
        lane = self.lane(kind)
        if self._working and lane.is_active(id):
            lane.ask_again(id)
        elif self._working and lane.reserve():
            lane.begin(id)
        else:
            self._post(kind, id)

    async def start(self, *, work: bool = True) -> None:
        """Begin; :class:`~relay.store.writer.StoreUnavailable` when the database does not answer."""
        self.begun = True
        try:
            await self._connector.open_async()
        except _AWAY:
            raise StoreUnavailable("the database does not answer") from None
        self._open = True
        self._poster = self._kept("queue-post", self._post_for_ever)
        if not work:
            return
        self._woken = {_queue(kind): asyncio.Event() for kind in self.lanes}
        self._working = True
        self._tasks = [
            self._kept("queue-listen", self._listen_for_ever),
            self._kept("queue-housekeeping", self._keep_house_for_ever),
            *(
                self._kept(f"queue-fetch-{kind}", partial(self._fetch_for_ever, lane))
                for kind, lane in self.lanes.items()
            ),
        ]

    async def stop(self, grace: float) -> None:
        self._working = False
        await _cancelled(self._tasks)
        await self.drain(grace)
        if not self._open:
            return
        self._open = False
        if self._poster is not None:
            await _cancelled([self._poster])
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._send_posts()
                if self._worker_id is not None:
                    await self._manager.unregister_worker(self._worker_id)
        except (*_AWAY, TimeoutError):
            log.warning("what waited to be handed to other processes is left to their sweeps")
        await self._connector.close_async()

    def freed(self, lane: Lane, again: str | None) -> None:
        # Through the table, behind those that have waited longer.
        if again is not None:
            self._post(lane.kind, again)

    def _post(self, kind: str, id: str) -> None:
        if len(self._posts) < MAX_POSTS:
            self._posts[kind, id] = None
            self._posted.set()

    def _kept(self, name: str, body: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run ``body``, beginning anew whenever the database failed it."""

        async def keep() -> None:
            pause = _FIRST_PAUSE_SECONDS
            while True:
                began = asyncio.get_running_loop().time()
                try:
                    await body()
                except _AWAY as error:
                    log.warning("%s waits for the database: %s", name, type(error).__name__)
                if asyncio.get_running_loop().time() - began > _LONGEST_PAUSE_SECONDS:
                    pause = _FIRST_PAUSE_SECONDS
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

        return asyncio.create_task(keep(), name=name)

    async def _post_for_ever(self) -> None:
        while True:
            await self._posted.wait()
            await self._send_posts()

    async def _send_posts(self) -> None:
        while self._posts:
            batch = list(self._posts)[:_AT_ONCE]
            for entry in batch:
                del self._posts[entry]
            await self._send(batch)
        self._posted.clear()

    async def _send(self, batch: Iterable[Entry]) -> None:
        jobs = {_lock(*entry): _job(*entry) for entry in batch}
        # Asked first, so that what is swept again and again does not fill the server's log with violations.
        rows = await self._connector.execute_query_all_async(_WAITING, locks=list(jobs))
        for row in rows:
            del jobs[row["queueing_lock"]]
        if not jobs:
            return
        try:
            await self._manager.batch_defer_jobs_async(list(jobs.values()))
        except AlreadyEnqueued:
            for job in jobs.values():
                await self._send_one(job)

    async def _send_one(self, job: Job) -> None:
        try:
            await self._manager.defer_job_async(job)
        except AlreadyEnqueued:
            return  # another process was faster

    async def _fetch_for_ever(self, lane: Lane) -> None:
        woken = self._woken[_queue(lane.kind)]
        while True:
            await lane.reserved()
            woken.clear()
            job = None
            try:
                job = await self._fetched(lane.kind)
            finally:
                if job is None:
                    lane.give_back()
            if job is not None:
                self._begin(lane, job)
                await self._delete(job, Status.SUCCEEDED)
                continue
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await woken.wait()
            except TimeoutError:
                continue

    async def _fetched(self, kind: str) -> Job | None:
        """Take the oldest message of a kind, or none."""
        try:
            return await self._manager.fetch_job(queues=[_queue(kind)], worker_id=await self._registered())
        except _AWAY:
            # Whoever was silent for long has been struck off the list, and may take nothing until it is on it again.
            self._worker_id = None
            raise

    @staticmethod
    def _begin(lane: Lane, job: Job) -> None:
        id = job.task_kwargs.get("id")
        if isinstance(id, str):
            lane.begin(id)
        else:
            lane.give_back()  # not one of ours

    async def _delete(self, job: Job, status: Status) -> None:
        assert job.id is not None
        try:
            await self._manager.finish_job_by_id_async(job_id=job.id, status=status, delete_job=True)
        except ConnectorException as error:
            if not isinstance(error.__cause__, psycopg.errors.RaiseException):
                raise
            # Another process dropped it first.

    async def _registered(self) -> int:
        async with self._registering:
            if self._worker_id is None:
                self._worker_id = await self._manager.register_worker()
            return self._worker_id

    async def _keep_house_for_ever(self) -> None:
        """Show that this process lives, and drop the messages that died with others: their work is swept for."""
        while True:
            await self._manager.update_heartbeat(await self._registered())
            await self._manager.prune_stalled_workers(STALLED_SECONDS)
            for lane in self.lanes.values():
                for job in await self._manager.get_stalled_jobs(
                    queue=_queue(lane.kind), seconds_since_heartbeat=STALLED_SECONDS
                ):
                    await self._delete(job, Status.FAILED)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _listen_for_ever(self) -> None:
        """Wake whoever fetches when a message comes. What comes while nobody listens is found by looking."""
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            application_name="relay-queue-listener",
            keepalives_idle=15,
        )
        async with connection:
            for channel in get_channel_for_queues(list(self._woken)):
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            for woken in self._woken.values():
                woken.set()
            while True:
                async for notification in connection.notifies(timeout=_LISTEN_SECONDS):
                    if (fetching := self._woken.get(notification.channel.partition("#")[2])) is not None:
                        fetching.set()
                await connection.execute("SELECT 1")


def _connector(conninfo: str) -> PsycopgConnector:
    options = f"-c synchronous_commit=off -c statement_timeout={STATEMENT_SECONDS}s"
    return PsycopgConnector(
        conninfo=conninfo,
        connection_class=PatientAsyncConnection,
        kwargs={"connect_timeout": _CONNECT_SECONDS, "application_name": "relay-queue", "options": options},
        min_size=1,
        max_size=4,
        timeout=_POOL_SECONDS,
        name="relay-queue",
    )


def _queue(kind: str) -> str:
    return f"relay-{kind}"


def _lock(kind: str, id: str) -> str:
    return f"{kind}:{id}"


def _job(kind: str, id: str) -> Job:
    values: dict[str, Any] = {"lock": None, "queueing_lock": _lock(kind, id), "task_kwargs": {"id": id}}
    return Job(id=None, queue=_queue(kind), task_name=f"relay.{kind}", **values)


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: a driver may swallow a cancellation that meets the end of a statement."""
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=1)
