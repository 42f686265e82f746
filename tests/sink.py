"""A real HTTP server on loopback that counts what reaches it, and the parameters that lead there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.outside import HttpServer, Script, answer, http_server, read_request

REFUSES = answer("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\nno way")


@dataclass
class Sink:
    """``requests`` is every request, byte for byte. While ``open`` is clear, answers wait."""

    server: HttpServer
    port: int
    open: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def allowed(self) -> dict[str, Any]:
        """Return the setting that opens this server to actions."""
        return {"EGRESS_ALLOW": f"127.0.0.1:{self.port}"}

    @property
    def requests(self) -> list[bytes]:
        return self.server.requests

    def webhook(self, payload: Any = 1, path: str = "/hook") -> dict[str, Any]:
        """Return a wish to post here."""
        params = {"url": f"http://127.0.0.1:{self.port}{path}", "payload": payload}
        return {"action": "webhook.save", "params": params}

    async def arrived(self, number: int = 1) -> None:
        """Return when that many requests have come."""
        async with asyncio.timeout(10):
            while len(self.requests) < number:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def open_sink(script: Script | None = None, *, gated: bool = False) -> AsyncIterator[Sink]:
    """Serve until the block ends. ``gated``: answers wait for ``sink.open``."""
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def waits(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await read_request(reader))
        await sink.open.wait()
        writer.write(ok)
        await writer.drain()

    async with http_server(script or waits) as server:
        sink = Sink(server, server.port)
        if not gated:
            sink.open.set()
        yield sink


async def hangs_up(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a request and close the connection without a word: nobody can know whether it was acted upon."""
    server.requests.append(await read_request(reader))
