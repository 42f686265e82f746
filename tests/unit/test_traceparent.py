"""``traceparent`` is read as W3C Trace Context says, and by nothing else."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.telemetry.traceparent import TraceParent, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()
REFERENCE = re.compile(rb"\A(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")

ids = st.tuples(
    st.integers(1, 2**128 - 1).map(lambda n: f"{n:032x}"), st.integers(1, 2**64 - 1).map(lambda n: f"{n:016x}")
)
near = st.builds(
    lambda where, what, text: text[:where] + what + text[where + 1 :],
    st.integers(0, len(GOOD)),
    st.binary(max_size=2),
    st.just(GOOD),
)


@given(ids=ids, flags=st.integers(0, 255))
def test_what_is_well_formed_is_read(ids: tuple[str, str], flags: int) -> None:
    trace, span = ids
    found = parse_traceparent(f"00-{trace}-{span}-{flags:02x}".encode())
    assert found == TraceParent(trace, span, sampled=flags % 2 == 1)
    assert parse_traceparent(found.text().encode()) == found


@given(value=st.one_of(st.binary(max_size=300), near))
@example(value=GOOD + b"\n")
@example(value=GOOD.replace(b"00-4", b"00-4", 1) + b" ")
@example(value=GOOD.upper())
def test_nothing_else_is(value: bytes) -> None:
    found = parse_traceparent(value)
    versioned = value[:2] not in (b"00", b"ff") and value[55:56] == b"-"
    assert (found is not None) == bool(REFERENCE.match(value[:55] if versioned else value)) or (
        versioned and found is None  # what follows has bounds of its own
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"ff-{TRACE}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-01-more".encode(),
        f"00-{TRACE.upper()}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-1".encode(),
        f"01-{TRACE}-{SPAN}-01more".encode(),
        f"01-{TRACE}-{SPAN}-01-{'x' * 300}".encode(),
        b" " + GOOD,
        b"-".join([GOOD, GOOD]),
        f"00-{TRACE}-{SPAN}-01\r\nx: y".encode(),
        "00-４bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".encode(),
    ],
)
def test_malformed_ones_are_nobody(value: bytes | None) -> None:
    assert parse_traceparent(value) is None


def test_a_later_version_may_say_more() -> None:
    assert parse_traceparent(b"cc" + GOOD[2:] + b"-what.comes.later") == TraceParent(TRACE, SPAN, sampled=True)
    assert parse_traceparent(b"cc" + GOOD[2:]) == TraceParent(TRACE, SPAN, sampled=True)
