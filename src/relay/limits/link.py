"""One connection to Redis that everybody shares: calls that wait go out together, and none waits for long.

What has been sent is answered within :data:`TIMEOUT_SECONDS`. A connection that has failed, or did not answer in time, is
given up at once, with everything that waits for it; from then on calls fail immediately until a new one has been made.
While Redis answers but more is asked than it manages, a call fails that could not be sent within
:data:`PATIENCE_SECONDS`.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Final

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
_PING: Final = b"*1\r\n$4\r\nPING\r\n"

log = logging.getLogger("relay.limits")


@dataclass(slots=True, eq=False)
class _Call:
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
        self._up: bool | None = None

    @property
    def up(self) -> bool:
        """Whether calls are being answered."""
        return self._up is True

    async def start(self) -> None:
        """Connect, or begin to try; return when it is known which."""
        known = asyncio.Event()
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
        if not self._up:
            raise CountersUnavailable
        loop = asyncio.get_running_loop()
        call = _Call(command, loop.create_future(), loop.time())
        self._waiting.append(call)
        self._wake.set()
        return await call.answer

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
        while True:
            if not self._waiting:
                await self._rest()
            sent = self._next()
            try:
                await self._exchange(connection, sent)
            finally:
                self._drop(sent)

    def _next(self) -> deque[_Call]:
        """Return what is sent now; whatever has waited too long fails instead."""
        oldest = asyncio.get_running_loop().time() - PATIENCE_SECONDS
        batch: deque[_Call] = deque()
        while self._waiting and len(batch) < MAX_BATCH:
            call = self._waiting.popleft()
            if call.answer.done() and call.command is not _PING:
                continue
            if call.since < oldest:
                call.answer.set_exception(CountersUnavailable())
            else:
                batch.append(call)
        return batch

    async def _rest(self) -> None:
        """Return when there is something to send: after a while a question of our own, so that a loss is noticed."""
        self._wake.clear()
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            loop = asyncio.get_running_loop()
            nobody = loop.create_future()
            nobody.cancel()
            self._waiting.append(_Call(_PING, nobody, loop.time()))

    async def _exchange(self, connection: AbstractConnection, sent: deque[_Call]) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await connection.send_packed_command([call.command for call in sent], check_health=False)
                await self._read(connection, sent)
        except TimeoutError:
            # The answer may be here, and this process the one that was late.
            if not await connection.can_read():
                raise
            async with asyncio.timeout(_LATE_SECONDS):
                await self._read(connection, sent)

    async def _read(self, connection: AbstractConnection, sent: deque[_Call]) -> None:
        while sent:
            answer: Any
            try:
                answer = await connection.read_response(disable_decoding=True, timeout=inf, disconnect_on_error=False)
            except ResponseError as error:
                answer = error
            call = sent.popleft()
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
            if not call.answer.done():
                call.answer.set_exception(CountersUnavailable())
