"""One connection to Redis that everybody shares: calls that wait go out together, and none waits for long.

A connection that has failed, or on which no answer has come for :data:`TIMEOUT_SECONDS`, is given up at once, with
everything that waits for it; from then on calls fail immediately until a new one has been made. While Redis answers but
more is asked than it manages, calls fail that could not be sent, or were not answered, within
:data:`PATIENCE_SECONDS`.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final, NamedTuple

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from relay.limits.counters import CountersUnavailable

TIMEOUT_SECONDS: Final = 0.25
RECONNECT_SECONDS: Final = 0.5
HEARTBEAT_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 1.0
MAX_BATCH: Final = 256
_LATE_SECONDS: Final = 0.02
_NOTED_SECONDS: Final = 0.05
_PING: Final = b"*1\r\n$4\r\nPING\r\n"

log = logging.getLogger("relay.limits")


class _Call(NamedTuple):
    command: bytes
    answer: asyncio.Future[Any]
    since: float


class RedisLink:
    """``on_change`` is told each time the connection is lost (False) or there (True)."""

    def __init__(self, url: str, on_change: Callable[[bool], None]) -> None:
        # RESP2 and no retries: what to do about a failure is decided here, once.
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        self._on_change = on_change
        self._waiting: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._up: bool | None = None

    @property
    def up(self) -> bool:
        """Whether calls are being answered."""
        return self._up is True

    async def start(self) -> None:
        """Connect, or begin to try; return when it is known which."""
        known = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run(known), name="limits-redis")
        await known.wait()

    async def stop(self) -> None:
        """Disconnect; what waits fails."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._up = False
        self._drop(())

    async def call(self, command: bytes) -> Any:
        """Return Redis's answer to a packed command.

        :class:`CountersUnavailable` when there is none in time, ``ResponseError`` when it is an error.
        """
        loop = self._loop
        if not self._up or loop is None:
            raise CountersUnavailable
        answer = loop.create_future()
        self._waiting.append(_Call(command, answer, loop.time()))
        self._wake.set()
        return await answer

    async def _run(self, known: asyncio.Event) -> None:
        while True:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                async with asyncio.timeout(4 * TIMEOUT_SECONDS):
                    await connection.connect()  # type: ignore[no-untyped-call]
                    await connection.send_command("PING")
                    await connection.read_response()
                self._turn(up=True)
                known.set()
                await self._pump(connection)
            except Exception as error:  # whatever it is, no call may be left waiting, and the link comes back
                self._turn(up=False, why=type(error).__name__)
                known.set()
            finally:
                await connection.disconnect(nowait=True)
            await asyncio.sleep(RECONNECT_SECONDS)

    def _turn(self, *, up: bool, why: str = "") -> None:
        before, self._up = self._up, up
        self._drop(())
        if before is up:
            return
        if up:
            log.info("Redis answers: limits are shared")
        else:
            log.error("Redis does not answer (%s): changes are refused, reads have a tenth of their limits", why)
        if not (before is None and up):  # a first connection is no recovery
            self._on_change(up)

    async def _pump(self, connection: AbstractConnection) -> None:
        """Send what waits in one go, read the answers, again and again; raises when an answer does not come."""
        sent: deque[_Call] = deque()
        try:
            while True:
                try:
                    async with asyncio.timeout(None) as limit:
                        while True:
                            sent = await self._next(limit)
                            await connection.send_packed_command([call.command for call in sent], check_health=False)
                            await self._read(connection, sent, limit)
                except TimeoutError:
                    if not sent:
                        self._ask_for_life()
                        continue
                    # The answer may be here, and this process the one that was late.
                    if not await connection.can_read():
                        raise
                    async with asyncio.timeout(_LATE_SECONDS) as late:
                        await self._read(connection, sent, late)
        finally:
            self._drop(sent)

    async def _next(self, limit: asyncio.Timeout) -> deque[_Call]:
        """Wait for something to send and return it, having set the time by which it has to be answered."""
        now = asyncio.get_running_loop().time
        if not self._waiting:
            self._wake.clear()
            limit.reschedule(now() + HEARTBEAT_SECONDS)
            await self._wake.wait()
        began = now()
        batch: deque[_Call] = deque()
        while self._waiting and len(batch) < MAX_BATCH:
            call = self._waiting.popleft()
            if call.since < began - PATIENCE_SECONDS:
                _fail(call)
            else:
                batch.append(call)
        limit.reschedule(began + TIMEOUT_SECONDS)
        return batch

    def _ask_for_life(self) -> None:
        """Send a question of our own after a quiet while, so that a loss is noticed before anybody meets it."""
        loop = asyncio.get_running_loop()
        self._waiting.append(_Call(_PING, loop.create_future(), loop.time()))
        self._waiting[-1].answer.add_done_callback(_heard)

    async def _read(self, connection: AbstractConnection, sent: deque[_Call], limit: asyncio.Timeout) -> None:
        """Hand out the answers. Each prolongs the wait for the next, up to a bound: slow is not gone."""
        now = asyncio.get_running_loop().time
        noted = began = now()
        while sent:
            answer: Any
            try:
                answer = await connection.read_response(disable_decoding=True, timeout=inf, disconnect_on_error=False)
            except ResponseError as error:
                answer = error
            call = sent.popleft()
            if now() - noted > _NOTED_SECONDS:
                noted = now()
                limit.reschedule(min(noted + TIMEOUT_SECONDS, began + PATIENCE_SECONDS))
            if call.answer.done():  # whoever asked has gone
                continue
            if isinstance(answer, ResponseError):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    def _drop(self, sent: Iterable[_Call]) -> None:
        """Fail what was sent and, unless the link is up, what still waits."""
        lost = list(sent)
        if not self._up or lost:
            lost += self._waiting
            self._waiting.clear()
        for call in lost:
            _fail(call)


def _fail(call: _Call) -> None:
    if not call.answer.done():
        call.answer.set_exception(CountersUnavailable())


def _heard(answer: "asyncio.Future[Any]") -> None:
    """Take note of an answer that nobody waits for."""
    if not answer.cancelled():
        answer.exception()
