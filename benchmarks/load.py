"""The load generator, a process of its own: as many requests as the connections take, one after the other on each.

It reads slices to measure from standard input, a JSON object a line, and writes a line with what it found for each.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_SUCCESS = b"HTTP/1.1 200 "


@dataclass(frozen=True)
class Slice:
    """What to measure: the same raw request again and again on ``connections`` for ``seconds``."""

    port: int
    request: str
    connections: int
    seconds: float


@dataclass(frozen=True)
class Found:
    """Answers and what they took; times in seconds."""

    answers: int
    seconds: float
    p50: float
    p99: float


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the answer is complete; any answer but 200 ends the measurement."""

    def __init__(self, request: bytes, until: float, latencies: list[float], done: "asyncio.Future[None]") -> None:
        self._request = request
        self._until = until
        self._latencies = latencies
        self._done = done
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        head = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, head + 2) if head > 0 else None
        if length is None or len(data) < head + 4 + int(length[1]):
            self._buffer = data
            return
        self._buffer = b""
        if not data.startswith(_SUCCESS):
            self._fail(RuntimeError(data.decode(errors="replace")))
            return
        moment = time.perf_counter()
        self._latencies.append(moment - self._sent)
        if moment < self._until:
            self._send()
        elif not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)


async def measure(wanted: Slice) -> Found:
    """Measure one slice."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    began = time.perf_counter()
    ends = [loop.create_future() for _ in range(wanted.connections)]
    transports = []
    for end in ends:
        made = _Connection(wanted.request.encode(), began + wanted.seconds, latencies, end)
        transport, _ = await loop.create_connection(lambda made=made: made, "127.0.0.1", wanted.port)  # type: ignore[misc]
        transports.append(transport)
    await asyncio.gather(*ends)
    took = time.perf_counter() - began
    for transport in transports:
        transport.close()
    latencies.sort()
    count = len(latencies)
    return Found(count, took, latencies[count // 2], latencies[min(count - 1, count * 99 // 100)])


def main() -> None:
    """Measure slices until standard input ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            print(json.dumps(asdict(runner.run(measure(Slice(**json.loads(line)))))), flush=True)


if __name__ == "__main__":
    main()
