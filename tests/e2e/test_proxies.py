"""Relay behind nginx and Caddy as `deploy/` ships them, over HTTPS with a certificate of the test's own."""

import asyncio
import contextlib
import io
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from relay.settings import load_settings
from tests.outside import OK, HttpServer, http_server, make_certificate, read_request
from tests.process import GatewayProcess, eventually, gateway_process
from tests.proxies import COMMANDS, DEPLOY, HOST, Ports, Proxy, proxy

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

MIB = 1024 * 1024
CALLER = "127.0.9.1"  # on loopback, and none of TRUSTED_PROXIES
SPOOFED = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "X-Real-IP": "203.0.113.7",
    "Forwarded": "for=203.0.113.7;proto=http;host=evil.example",
}
JSON = {"Content-Type": "application/json"}
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-XSS-Protection": "0",
}


@dataclass
class Front:
    """A Relay with a proxy before it."""

    gateway: GatewayProcess
    proxy: Proxy
    sink: HttpServer
    released: asyncio.Event

    def session(self, **options: Any) -> aiohttp.ClientSession:
        return self.proxy.session(key=self.gateway.first_key, **options)

    async def begin_run(self, session: aiohttp.ClientSession) -> str:
        """Start a run whose only step lasts until the sink is released."""
        step = {"action": "webhook.save", "params": {"url": f"{self.sink.url}/hook", "payload": 1}}
        async with session.post(f"{self.proxy.url}/ai/execute", json={"steps": [step]}) as answer:
            assert answer.status == 202, f"{await answer.text()}\n{self.gateway.log}"
            return str((await answer.json())["run_id"])


@asynccontextmanager
async def front(kind: str, folder: Path) -> AsyncIterator[Front]:
    released = asyncio.Event()

    async def held(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await read_request(reader))
        await released.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    ports, certificate = Ports.free(), make_certificate(folder, names=(HOST,))
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(http_server(held))
        env = {
            "RELAY_PUBLIC_URL": f"https://{HOST}:{ports.tls}",
            "TRUSTED_PROXIES": "127.0.0.1",
            "EGRESS_ALLOW": f"127.0.0.1:{sink.port}",
            "STREAMS_PER_PRINCIPAL": "1",
        }
        # Its port stays the same when it is started again.
        args = ("--port", str(_free_port()))
        gateway = await stack.enter_async_context(gateway_process(folder / "relay", env=env, args=args))
        running = await stack.enter_async_context(proxy(kind, folder / kind, ports, gateway.port, certificate))
        yield Front(gateway, running, sink, released)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def kind(request: pytest.FixtureRequest, debian: Callable[[str, str], None]) -> str:
    name: str = request.param
    debian({"nginx": "nginx-light"}.get(name, name), name)
    return name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(kind: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    async with front(kind, tmp_path_factory.mktemp(kind)) as running:
        yield running


# TLS and plain HTTP.


async def test_a_request_gets_through_and_its_headers_stand_there_once(behind: Front) -> None:
    body = {"action": "relay.echo", "params": {"message": "hello"}}
    async with behind.session() as session:
        async with session.post(f"{behind.proxy.url}/actions/execute", json=body) as answer:
            assert (answer.status, (await answer.json())["result"]) == (200, {"message": "hello"})
            good = answer.headers
        async with session.get(f"{behind.proxy.url}/nowhere") as answer:
            assert answer.status == 404
            bad = answer.headers
    for headers in (good, bad):
        for name, value in SECURITY_HEADERS.items():
            assert headers.getall(name) == [value], name
        assert len(headers.getall("X-Request-ID")) == len(headers.getall("Date")) == 1
        assert headers.getall("Server", ["nginx"]) == ["nginx"], "no version, and nothing of what is behind"
        assert not {"Via", "X-Powered-By", "X-Accel-Buffering", "Content-Encoding"} & set(headers)


async def test_plain_http_is_redirected_for_readers_and_refused_for_everybody_else(behind: Front) -> None:
    place = f"http://{HOST}:{behind.proxy.ports.plain}/attempts/a%2Fb?x=1&y=%20"
    async with behind.session() as session:
        for method in ("GET", "HEAD"):
            async with session.request(method, place, allow_redirects=False) as answer:
                assert answer.status == 308
                assert answer.headers["Location"] == f"{behind.proxy.url}/attempts/a%2Fb?x=1&y=%20"
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            async with session.request(method, place, allow_redirects=False) as answer:
                assert (answer.status, "Location" in answer.headers) == (403, False), method
                assert not re.search(r"[\d]", answer.headers.get("Server", ""))


async def test_other_names_get_nothing(behind: Front) -> None:
    plain = f"http://evil.example:{behind.proxy.ports.plain}/version"
    async with behind.session() as session:
        assert await _status(session, plain) in (None, 421)
        assert await _status(session, f"https://evil.example:{behind.proxy.ports.tls}/version") is None
        other = {"Host": "evil.example"}
        assert await _status(session, f"{behind.proxy.url}/version", headers=other) in (None, 421)


async def _status(session: aiohttp.ClientSession, url: str, **options: Any) -> int | None:
    try:
        async with session.get(url, allow_redirects=False, **options) as answer:
            return answer.status
    except aiohttp.ClientError:
        return None


async def test_only_modern_tls_is_spoken_and_http_2_is_offered(behind: Front) -> None:
    def spoken(**limits: Any) -> tuple[str | None, str | None]:
        context = behind.proxy.trusting()
        context.set_alpn_protocols(["h2", "http/1.1"])
        for name, value in limits.items():
            setattr(context, name, value)
        with (
            socket.create_connection(("127.0.0.1", behind.proxy.ports.tls), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as secured,
        ):
            return secured.version(), secured.selected_alpn_protocol()

    assert await asyncio.to_thread(spoken) == ("TLSv1.3", "h2")
    assert await asyncio.to_thread(spoken, maximum_version=ssl.TLSVersion.TLSv1_2) == ("TLSv1.2", "h2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, about what is tried here
        old = {"minimum_version": ssl.TLSVersion.TLSv1, "maximum_version": ssl.TLSVersion.TLSv1_1}
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(spoken, **old)


# Who is calling.

MAIL = {"to": ["you@example.com"], "subject": "From where?"}


async def _recorded_client(session: aiohttp.ClientSession, url: str, message: str, **headers: str) -> Any:
    body = {"action": "email.send", "params": {**MAIL, "text": message}}
    async with session.post(f"{url}/actions/execute", json=body, headers=headers) as answer:
        attempt = (await answer.json())["attempt_id"]
    async with session.get(f"{url}/audit?tag=gate:action:intent&q={attempt}") as answer:
        [event] = (await answer.json())["items"]
        return event["details"]["client"]


async def test_relay_sees_the_caller_and_not_what_she_says_she_is(behind: Front) -> None:
    async with behind.session(address=CALLER) as session:
        assert await _recorded_client(session, behind.proxy.url, "honest") == CALLER
        assert await _recorded_client(session, behind.proxy.url, "spoofed", **SPOOFED) == CALLER
        loopback = {name: value.replace("203.0.113.7", "127.0.0.1") for name, value in SPOOFED.items()}
        assert await _recorded_client(session, behind.proxy.url, "as the proxy", **loopback) == CALLER


async def test_what_callers_say_about_themselves_does_not_even_reach_relay(kind: str, tmp_path: Path) -> None:
    ports, certificate = Ports.free(), make_certificate(tmp_path, names=(HOST,))
    async with (
        http_server(OK) as upstream,
        proxy(kind, tmp_path / kind, ports, upstream.port, certificate) as running,
        running.session(address=CALLER) as session,
    ):
        headers = [*SPOOFED.items(), *SPOOFED.items(), ("Expect", "100-continue"), ("Connection", "X-Forwarded-For")]
        async with session.post(f"{running.url}/x?y=1", data=b"{}", headers=headers) as answer:
            assert answer.status == 200
    [sent] = upstream.requests
    first, *lines = sent.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert first == "POST /x?y=1 HTTP/1.1"
    names = [line.partition(":")[0].lower() for line in lines]
    got = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines}
    assert len(names) == len(got), f"a header stands there twice: {lines}"
    assert (got["x-forwarded-for"], got["x-forwarded-proto"], got["host"]) == (CALLER, "https", running.authority)
    assert got.get("x-forwarded-host", running.authority) == running.authority
    assert not {"forwarded", "x-real-ip", "x-forwarded-port", "expect"} & set(names)
    assert "203.0.113.7" not in sent.decode() and "evil.example" not in sent.decode()


async def test_http_2_is_the_same(behind: Front, debian: Callable[[str, str], None], tmp_path: Path) -> None:
    debian("curl", "curl")
    said = tmp_path / "headers"
    said.write_text("".join(f"{name}: {value}\n" for name, value in SPOOFED.items()))
    with said.open("a") as file:
        file.write(f"Authorization: Bearer {behind.gateway.first_key}\nContent-Type: application/json\n")
    command = [
        "curl", "--silent", "--show-error", "--http2", "--interface", CALLER, "--header", f"@{said}",
        "--cacert", str(behind.proxy.certificate.cert), "--resolve", f"{HOST}:{behind.proxy.ports.tls}:127.0.0.1",
        "--data", json.dumps({"action": "email.send", "params": {**MAIL, "text": "h2"}}),
        "--write-out", "\n%{http_version} %{http_code}",
        f"{behind.proxy.url}/actions/execute",
    ]  # fmt: skip
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20, check=False)
    body, _, versions = ended.stdout.rpartition("\n")
    assert versions == "2 200", ended
    async with (
        behind.session() as session,
        session.get(f"{behind.proxy.url}/audit?tag=gate:action:intent&q={json.loads(body)['attempt_id']}") as answer,
    ):
        assert [event["details"]["client"] for event in (await answer.json())["items"]] == [CALLER]


# Streams and bodies.


async def test_events_arrive_as_they_happen_and_a_watcher_that_leaves_makes_room(behind: Front) -> None:
    behind.released.clear()
    async with behind.session() as session:
        run_id = await behind.begin_run(session)
        events = f"{behind.proxy.url}/ai/jobs/{run_id}/events"

        async def watched() -> bool:
            """Look at the only stream that the key may hold; 429 while an earlier watcher's is still open."""
            began = time.monotonic()
            async with session.get(events, headers={"Accept-Encoding": "gzip"}) as stream:
                if stream.status == 429:
                    return False
                assert stream.status == 200
                assert stream.headers["Content-Type"].startswith("text/event-stream")
                async for line in stream.content:
                    if line == b"event: step\n":
                        assert time.monotonic() - began < 5.0, "the run goes on, and its events were held back"
                        leave(stream)
                        return True
            raise AssertionError("the stream ended")

        assert await watched()
        await eventually(watched, 10)
        await eventually(lambda: _ends(session, events, behind.released), 10)


def leave(stream: aiohttp.ClientResponse) -> None:
    """Close the socket, as a browser or curl does; asyncio waits half a minute for the other side to close TLS."""
    assert stream.connection is not None and stream.connection.transport is not None
    stream.connection.transport.abort()


async def _ends(session: aiohttp.ClientSession, events: str, released: asyncio.Event) -> bool:
    async with session.get(events) as stream:
        if stream.status == 429:
            return False
        released.set()
        return b'"succeeded"' in await stream.read()


async def test_large_bodies_pass_and_touch_no_disk_of_the_proxy(behind: Front) -> None:
    for name in ("body", "proxy"):  # without its folder for temporary files nginx could not write one
        shutil.rmtree(behind.proxy.folder / name, ignore_errors=True)
    text = "0123456789abcde\n" * ((10 * MIB - 4096) // 16)
    body = {"action": "email.send", "params": {"to": ["a@example.com"], "subject": "long", "text": text}}
    async with behind.session() as session:
        for sent in (io.BytesIO(json.dumps(body).encode()), _chunks(json.dumps(body).encode())):
            async with session.post(f"{behind.proxy.url}/actions/preview", data=sent, headers=JSON) as answer:
                assert answer.status == 200, (await answer.text())[:500]
                assert (await answer.json())["params"]["text"] == text


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body without saying how long it will be."""
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


@pytest.mark.parametrize("framing", ["Content-Length: 17825792", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("known", [False, True], ids=["a stranger", "a caller"])
async def test_what_relay_refuses_before_the_body_is_answered_by_relay(
    behind: Front, known: bool, framing: str
) -> None:
    """A proxy loses the answer when Relay closes on a body that is still coming. It is a race: several rounds."""
    who = f"Authorization: Bearer {behind.gateway.first_key}\r\n" if known else ""
    wanted = (413, "body-too-large") if known else (401, "unauthenticated")
    for _ in range(4):
        reader, writer = await behind.proxy.connect()
        head = f"POST /actions/preview HTTP/1.1\r\nHost: {behind.proxy.authority}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}{who}{framing}\r\n\r\n".encode())
        sending = asyncio.create_task(_send_all(writer, b"10000\r\n" + bytes(65_536) + b"\r\n"))
        async with asyncio.timeout(10):
            status = await reader.readline()
            answer = status + await reader.readuntil(b"}")
        sending.cancel()
        assert int(answer.split()[1]) == wanted[0], answer
        assert f"urn:relay:problem:{wanted[1]}".encode() in answer
        writer.transport.abort()


async def _send_all(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    """Send 17 MiB, whatever comes back, as a caller does who looks at the answer only afterwards."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        for _ in range(17 * 16):
            writer.write(chunk)
            await writer.drain()
        writer.write(b"0\r\n\r\n")


async def test_expect_is_answered_and_spoils_no_connection(behind: Front) -> None:
    """A body that is asked for first: taken when it is wanted; when it is not, the next caller is not affected."""
    wanted = JSON | {"Expect": "100-continue"}
    body = json.dumps({"action": "relay.echo", "params": {"message": "asked first"}}).encode()
    async with behind.session() as session, behind.proxy.session() as stranger:
        for _ in range(10):
            async with stranger.post(f"{behind.proxy.url}/actions/execute", data=body, headers=wanted) as answer:
                assert answer.status == 401
            async with session.post(f"{behind.proxy.url}/actions/execute", data=body, headers=wanted) as answer:
                assert answer.status == 200, await answer.text()


SMUGGLERS = {
    "both lengths": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nGET /",
    "odd coding": b"Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\nGET /",
    "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nG",
    "space before the colon": b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "folded line": b"Content-Length:\r\n 5\r\n\r\nGET /",
    "early close": b"Content-Length: 50\r\n\r\nGET /",
}


@pytest.mark.parametrize("head", SMUGGLERS.values(), ids=SMUGGLERS.keys())
async def test_a_smuggled_request_becomes_nobody_elses_answer(behind: Front, head: bytes) -> None:
    """Every answer repeats its request's id: one that was shifted by a smuggled request would have another's."""
    reader, writer = await behind.proxy.connect()
    request = f"POST /actions/preview HTTP/1.1\r\nHost: {behind.proxy.authority}\r\nContent-Type: application/json\r\n"
    writer.write(request.encode() + head)
    await writer.drain()
    try:
        async with asyncio.timeout(0.5):
            answered = await reader.read(4096)
    except TimeoutError:
        answered = b""
    assert re.match(rb"HTTP/1.1 [45]\d\d |$", answered), answered
    async with behind.session() as session:
        for number in range(6):
            sent = f"own-request-{number}"
            async with session.get(f"{behind.proxy.url}/version", headers={"X-Request-ID": sent}) as answer:
                assert (answer.status, answer.headers["X-Request-ID"]) == (200, sent)
    writer.close()


# When Relay is away, and what stays behind.


async def test_a_relay_that_stops_is_said_to_be_away_and_is_found_again(behind: Front) -> None:
    secrets = {name: f"{name}-canary-{behind.proxy.kind}" for name in ("query", "bearer", "key", "cookie")}
    url = f"{behind.proxy.url}/version?code={secrets['query']}"
    headers = {
        "Authorization": f"Bearer {secrets['bearer']}",
        "X-API-Key": secrets["key"],
        "Cookie": f"session={secrets['cookie']}",
    }
    async with behind.proxy.session() as session:
        async with session.get(url, headers=headers) as answer:
            assert answer.status in (200, 401)
        assert await behind.gateway.stop() == 0
        began = time.monotonic()
        async with session.get(url, headers=headers) as answer:
            assert answer.status == 502
            assert time.monotonic() - began < 3.0
            assert answer.headers.getall("Content-Type") == ["application/problem+json"]
            assert answer.headers["Retry-After"] == "5" and answer.headers["Cache-Control"] == "no-store"
            assert not re.search(r"\d", answer.headers.get("Server", ""))
            assert (await answer.json(content_type=None))["title"] == "Relay does not answer"
        await behind.gateway.start()

        async def answers() -> bool:
            async with session.get(f"{behind.proxy.url}/version") as answer:
                return answer.status == 200

        await eventually(answers, 10)
    written = behind.proxy.written()
    assert '"/version"' in written and "502" in written, "there is a log"
    for secret in secrets.values():
        assert secret not in written


async def test_a_stop_ends_open_streams(behind: Front) -> None:
    behind.released.clear()
    async with behind.session() as session:
        run_id = await behind.begin_run(session)
        async with session.get(f"{behind.proxy.url}/ai/jobs/{run_id}/events") as stream:
            assert stream.status == 200
            await stream.content.readline()
            stopping = asyncio.create_task(behind.gateway.stop())
            async with asyncio.timeout(5):
                assert b'"shutdown"' in await stream.read()
        behind.released.set()
        assert await stopping == 0
    await behind.gateway.start()


async def test_idle_connections_are_given_up_by_the_proxy_first() -> None:
    """Relay must not close a connection into which the proxy is just sending a request."""
    relay_seconds = load_settings({}).keep_alive_seconds
    nginx = re.search(r"upstream relay \{.*?keepalive_timeout (\d+)s;", (DEPLOY / "nginx/relay.conf").read_text(), re.S)
    caddy = re.search(r"\bkeepalive (\d+)s", (DEPLOY / "caddy/Caddyfile").read_text())
    assert nginx is not None and caddy is not None
    assert int(nginx[1]) < relay_seconds and int(caddy[1]) < relay_seconds
