"""Whose address counts: seen from outside and from inside the trusted range, and over whatever bytes are sent."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.limits.client_address import Caller, ProxyHeader, ProxyTrust, client_address

TRUSTED = tuple(map(ip_network, ("10.0.0.0/8", "2001:db8:aaaa::/48", "127.0.0.1/32")))
PROXY = "10.0.0.1"
REAL = "203.0.113.9"
XFF: ProxyHeader = "x-forwarded-for"
RFC: ProxyHeader = "forwarded"


def xff(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]


def rfc(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"forwarded", line.encode("latin-1")) for line in lines]


def seen(peer: str, headers: list[tuple[bytes, bytes]], header: ProxyHeader = XFF) -> str:
    return client_address(peer, headers, TRUSTED, header)


# From outside the trusted range nothing counts but the socket.

FORGED = [xff("1.2.3.4"), xff("127.0.0.1"), xff("10.0.0.1"), rfc("for=1.2.3.4"), xff("1.2.3.4", "127.0.0.1")]


@pytest.mark.parametrize("headers", FORGED)
@pytest.mark.parametrize("header", [XFF, RFC])
@pytest.mark.parametrize("peer", [REAL, "2001:db8::1", "::ffff:203.0.113.9", "11.0.0.1", "9.255.255.255"])
def test_a_stranger_cannot_name_an_address(peer: str, headers: Any, header: ProxyHeader) -> None:
    assert seen(peer, headers, header) == str(seen(peer, [], header)) != "1.2.3.4"


def test_without_trusted_networks_nobody_can() -> None:
    for peer in (PROXY, "127.0.0.1", "::1"):
        assert client_address(peer, xff("1.2.3.4"), (), XFF) == peer


# From inside.


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (xff(REAL), REAL),
        (xff(f"1.2.3.4, {REAL}"), REAL),
        (xff(f"127.0.0.1, {REAL}"), REAL),
        (xff(f"1.2.3.4, {REAL}, 10.9.9.9"), REAL),
        (xff(f"1.2.3.4, {REAL}, 10.9.9.9, 2001:db8:aaaa::7"), REAL),
        (xff("1.2.3.4", REAL), REAL),
        (xff(f"1.2.3.4, {REAL}", "10.9.9.9"), REAL),
        (xff(f"10.1.1.1,{REAL}\t, 10.2.2.2"), REAL),
        (xff("10.1.1.1, 10.2.2.2"), "10.1.1.1"),
        (xff(f"{REAL}:4711"), REAL),
        (xff("[2001:db8::1]"), "2001:db8::1"),
        (xff("[2001:db8::1]:4711"), "2001:db8::1"),
        (xff('"[2001:db8::1]:4711"'), "2001:db8::1"),
        (xff("2001:DB8:0:0::1"), "2001:db8::1"),
        (xff("fe80::1%eth0"), "fe80::1"),
        (xff("[fe80::1%eth0]:1"), "fe80::1"),
        (xff(f"::ffff:{REAL}"), REAL),
        (xff(f"[::ffff:{REAL}]:99"), REAL),
        (xff(f"{REAL}, ::ffff:10.3.3.3"), REAL),
        ([], PROXY),
        (xff(""), PROXY),
        (rfc(f"for={REAL}"), PROXY),
    ],
)
def test_x_forwarded_for(headers: Any, found: str) -> None:
    assert seen(PROXY, headers) == found
    assert seen(f"::ffff:{PROXY}", headers) == found


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (rfc(f"for={REAL}"), REAL),
        (rfc(f"for=1.2.3.4, for={REAL}"), REAL),
        (rfc("for=1.2.3.4", f"for={REAL}", "for=10.1.1.1"), REAL),
        (rfc(f"For={REAL};proto=https;by=10.0.0.1"), REAL),
        (rfc(f"proto=https ; by=10.0.0.1 ; FOR={REAL}"), REAL),
        (rfc('for="[2001:db8::1]:4711"'), "2001:db8::1"),
        (rfc(f'for="{REAL}:80"'), REAL),
        (rfc(f'for="{REAL}", for="10.1.1.1"'), REAL),
        # A quote that the client opens must not swallow what the proxy appends.
        (rfc(f'for="evil, for={REAL}'), REAL),
        (rfc(f'for="a;host=", for={REAL};host="b,c"'), REAL),
        (rfc(f'for="\\", for={REAL}'), REAL),
        (rfc(f"for=127.0.0.1;for=1.2.3.4, for={REAL}"), REAL),
        (rfc(f"for={REAL};for=1.2.3.4"), PROXY),
        (rfc("by=10.0.0.1;proto=http"), PROXY),
        (xff(REAL), PROXY),
        ([], PROXY),
    ],
)
def test_forwarded(headers: Any, found: str) -> None:
    assert seen(PROXY, headers, RFC) == found


NO_ADDRESS = (
    "unknown _hidden _SEVKISEK 1.2.3 010.0.0.1 1.2.3.4.5 256.1.1.1 1.2.3.4:x 1.2.3.4:123456 [1.2.3 ] [] [:::] "
    "2001:db8::1::2 12345::1 [2001:db8::1]x localhost evil.example 0x7f.1 2130706433 * -1 1.2.3.4/8 ::1%"
).split()


@pytest.mark.parametrize("node", NO_ADDRESS[:-1])
def test_what_is_no_address_ends_the_walk_at_the_proxy_that_wrote_it(node: str) -> None:
    assert seen(PROXY, xff(f"{REAL}, {node}")) == PROXY
    assert seen(PROXY, xff(f"{REAL}, {node}, 10.5.5.5")) == "10.5.5.5"
    assert seen(PROXY, rfc(f"for={REAL}, for={node}, for=10.5.5.5"), RFC) == "10.5.5.5"


@pytest.mark.parametrize("line", ["{},", "{}, ,", "{},,"])
def test_an_empty_entry_of_a_proxy_does_not_make_the_one_before_it_count(line: str) -> None:
    assert seen(PROXY, xff(line.format("1.2.3.4"))) == PROXY
    assert seen(PROXY, rfc(line.format("for=1.2.3.4")), RFC) == PROXY


@pytest.mark.parametrize("peer", ["", "unix:", "localhost", "a" * 10_000])
def test_a_peer_without_an_address_is_nobody(peer: str) -> None:
    assert seen(peer, xff(REAL)) == ""


def test_networks_of_mapped_addresses_are_those_of_ipv4() -> None:
    mapped = (ip_network("::ffff:10.0.0.0/104"),)
    assert client_address(PROXY, xff(REAL), mapped, XFF) == REAL
    assert client_address(f"::ffff:{PROXY}", xff(REAL), mapped, XFF) == REAL


# The scheme.


@pytest.mark.parametrize(
    ("peer", "header", "headers", "scheme"),
    [
        (PROXY, XFF, [*xff(REAL), (b"x-forwarded-proto", b"https")], "https"),
        (PROXY, XFF, [(b"x-forwarded-proto", b" HTTPS ")], "https"),
        (PROXY, XFF, [(b"x-forwarded-proto", b"https, http")], "http"),
        (PROXY, XFF, [(b"x-forwarded-proto", b"https"), (b"x-forwarded-proto", b"http")], "http"),
        (PROXY, XFF, [(b"x-forwarded-proto", b"wss")], "http"),
        (PROXY, XFF, [*xff(REAL), (b"forwarded", b"proto=https")], "http"),
        (PROXY, XFF, [], "http"),
        (REAL, XFF, [*xff(REAL), (b"x-forwarded-proto", b"https")], "http"),
        (PROXY, RFC, rfc(f"for={REAL};proto=https"), "https"),
        (PROXY, RFC, rfc(f'for={REAL};proto="https"'), "https"),
        (PROXY, RFC, rfc(f"for={REAL};proto=https, for=10.1.1.1;proto=http"), "https"),
        (PROXY, RFC, rfc(f"for=1.2.3.4;proto=https, for={REAL};proto=http"), "http"),
        (PROXY, RFC, rfc(f"for=1.2.3.4;proto=https, for={REAL}"), "http"),
        (PROXY, RFC, [(b"x-forwarded-proto", b"https")], "http"),
        (REAL, RFC, rfc(f"for={REAL};proto=https"), "http"),
    ],
)
def test_the_scheme_is_what_a_trusted_proxy_saw(peer: str, header: ProxyHeader, headers: Any, scheme: str) -> None:
    trust = ProxyTrust(TRUSTED, header)
    assert trust.caller(peer, "http", headers).scheme == scheme


def test_whether_a_proxy_tells_the_scheme() -> None:
    trust = ProxyTrust(TRUSTED, XFF)
    assert trust.tells_scheme(PROXY, [(b"x-forwarded-proto", b"http")])
    assert not trust.tells_scheme(PROXY, xff(REAL))
    assert not trust.tells_scheme(REAL, [(b"x-forwarded-proto", b"http")])


# Over anything.

values = st.one_of(
    st.binary(max_size=80),
    st.lists(
        st.sampled_from(
            [b"1.2.3.4", b"10.0.0.1", b",", b'"', b";", b"for=", b"for", b"=", b"proto=https", b"[", b"]", b"::1",
             b":80", b"unknown", b"_x", b" ", b"\t", b"\\", b"::ffff:10.0.0.1", b"fe80::1%1", b"\xff", b"\x00"]
        ),
        max_size=12,
    ).map(b"".join),
)  # fmt: skip
lines = st.lists(
    st.tuples(st.sampled_from([b"x-forwarded-for", b"forwarded", b"x-forwarded-proto", b"host"]), values), max_size=6
)
peers = st.one_of(
    st.ip_addresses().map(str), st.sampled_from([PROXY, "127.0.0.1", "::ffff:10.0.0.1", "2001:db8:aaaa::1", "", "x"])
)


@given(peers, lines, st.sampled_from([XFF, RFC]))
def test_it_is_total_and_answers_an_address(peer: str, headers: Any, header: ProxyHeader) -> None:
    caller = ProxyTrust(TRUSTED, header).caller(peer, "http", headers)
    assert caller.scheme in ("http", "https")
    assert caller.address == "" or str(ip_address(caller.address)) == caller.address
    assert not caller.address.startswith("::ffff:")


@given(lines, st.sampled_from([XFF, RFC]))
def test_headers_of_a_stranger_change_nothing(headers: Any, header: ProxyHeader) -> None:
    assert ProxyTrust(TRUSTED, header).caller(REAL, "http", headers) == Caller(REAL, "http")


@given(st.lists(values, max_size=5), st.lists(st.sampled_from(["10.1.1.1", "2001:db8:aaaa::5"]), max_size=3))
def test_whatever_the_client_sends_what_proxies_append_counts(sent: list[bytes], behind: list[str]) -> None:
    """The client's own lines come first; each proxy appends to the last line, or in a line of its own."""
    for name, node in ((b"x-forwarded-for", b"%b"), (b"forwarded", b'for="%b"')):
        appended = [node % hop.encode() for hop in (REAL, *behind)]
        header: ProxyHeader = XFF if name == b"x-forwarded-for" else RFC
        own_lines = [*((name, value) for value in sent), *((name, value) for value in appended)]
        joined = [(name, b", ".join([*sent, *appended]))]
        for headers in (own_lines, joined):
            assert client_address(PROXY, headers, TRUSTED, header) == REAL
