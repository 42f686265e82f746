"""Bytes that no honest client sends, over raw sockets to the real server: smuggling, slowness, size, number."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.cli.listener import bind
from relay.store.target import Target
from relay.surface import wire
from relay.surface.wire import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED, MAX_TARGET_BYTES
from tests.gateway import Gateway, open_gateway

BODY = b'{"scopes":["audit:read"]}'
JSON = b"Content-Type: application/json"
SLOW = {"HEADER_TIMEOUT_SECONDS": "1", "KEEP_ALIVE_SECONDS": "1", "REQUEST_TIMEOUT_SECONDS": "1"}


@pytest.fixture
async def gateway(sqlite_target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(sqlite_target, tmp_path / "data", MAX_CONNECTIONS="10", **SLOW) as running:
        yield running


class Line:
    """One connection. ``Host: x`` stands for the gateway's own."""

    def __init__(self, gateway: Gateway, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._own = b"Host: 127.0.0.1:%d\r\n" % gateway.port
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data.replace(b"Host: x\r\n", self._own))
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Return the next answer on this connection."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status, *lines = head[:-4].split(b"\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
        return int(status.split()[1]), headers, body

    async def status(self) -> int:
        return (await self.answer())[0]

    async def closed(self, seconds: float = 5.0) -> bytes:
        """Wait for the server to end the connection; return what it sent before."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read()
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def connected(gateway: Gateway) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield Line(gateway, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request(gateway: Gateway, method: str = "GET", path: str = "/keys", *lines: bytes, key: bool = True) -> bytes:
    """Return a head. ``Host: x`` stands for the gateway's own."""
    head = [f"{method} {path} HTTP/1.1".encode(), b"Host: x"]
    if key:
        head.append(b"Authorization: Bearer " + gateway.admin.encode())
    return b"\r\n".join([*head, *lines, b"", b""])


def post(gateway: Gateway, *lines: bytes) -> bytes:
    return request(gateway, "POST", "/keys", b"Content-Type: application/json", *lines)


# Where a request ends: what two parsers could understand differently is refused, and ends the connection.

CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d" % len(BODY)
SMUGGLING: dict[str, tuple[list[bytes], bytes]] = {
    "two lengths": ([LENGTH, b"Content-Length: 0"], BODY),
    "the same length twice": ([LENGTH, LENGTH], BODY),
    "a list of lengths": ([LENGTH + b", %d" % len(BODY)], BODY),
    "a signed length": ([b"Content-Length: +%d" % len(BODY)], BODY),
    "a hexadecimal length": ([b"Content-Length: 0x10"], BODY),
    "a length beyond 64 bits": ([b"Content-Length: 18446744073709551617"], BODY),
    "length and chunked": ([LENGTH, b"Transfer-Encoding: chunked"], CHUNKED),
    "chunked and length": ([b"Transfer-Encoding: chunked", LENGTH], CHUNKED),
    "chunked twice": ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], CHUNKED),
    "chunked with a list": ([b"Transfer-Encoding: gzip, chunked"], CHUNKED),
    "chunked but not last": ([b"Transfer-Encoding: chunked, identity"], CHUNKED),
    "a coding nobody knows": ([b"Transfer-Encoding: xchunked"], CHUNKED),
    "identity": ([b"Transfer-Encoding: identity", LENGTH], BODY),
    "a space before the colon": ([b"Transfer-Encoding : chunked"], CHUNKED),
    "a tab before the coding's end": ([b"Transfer-Encoding: \x0bchunked"], CHUNKED),
    "a folded line": ([b"X-Test: a", b" b", LENGTH], BODY),
    "a folded coding": ([b"Transfer-Encoding:", b" chunked"], CHUNKED),
    "NUL in a value": ([b"X-Test: a\0b", LENGTH], BODY),
    "NUL in a name": ([b"X\0Test: a", LENGTH], BODY),
    "a bare line feed": ([b"X-Test: a\nContent-Length: 1", LENGTH], BODY),
    "a bare carriage return": ([b"X-Test: a\rContent-Length: 1", LENGTH], BODY),
    "an empty name": ([b": a", LENGTH], BODY),
    "a chunk's length that is none": ([b"Transfer-Encoding: chunked"], b"zz\r\n" + BODY),
    "a chunk with a bare line feed": ([b"Transfer-Encoding: chunked"], b"1\na\r\n0\r\n\r\n"),
    "a chunk longer than it says": ([b"Transfer-Encoding: chunked"], b"1\r\nab\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", SMUGGLING)
async def test_a_request_of_doubtful_length_is_refused(gateway: Gateway, name: str) -> None:
    lines, body = SMUGGLING[name]
    hidden = request(gateway, "DELETE", "/keys/key_hidden")
    async with connected(gateway) as line:
        await line.send(post(gateway, *lines) + body + hidden)
        status, headers, answer = await line.answer()
        assert (status, headers[b"connection"]) == (400, b"close")
        assert json.loads(answer)["type"] == "urn:relay:problem:bad-request"
        assert await line.closed() == b""
    assert len(await gateway.events("identity:key:created")) == 1  # the first key alone


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /version HTTP/1.1\nHost: x\r\n\r\n",
        b"get /version HTTP/1.1\r\nHost: x\r\n\r\n",
        b"Get /version HTTP/1.1\r\nHost: x\r\n\r\n",
        b"FETCH /version HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /version HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET /version HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /version HTTP/0.9\r\nHost: x\r\n\r\n",
        b"GET /version\r\n\r\n",
        b" GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ver sion HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /version\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /version#a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET version HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /version HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_not_plain_http_is_refused(gateway: Gateway, sent: bytes) -> None:
    async with connected(gateway) as line:
        await line.send(sent + request(gateway, path="/version"))
        assert await line.status() == 400
        assert await line.closed() == b""


# Forms that are odd and allowed.


async def test_a_trailer_is_no_header(sqlite_target: Target, tmp_path: Path) -> None:
    """Some proxies pass trailers on as they are, behind the headers that they have written themselves."""
    async with open_gateway(sqlite_target, tmp_path / "data", TRUSTED_PROXIES="127.0.0.1/32") as gateway:
        async with connected(gateway) as line:
            lists = json.dumps({"allowed_networks": ["203.0.113.7"], "lock_me_out": True}).encode()
            await line.send(
                request(gateway, "PUT", "/workspace/allowed-networks", JSON, b"Content-Length: %d" % len(lists)) + lists
            )
            assert await line.status() == 200
        chunked = b"%x\r\n%b\r\n0\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n" % (len(BODY), BODY)
        head = (b"Transfer-Encoding: chunked", JSON, b"X-Forwarded-For: 198.51.100.9")
        async with connected(gateway) as line:
            await line.send(request(gateway, "POST", "/keys", *head) + chunked)
            assert await line.status() == 403
            await line.send(request(gateway, "POST", "/keys", *head[:2], b"X-Forwarded-For: 203.0.113.7") + chunked)
            assert await line.status() == 201


async def test_http_1_0_is_answered_and_closed(gateway: Gateway) -> None:
    async with connected(gateway) as line:
        await line.send(b"GET /version HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
        status, headers, _ = await line.answer()
        assert (status, headers[b"connection"]) == (200, b"close")
        assert await line.closed() == b""


async def test_absolute_form_counts_with_the_host_that_it_names(gateway: Gateway) -> None:
    own = f"127.0.0.1:{gateway.port}".encode()
    for target, host, status in (
        (b"http://%b/version" % own, own, 200),
        (b"HTTP://%b/version?" % own, own, 200),
        (b"http://%b" % own, own, 404),
        (b"http://%b?a=b" % own, own, 404),
        (b"http://evil.example/version", own, 400),
        (b"http://%b/version" % own, b"evil.example", 400),
        (b"http://evil.example/version", b"evil.example", 421),
        (b"http://user@%b/version" % own, own, 400),
        (b"ftp://%b/version" % own, own, 400),
        (b"http:///version", own, 400),
    ):
        answer = await gateway.raw(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host))
        assert answer.startswith(b"HTTP/1.1 %d " % status), (target, host, answer[:50])


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    async with connected(gateway) as line:
        paths = ["/version", "/keys", "/nowhere", "/version"]
        await line.send(b"".join(request(gateway, path=path) for path in paths))
        assert [await line.status() for _ in paths] == [200, 200, 404, 200]


async def test_too_many_pipelined_requests_end_the_connection(gateway: Gateway) -> None:
    many = MAX_PIPELINED + 5
    async with connected(gateway) as line:
        await line.send(request(gateway, path="/health") * many)
        answered = (await line.closed()).count(b"HTTP/1.1 200 ")
        assert 1 <= answered <= MAX_PIPELINED + 1


async def test_garbage_behind_a_request_does_not_take_its_answer(gateway: Gateway) -> None:
    """The refusal must not arrive where the answer to the request before it is expected."""
    for behind in (b"garbage\r\n\r\n", request(gateway, "POST", "/keys", b"Content-Length: x")):
        async with connected(gateway) as line:
            await line.send(request(gateway) + behind)
            status, _, body = await line.answer()
            assert status == 200 and json.loads(body)["items"]
            assert await line.closed() == b""


async def test_garbage_behind_pipelined_requests_does_not_either(gateway: Gateway) -> None:
    async with connected(gateway) as line:
        await line.send(request(gateway) + request(gateway, path="/nowhere") + b"garbage\r\n\r\n")
        assert [await line.status(), await line.status()] == [200, 404]
        assert await line.closed() == b""


async def test_who_expects_100_and_is_refused_cannot_slip_a_request_in_as_body(gateway: Gateway) -> None:
    head = request(gateway, "POST", "/keys", b"Expect: 100-continue", b"Content-Length: 200", key=False)
    async with connected(gateway) as line:
        await line.send(head)
        status, headers, _ = await line.answer()
        assert (status, headers[b"connection"]) == (401, b"close")
        await line.send(request(gateway, path="/version"))
        assert await line.closed() == b""


# Size.


async def test_a_head_that_is_too_large(gateway: Gateway) -> None:
    many = [b"X-%d: a" % number for number in range(MAX_HEADERS + 1)]
    for sent in (
        request(gateway, "GET", "/version?" + "a" * MAX_TARGET_BYTES),
        request(gateway, "GET", "/version", b"X-Test: " + b"a" * MAX_HEAD_BYTES),
        request(gateway, "GET", "/version", *[b"X-Test: " + b"a" * 1_000] * 40),
        request(gateway, "GET", "/version", *many),
    ):
        async with connected(gateway) as line:
            await line.send(sent)
            status, _, body = await line.answer()
            assert status == 431 and json.loads(body)["type"] == "urn:relay:problem:head-too-large"
            assert await line.closed() == b""


@pytest.mark.parametrize("begin", [b"GET /", b"GET /version HTTP/1.1\r\nX-Test: ", b"GET /version HTTP/1.1\r\nX"])
async def test_a_head_without_end_is_cut_off(gateway: Gateway, begin: bytes) -> None:
    async with connected(gateway) as line:
        await line.send(begin)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                await line.send(b"a" * 4_096)
                await asyncio.sleep(0)
        assert b"HTTP/1.1 431 " in await line.closed()


async def test_a_head_just_within_the_bounds_is_read(gateway: Gateway) -> None:
    lines = [b"X-%d: %b" % (number, b"a" * 250) for number in range(90)]
    async with connected(gateway) as line:
        await line.send(request(gateway, "GET", "/version", *lines))
        assert await line.status() == 200
        await line.send(request(gateway, "GET", "/nowhere?" + "a" * 8_000))
        assert await line.status() == 404


async def test_a_large_body_behind_a_small_head_is_no_large_head(gateway: Gateway) -> None:
    body = b'{"prompt":"' + b"a" * 60_000 + b'"}'
    head = request(gateway, "POST", "/ai/plan", b"Content-Type: application/json", b"Content-Length: %d" % len(body))
    async with connected(gateway) as line:
        await line.send(head[:40])
        await asyncio.sleep(0.05)
        await line.send(head[40:] + body)
        assert await line.status() == 422


def send_before_reading(port: int, head: bytes, chunk: bytes) -> bytes:
    """Send a head and pieces of a body; only then look whether there is an answer. ConnectionError when cut off."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(head)
        for _ in range(5):
            time.sleep(0.1)
            line.sendall(chunk)
        return line.recv(65_536)


async def test_a_refusal_can_be_read_by_who_goes_on_sending(gateway: Gateway) -> None:
    """Closed at once, the connection would be reset by what still arrives, before many a client looks at the answer."""
    own = b"Host: 127.0.0.1:%d\r\n" % gateway.port
    for head, status in (
        (post(gateway, b"Content-Length: 4000000"), 413),
        (post(gateway, b"Content-Length: 4000000", b"Content-Length: 4000000"), 400),
    ):
        sent = head.replace(b"Host: x\r\n", own)
        answer = await asyncio.to_thread(send_before_reading, gateway.port, sent, b" " * 30_000)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer


# Slowness.


async def took(line: Line, least: float, most: float) -> bytes:
    began = time.monotonic()
    said = await line.closed(most)
    assert time.monotonic() - began >= least
    return said


async def test_a_silent_connection_is_closed(gateway: Gateway) -> None:
    async with connected(gateway) as line:
        assert await took(line, 0.8, 3.0) == b""


async def drip(line: Line, data: bytes, pause: float = 0.1) -> None:
    with contextlib.suppress(ConnectionError):
        for position in range(len(data)):
            await line.send(data[position : position + 1])
            await asyncio.sleep(pause)


@pytest.mark.parametrize("data", [b"GET /version HTTP/1.1\r\nX-Test: " + b"a" * 100, b"G" + b"/" * 100])
async def test_a_head_that_drips_is_refused(gateway: Gateway, data: bytes) -> None:
    """Each byte alone would keep an idle time-out from passing."""
    async with connected(gateway) as line:
        dripping = asyncio.create_task(drip(line, data))
        began = time.monotonic()
        said = await line.closed(5.0)
        assert time.monotonic() - began < 4.5
        assert said.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))
        dripping.cancel()


async def test_a_dripping_second_head_is_refused_too(gateway: Gateway) -> None:
    async with connected(gateway) as line:
        await line.send(request(gateway, path="/version"))
        assert await line.status() == 200
        dripping = asyncio.create_task(drip(line, b"GET /version HTTP/1.1\r\nX-Test: " + b"a" * 100))
        assert (await line.closed(6.0)).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()


async def test_an_idle_connection_is_closed_and_empty_lines_do_not_keep_it(gateway: Gateway) -> None:
    async with connected(gateway) as line:
        await line.send(request(gateway, path="/version"))
        assert await line.status() == 200
        dripping = asyncio.create_task(drip(line, b"\r\n" * 50))
        assert await took(line, 0.5, 4.0) == b""
        dripping.cancel()


async def test_a_connection_in_use_is_kept(gateway: Gateway) -> None:
    async with connected(gateway) as line:
        for _ in range(5):
            await line.send(request(gateway, path="/version"))
            assert await line.status() == 200
            await asyncio.sleep(0.5)


async def test_a_body_that_drips_is_a_408(gateway: Gateway) -> None:
    async with connected(gateway) as line:
        await line.send(post(gateway, b"Content-Length: 1000"))
        dripping = asyncio.create_task(drip(line, b" " * 100))
        status, headers, body = await line.answer()
        assert (status, headers[b"connection"]) == (408, b"close")
        assert json.loads(body)["type"] == "urn:relay:problem:request-timeout"
        dripping.cancel()
        assert await line.closed() == b""


async def test_the_rest_of_a_refused_body_is_not_waited_for(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LINGER_SECONDS", 0.5)
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway, connected(gateway) as line:
        await line.send(request(gateway, "POST", "/keys", b"Content-Length: 1000", key=False))
        assert await line.status() == 401
        dripping = asyncio.create_task(drip(line, b" " * 100))
        assert await took(line, 0.3, 3.0) == b""
        dripping.cancel()


async def test_a_refused_body_that_arrives_leaves_the_connection_usable(gateway: Gateway) -> None:
    async with connected(gateway) as line:
        await line.send(request(gateway, "POST", "/keys", LENGTH, key=False))
        assert await line.status() == 401
        await line.send(BODY + request(gateway, path="/version"))
        assert await line.status() == 200


def read_late(port: int, sent: bytes, pause: float) -> tuple[bytes, bool]:
    """Ask through a narrow window, read nothing for a while; return what came then, and whether the line was cut."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        line.connect(("127.0.0.1", port))
        line.sendall(sent)
        time.sleep(pause)
        line.settimeout(2.0)
        found = b""
        try:
            while chunk := line.recv(65_536):
                found += chunk
        except TimeoutError:
            return found, False
        except ConnectionError:
            pass
        return found, True


async def test_an_answer_that_nobody_reads_is_given_up(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bind_small(host: str, port: int) -> socket.socket:
        listener = bind(host, port)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)  # what it accepts inherits it
        return listener

    monkeypatch.setattr("tests.gateway.bind", bind_small)
    monkeypatch.setattr(wire, "WRITE_STALL_SECONDS", 0.5)
    many = MAX_PIPELINED - 1
    async with open_gateway(sqlite_target, tmp_path / "data", RELAY_ENV="local") as gateway:
        document = request(gateway, path="/openapi.json").replace(
            b"Host: x\r\n", b"Host: 127.0.0.1:%d\r\n" % gateway.port
        )
        patient, cut = await asyncio.to_thread(read_late, gateway.port, document * many, 0.0)
        assert (patient.count(b"HTTP/1.1 200 "), cut) == (many, False)
        late, cut = await asyncio.to_thread(read_late, gateway.port, document * many, 1.5)
        assert cut and len(late) < len(patient)
        (await gateway.get("/version")).expect(200)


# Number.


async def test_idle_connections_make_room(gateway: Gateway) -> None:
    async with contextlib.AsyncExitStack() as lines:
        opened = [await lines.enter_async_context(connected(gateway)) for _ in range(10)]
        for line in opened[:5]:  # half a head is no more than none
            await line.send(b"GET /version HTTP/1.1\r\n")
        for line in opened[5:]:  # nor is a refusal whose caller stays
            await line.send(b"garbage\r\n\r\n")
        await asyncio.sleep(0.05)
        async with connected(gateway) as newcomer:
            await newcomer.send(request(gateway, path="/version"))
            assert await newcomer.status() == 200
            assert await opened[0].closed(0.5) == b""  # the first to come has waited the longest


async def test_when_none_is_idle_a_newcomer_gets_503(gateway: Gateway) -> None:
    async with contextlib.AsyncExitStack() as lines:
        for _ in range(10):
            line = await lines.enter_async_context(connected(gateway))
            await line.send(post(gateway, b"Content-Length: 1000"))
        await asyncio.sleep(0.1)
        async with connected(gateway) as newcomer:
            status, headers, body = await newcomer.answer()
            assert (status, headers[b"retry-after"]) == (503, b"5")
            assert json.loads(body)["type"] == "urn:relay:problem:unavailable"
            assert await newcomer.closed() == b""
    (await gateway.get("/version")).expect(200)
