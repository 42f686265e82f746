"""Receivers of webhooks on loopback: real HTTP servers that keep what they were sent and answer as they are told."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httptools

Reply = tuple[int, dict[str, str], bytes]
OK: Reply = (200, {}, b"thanks")


@dataclass
class Received:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A server; ``reply`` says what it answers, None for never."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    reply: Callable[[Received], Reply | None] = lambda _: OK
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    transports: set[Any] = field(default_factory=set)
    under_way: int = 0
    most: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.received]

    def of(self, type: str) -> list[Received]:
        return [one for one in self.received if one.event["type"] == type]

    def hang_up(self) -> None:
        """Break every connection."""
        for transport in set(self.transports):
            transport.abort()

    async def arrived(self, number: int = 1, *, seconds: float = 30.0) -> list[Received]:
        """Return what has come once it is that many."""
        async with asyncio.timeout(seconds):
            while len(self.received) < number:
                self.waiting.clear()
                await self.waiting.wait()
        return self.received


class _Connection(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._headers: dict[str, str] = {}
        self._body = b""
        self._path = ""
        self._open = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._receiver.transports.add(transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        receiver = self._receiver
        one = Received(self._path, self._headers, self._body, asyncio.get_running_loop().time())
        receiver.received.append(one)
        self._open = True
        receiver.under_way += 1
        receiver.most = max(receiver.most, receiver.under_way)
        receiver.waiting.set()
        reply = receiver.reply(one)
        if reply is not None:
            self.answer(reply)

    def answer(self, reply: Reply) -> None:
        status, headers, body = reply
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._receiver.transports.discard(self._transport)
        if self._open:
            self._receiver.under_way -= 1


@asynccontextmanager
async def open_receiver(reply: Callable[[Received], Reply | None] | None = None) -> AsyncIterator[Receiver]:
    """Serve until the block ends."""
    receiver = Receiver()
    if reply is not None:
        receiver.reply = reply
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(receiver), "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        receiver.hang_up()


def status(code: int, **headers: str) -> Callable[[Received], Reply]:
    """Return a reply that is always the same."""
    return lambda _: (code, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


def never(_: Received) -> None:
    """Take the request and say nothing."""
