"""HTTP/1 as it comes off the wire: uvicorn's httptools protocol, made strict and bounded in time, size and number.

The parser (llhttp) itself refuses conflicting lengths, obsolete line folding, bare line feeds and NUL. Added here are
limits, time-outs, the few forms that it takes and Relay does not, and answers that look like every other one.
"""

import asyncio
import json
from asyncio import TimerHandle
from collections.abc import Iterable, Sequence
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from relay.core.facts import RequestFacts
from relay.core.ids import new_id
from relay.core.problem import BadRequest, HeadTooLarge, Problem, RequestTimeout, Unavailable
from relay.settings.model import Settings
from relay.surface.answers import PROBLEM_TYPE, Header, document_headers, raw_headers
from relay.surface.edge import edge_of
from relay.surface.observe import GONE, Answered, Observer, tell

MAX_TARGET_BYTES: Final = 8_192
MAX_HEAD_BYTES: Final = 32_768
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 16
LINGER_SECONDS: Final = 3.0
WRITE_STALL_SECONDS: Final = 60.0

_VERSIONS: Final = ("1.1", "1.0")
_FRAMING: Final = frozenset((b"expect", b"transfer-encoding"))


class Wire:
    """What the connections of one server share: the bounds, and which of them could be closed first.

    ``idle`` are those without a whole request, longest first: nothing was promised to them. ``observers`` are told of
    what no application sees.
    """

    def __init__(
        self,
        *,
        headers: Iterable[Header],
        head_seconds: float,
        keep_alive_seconds: float,
        max_connections: int,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.headers: Final = tuple(headers)
        self.head_seconds: Final = head_seconds
        self.keep_alive_seconds: Final = keep_alive_seconds
        self.max_connections: Final = max_connections
        self.observers: Final = tuple(observers)
        self.idle: dict[RelayProtocol, None] = {}

    def answer(self, problem: Problem, default_headers: Iterable[Header], peer: str) -> bytes:
        """Return a whole answer, for a request that no application has seen; it ends the connection."""
        request_id = new_id("req")
        body = json.dumps(problem.document("", request_id), ensure_ascii=False, separators=(",", ":")).encode()
        own = [
            *default_headers,
            (b"content-type", PROBLEM_TYPE),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *raw_headers(problem.headers),
        ]
        lines = [b"%b: %b\r\n" % header for header in document_headers(own, request_id.encode(), self.headers)]
        facts = RequestFacts(request_id, peer, "", [], peer=peer)
        tell(self.observers, Answered(facts, problem.status, 0.0, len(body), stream=False, principal="", workspace=""))
        return b"".join((STATUS_LINE[problem.status], *lines, b"\r\n", body))


def protocol_for(settings: Settings, observers: Sequence[Observer] = ()) -> type[HttpToolsProtocol]:
    """Return the protocol that a server with these settings speaks; it tells ``observers`` what it cannot read."""
    wire = Wire(
        headers=edge_of(settings).headers(None),
        head_seconds=settings.header_timeout_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
        max_connections=settings.max_connections,
        observers=observers,
    )
    return type("Protocol", (RelayProtocol,), {"wire": wire})


class _Refused(Exception):
    """Stops the parser inside a callback; :attr:`RelayProtocol._refusal` says why."""


class RelayProtocol(HttpToolsProtocol):
    """One connection. ``wire`` is set on the class that :func:`protocol_for` makes."""

    wire: Wire

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.timeout_keep_alive = self.wire.keep_alive_seconds  # type: ignore[assignment]  # it is only added to a time
        self._refusal: Problem | None = None
        self._timer: TimerHandle | None = None
        self._stall: TimerHandle | None = None
        self._in_head = False
        self._whole = True
        self._deaf = False
        self._ending = False
        self._size = 0
        self._arrived = 0
        self._chunked = False

    # A connection's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._gentle = _Gentle(self)
        idle = self.wire.idle
        if len(self.connections) > self.wire.max_connections:
            longest = next(iter(idle), None)
            if longest is None:
                busy = Unavailable("Relay holds as many connections as it may; nothing was executed.")
                self._say(busy)
                self._deaf = self._ending = True
                transport.close()
                return
            del idle[longest]
            longest.transport.close()
        idle[self] = None
        self._timer = self.loop.call_later(self.wire.head_seconds, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self.wire.idle.pop(self, None)
        self._no_timer()
        if self._stall is not None:
            self._stall.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(self._refusal or BadRequest("This is not a well-formed HTTP/1.1 request."))
            return
        if self._in_head:
            self._arrived += len(data)
            if self._timer is None:  # most heads arrive at once, and need none
                self._timer = self.loop.call_later(self.wire.head_seconds, self._late)
            if self._arrived > MAX_HEAD_BYTES:
                self._refuse(_too_large())

    def pause_writing(self) -> None:
        super().pause_writing()
        # A caller that asks and never reads would hold the answer in memory for ever.
        self._stall = self.loop.call_later(WRITE_STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    # What the parser reports

    def on_message_begin(self) -> None:
        # Not on any byte, as uvicorn has it: empty lines, or the rest of a body that was answered already, would keep
        # an idle connection for ever.
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._in_head, self._whole, self._chunked = True, False, False
        self._size = self._arrived = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_TARGET_BYTES:
            self._stop(HeadTooLarge(f"The request's target may have at most {MAX_TARGET_BYTES} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        # In place of uvicorn's, not around it: this is called most often of all.
        name = name.lower()
        self._size += len(name) + len(value)
        if self._size > MAX_HEAD_BYTES:
            self._stop(_too_large())
        if not self._in_head:
            # A trailer stands where no proxy looks: as a header it could say who calls (RFC 9110, 6.5.1).
            return
        self.headers.append((name, value))
        if name in _FRAMING:
            self._frame(name, value)

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            self._stop(BadRequest("Relay speaks HTTP/1.1 and HTTP/1.0."))
        if self.parser.should_upgrade():
            self._stop(BadRequest("Relay speaks no other protocol than HTTP/1.1, and is no tunnel."))
        if self._chunked and version == "1.0":
            # A proxy that does not know the coding sees other requests in these bytes (RFC 9112, 6.1).
            self._stop(BadRequest("HTTP/1.0 has no transfer coding."))
        if len(self.headers) > MAX_HEADERS:
            self._stop(_too_large())
        if self.url[:1] != b"/" or b"#" in self.url:
            self._to_origin_form()
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(BadRequest("Too many requests wait on this connection."))
        self._in_head = False
        self._no_timer()
        self.wire.idle.pop(self, None)
        super().on_headers_complete()
        cycle = self.cycle
        self.scope[GONE] = lambda: cycle.disconnected  # type: ignore[typeddict-unknown-key]  # the stamp looks for it
        self.cycle.transport = self._gentle  # type: ignore[assignment]  # it has what the cycle uses of one
        if self.expect_100_continue:
            # Who is refused may leave the body out or send it all the same: what comes next is not for guessing.
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._whole = True
        if self.cycle.response_complete and self._timer is not None:  # the rest of what was answered before
            self._no_timer()
            self._rest()

    def on_response_complete(self) -> None:
        if self._ending:
            return
        super().on_response_complete()
        if self.timeout_keep_alive_task is None:  # closing, or the next of several requests has begun
            return
        if self._in_head:  # half of the next head is here, and has its own time-out
            self._unset_keepalive_if_required()
        elif not self._whole:
            # Answered before the body was whole. What still comes is read and dropped, but not for long.
            self._unset_keepalive_if_required()
            self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        self.wire.idle[self] = None

    def _rest(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    # Saying no

    def _stop(self, problem: Problem) -> None:
        self._refusal = problem
        raise _Refused

    def _late(self) -> None:
        self._timer = None
        if not self._in_head:  # nothing was said, so nothing is answered
            self.transport.close()
            return
        self._refuse(RequestTimeout(f"The request's head did not arrive within {self.wire.head_seconds:g} s."))

    def _refuse(self, problem: Problem) -> None:
        """Answer what cannot be read, in its turn, and end the connection."""
        cycle: RequestResponseCycle | None = self.cycle
        if self._in_head and cycle is not None and not cycle.response_complete:
            # An answer is under way; this one would be taken for it. The connection ends after it.
            cycle.keep_alive = False
            self._deaf = True
            self._no_timer()
        elif self._in_head or cycle is None:
            self._say(problem)
            self.close_gently()
        else:
            self._refuse_body(problem)

    def _refuse_body(self, problem: Problem) -> None:
        """The body of a request that the application may be reading is malformed: it gets no more of it."""
        cycle = self.cycle
        if not cycle.response_started and not self.pipeline:
            self._say(problem)
        cycle.disconnected = True
        cycle.message_event.set()
        self.close_gently()

    def _say(self, problem: Problem) -> None:
        peer = self.client[0] if self.client else ""
        self.transport.write(self.wire.answer(problem, self.server_state.default_headers, peer))

    def close_gently(self) -> None:
        """Close after what was written. While more is arriving the caller has a moment to read it first.

        To close a socket with unread bytes resets it, and the reset can overtake the answer (RFC 9112, 9.6).
        """
        self._deaf = self._ending = True
        self._no_timer()
        self._unset_keepalive_if_required()
        self.wire.idle.pop(self, None)
        if self._whole or self.transport.is_closing():
            self.transport.close()
            return
        self.wire.idle[self] = None
        self.flow.resume_reading()
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _frame(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
            return
        self._chunked = True
        if value.lower() != b"chunked":
            self._stop(BadRequest("The only transfer coding is chunked."))

    def _to_origin_form(self) -> None:
        """Take a target in absolute form (RFC 9112, 3.2.2) if it names the host that ``Host`` names too."""
        scheme, _, rest = self.url.partition(b"://")
        authority = rest.partition(b"/")[0].partition(b"?")[0]
        hosts = [value for name, value in self.headers if name == b"host"]
        if b"#" in self.url or scheme.lower() not in (b"http", b"https") or not authority:
            self._stop(BadRequest("The request's target must be a path, or an absolute http or https URL."))
        if [host.lower() for host in hosts] != [authority.lower()]:
            self._stop(BadRequest("The request's target and its Host header must name the same host."))
        target = rest[len(authority) :]
        self.url = target if target[:1] == b"/" else b"/" + target

    def _no_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(f"At most {MAX_HEADERS} headers of {MAX_HEAD_BYTES} bytes in all are read.")


class _Gentle:
    """A transport as one request's cycle uses it; closing leaves the caller time to read the answer."""

    __slots__ = ("_protocol", "is_closing", "write")

    def __init__(self, protocol: RelayProtocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        """Close the connection once nothing more is arriving, or soon."""
        self._protocol.close_gently()
