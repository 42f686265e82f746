"""Tokens: where a quotation, an address, a URL or a JSON literal begins and ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.planning.reading import read
from relay.planning.unclear import Unclear


def tokens(text: str) -> list[tuple[str, str]]:
    return [(token.kind, token.text) for token in read(text)]


@pytest.mark.parametrize(
    "text",
    [
        "a@x.example@evil.example",
        "a@x",
        "@x.example",
        "a@-x.example",
        "a@x.example/y",
        "a@x..example",
        "mail\u200bto@x.example",
    ],
)
def test_what_only_looks_like_an_address_is_none(text: str) -> None:
    assert "address" not in [kind for kind, _ in tokens(text)]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a@x.example", "a@x.example"),
        ("a.b+c@sub.x.example.", "a.b+c@sub.x.example"),
        ("<a@x.example>,", "a@x.example"),
        ("to=a@x.example", "a@x.example"),
        ("a@x.example!", "a@x.example"),
        ("o'neil@bücher.example", "o'neil@bücher.example"),
    ],
)
def test_an_address_ends_before_punctuation(text: str, address: str) -> None:
    assert ("address", address) in tokens(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://x.example/a.", "https://x.example/a"),
        ("(https://x.example/a)", "https://x.example/a"),
        ("https://x.example/a(b)", "https://x.example/a(b)"),
        ("http://[::1]", "http://[::1]"),
        ("[1]; https://x.example/?q=1;2,3!", "https://x.example/?q=1;2,3"),
        ("HTTPS://X.example:8443/#a, b", "HTTPS://X.example:8443/#a"),
    ],
)
def test_a_url_ends_before_punctuation(text: str, url: str) -> None:
    assert ("url", url) in tokens(text)


@pytest.mark.parametrize("text", ["https://", "https:///x", "https://?", "ftp://x.example", "//x.example"])
def test_what_names_no_host_is_no_url(text: str) -> None:
    assert "url" not in [kind for kind, _ in tokens(text)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"a \\"b\\" c"', 'a "b" c'),
        ('"C:\\\\new"', "C:\\new"),
        ("'don't'", "don't"),
        ("‘it’s’", "it’s"),
        ("“a “b” c”", "a “b” c"),
        ("„a“", "a"),
        ("«a»", "a"),
        ('`a "b`', 'a "b'),
        ("```\na\n```", "a"),
        ('""', ""),
    ],
)
def test_a_quotation_is_one_token(text: str, value: str) -> None:
    assert [(token.kind, token.value) for token in read(text)] == [("quote", value)]


@pytest.mark.parametrize(
    "text", ['"a', "“a", "'a", '"a"b', 'a"b"', '"a""b"', "a”", "«a", "```a``", '"a\\"', "{", '{"a": 1', "[a]"]
)
def test_what_has_no_clear_end_is_refused(text: str) -> None:
    with pytest.raises(Unclear):
        read(text)


@given(st.text(max_size=60))
def test_tokens_lie_in_order_and_leave_out_only_space(text: str) -> None:
    try:
        found = read(text)
    except Unclear:
        return
    at = 0
    for token in found:
        assert token.start >= at and not text[at : token.start].strip()
        assert text[token.start : token.end] == token.text != ""
        at = token.end
    assert not text[at:].strip()
