"""The chat as event streams: which of both forms a caller wants, and a session's events on the wire."""

import re
from collections.abc import AsyncGenerator
from typing import Final

from relay.chat.follow import Stream
from relay.chat.views import TurnHandle
from relay.core.facts import RequestFacts
from relay.core.streams import HEARTBEAT, PREAMBLE, block

EVENT_STREAM: Final = "text/event-stream"
JSON: Final = "application/json"

_MAX_ACCEPT: Final = 2_048
_QUALITY: Final = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


class ChatStream:
    """A session's events as bytes; it ends when they do. ``handle`` is the turn that the caller has just begun."""

    def __init__(self, stream: Stream, handle: TurnHandle | None = None) -> None:
        self._stream = stream
        self._handle = handle

    def close(self) -> None:
        """Give the reader's place back; harmless when it was given back before."""
        self._stream.close()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream's bytes: each event, and a comment where there was none for a while."""
        yield PREAMBLE
        if self._handle is not None:  # before anything else can go wrong, so that the caller can come back
            yield block("session", {"session_id": self._handle.session_id, "turn_id": self._handle.turn_id})
        events = self._stream.events()
        try:
            async for event in events:
                yield HEARTBEAT if event is None else block(event.kind, event.data, event.id)
        finally:
            await events.aclose()


def wants_events(facts: RequestFacts) -> bool:
    """Say whether the caller would rather have an event stream than JSON (RFC 9110, 12.5.1).

    By the quality of the most specific range of ``Accept`` for each. JSON where both are as good, where neither is
    wanted, and where the header is missing or cannot be read.
    """
    values = [value for name, value in facts.headers if name == b"accept"]
    text = b",".join(values)
    if not text or len(text) > _MAX_ACCEPT or not text.isascii():
        return False
    ranges = [_range(part) for part in text.decode().lower().split(",")]
    return _quality(EVENT_STREAM, ranges) > _quality(JSON, ranges)


def _range(text: str) -> tuple[str, float]:
    """Return a media range without its parameters, and its quality: 0 for one that cannot be read."""
    name, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return name, float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
    return name, 1.0


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    for wanted in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        found = [quality for name, quality in ranges if name == wanted]
        if found:
            return max(found)
    return 0.0
