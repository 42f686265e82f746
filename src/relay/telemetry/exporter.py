"""Sending spans and metrics to a collector, beside everything else: it never makes a request wait.

While the collector does not take them, spans wait up to a bound and are dropped beyond it; metrics are skipped. The log
says so when it begins and when it ends, and nothing of what was sent or answered.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from prometheus_client import Metric as Family

from relay.telemetry.otlp import Encoder
from relay.telemetry.traces import Traces

BATCH: Final = 512
SPANS_SECONDS: Final = 2.0
LAST_SECONDS: Final = 3.0
LONGEST_PAUSE_SECONDS: Final = 60.0
_TRACES: Final = "/v1/traces"
_METRICS: Final = "/v1/metrics"
_RETRYABLE: Final = frozenset({0, 429, 502, 503, 504})

Post = Callable[[str, bytes], Awaitable[int]]
"""Sends a body to a path of the collector and returns the status of the answer, 0 when none came."""
Collect = Callable[[], Awaitable[Iterable[Family]]]

log = logging.getLogger("relay.telemetry")


class Exporter:
    """Exports what ``traces`` keeps, and what ``collect`` returns each ``metrics_seconds``."""

    def __init__(self, encoder: Encoder, post: Post, traces: Traces, close: Callable[[], Awaitable[None]]) -> None:
        self._encoder = encoder
        self._post = post
        self._close = close
        self._traces = traces
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._down: set[str] = set()
        self._collect: Collect | None = None
        self._told_dropped = 0
        traces.wake = self._wake.set

    def start(self) -> None:
        """Begin to export spans."""
        self._tasks.append(asyncio.create_task(self._export_spans(), name="otlp-traces"))

    def export_metrics(self, collect: Collect, seconds: float) -> None:
        """Export metrics from now on."""
        self._collect = collect
        self._tasks.append(asyncio.create_task(self._export_metrics(collect, seconds), name="otlp-metrics"))

    async def stop(self) -> None:
        """Export what is there, for at most three seconds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._send_all_spans()
                if self._collect is not None:
                    await self._send_metrics(self._collect)
        except TimeoutError:
            pass
        except Exception as error:  # whatever broke, what else has to be done at the end is done
            log.error("the last export failed", exc_info=error)
        finally:
            await self._close()

    async def _export_spans(self) -> None:
        pause = SPANS_SECONDS
        while True:
            if pause > SPANS_SECONDS:
                await asyncio.sleep(pause)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
            self._wake.clear()
            longer = min(pause * 2, LONGEST_PAUSE_SECONDS)
            try:
                pause = SPANS_SECONDS if await self._send_all_spans() else longer
            except Exception as error:  # a defect in one export must not end all exporting
                log.error("exporting spans failed", exc_info=error)
                pause = longer
            self._tell_dropped()

    async def _send_all_spans(self) -> bool:
        """Send what waits, batch by batch; False when the collector may take the rest another time."""
        while self._traces.waiting:
            if not await self._send_spans():
                return False
        return True

    async def _send_spans(self) -> bool:
        """Send one batch; False when the collector may take it another time."""
        waiting = self._traces.waiting
        batch = list(itertools.islice(waiting, BATCH))
        try:
            body = await asyncio.to_thread(self._encoder.spans, batch)
        except Exception as error:  # a span that can be no message never will be, and must not hold up the others
            log.error("%d spans could not be encoded and are dropped", len(batch), exc_info=error)
            sent = True
        else:
            sent = await self._send(_TRACES, body)
        if sent:
            for _ in batch:
                waiting.popleft()
        return sent

    async def _export_metrics(self, collect: Collect, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await self._send_metrics(collect)
            except Exception as error:  # a defect in one round must not end all exports
                log.error("exporting metrics failed", exc_info=error)

    async def _send_metrics(self, collect: Collect) -> None:
        families = await collect()
        await self._send(_METRICS, await asyncio.to_thread(self._encoder.metrics, families))

    async def _send(self, path: str, body: bytes) -> bool:
        """Return whether there is nothing more to do with ``body``: it was taken, or never will be."""
        status = await self._post(path, body)
        if 200 <= status < 300:
            if path in self._down:
                self._down.discard(path)
                log.info("the collector takes %s again", path)
            return True
        if path not in self._down:
            self._down.add(path)
            log.warning("the collector does not take %s: %s", path, status or "no answer")
        return status not in _RETRYABLE

    def _tell_dropped(self) -> None:
        dropped = self._traces.dropped
        if dropped > self._told_dropped and not self._down:
            log.warning("%d spans were dropped, since the collector did not take them", dropped - self._told_dropped)
            self._told_dropped = dropped
