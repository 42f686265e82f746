"""The one reading of an outbound URL."""

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from relay.egress.target import BadTarget, parse_target

GOOD = {
    "http://example.com": "http://example.com/",
    "HTTPS://Example.COM/A?b=C": "https://example.com/A?b=C",
    "https://example.com:443/": "https://example.com/",
    "https://example.com:8443": "https://example.com:8443/",
    "http://example.com:/x": "http://example.com/x",
    "http://example.com?q=1": "http://example.com/?q=1",
    "http://xn--mnchen-3ya.de/": "http://xn--mnchen-3ya.de/",
    "http://a_b.example/%7Euser/../x//y;p=1": "http://a_b.example/%7Euser/../x//y;p=1",
    "http://example.com/?filter[a]=b/c?d": "http://example.com/?filter[a]=b/c?d",
    "http://93.184.216.34/": "http://93.184.216.34/",
    "http://[2606:2800:0220:0001::1]:81/": "http://[2606:2800:220:1::1]:81/",
    "http://1.example/": "http://1.example/",
}


@pytest.mark.parametrize("url", GOOD)
def test_accepted(url: str) -> None:
    assert parse_target(url).url == GOOD[url]


BAD = [
    "", "example.com", "//example.com", "ftp://example.com", "file:///etc/passwd", "gopher://x/", "http:/x", "http://",
    "http:///x", "http://u@example.com/", "http://u:p@example.com/", "http://:@x/", "http://example.com@127.0.0.1/",
    "http://example.com#f", "http://example.com/#", "http://example.com\\@127.0.0.1/", "http://exa mple.com/",
    "http://example.com/\r\nX: y", "http://example.com/\t", "http://example.com/a b", "http://example.com/ä",
    "http://example.com/%zz", "http://example.com/%1", "http://example.com/<x>", "http://münchen.de/",
    "http://example.com:0/", "http://example.com:65536/", "http://example.com:999999/", "http://example.com:8a/",
    "http://example.com:80:80/", "http://example.com./", "http://.example.com/", "http://exa..mple.com/",
    "http://-x.com/", "http://x-.com/", "http://ex%61mple.com/", "http://[::1", "http://::1/", "http://[fe80::1%25eth0]/",
    "http://[::1]x/", "http://[]/", "http://[127.0.0.1]/", "http://[v1.x]/", "http://" + "a" * 64 + ".com/",
    "http://" + "a." * 130 + "com/", "http://example.com/" + "a" * 8192,
]  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadTarget) as raised:
        parse_target(url)
    assert len(url) < 12 or url not in str(raised.value)


@pytest.mark.parametrize(
    "host",
    ["::ffff:127.0.0.1", "::FFFF:7f00:1", "::ffff:7f00:0001", "0:0:0:0:0:ffff:127.0.0.1", "::ffff:0.0.0.0",
     "0000:0000:0000:0000:0000:FFFF:5db8:d822", "::ffff:93.184.216.34"],
)  # fmt: skip
def test_an_ipv4_address_has_one_spelling(host: str) -> None:
    with pytest.raises(BadTarget, match="IPv4-mapped"):
        parse_target(f"http://[{host}]/")


@given(st.ip_addresses(v=4).map(int), st.sampled_from(["exploded", "compressed"]))
def test_no_ipv6_spelling_reaches_an_ipv4_address_under_another_name(value: int, form: str) -> None:
    with pytest.raises(BadTarget):
        parse_target(f"http://[{getattr(IPv6Address(0xFFFF << 32 | value), form)}]:8443/x")


PATH = st.text(alphabet="abcXYZ019-._~!$&'()*+,;=:@/", max_size=40)


@given(path=PATH, query=PATH)
def test_the_wire_carries_the_very_path_and_query_that_were_checked(path: str, query: str) -> None:
    target = parse_target(f"http://example.com/{path}%2F%c3?{query}")
    assert URL(target.url, encoded=True).raw_path_qs == f"/{path}%2F%c3" + (f"?{query}" if query else "")
    assert parse_target(target.url) == target


@given(st.text(max_size=60), st.text(max_size=30))
def test_what_is_accepted_is_read_the_same_by_the_client(authority: str, rest: str) -> None:
    try:
        target = parse_target(f"http://{authority}/{rest}")
    except BadTarget:
        return
    url = URL(target.url, encoded=True)
    assert (url.scheme, url.raw_host, url.port) == (target.scheme, target.host, target.port)
    assert url.raw_user is None and url.raw_password is None
