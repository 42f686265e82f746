"""The HTTP client against real servers: what is sent, what is kept of the answer, and how each end is judged."""

import asyncio
import gzip
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver

from relay.core.effect import EffectForbidden, EffectUnknown, EffectUnsent
from relay.core.permit import Permit, PermitRefused
from relay.egress.http import MAX_ANSWER, HttpAnswer, HttpClient
from relay.egress.own import Endpoint
from relay.egress.policy import EgressPolicy
from tests.outside import HttpServer, answer, http_server, make_certificate, make_permit, read_request

LOOPBACK = EgressPolicy(["127.0.0.0/8", "localhost"])


async def fetch(
    url: str, *, client: HttpClient | None = None, permit: Permit | None = None, **given: Any
) -> HttpAnswer:
    settings: dict[str, Any] = {"method": "GET", "headers": {}, "body": None, "timeout": 5.0, **given}
    return await (client or HttpClient(LOOPBACK)).request(permit or make_permit(), url=url, **settings)


async def test_exactly_what_was_asked_for_is_sent() -> None:
    async with http_server() as server:
        got = await fetch(f"{server.url}/a%2Fb/../c?x=%20&y", method="POST", headers={"X-One": "1"}, body=b'{"a": 1}')
    assert server.requests == [
        b"POST /a%2Fb/../c?x=%20&y HTTP/1.1\r\n"
        + f"Host: 127.0.0.1:{server.port}\r\n".encode()
        + b"accept: */*\r\naccept-encoding: identity\r\nuser-agent: relay\r\nx-one: 1\r\n"
        b'Content-Length: 8\r\nConnection: close\r\n\r\n{"a": 1}'
    ]
    assert (got.status, got.body, got.truncated, got.headers["content-type"]) == (200, b"ok", False, "text/plain")


async def test_a_large_body_goes_out_whole() -> None:
    body = bytes(range(256)) * 12_000
    async with http_server() as server:
        await fetch(server.url, method="PUT", body=body)
    assert server.requests[0].partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
async def test_proxies_of_the_environment_are_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_server() as proxy, http_server() as server:
        monkeypatch.setenv(name, proxy.url)
        await fetch(server.url)
    assert (proxy.connections, server.connections) == (0, 1)


async def test_credentials_of_the_environment_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with http_server() as server:
        await fetch(server.url)
    assert b"authorization" not in server.requests[0].lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers(status: int) -> None:
    async with http_server() as other:
        moved = f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}/\r\nContent-Length: 0\r\n\r\n"
        async with http_server(answer(moved)) as server:
            got = await fetch(server.url)
    assert (got.status, got.headers["location"], other.connections) == (status, f"{other.url}/", 0)


async def test_cookies_and_connections_are_not_kept() -> None:
    keep = (
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
    )
    client = HttpClient(LOOPBACK)
    async with http_server(answer(keep)) as server:
        got = await fetch(server.url, client=client)
        await fetch(server.url, client=client)
    assert got.headers["set-cookie"] == "a=1, b=2"
    assert server.connections == 2
    assert b"cookie" not in server.requests[1].lower()


async def test_an_answer_is_cut_at_the_cap() -> None:
    async def endless(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    began = time.monotonic()
    async with http_server(endless) as server:
        got = await fetch(server.url)
    assert time.monotonic() - began < 3, "the cap ends it, not the time-out of 5 s"
    assert (len(got.body), got.truncated) == (MAX_ANSWER, True)


async def test_an_answer_of_exactly_the_cap_is_whole() -> None:
    data = f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_ANSWER}\r\n\r\n".encode() + b"x" * MAX_ANSWER
    async with http_server(answer(data)) as server:
        got = await fetch(server.url)
    assert (len(got.body), got.truncated) == (MAX_ANSWER, False)


async def test_nothing_is_decompressed() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    async with http_server(answer(head + bomb)) as server:
        got = await fetch(server.url)
    assert got.body == bomb


@pytest.mark.parametrize(
    "cut", ["HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nabc", "HTTP/1.1 201 Created\r\n\r\nabc"]
)
async def test_a_status_settles_the_matter_even_when_the_body_breaks(cut: str) -> None:
    async with http_server(answer(cut)) as server:
        got = await fetch(server.url)
    assert (got.status, got.body) == (201, b"abc")
    assert got.truncated is ("Length" in cut)


async def test_a_body_that_drips_is_cut_by_the_time_out() -> None:
    async def drip(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
        await asyncio.sleep(30)

    async with http_server(drip) as server:
        got = await fetch(server.url, timeout=0.3)
    assert (got.status, got.body, got.truncated) == (200, b"abc", True)


# What ends before the first byte left: nothing happened.


class Table(AbstractResolver):
    """A resolver that answers what the test says, the next list each time."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        found = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(found, Exception):
            raise found
        return [{"hostname": host, "host": ip, "port": port, "family": 0, "proto": 0, "flags": 0} for ip in found]

    async def close(self) -> None: ...


async def test_a_refused_connection() -> None:
    async with http_server() as server:
        url = server.url
    with pytest.raises(EffectUnsent) as raised:
        await fetch(url + "/path?token=hunter2")
    assert raised.value.code == "unreachable"
    assert "hunter2" not in raised.value.detail


async def test_a_name_that_does_not_resolve() -> None:
    client = HttpClient(LOOPBACK, resolver=Table(OSError("no such host")))
    with pytest.raises(EffectUnsent) as raised:
        await fetch("http://some.example/", client=client)
    assert raised.value.code == "unresolvable"


async def test_a_look_up_that_hangs() -> None:
    class Hanging(Table):
        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
            await asyncio.sleep(30)
            return []

    client = HttpClient(LOOPBACK, resolver=Hanging(), connect_timeout=0.2)
    with pytest.raises(EffectUnsent) as raised:
        await fetch("http://some.example/", client=client)
    assert raised.value.code == "connect_timeout"


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(made.cert, made.key)
    async with http_server(tls=tls) as server:
        with pytest.raises(EffectUnsent) as raised:
            await fetch(f"https://localhost:{server.port}/")
        assert raised.value.code == "tls_failed"
        trusting = HttpClient(EgressPolicy(["127.0.0.0/8"]), ca_file=str(made.cert), resolver=Table(["127.0.0.1"]))
        with pytest.raises(EffectUnsent) as raised:
            await fetch(f"https://other.example:{server.port}/", client=trusting)
        assert raised.value.code == "tls_failed"
        assert (await fetch(f"https://localhost:{server.port}/", client=trusting)).body == b"ok"
    assert len(server.requests) == 1


async def test_a_tls_handshake_that_hangs(tmp_path: Path) -> None:
    async def silent(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with http_server(silent) as server:
        with pytest.raises(EffectUnsent) as raised:
            await fetch(f"https://127.0.0.1:{server.port}/", client=HttpClient(LOOPBACK, connect_timeout=0.2))
    assert raised.value.code == "connect_timeout"


async def test_a_lease_that_ran_out_while_connecting_sends_nothing() -> None:
    class Slow(Table):
        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
            await asyncio.sleep(0.2)
            return await super().resolve(host, port, family)

    client = HttpClient(EgressPolicy(["some.example"]), resolver=Slow(["127.0.0.1"]))
    async with http_server() as server:
        with pytest.raises(PermitRefused):
            await fetch(f"http://some.example:{server.port}/", client=client, permit=make_permit(seconds=0.1))
        await asyncio.sleep(0.05)
    assert server.connections == 1 and server.requests == []


# What ends after it: nobody knows.


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_broken_connection_is_unknown_and_nothing_is_sent_again(method: str) -> None:
    async with http_server(answer(b"")) as server:
        with pytest.raises(EffectUnknown) as raised:
            await fetch(server.url, method=method)
        await asyncio.sleep(0.05)
    assert raised.value.code == "connection_lost"
    assert (server.connections, len(server.requests)) == (1, 1)


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_a_reset_is_unknown_and_nothing_is_sent_again(method: str) -> None:
    async def reset(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await read_request(reader))
        writer.transport.abort()

    async with http_server(reset) as server:
        with pytest.raises(EffectUnknown):
            await fetch(server.url, method=method)
        await asyncio.sleep(0.05)
    assert server.connections == 1


async def test_no_answer_in_time_is_unknown() -> None:
    async def silent(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await read_request(reader))
        await asyncio.sleep(30)

    async with http_server(silent) as server:
        with pytest.raises(EffectUnknown) as raised:
            await fetch(server.url, timeout=0.3)
    assert (raised.value.code, len(server.requests)) == ("answer_timeout", 1)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(500)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
async def test_a_garbled_answer_is_unknown(garbage: bytes) -> None:
    async with http_server(answer(garbage)) as server:
        with pytest.raises(EffectUnknown):
            await fetch(server.url)


async def test_a_cancellation_propagates_and_closes_the_connection() -> None:
    closed, started = asyncio.Event(), asyncio.Event()

    async def silent(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        started.set()
        assert await reader.read() == b""
        closed.set()

    async with http_server(silent) as server:
        task = asyncio.create_task(fetch(server.url))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 5)


# What never gets a socket.


async def test_hosts_bind_a_client() -> None:
    client = HttpClient(LOOPBACK, frozenset({"localhost"}))
    async with http_server() as server:
        with pytest.raises(EffectForbidden):
            await fetch(server.url, client=client)
        assert client.refusal(server.url) is not None
        assert (await fetch(f"http://localhost:{server.port}", client=client)).status == 200
    assert server.connections == 1


async def test_a_closed_port_of_relay_whose_name_is_lost_stays_closed() -> None:
    async with http_server() as server:
        policy = EgressPolicy(["127.0.0.0/8"], own=[Endpoint("nowhere.invalid", server.port)])
        with pytest.raises(EffectForbidden):
            await fetch(server.url, client=HttpClient(policy))
    assert server.connections == 0


async def test_relays_own_database_by_name_is_closed_by_number() -> None:
    async with http_server() as server:
        policy = EgressPolicy(["127.0.0.0/8"], own=[Endpoint("localhost", server.port)])
        with pytest.raises(EffectForbidden):
            await fetch(server.url, client=HttpClient(policy))
    assert server.connections == 0


async def test_malformed_methods_and_headers_never_leave() -> None:
    async with http_server() as server:
        for given in ({"method": "GET / HTTP/1.1\r\nX: "}, {"method": "get"}, {"headers": {"Host": "x"}}):
            with pytest.raises(ValueError):
                await fetch(server.url, **given)
    assert server.connections == 0


async def test_many_at_once_do_not_wait_for_each_other() -> None:
    everybody = asyncio.Barrier(20)

    async def together(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await everybody.wait()  # nobody has an answer before all have asked
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    client = HttpClient(LOOPBACK)
    async with http_server(together) as server:
        got = await asyncio.gather(*(fetch(server.url, client=client) for _ in range(20)))
    assert [one.status for one in got] == [204] * 20


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize("secure", [False, True])
async def test_a_server_that_only_ever_says_that_it_will_answer_holds_nobody(secure: bool, tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made.cert, made.key)

    async def endless(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        while True:
            writer.write(INTERIM * 1000)
            await writer.drain()

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with http_server(endless, tls=tls if secure else None) as server:
        busy = asyncio.create_task(others())
        client = HttpClient(LOOPBACK, ca_file=str(made.cert))
        url = server.url.replace("http:", "https:") if secure else server.url
        try:
            with pytest.raises(EffectUnknown) as caught:
                await fetch(url, client=client, timeout=30.0)
        finally:
            busy.cancel()
    assert caught.value.code == "malformed_answer"
    assert turns


@pytest.mark.parametrize(("count", "taken"), [(8, True), (9, False)])
async def test_a_few_interim_answers_are_passed_over(count: int, taken: bool) -> None:
    body = b"x" * 50_000
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + body
    async with http_server(answer(INTERIM * count + final)) as server:
        if taken:
            got = await fetch(server.url)
            assert (got.status, got.body, got.truncated) == (200, body, False)
        else:
            with pytest.raises(EffectUnknown, match="could not be read"):
                await fetch(server.url)
