"""Sending: for each endpoint a few streams, each of which makes one delivery after the other while any is due.

An endpoint whose breaker is open is a suspect. Suspects, and endpoints that answer slowly, share places of their own,
so that receivers which hang cannot take the places of those that answer; no workspace can take all places of a kind.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection
from typing import Final

from relay.core.clock import MICROSECONDS, now
from relay.core.effect import EffectError
from relay.core.permit import boot_clock
from relay.egress.http import HttpAnswer
from relay.egress.webhooks import WebhookClient
from relay.queue.protocol import Queue
from relay.store.database import Database
from relay.store.deliveries import DeliveriesOfAllWorkspaces
from relay.store.endpoints import EndpointsOfAllWorkspaces
from relay.store.writer import StoreUnavailable
from relay.telemetry import context
from relay.telemetry.spans import Value, cause_of, root
from relay.telemetry.surviving import surviving
from relay.webhooks.journal import ERASED, Attempted, Claim, Journal
from relay.webhooks.outbox import Outbox
from relay.webhooks.places import Places
from relay.webhooks.schedule import Schedule, asked_pause

KIND: Final = "endpoint"
PLACES: Final = 128
PLACES_FOR_SUSPECTS: Final = 32
SLOW_SECONDS: Final = 2.0
_SWEEP_LIMIT: Final = 5_000
_MAX_KNOWN: Final = 10_000
_RETRY_SECONDS: Final = 0.5

log = logging.getLogger("relay.webhooks")


class LeaseOver(Exception):
    """The lease ended before the first byte left: another process may be sending by now."""


class _Lease:
    def __init__(self, seconds: float) -> None:
        self._until = boot_clock() + seconds

    def ensure_live(self) -> None:
        if boot_clock() >= self._until:
            raise LeaseOver


class _Flow:
    """The streams of one endpoint in this process. ``again`` says that something may have become due meanwhile."""

    __slots__ = ("again", "endpoint_id", "slow", "streams", "suspect")

    def __init__(self, endpoint_id: str, *, suspect: bool, slow: bool) -> None:
        self.endpoint_id = endpoint_id
        self.streams = 0
        self.suspect = suspect
        self.slow = slow
        self.again = False

    @property
    def apart(self) -> bool:
        """Whether it is kept from the places of those that answer quickly."""
        return self.suspect or self.slow


class Sender:
    """Delivers what is due. The queue says which endpoint to look at; the tables say what there is to do."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        client: WebhookClient,
        queue: Queue,
        outbox: Outbox,
        schedule: Schedule,
        *,
        places: int = PLACES,
        places_for_suspects: int = PLACES_FOR_SUSPECTS,
        slow_seconds: float = SLOW_SECONDS,
    ) -> None:
        self._database = database
        self._journal = journal
        self._client = client
        self._queue = queue
        self._outbox = outbox
        self._concurrency = schedule.concurrency
        self._timeout = schedule.timeout / MICROSECONDS
        self._lease = schedule.lease / MICROSECONDS
        self._sweep_seconds = schedule.sweep / MICROSECONDS
        self._slow_ms = round(slow_seconds * 1000)
        self._lanes = {False: Places(places), True: Places(places_for_suspects)}
        self._flows: dict[str, _Flow] = {}
        self._suspects: set[str] = set()
        self._slow: set[str] = set()
        self._workspaces: dict[str, str] = {}
        self._streams: set[asyncio.Task[None]] = set()
        self._woken: set[str] = set()
        self._wakes = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        queue.handle(KIND, self.work)
        outbox.listen(self.wake)

    async def start(self, *, work: bool, sole_process: bool) -> None:
        """Pass on what becomes due, and with ``work`` send it; a sole process takes over what a dead one had begun."""
        self._tasks.append(asyncio.create_task(self._pass_on(), name="webhooks-pass-on"))
        if work:
            if sole_process:
                await self._journal.void_leases()
            self._tasks.append(asyncio.create_task(self._sweep_for_ever(), name="webhooks-sweep"))

    async def stop(self, grace: float) -> None:
        """Begin no more deliveries and wait up to ``grace`` seconds for those under way.

        Those that are cut off then are made again by whoever starts next, as after a crash.
        """
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._streams:
            _, late = await asyncio.wait(self._streams, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def wake(self, endpoints: Collection[str]) -> None:
        """Have these endpoints looked at soon. Never waits."""
        self._woken.update(endpoints)
        self._wakes.set()

    async def work(self, endpoint_id: str) -> None:
        """Begin to deliver what an endpoint has due; the queue's handler. Returns at once, safe to call at any time."""
        if self._stopping:
            return
        flow = self._flows.get(endpoint_id)
        if flow is None:
            flow = self._flows[endpoint_id] = _Flow(
                endpoint_id, suspect=endpoint_id in self._suspects, slow=endpoint_id in self._slow
            )
        self._more(flow)

    def _more(self, flow: _Flow) -> None:
        """Add a stream where there is room for one, else leave word for those that are there."""
        flow.again = True
        if self._stopping or flow.streams >= (1 if flow.suspect else self._concurrency):
            return
        flow.streams += 1
        task = asyncio.create_task(self._stream(flow), name=f"webhooks-{flow.endpoint_id}")
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    async def _stream(self, flow: _Flow) -> None:
        try:
            workspace_id = await self._workspace_of(flow.endpoint_id)
            while workspace_id is not None and not self._stopping:
                apart = flow.apart
                async with self._lanes[apart].place(workspace_id):
                    if not await self._drain(flow, apart):
                        return
        except StoreUnavailable as error:
            log.warning("deliveries to %s wait for the database: %s", flow.endpoint_id, error)
        except Exception as error:  # a defect must not end the others; the lease ends and the sweep comes back to it
            log.error("deliveries to %s broke: %s", flow.endpoint_id, type(error).__name__, exc_info=error)
        finally:
            flow.streams -= 1
            if flow.streams == 0:
                self._flows.pop(flow.endpoint_id, None)

    async def _drain(self, flow: _Flow, apart: bool) -> bool:
        """Deliver until nothing is due; True when the place is given back before that, to be taken anew.

        That is when the endpoint belongs into the other lane, or as soon as somebody waits for a place.
        """
        done: Attempted | None = None
        while True:
            if done is None and self._stopping:
                return False
            flow.again = False
            claim = await self._insist(flow.endpoint_id, done)
            if claim is None:
                if flow.again and not self._stopping:
                    done = None
                    continue
                return False
            self._judge(flow, claim.suspect)
            if not claim.suspect:
                self._more(flow)
            done = await self._attempt(claim)
            if done is None:
                await self._journal.give_back(claim)
                return True
            self._time(flow, done.duration_ms)
            if self._stopping or flow.apart != apart or self._lanes[apart].wanted:
                await self._journal.finish(done)
                return True

    async def _workspace_of(self, endpoint_id: str) -> str | None:
        found = self._workspaces.get(endpoint_id)
        if found is None:
            found = await EndpointsOfAllWorkspaces.workspace_of(self._database.reader, endpoint_id)
            if found is not None:
                if len(self._workspaces) >= _MAX_KNOWN:
                    self._workspaces.clear()
                self._workspaces[endpoint_id] = found
        return found

    def _judge(self, flow: _Flow, suspect: bool) -> None:
        flow.suspect = suspect
        _remember(self._suspects, flow.endpoint_id, suspect)

    def _time(self, flow: _Flow, took_ms: int) -> None:
        flow.slow = took_ms >= self._slow_ms
        _remember(self._slow, flow.endpoint_id, flow.slow)

    async def _insist(self, endpoint_id: str, done: Attempted | None) -> Claim | None:
        """Write and claim. What a delivery came to is tried again as long as its lease may last."""
        until = time.monotonic() + self._lease
        while True:
            try:
                return await self._journal.next(endpoint_id, done)
            except StoreUnavailable:
                if done is None or self._stopping or time.monotonic() >= until:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def _attempt(self, claim: Claim) -> Attempted | None:
        """Make one attempt, as its own trace; None when the lease was over before anything left."""
        row = claim.delivery
        request_id = self._outbox.request_of(row.message_id)
        about: dict[str, Value] = {
            "relay.delivery_id": row.id,
            "relay.event_type": row.type,
            "relay.attempt": row.attempts + 1,
        }
        with (
            context.alone(request_id=request_id, workspace=row.workspace_id, delivery_id=row.id),
            root("webhook delivery", "producer", cause=cause_of(request_id), about=about) as recording,
        ):
            done = await self._attempted(claim)
            if done is not None and done.status_code is not None:
                recording.set(http__response__status_code=done.status_code)
            if done is not None and done.error is not None:
                recording.fail(done.error[0])
                log.info("delivery %s of %s failed: %s", row.id, row.type, done.error[0])
            return done

    async def _attempted(self, claim: Claim) -> Attempted | None:
        at, began = now(), time.monotonic()

        def took() -> int:
            return round((time.monotonic() - began) * 1000)

        if claim.body is None:
            return Attempted(claim, at, 0, error=(ERASED, "The event was erased after its retention."))
        headers = claim.sealed.headers(claim.delivery.message_id, claim.body, at, legacy=claim.legacy)
        lease = _Lease(self._lease - self._timeout)
        try:
            answer = await self._client.post(lease, claim.sealed.url, headers, claim.body, timeout=self._timeout)
        except LeaseOver:
            return None
        except EffectError as error:
            return Attempted(claim, at, took(), error=(error.code, error.detail))
        return _answered(claim, at, took(), answer)

    async def _pass_on(self) -> None:
        while True:
            await self._wakes.wait()
            self._wakes.clear()
            woken, self._woken = self._woken, set()
            for endpoint_id in woken:
                # The sweep finds it where the database is away.
                with surviving(log, "waking a delivery"), contextlib.suppress(StoreUnavailable):
                    await self._queue.put(KIND, endpoint_id)

    async def _sweep_for_ever(self) -> None:
        while True:
            # The next sweep finds the same where the database is away.
            with surviving(log, "a sweep of deliveries"), contextlib.suppress(StoreUnavailable):
                for endpoint_id in await DeliveriesOfAllWorkspaces.endpoints_due(
                    self._database.reader, now(), _SWEEP_LIMIT
                ):
                    await self._queue.put(KIND, endpoint_id)
                for stranded in await DeliveriesOfAllWorkspaces.stranded(self._database.reader, _SWEEP_LIMIT):
                    await self._journal.close_stranded(*stranded)
            await asyncio.sleep(self._sweep_seconds)


def _remember(known: set[str], endpoint_id: str, holds: bool) -> None:
    if holds:
        known.add(endpoint_id)
    else:
        known.discard(endpoint_id)


def _answered(claim: Claim, at: int, took: int, answer: HttpAnswer) -> Attempted:
    error = None
    if 300 <= answer.status < 400:
        error = ("redirected", f"The receiver answered {answer.status}; redirects are not followed.")
    elif not 200 <= answer.status < 300:
        error = (f"status_{answer.status}", f"The receiver answered {answer.status}.")
    return Attempted(
        claim,
        at,
        took,
        status_code=answer.status,
        error=error,
        asked=asked_pause(answer.status, answer.headers.get("retry-after"), now()),
        answer=answer.body,
    )
