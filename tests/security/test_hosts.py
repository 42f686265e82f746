"""`Host`, and plain HTTP where the public URL is https: the rules as such, and on a real gateway."""

from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from relay.core.facts import RequestFacts
from relay.core.problem import BadRequest, HttpsRequired, Misdirected
from relay.limits.client_address import ProxyTrust
from relay.settings.parse import networks
from relay.store.target import Target
from relay.surface.answers import EmptyAnswer
from relay.surface.edge import Edge
from relay.surface.hosts import Hosts
from relay.surface.stamp import Stamp
from tests.asgi import ask, scope_of
from tests.gateway import Gateway, open_gateway

URL = "https://relay.example.com"
HERE = ("127.0.0.1", 8000)


def allowed(hosts: Hosts, host: str | bytes, server: tuple[str, int | None] | None = HERE) -> bool:
    try:
        hosts.require(host if isinstance(host, bytes) else host.encode(), server)
    except Misdirected:
        return False
    return True


@pytest.mark.parametrize("host", ["localhost:8000", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000"])
@pytest.mark.parametrize("server", [HERE, ("::1", 8000)])
def test_over_loopback_its_own_names_are_allowed(host: str, server: tuple[str, int]) -> None:
    assert allowed(Hosts(None, server[0]), host, server)


@pytest.mark.parametrize(
    "host",
    "evil.example evil.example:8000 localhost localhost:8001 127.0.0.1 127.0.0.2:8000 localhost.evil.example:8000 "
    "localhost.:8000 evil.localhost:8000 10.0.0.1:8000 [::2]:8000 0.0.0.0:8000 2130706433:8000 127.1:8000 "
    "relay.example.com".split(),
)
def test_over_loopback_nothing_else_is(host: str) -> None:
    assert not allowed(Hosts(None, "127.0.0.1"), host)


@pytest.mark.parametrize(
    ("bind", "server", "host", "good"),
    [
        ("192.168.1.5", ("192.168.1.5", 8000), "192.168.1.5:8000", True),
        ("192.168.1.5", ("192.168.1.5", 80), "192.168.1.5", True),
        ("192.168.1.5", ("192.168.1.5", 8000), "localhost:8000", False),
        ("192.168.1.5", ("192.168.1.5", 8000), "127.0.0.1:8000", False),
        ("192.168.1.5", ("192.168.1.5", 8000), "192.168.1.6:8000", False),
        ("192.168.1.5", ("192.168.1.5", 8000), "evil.example:8000", False),
        ("0.0.0.0", ("172.17.0.2", 8000), "192.168.1.5:9000", True),
        ("0.0.0.0", ("172.17.0.2", 8000), "localhost:9000", True),
        ("::", ("2001:db8::5", 8000), "[2001:db8::6]:8000", True),
        ("0.0.0.0", ("172.17.0.2", 8000), "evil.example:8000", False),
        ("0.0.0.0", ("127.0.0.1", 8000), "evil.example:8000", False),
    ],
)
def test_what_another_bind_answers_to(bind: str, server: tuple[str, int], host: str, good: bool) -> None:
    assert allowed(Hosts(None, bind), host, server) is good


@pytest.mark.parametrize(
    ("public_url", "host", "good"),
    [
        (URL, "relay.example.com", True),
        (URL, "Relay.Example.COM:443", True),
        (URL, "relay.example.com:80", True),
        (URL, "relay.example.com:8443", False),
        (URL, "evil.relay.example.com", False),
        (URL, "relay.example.com.evil.example", False),
        ("https://relay.example.com:8443", "relay.example.com:8443", True),
        ("https://relay.example.com:8443", "relay.example.com", False),
        ("http://[2001:db8::1]:8000", "[2001:db8::1]:8000", True),
        (URL, "172.17.0.2:8000", True),
        (URL, "10.9.9.9:8000", False),
        (URL, "localhost:8000", False),
    ],
)
def test_with_a_public_url_its_host_and_the_bind_count(public_url: str, host: str, good: bool) -> None:
    assert allowed(Hosts(public_url, "0.0.0.0"), host, ("172.17.0.2", 8000)) is good


@pytest.mark.parametrize(
    "host",
    [None, b"", b" ", b"a b", b"a,b", b"a/b", b"a@b", b"u:p@localhost:8000", b"localhost:", b"localhost:x", b"[::1",
     b"::1", b"[::1]x", b"[evil]:80", b"localhost:123456", b"\xff", b"a" * 400, b"localhost:8000, evil"],
)  # fmt: skip
def test_a_malformed_host_is_a_400(host: bytes | None) -> None:
    with pytest.raises(BadRequest):
        Hosts(None, "127.0.0.1").require(host, HERE)


def test_without_an_address_of_its_own_only_the_public_url_counts() -> None:
    assert allowed(Hosts(URL, "127.0.0.1"), "relay.example.com", None)
    assert not allowed(Hosts(URL, "127.0.0.1"), "localhost:8000", None)
    assert not allowed(Hosts(URL, "127.0.0.1"), "localhost:8000", ("/run/relay.sock", None))


# Plain HTTP.


def edge(trusted: str = "10.0.0.0/8", header: str = "x-forwarded-for") -> Edge:
    return Edge(trust=ProxyTrust(networks(trusted), header), public_url=URL, bind="0.0.0.0")


def outcome(
    own: Edge, method: str = "GET", path: str = "/keys", *, peer: str = "10.0.0.1", host: str = "relay.example.com",
    query: str = "", **headers: str,
) -> EmptyAnswer | None:  # fmt: skip
    raw = [(b"host", host.encode()), *((n.replace("_", "-").encode(), v.encode()) for n, v in headers.items())]
    scope = scope_of(method, path, headers=raw, client=(peer, 5), query_string=query.encode())
    facts = own.facts_of(scope)
    return own.answer(scope, facts, lambda path: frozenset())


def test_https_through_the_proxy_passes() -> None:
    assert outcome(edge(), "POST", x_forwarded_proto="https", x_forwarded_for="203.0.113.9") is None


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_plain_get_is_redirected(method: str) -> None:
    answer = outcome(edge(), method, "/a b/\r\nx: y//..", query="q=1&r=%0d", x_forwarded_proto="http")
    assert answer is not None and answer.status == 308
    location = dict(answer.headers)[b"location"]
    assert location == b"https://relay.example.com/a%20b/%0D%0Ax:%20y//..?q=1&r=%0d"


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "/@evil.example", "///evil.example"])
def test_the_redirect_leads_home(path: str) -> None:
    answer = outcome(edge(), "GET", path, x_forwarded_proto="http")
    assert answer is not None
    assert dict(answer.headers)[b"location"].startswith(b"https://relay.example.com/")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_every_other_plain_request_is_refused(method: str) -> None:
    with pytest.raises(HttpsRequired, match="replace the key"):
        outcome(edge(), method, x_forwarded_proto="http")


@pytest.mark.parametrize("peer", ["203.0.113.9", "11.0.0.1", "127.0.0.1"])
@pytest.mark.parametrize("header", ["x_forwarded_proto", "forwarded"])
def test_a_stranger_cannot_say_that_it_is_https(peer: str, header: str) -> None:
    says = {"x_forwarded_proto": "https"} if header == "x_forwarded_proto" else {"forwarded": "proto=https;for=1.1.1.1"}
    with pytest.raises(HttpsRequired, match="TRUSTED_PROXIES"):
        outcome(edge(), "GET", peer=peer, **says)


def test_a_trusted_proxy_that_names_no_scheme_is_not_sent_in_circles() -> None:
    with pytest.raises(HttpsRequired, match="name the scheme"):
        outcome(edge(), "GET", x_forwarded_for="203.0.113.9")


def test_direct_and_plain_from_elsewhere_is_redirected() -> None:
    assert outcome(edge(), "GET", peer="203.0.113.9") is not None


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_this_very_machine_may_come_directly(peer: str, method: str) -> None:
    assert outcome(edge(), method, peer=peer, host="127.0.0.1:8000") is None


@pytest.mark.parametrize("more", [{"x_forwarded_for": "127.0.0.1"}, {"via": "1.1 x"}, {"forwarded": "for=127.0.0.1"}])
def test_through_a_proxy_on_this_machine_is_not_directly(more: dict[str, str]) -> None:
    with pytest.raises(HttpsRequired):
        outcome(edge(), "POST", peer="127.0.0.1", host="127.0.0.1:8000", **more)


def test_a_tunnel_on_this_machine_is_not_directly() -> None:
    with pytest.raises(HttpsRequired):
        outcome(edge(), "POST", peer="127.0.0.1", host="relay.example.com")


@pytest.mark.parametrize("path", ["/health", "/ready"])
@pytest.mark.parametrize("host", ["10.1.2.3:8000", "relay", "anything.example"])
def test_probes_may_use_any_host_and_plain_http(path: str, host: str) -> None:
    assert outcome(edge(), "GET", path, peer="10.9.9.9", host=host) is None
    scope = scope_of("GET", path, headers=[])
    assert edge().answer(scope, edge().facts_of(scope), lambda path: frozenset()) is None


def test_a_path_beside_a_probe_is_no_probe() -> None:
    for path in ("/health/", "/health/../keys", "/HEALTH", "//health"):
        with pytest.raises(Misdirected):
            outcome(edge(), "GET", path, host="anything.example")


def test_facts_keep_socket_and_caller_apart() -> None:
    scope = scope_of(headers=[(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"https")])
    facts: RequestFacts = edge("127.0.0.1").facts_of(scope)
    assert (facts.client, facts.peer, facts.scheme) == ("203.0.113.9", "127.0.0.1", "https")
    facts = edge("10.0.0.0/8").facts_of(scope)
    assert (facts.client, facts.peer, facts.scheme) == ("127.0.0.1", "127.0.0.1", "http")


# On a real gateway.


async def test_a_rebound_name_is_misdirected(gateway: Gateway) -> None:
    for host in ("evil.example", f"evil.example:{gateway.port}", "localhost", f"localhost:{gateway.port + 1}"):
        answer = await gateway.get("/version", key=gateway.admin, headers={"Host": host})
        assert answer.expect(421)["type"] == "urn:relay:problem:misdirected-request", host
    (await gateway.get("/version", headers={"Host": f"localhost:{gateway.port}"})).expect(200)
    (await gateway.get("/health", headers={"Host": "evil.example"})).expect(200)


async def test_one_host_exactly(gateway: Gateway) -> None:
    own = b"Host: localhost:%d\r\n" % gateway.port
    for hosts in (b"", own + own, own + b"Host: evil.example\r\n", b"Host: evil.example\r\n" + own, b"Host: \r\n"):
        answer = await gateway.raw(b"GET /version HTTP/1.1\r\n" + hosts + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 400 "), hosts


async def test_plain_http_to_an_https_gateway(sqlite_target: Target, tmp_path: Path) -> None:
    options = {"RELAY_PUBLIC_URL": URL, "TRUSTED_PROXIES": "127.0.0.1"}
    async with open_gateway(sqlite_target, tmp_path / "data", **options) as gateway:
        plain = {"Host": "relay.example.com", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http"}
        moved = await gateway.get("/keys?limit=1", key=gateway.admin, headers=plain)
        assert (moved.status, moved.body) == (308, b"")
        assert moved.headers["Location"] == "https://relay.example.com/keys?limit=1"
        refused = await gateway.post("/keys", {"scopes": ["audit:read"]}, key=gateway.admin, headers=plain)
        assert refused.expect(403)["type"] == "urn:relay:problem:https-required"
        secure = {**plain, "X-Forwarded-Proto": "https"}
        (await gateway.get("/keys", key=gateway.admin, headers=secure)).expect(200)
        (await gateway.get("/keys", key=gateway.admin)).expect(200)
        made = await gateway.events("identity:key:created")
        assert len(made) == 1  # the first key alone


async def test_an_application_cannot_redirect_by_itself() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 308, "headers": [(b"location", b"https://evil.example")]})
        await send({"type": "http.response.body", "body": b""})

    heard = await ask(Stamp(app), scope_of())
    assert heard.status == 500
