"""Receivers of webhooks, in a process of their own: healthy ones, ones that never answer, ones that always fail.

The first line printed holds their ports. A line ``count`` on standard input asks how many deliveries have come to
healthy ones, ``all`` for each of them.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from datetime import datetime
from typing import cast

import httptools
import uvloop

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_BROKEN = b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Arrivals:
    """What has come to the healthy receivers: how late each event was when it first came, in seconds."""

    def __init__(self) -> None:
        self.latencies: dict[tuple[int, str], float] = {}
        self.requests: defaultdict[str, int] = defaultdict(int)

    def note(self, kind: str, place: int, body: bytes) -> None:
        arrived = time.time()
        self.requests[kind] += 1
        if kind == "healthy":
            event = json.loads(body)
            subject = event["data"].get("attempt_id", "")
            happened = datetime.fromisoformat(event["timestamp"]).timestamp()
            self.latencies.setdefault((place, subject), arrived - happened)

    def report(self) -> str:
        """Return what came as a line of JSON: latencies by receiver and attempt, and the number of requests."""
        seen = [[place, subject, latency] for (place, subject), latency in self.latencies.items()]
        return json.dumps({"seen": seen, "requests": self.requests})


class _Connection(asyncio.Protocol):
    def __init__(self, kind: str, place: int, arrivals: Arrivals) -> None:
        self._kind, self._place, self._arrivals = kind, place, arrivals
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._arrivals.note(self._kind, self._place, self._body)
        if self._kind != "hanging":
            self._transport.write(_OK if self._kind == "healthy" else _BROKEN)
            self._transport.close()


async def serve(healthy: int, hanging: int, failing: int) -> None:
    """Serve until standard input ends."""
    loop, arrivals = asyncio.get_running_loop(), Arrivals()
    ports, servers = [], []
    kinds = ["healthy"] * healthy + ["hanging"] * hanging + ["failing"] * failing
    for place, kind in enumerate(kinds):
        server = await loop.create_server(
            lambda kind=kind, place=place: _Connection(kind, place, arrivals),  # type: ignore[misc]
            "127.0.0.1",
            0,
            backlog=1024,
        )
        servers.append(server)
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(arrivals.report() if line == "all\n" else len(arrivals.latencies), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(*map(int, sys.argv[1:4])))
