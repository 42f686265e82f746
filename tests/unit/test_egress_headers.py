"""Which request headers egress lets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.egress.headers import check_headers
from relay.egress.http import wire_headers

REFUSED = """Host Content-Length Transfer-Encoding Connection TE Trailer Upgrade Keep-Alive Proxy-Authorization
Proxy-Connection proxy-anything Expect HTTP2-Settings Accept-Encoding Via""".split()


@pytest.mark.parametrize("name", REFUSED)
def test_framing_and_hop_by_hop_headers_are_refused_in_any_case(name: str) -> None:
    for spelling in (name, name.lower(), name.upper()):
        with pytest.raises(ValueError):
            check_headers({spelling: "x"})


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ä", "a\0", " a", "a ", ":path", "Host ", "a" * 129])
def test_a_name_must_be_a_token(name: str) -> None:
    with pytest.raises(ValueError, match="not a token"):
        check_headers({name: "x"})


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "a\0b", "ä", " a", "a ", "\x7f", "\t"])
def test_a_value_must_be_printable_and_is_not_repeated_in_the_error(value: str) -> None:
    with pytest.raises(ValueError, match="x-secret") as raised:
        check_headers({"X-Secret": value})
    assert value not in str(raised.value) or len(value) < 3


def test_two_spellings_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        check_headers({"X-A": "1", "x-a": "2"})


def test_number_and_size_are_bounded() -> None:
    check_headers({f"x-{number}": "" for number in range(64)})
    with pytest.raises(ValueError):
        check_headers({f"x-{number}": "" for number in range(65)})
    with pytest.raises(ValueError):
        check_headers({"x": "a" * 16384})


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4))
def test_nothing_accepted_can_end_a_line(headers: dict[str, str]) -> None:
    try:
        check_headers(headers)
    except ValueError:
        return
    for text in (*headers, *headers.values()):
        assert text.isascii() and not set(text) & set("\r\n\0\x0b\x0c\x85")


def test_a_caller_may_name_its_own_agent_and_nothing_slips_past_the_check_by_it() -> None:
    assert wire_headers({"User-Agent": "mine"})["user-agent"] == "mine"
    assert wire_headers({})["accept-encoding"] == "identity"
    with pytest.raises(ValueError):
        wire_headers({"User-Agent": "mine\r\nHost: x"})
    with pytest.raises(ValueError):
        wire_headers({"Accept-Encoding": "gzip"})
