"""Whether a caller wants the chat as JSON or as it happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.chat.stream import wants_events
from relay.core.facts import RequestFacts


def asked(*values: bytes) -> bool:
    headers = [(b"accept", value) for value in values]
    return wants_events(RequestFacts("req_0", "127.0.0.1", "POST", headers))


@pytest.mark.parametrize(
    "value",
    [
        b"text/event-stream",
        b"Text/Event-Stream",
        b"text/event-stream; charset=utf-8",
        b"text/event-stream, application/json;q=0.9",
        b"application/json;q=0.2, text/event-stream;q=0.3",
        b"text/*",
        b"*/*;q=0.1, text/event-stream",
        b"application/json;q=0, */*",
        b"text/event-stream;q=0.001",
        b"application/*;q=0.5, text/*;q=0.6",
        b"text/event-stream;q=1.000",
    ],
)
def test_a_stream_is_wanted(value: bytes) -> None:
    assert asked(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"*/*",
        b"application/json",
        b"text/html",
        b"application/json, text/event-stream",
        b"text/event-stream;q=0.5, application/json",
        b"text/event-stream;q=0",
        b"text/event-stream;q=0, */*",
        b"text/event-stream;q=2",
        b"text/event-stream;q=",
        b"text/event-stream;q=-1",
        b"text/event-stream;q=nan",
        b"text/event-stream;q=\xd9\xa1",
        b"xtext/event-stream",
        b"text/event-stream-x",
        b"text/event-stream" + b" " * 4000,
    ],
)
def test_json_is_wanted(value: bytes) -> None:
    assert not asked(value)


def test_several_headers_are_one() -> None:
    assert asked(b"application/json;q=0.1", b"text/event-stream")
    assert not asked()


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_no_header_breaks_anything(values: list[bytes]) -> None:
    assert asked(*values) in (True, False)
