"""What egress says about addresses, names and its own settings, without a socket."""

import ipaddress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relay.egress.addresses import embedded, judge, numeric
from relay.egress.own import Endpoint
from relay.egress.policy import EgressPolicy, parse_allow_entry

PUBLIC = ["93.184.216.34", "8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0",
          "198.17.255.255", "198.20.0.0", "2606:2800:220:1::1", "2620:4f:8000::1"]  # fmt: skip

SPECIAL = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1",
    "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "198.18.0.1",
    "198.19.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::1", "::127.0.0.1", "100::1",
    "2001::1", "2001:2::1", "2001:db8::1", "3fff::1", "2002:808:808::1", "64:ff9b::808:808", "64:ff9b:1::1", "fc00::1",
    "fdff::1", "fec0::1", "ff02::1", "5f00::1", "4000::1", "::ffff:10.0.0.1", "::ffff:0:8.8.8.8",
]  # fmt: skip

NEVER = [
    "169.254.169.254", "169.254.0.1", "169.254.170.2", "fe80::1", "febf::1", "100.100.100.200", "168.63.129.16",
    "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "0.0.0.0", "0.1.2.3", "::", "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "::169.254.169.254", "::ffff:0:169.254.169.254",
    # Teredo hides the client's address inverted, RFC 4380 section 4.
    "2001:0:808:808:0:0:5601:5601",
    # RFC 6052 section 2.2, prefix lengths 48, 56 and 64.
    "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:0:a9:fea9:fe00:0",
    # ISATAP, RFC 5214 section 6.1.
    "2606:2800::5efe:a9fe:a9fe",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert judge(numeric(text)).kind == "public"
    assert EgressPolicy().peer_refusal(text, 443, name=text) is None


@pytest.mark.parametrize("text", SPECIAL)
def test_special_is_closed_until_it_is_opened(text: str) -> None:
    assert judge(numeric(text)).kind == "special"
    assert EgressPolicy().peer_refusal(text, 443, name=text) is not None
    open_everything = EgressPolicy(["0.0.0.0/0", "::/0"])
    assert open_everything.peer_refusal(text, 443, name=text) is None
    assert EgressPolicy(["some.name"]).peer_refusal(text, 443, name="some.name") is None


@pytest.mark.parametrize("text", NEVER)
def test_never_is_opened_by_nothing(text: str) -> None:
    policy = EgressPolicy(["0.0.0.0/0", "::/0", "some.name"])
    assert policy.peer_refusal(text, 80, name=text) is not None
    assert policy.peer_refusal(text, 80, name="some.name") is not None


@given(st.ip_addresses())
def test_no_address_is_judged_milder_than_python_does(address: Any) -> None:
    # Python's own table, where it knows that an address is not global, must agree.
    if not numeric(str(address)).is_global:
        assert judge(numeric(str(address))).kind != "public"


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_as_strictly_as_itself(inner: ipaddress.IPv4Address) -> None:
    order = ["public", "special", "never"]
    assume(int(inner) >> 24)
    nat64 = ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | int(inner))
    six = ipaddress.IPv6Address(int(ipaddress.IPv6Address("2002::")) | int(inner) << 80)
    for outer in (nat64, six):
        assert inner in embedded(outer)
        assert order.index(judge(outer).kind) >= order.index(judge(inner).kind)
    assert judge(numeric(f"::ffff:{inner}")) == judge(inner)


@pytest.mark.parametrize(
    ("entry", "peer", "port", "name", "opens"),
    [
        ("10.0.0.5", "10.0.0.5", 80, "10.0.0.5", True),
        ("10.0.0.5", "10.0.0.6", 80, "10.0.0.6", False),
        ("10.0.0.5:8080", "10.0.0.5", 8080, "x.y", True),
        ("10.0.0.5:8080", "10.0.0.5", 8081, "x.y", False),
        ("10.0.0.0/8", "10.255.0.1", 1, "x.y", True),
        ("10.0.0.0/8:443", "10.255.0.1", 443, "x.y", True),
        ("10.0.0.0/8:443", "10.255.0.1", 444, "x.y", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", 1, "x.y", True),
        ("fd00::1", "fd00::1", 80, "x.y", True),
        ("[fd00::1]", "fd00::1", 80, "x.y", True),
        ("[fd00::1]:443", "fd00::1", 443, "x.y", True),
        ("[fd00::1]:443", "fd00::1", 80, "x.y", False),
        ("fd00::/8", "fd12::1", 80, "x.y", True),
        ("[fd00::/8]:443", "fd12::1", 80, "x.y", False),
        ("Hooks.Internal", "10.0.0.5", 80, "hooks.internal", True),
        ("hooks.internal", "10.0.0.5", 80, "other.internal", False),
        ("hooks.internal", "10.0.0.5", 80, "a.hooks.internal", False),
        ("hooks.internal", "10.0.0.5", 80, "10.0.0.5", False),
        ("hooks.internal:8443", "10.0.0.5", 8443, "hooks.internal", True),
        ("hooks.internal:8443", "10.0.0.5", 443, "hooks.internal", False),
    ],
)
def test_what_an_entry_opens(entry: str, peer: str, port: int, name: str, opens: bool) -> None:
    assert (EgressPolicy([entry]).peer_refusal(peer, port, name=name) is None) is opens


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.example.com", "a b", "http://x", "x/y", "10.0.0.1/8", "10.0.0.0/33", "x:0", "x:65536", "x:", "x:y",
     "x:٣", "[fd00::1", "[fd00::1]x", "[10.0.0.1]:80", "fd00::/8:443", "x.", "127.1", "0x7f000001", "2130706433",
     "user@host", "169.254.169.254", "169.254.0.0/16", "fe80::1", "fd00:ec2::254", "0.0.0.0", "::", "168.63.129.16",
     "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80", "ä.example"],
)  # fmt: skip
def test_a_bad_entry_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="EGRESS_ALLOW") as raised:
        parse_allow_entry(entry)
    assert repr(entry) in str(raised.value)


OWN = (Endpoint("127.0.0.1", 8000), Endpoint("db.internal", 5432), Endpoint("fd00::5", 6379), Endpoint("0.0.0.0", 9000))


def test_own_endpoints_stay_closed_whatever_is_opened() -> None:
    policy = EgressPolicy(["0.0.0.0/0", "::/0", "localhost", "db.internal", "x.y"], own=OWN)
    assert policy.peer_refusal("127.0.0.1", 8000, name="x.y") is not None
    assert policy.peer_refusal("::ffff:127.0.0.1", 8000, name="x.y") is not None
    assert policy.peer_refusal("fd00::5", 6379, name="x.y") is not None
    assert policy.peer_refusal("64:ff9b::7f00:1", 8000, name="x.y") is not None
    assert policy.refusal("http://db.internal:5432/") is not None
    assert policy.refusal("http://[::ffff:127.0.0.1]:8000/") is not None
    assert policy.peer_refusal("127.0.0.1", 8001, name="x.y") is None
    assert policy.refusal("http://db.internal:5433/") is None


def test_a_listener_on_every_address_is_closed_on_each_of_this_machine() -> None:
    policy = EgressPolicy(["127.0.0.0/8", "10.0.0.0/8"], own=OWN)
    assert policy.peer_refusal("127.0.0.1", 9000, name="x.y") is not None
    assert policy.peer_refusal("127.8.9.1", 9000, name="x.y") is not None
    assert policy.peer_refusal("10.254.253.252", 9000, name="x.y") is None


async def test_own_names_are_resolved_for_their_port_only() -> None:
    policy = EgressPolicy(own=[Endpoint("localhost", 5432)])
    assert numeric("127.0.0.1") in await policy.own_addresses(5432)
    assert await policy.own_addresses(80) == frozenset()
    own = await policy.own_addresses(5432)
    assert EgressPolicy(["x.y"]).peer_refusal("127.0.0.1", 5432, name="x.y", own=own) is not None


async def test_an_own_name_that_does_not_resolve_is_an_error() -> None:
    with pytest.raises(OSError):
        await EgressPolicy(own=[Endpoint("nowhere.invalid", 5432)]).own_addresses(5432)
