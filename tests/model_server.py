"""A language model on loopback that says what a script says, over the real protocols, and misbehaves in every way.

One server speaks OpenAI's chat completions (``server.url``), Anthropic's messages and Google's generateContent
(``server.root``), each as JSON and streamed. What it answers is a queue of replies, or a function of its question::

    async with open_model_server() as server:
        server.reply(say("Sending it.", call("email_send", {"to": "ann@example.com"})), say("Sent."))
        ...
        assert server.asked[1].results == {"call_1": "…"}

It lives in the loop of the test; processes of their own reach it by its URL.
"""

import asyncio
import base64
import gzip
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final, Literal

from aiohttp import web

from tests import model_dialects as dialects

KEY: Final = "sk-scripted-model-0123456789"  # pragma: allowlist secret
MODEL: Final = "scripted-1"
PRICES: Final = f"{MODEL}=1/10"
"""A price for the model: one dollar for a million tokens in, ten for a million out."""
FREE: Final = f"{MODEL}=0/0"


@dataclass(frozen=True)
class Call:
    """A function that the model wants called. ``arguments`` is text as it stands."""

    name: str
    arguments: str
    id: str | None = None


def call(name: str, arguments: Any = None, *, id: str | None = None) -> Call:
    """Return a wish for a call. ``arguments`` that are text are sent as they stand, anything else as JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps({} if arguments is None else arguments)
    return Call(name, text, id)


@dataclass(frozen=True)
class Reply:
    """An answer that holds to the protocol, as JSON or streamed, as it was asked for; and where it ceases to.

    ``usage``: tokens in and out, None for none at all, anything else as it stands. ``piece``: characters of text and
    of arguments in one chunk. ``then``: what follows after ``after`` chunks (a JSON answer counts as one; None: all of
    them): the ``end`` as it should be, ``hang``, ``reset`` the connection, or ``stop`` cleanly without an end.
    ``gate`` is waited for before chunk ``after``; ``pause`` seconds pass before each.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    usage: Any = (12, 7)
    finish: str | None = None
    piece: int = 8
    pause: float = 0.0
    then: Literal["end", "hang", "reset", "stop"] = "end"
    after: int | None = None
    gate: asyncio.Event | None = None


@dataclass(frozen=True)
class Raw:
    """An answer byte for byte; ``body`` may be endless."""

    body: bytes | Callable[[], Iterator[bytes]]
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    then: Literal["end", "hang", "reset"] = "end"


AnyReply = Reply | Raw
Script = Callable[["Asked"], AnyReply]


def say(text: str = "", *calls: Call, **how: Any) -> Reply:
    """Return a good answer: words, and functions to call. ``how`` are the other fields of :class:`Reply`."""
    return Reply(text, calls, **how)


def fail(status: int, message: str = "no", *, retry_after: str | None = None, **headers: str) -> Raw:
    """Return an error as OpenAI words it."""
    body = {"error": {"message": message, "type": "scripted", "param": None, "code": None}}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return Raw(json.dumps(body).encode(), status, headers=headers)


def hang() -> Reply:
    """Return no byte at all, for ever."""
    return Reply(then="hang", after=0)


def reset() -> Reply:
    """Reset the connection before any byte."""
    return Reply(then="reset", after=0)


def redirect(url: str, status: int = 307) -> Raw:
    """Send the client elsewhere."""
    return Raw(b"", status, headers={"Location": url})


def raw(body: bytes | str | dict[str, Any], **how: Any) -> Raw:
    """Return exactly this. A dict is sent as JSON, in which NaN and lone surrogates stand as Python writes them."""
    data = json.dumps(body) if isinstance(body, dict) else body
    return Raw(data.encode() if isinstance(data, str) else data, **how)


def events(*lines: bytes | str, **how: Any) -> Raw:
    """Return a stream of these lines, a blank one after each."""
    data = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n\n" for line in lines)
    return Raw(data, content_type="text/event-stream", **how)


def flood(kind: Literal["json", "stream", "line", "gzip"], megabytes: int = 10) -> Raw:
    """Return an answer that is far too large: one JSON text, many events, one event without end, a gzip bomb."""
    block = b"x" * 65_536
    blocks = megabytes * 16
    if kind == "json":
        head, tail = _around_content(dialects.openai_whole(say("@"), MODEL, "chatcmpl-1"))
        return Raw(lambda: _framed(head, (block for _ in range(blocks)), tail))
    if kind == "stream":
        chunk = dialects.openai_chunks(say("y" * 1024, piece=1024), MODEL, "chatcmpl-1")[1]
        return Raw(lambda: (chunk * 64 for _ in range(blocks)), content_type="text/event-stream")
    if kind == "line":
        return Raw(lambda: _framed(b"data: ", (block for _ in range(blocks)), b""), content_type="text/event-stream")
    head, tail = _around_content(dialects.openai_whole(say("@"), MODEL, "chatcmpl-1"))
    bomb = gzip.compress(head + b"x" * (megabytes * 1024 * 1024) + tail)
    return Raw(bomb, headers={"Content-Encoding": "gzip"})


def _around_content(whole: bytes) -> tuple[bytes, bytes]:
    head, _, tail = whole.partition(b"@")
    return head, tail


def _framed(head: bytes, blocks: Iterable[bytes], tail: bytes) -> Iterator[bytes]:
    yield head
    yield from blocks
    yield tail


@dataclass(frozen=True)
class Asked:
    """A request that came, as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body.get("messages", []))

    @property
    def functions(self) -> list[str]:
        """The names of the functions that were offered."""
        return [tool["function"]["name"] for tool in self.body.get("tools", [])]

    @property
    def results(self) -> dict[str, str]:
        """What calls have led to, by call id."""
        return {one["tool_call_id"]: _text(one["content"]) for one in self.messages if one["role"] == "tool"}

    @property
    def said(self) -> str:
        """The last words of the user."""
        return next((_text(one["content"]) for one in reversed(self.messages) if one["role"] == "user"), "")

    @property
    def images(self) -> list[tuple[str, bytes]]:
        """The pictures that came along: media type and bytes."""
        parts = [part for one in self.messages if isinstance(one.get("content"), list) for part in one["content"]]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        halves = [url.removeprefix("data:").split(";base64,", 1) for url in urls]
        return [(media_type, base64.b64decode(data)) for media_type, data in halves]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


class ModelServer:
    """A scripted model. ``asked`` is every request with the right key, in order.

    ``script`` answers what the queue of :meth:`reply` has no answer for; without either the answer is a 500.
    ``refused`` counts requests with a wrong key, ``left`` those whose client went away before the answer was over,
    ``sent`` the bytes of bodies that were written, ``connections`` the sockets that were accepted.
    """

    def __init__(self, script: Script | None, key: str | None) -> None:
        self.script = script
        self.key = key
        self.asked: list[Asked] = []
        self.refused = 0
        self.left = 0
        self.sent = 0
        self.active = 0
        self.most_active = 0
        self.port = 0
        self.scheme = "http"
        self._peers: set[Any] = set()
        self._queue: deque[AnyReply] = deque()
        self._ids = count(1)
        self._changed = asyncio.Condition()

    @property
    def root(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The base URL of the OpenAI-compatible interface."""
        return f"{self.root}/v1"

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a Relay that asks this model, which costs nothing."""
        keyed = {"OPENAI_API_KEY": self.key} if self.key else {}
        return keyed | {"OPENAI_BASE_URL": self.url, "AI_MODEL": MODEL, "AI_PRICES": FREE}

    @property
    def connections(self) -> int:
        return len(self._peers)

    @property
    def waiting(self) -> int:
        """How many replies nobody has asked for yet."""
        return len(self._queue)

    def reply(self, *replies: AnyReply) -> None:
        """Answer the next questions with these, one each."""
        self._queue.extend(replies)

    async def arrived(self, number: int = 1) -> None:
        """Return when that many requests have come."""
        await self._until(lambda: len(self.asked) >= number)

    async def gone(self, number: int = 1) -> None:
        """Return when that many clients have gone away before their answer was over."""
        await self._until(lambda: self.left >= number)

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(reached)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        dialect = dialects.of(request.path)
        if dialect is None:
            return web.json_response({"error": {"message": "Invalid URL"}}, status=404)
        self._peers.add(request.transport.get_extra_info("peername") if request.transport else None)
        if self.key is not None and dialect.credential(request.headers) != self.key:
            self.refused += 1
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        data = await request.read()
        asked = Asked(request.path_qs, {k.lower(): v for k, v in request.headers.items()}, json.loads(data), data)
        self.asked.append(asked)
        await self._tell()
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        over = False
        try:
            answer = await self._answer(request, asked, dialect)
            over = True
            return answer
        except ConnectionError:
            return web.Response()
        finally:
            self.active -= 1
            self.left += not over
            await asyncio.shield(asyncio.ensure_future(self._tell()))

    async def _answer(self, request: web.Request, asked: Asked, dialect: dialects.Dialect) -> web.StreamResponse:
        reply = self._queue.popleft() if self._queue else self.script(asked) if self.script else None
        if reply is None:
            return web.json_response({"error": {"message": "the script is over"}}, status=500)
        if isinstance(reply, Raw):
            return await self._send_raw(request, reply)
        numbered = tuple(
            one if one.id is not None else replace(one, id=f"call_{next(self._ids)}") for one in reply.calls
        )
        reply = replace(reply, calls=numbered)
        streamed = dialect.streamed(asked.path, asked.body)
        ident = f"chatcmpl-{next(self._ids)}"
        if streamed:
            usage_wanted = bool((asked.body.get("stream_options") or {}).get("include_usage"))
            chunks = dialect.chunks(reply, asked.model, ident, usage_wanted)
        else:
            chunks = [dialect.whole(reply, asked.model, ident)]
        return await self._send(request, reply, chunks, dialect.stream_type if streamed else "application/json")

    async def _send(
        self, request: web.Request, reply: Reply, chunks: list[bytes], content_type: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        stop = len(chunks) if reply.after is None or reply.gate is not None else reply.after
        for position, chunk in enumerate(chunks[:stop]):
            if reply.gate is not None and position == (reply.after or 0):
                await reply.gate.wait()
            await asyncio.sleep(reply.pause)
            await self._write(request, response, chunk)
        return await self._finish(request, response, reply.then)

    async def _send_raw(self, request: web.Request, reply: Raw) -> web.StreamResponse:
        response = web.StreamResponse(
            status=reply.status, headers={"Content-Type": reply.content_type, **reply.headers}
        )
        for block in [reply.body] if isinstance(reply.body, bytes) else reply.body():
            await self._write(request, response, block)
        return await self._finish(request, response, reply.then)

    async def _write(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        if not response.prepared:
            await response.prepare(request)
        if data:
            await response.write(data)
            self.sent += len(data)

    async def _finish(self, request: web.Request, response: web.StreamResponse, then: str) -> web.StreamResponse:
        if then == "hang":
            await asyncio.Event().wait()
        if then == "reset":
            assert request.transport is not None
            request.transport.abort()
            raise ConnectionResetError
        if not response.prepared:
            await response.prepare(request)
        if then != "stop":
            await response.write_eof()
        return response


@asynccontextmanager
async def open_model_server(
    script: Script | None = None, *, key: str | None = KEY, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ModelServer]:
    """Serve until the block ends. ``key`` None: whoever asks is answered."""
    server = ModelServer(script, key)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls, backlog=512)
    await site.start()
    server.port = runner.addresses[0][1]
    server.scheme = "https" if tls else "http"
    try:
        yield server
    finally:
        await runner.cleanup()
