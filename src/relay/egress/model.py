"""HTTP to the language models that the operator's settings name: no destination that others choose.

The vendors' libraries bring their own wish to be configured by the environment, to follow redirects, to try again and
to say on which machine they run. Whatever they wish for passes :class:`_Guard`, which sends no more than the request,
to nowhere but the one place, with no credential but the one of the settings, and lets no more come back than may.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Literal

import httpx2
from pydantic import SecretStr

CONNECT_SECONDS: Final = 10.0
MAX_LINE: Final = 256 * 1024
"""The longest line of an event stream, in bytes: what is parsed at once."""
MAX_ERROR: Final = 64 * 1024
"""How much of an answer is read that says no."""

_SENT: Final = frozenset(
    {"accept", "content-type", "content-length", "transfer-encoding", "anthropic-version", "anthropic-beta"}
)
_IDENTITY: Final = frozenset({"", "identity"})

ModelClient = httpx2.AsyncClient
"""What the vendors' libraries are given to send with."""
Broken = Literal["unreachable", "lost", "compressed", "too_large", "silent"]


@dataclass(slots=True)
class Exchange:
    """How far one request to a model has come, as the socket saw it and not as a library tells it.

    ``most`` bounds the bytes of the answer and ``idle`` the seconds between two pieces of it. ``sent`` is set before
    anything is; ``received`` counts bytes of the answer's body; ``broken`` says what ended it before its time.
    ``refusal`` is the body of an answer with a status of 4xx, of :data:`MAX_ERROR` bytes at most.
    """

    most: int
    idle: float
    sent: bool = False
    status: int | None = None
    retry_after: str | None = None
    received: int = 0
    broken: Broken | None = None
    refusal: bytes = field(default=b"", repr=False)


EXCHANGE: Final[ContextVar[Exchange | None]] = ContextVar("relay_model_exchange", default=None)
"""The exchange of the task's present request; without one nothing is sent."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is asked, and how Relay proves who it is: the value of one header, or nothing at all."""

    base_url: str
    header: str
    key: SecretStr | None = field(repr=False)

    @property
    def credential(self) -> dict[str, str]:
        """The header that goes with every request."""
        if self.key is None:
            return {}
        text = self.key.get_secret_value()
        return {self.header: f"Bearer {text}" if self.header == "authorization" else text}


def model_client(place: Place, *, connections: int) -> ModelClient:
    """Return the client for one place.

    TLS is verified against what the system trusts. Proxies, credentials and certificates that the environment names
    for HTTP clients are ignored; redirects and cookies are not followed and not kept; answers are not decompressed,
    and bounded as the task's :class:`Exchange` says. Requests for any other place are refused.
    """
    inner = httpx2.AsyncHTTPTransport(
        verify=ssl.create_default_context(),
        trust_env=False,
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=16, keepalive_expiry=15.0),
    )
    return httpx2.AsyncClient(
        transport=_Guard(inner, place),
        trust_env=False,
        follow_redirects=False,
        # The bounds on time are the exchange's; a library may lengthen or drop those of its own.
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
    )


class _Guard(httpx2.AsyncBaseTransport):
    """What every request and every answer pass, whichever library made it."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, place: Place) -> None:
        self._inner = inner
        self._place = place
        self._base = httpx2.URL(place.base_url)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = EXCHANGE.get()
        if exchange is None or not self._is_ours(request.url):
            raise httpx2.UnsupportedProtocol("this client reaches one place only", request=request)
        exchange.sent = True
        try:
            response = await self._inner.handle_async_request(self._only_ours(request))
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
            exchange.broken = "unreachable"
            raise
        except httpx2.TransportError:
            exchange.broken = "lost"
            raise
        exchange.status = response.status_code
        exchange.retry_after = response.headers.get("retry-after")
        if response.headers.get("content-encoding", "").strip().lower() not in _IDENTITY:
            exchange.broken = "compressed"
            await response.aclose()
            raise httpx2.RemoteProtocolError("the answer is compressed, which was not asked for", request=request)
        # No Location, no cookies, nothing that asks a library to wait or to come again.
        told = {"content-type": response.headers.get("content-type", "")}
        stream = _Bounded(response, exchange)
        return httpx2.Response(response.status_code, headers=told, stream=stream, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _is_ours(self, url: httpx2.URL) -> bool:
        base = self._base
        same = (url.scheme, url.host, url.port) == (base.scheme, base.host, base.port)
        return same and url.path.startswith(base.path.rstrip("/") + "/")

    def _only_ours(self, request: httpx2.Request) -> httpx2.Request:
        headers = {name: value for name, value in request.headers.items() if name.lower() in _SENT}
        headers |= {"host": request.url.netloc.decode("ascii"), "accept-encoding": "identity", "user-agent": "relay"}
        extensions = {"timeout": {"connect": CONNECT_SECONDS, "read": None, "write": None, "pool": CONNECT_SECONDS}}
        return httpx2.Request(
            request.method,
            request.url,
            headers=headers | self._place.credential,
            stream=request.stream,
            extensions=extensions,
        )


class _Bounded(httpx2.AsyncByteStream):
    """The body of an answer as it comes in: counted, its lines too, and not waited for without end."""

    def __init__(self, response: httpx2.Response, exchange: Exchange) -> None:
        self._response = response
        self._exchange = exchange
        self._most = exchange.most if response.status_code < 400 else min(exchange.most, MAX_ERROR)
        self._refused = 400 <= response.status_code < 500
        self._lines = response.headers.get("content-type", "").strip().lower().startswith("text/event-stream")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange, line = self._exchange, 0
        assert isinstance(self._response.stream, httpx2.AsyncByteStream)
        chunks = aiter(self._response.stream)
        while (chunk := await self._next(chunks)) is not None:
            exchange.received += len(chunk)
            line = _unfinished(line, chunk) if self._lines else 0
            if exchange.received > self._most or line > MAX_LINE:
                exchange.broken = "too_large"
                raise httpx2.RemoteProtocolError("the answer is larger than an answer may be")
            if self._refused:
                exchange.refusal += chunk
            yield chunk

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        # Before its first byte a model may think for as long as the whole answer may take.
        idle = self._exchange.idle if self._exchange.received else None
        try:
            async with asyncio.timeout(idle) as limit:
                return await anext(chunks, None)
        except TimeoutError:
            if limit.expired():
                self._exchange.broken = "silent"
                raise httpx2.ReadTimeout("the answer has stopped coming") from None
            raise
        except httpx2.TransportError:
            self._exchange.broken = "lost"
            raise

    async def aclose(self) -> None:
        await self._response.aclose()


def _unfinished(before: int, chunk: bytes) -> int:
    """Return the length of the longest line so far that this chunk goes on with or holds, at its end at least."""
    end = chunk.rfind(b"\n")
    if end < 0:
        return before + len(chunk)
    first = before + chunk.find(b"\n")
    return max(first if first > MAX_LINE else 0, len(chunk) - end - 1)
