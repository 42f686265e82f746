"""An ASGI application asked in process, where a test has to stand between its layers."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Scope

Receive = Callable[[], Awaitable[Message]]


@dataclass
class Heard:
    """Every message that an application sent."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int | None:
        return next((m["status"] for m in self.messages if m["type"] == "http.response.start"), None)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages if m["type"] == "http.response.body")


def scope_of(method: str = "GET", path: str = "/", **more: Any) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost:8000")],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
        **more,
    }


def no_body() -> Receive:
    """Return a receiver as a server has it: an empty body, then nothing until the caller hangs up."""
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return receive


async def ask(app: ASGIApp, scope: Scope, receive: Receive | None = None) -> Heard:
    heard = Heard()

    async def send(message: Message) -> None:
        heard.messages.append(message)

    async with asyncio.timeout(10):
        await app(scope, receive or no_body(), send)
    return heard
