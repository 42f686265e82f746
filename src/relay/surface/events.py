"""Server-sent events as an answer (WHATWG HTML, 9.2)."""

from collections.abc import AsyncGenerator
from typing import Final, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from relay.surface.declare import Call

_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Stream(Protocol):
    """What is sent. It holds a place of its reader's until it is closed."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream's bytes, once."""
        ...

    def close(self) -> None:
        """Give the place back; harmless when it was given back before."""
        ...


class EventStream(StreamingResponse):
    """Sends a stream until it or the caller ends it, and gives its place back whichever it was."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._chunks = stream.chunks()
        super().__init__(self._chunks, headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()
            await self._chunks.aclose()


def last_event_id(call: Call) -> str | None:
    """Return the request's ``Last-Event-ID``, None when there is none or it is not ASCII."""
    value = call.facts.header(b"last-event-id")
    return value.decode() if value is not None and value.isascii() else None
