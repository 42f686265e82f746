"""Attempts to reach what Relay must not connect to: each must end without a connection."""

import asyncio
import ipaddress
import socket
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver

from relay.core.effect import EffectForbidden, EffectRefused
from relay.egress.http import HttpClient
from relay.egress.own import own_endpoints
from relay.egress.policy import EgressPolicy
from tests.outside import http_server, make_permit

LOOPBACK_SPELLINGS = [
    "127.0.0.1", "localhost", "LOCALHOST", "a.localhost", "localhost.", "127.0.0.1.", "2130706433", "017700000001",
    "0x7f000001", "0X7F.0.0.1", "0177.0.0.1", "0x7f.0x0.0x0.0x1", "127.1", "127.0.1", "00127.0.0.1", "127.0.0.1%00",
    "0", "0.0.0.0", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[::1%25lo]", "[fe80::1%25lo]", "１２７.0.0.1", "127。0。0。1",
    "①②⑦.0.0.1",
    "%31%32%37.0.0.1", "ⓛocalhost", "user@127.0.0.1", "example.com@127.0.0.1", "example.com:80@127.0.0.1",
    "127.0.0.1\\@example.com", "[::1", "127.0.0.1#@example.com",
]  # fmt: skip


async def attempt(client: HttpClient, url: str) -> None:
    await client.request(make_permit(), method="GET", url=url, headers={}, body=None, timeout=5.0)


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
async def test_no_spelling_of_loopback_gets_a_connection(host: str) -> None:
    policy = EgressPolicy()
    async with http_server() as server:
        url = f"http://{host}:{server.port}/"
        assert policy.refusal(url) is not None
        with pytest.raises(EffectForbidden):
            await attempt(HttpClient(policy), url)
    assert server.connections == 0


METADATA = ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "metadata.google.internal",
            "x.metadata.google.internal", "metadata.goog", "169.254.170.2", "[::ffff:a9fe:a9fe]",
            "[64:ff9b::a9fe:a9fe]", "[fe80::a9fe:a9fe]", "[2002:a9fe:a9fe::]"]  # fmt: skip


@pytest.mark.parametrize("host", METADATA)
async def test_no_setting_opens_metadata(host: str) -> None:
    policy = EgressPolicy(["0.0.0.0/0", "::/0", "metadata.google.internal", "x.metadata.google.internal"])
    assert policy.refusal(f"http://{host}/latest/meta-data/") is not None
    with pytest.raises(EffectForbidden):
        await attempt(HttpClient(policy), f"http://{host}/latest/meta-data/")


class Rebinding(AbstractResolver):
    """A name server in an attacker's hand: a new answer each time, as often as one asks."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [{"hostname": host, "host": ip, "port": port, "family": 0, "proto": 0, "flags": 0} for ip in found]

    async def close(self) -> None: ...


@pytest.mark.parametrize("peer", ["127.0.0.1", "::ffff:127.0.0.1", "::1", "0.0.0.0", "169.254.169.254"])
async def test_a_name_that_resolves_inside_gets_no_connection(peer: str) -> None:
    policy = EgressPolicy()
    async with http_server() as server:
        url = f"http://rebind.example:{server.port}/"
        assert policy.refusal(url) is None
        with pytest.raises(EffectForbidden) as raised:
            await attempt(HttpClient(policy, resolver=Rebinding([peer])), url)
    assert server.connections == 0
    assert peer not in raised.value.detail


async def test_a_name_that_changes_its_address_after_the_first_request_is_judged_again() -> None:
    async with http_server() as server:
        policy = EgressPolicy([f"127.0.0.1:{server.port}"])
        client = HttpClient(policy, resolver=Rebinding(["127.0.0.1"], ["127.0.0.2"]))
        await attempt(client, f"http://rebind.example:{server.port}/")
        with pytest.raises(EffectForbidden):
            await attempt(client, f"http://rebind.example:{server.port}/")
    assert server.connections == 1


async def test_an_inner_address_among_several_is_never_the_one_that_is_used() -> None:
    async with http_server() as inner:
        policy = EgressPolicy(["127.0.0.3"])
        client = HttpClient(policy, resolver=Rebinding(["127.0.0.1", "127.0.0.3", "::1"]))
        # 127.0.0.3 is open and nobody listens there; 127.0.0.1, where somebody does, must not be tried instead.
        with pytest.raises((EffectForbidden, EffectRefused)):
            await attempt(client, f"http://mixed.example:{inner.port}/")
    assert inner.connections == 0


async def test_a_name_that_is_opened_does_not_open_another_name_for_the_same_address() -> None:
    async with http_server() as server:
        policy = EgressPolicy(["inner.example"])
        client = HttpClient(policy, resolver=Rebinding(["127.0.0.1"]))
        await attempt(client, f"http://inner.example:{server.port}/")
        with pytest.raises(EffectForbidden):
            await attempt(client, f"http://other.example:{server.port}/")
        with pytest.raises(EffectForbidden):
            await attempt(client, f"http://127.0.0.1:{server.port}/")
    assert server.connections == 1


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", "::"])
async def test_relays_own_listener_is_closed_under_every_setting(bind: str) -> None:
    async with http_server() as relay:
        policy = EgressPolicy(
            ["0.0.0.0/0", "::/0", "own.example", "localhost"], own=own_endpoints(listen=(bind, relay.port))
        )
        client = HttpClient(policy, resolver=Rebinding(["127.0.0.1"]))
        for host in ("127.0.0.1", "localhost", "own.example", "[::ffff:127.0.0.1]"):
            with pytest.raises((EffectForbidden, EffectRefused)) as raised:
                await attempt(client, f"http://{host}:{relay.port}/")
            assert raised.type is EffectForbidden
    assert relay.connections == 0


async def test_relays_own_database_and_redis_are_closed_under_every_setting() -> None:
    async with http_server() as database, http_server() as redis:
        own = own_endpoints(
            listen=("127.0.0.1", 1),
            database_url=f"postgresql://u:p@localhost:{database.port}/x",
            redis_url=f"redis://127.0.0.1:{redis.port}",
        )
        client = HttpClient(EgressPolicy(["0.0.0.0/0", "::/0"], own=own), resolver=Rebinding(["127.0.0.1"]))
        for server in (database, redis):
            for host in ("127.0.0.1", "localhost", "own.example"):
                with pytest.raises(EffectForbidden):
                    await attempt(client, f"http://{host}:{server.port}/")
    assert database.connections == redis.connections == 0


async def test_the_socket_is_never_made_for_a_refused_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    real = socket.socket.connect_ex

    def watched(self: socket.socket, address: Any) -> int:
        made.append(address)
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect_ex", watched)
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def connected(sock: socket.socket, address: Any) -> None:
        made.append(address)
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", connected)
    with pytest.raises(EffectForbidden):
        await attempt(HttpClient(EgressPolicy(), resolver=Rebinding(["10.0.0.1", "fd00::1"])), "http://x.example/")
    assert made == []
    # The watch itself works: a permitted peer is seen.
    async with http_server() as server:
        await attempt(HttpClient(EgressPolicy(["127.0.0.1"])), server.url)
    assert [ipaddress.ip_address(address[0]).is_loopback for address in made] == [True]
