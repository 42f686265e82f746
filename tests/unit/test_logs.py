"""A log record is one line, whatever it holds; nothing in it can forge another or hide; no secret stands in it."""

import asyncio
import contextlib
import json
import logging
import os
import unicodedata
from collections.abc import Iterator
from typing import Any, Literal
from unittest import mock

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.crypto.api_key import new_api_key
from relay.telemetry import context
from relay.telemetry.lines import MAX_LINE, MAX_MESSAGE, plain
from relay.telemetry.logs import FIELDS, configure_logging, formatter_for
from relay.telemetry.redaction import CUT
from relay.telemetry.security import SecurityLog
from relay.telemetry.sink import Sink

KEY = new_api_key("live")
FORGERIES = [
    "\n",
    "\r",
    "\x1b[2J",
    "\x9b31m",
    "\u2028",
    "\u202e",
    "\u2066",
    "\u200b",
    "\ufeff",
    "\x00",
    "\ud800",
    "\x85",
]
nasty = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(["a", " ", '"', "\\", "{", "%s", *FORGERIES]), max_size=20).map("".join),
    st.text(st.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn")), max_size=20),
)
fields = st.dictionaries(
    st.one_of(st.sampled_from(["note", "password", "list", "traceback", "message"]), nasty),
    st.one_of(nasty, st.integers(), st.floats(), st.none(), st.booleans(), st.lists(nasty, max_size=3), st.binary()),
    max_size=4,
)


def record(message: str, *args: Any, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("relay.test", logging.INFO, __file__, 1, message, args, None)
    made.__dict__.update(extra)
    return made


def in_json(made: logging.LogRecord) -> dict[str, Any]:
    line = formatter_for("json").format(made)
    assert "\n" not in line and line.isascii() and line.isprintable()
    found: dict[str, Any] = json.loads(line)
    return found


@settings(max_examples=300)
@given(message=nasty, more=fields)
@example(message='x"}\n{"time":"now","level":"info"', more={})
def test_any_record_is_exactly_one_line_of_json(message: str, more: dict[str, Any]) -> None:
    line = formatter_for("json").format(record("%s", message, **{FIELDS: more}))
    assert line.count("\n") == 0 and line.isascii() and line.isprintable()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    # What a viewer then decodes holds nothing that moves a cursor either.
    for name, text in found.items():
        if isinstance(text, str) and name != "traceback":
            assert text.isprintable()


@settings(max_examples=300)
@given(message=nasty, more=fields)
def test_no_control_or_bidi_character_reaches_a_terminal(message: str, more: dict[str, Any]) -> None:
    text = formatter_for("console").format(record("%s", message, **{FIELDS: more}))
    first, *rest = text.split("\n")
    assert all(line.startswith("    ") for line in rest)
    if "traceback" not in more:
        assert not rest
    for char in "".join([first, *rest]):
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"), hex(ord(char))


LARGE: list[dict[str, Any]] = [
    {"params": [["x" * 30_000] * 3] * 40},
    {f"field {number}": "x" * 2000 for number in range(1000)},
    {"x" * 3_000_000: 1, "after": 2},
    {"\U0001f600" * 20_000: 1, "after": 2},
    {"\U000e0001" * 20_000: 1},
    {f"field {number}": "\U000e0001" * 2048 for number in range(8)},
    {"params": {"inner": [f"it is {KEY}" + "\x00" * 30_000] * 100}},
]


@pytest.mark.parametrize("more", LARGE, ids=range(len(LARGE)))
@pytest.mark.parametrize("message", ["hello", "\U0001f600" * 9000, "\U000e0001" * 9000])
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_is_bounded_whatever_it_holds(
    form: Literal["json", "console"], message: str, more: dict[str, Any]
) -> None:
    line = formatter_for(form).format(record("%s", message, **{FIELDS: more}))
    assert len(line.encode()) <= MAX_LINE == 65_536
    assert KEY not in line
    assert CUT in line
    if form == "json":
        found = json.loads(line)
        assert list(found)[:4] == ["time", "level", "logger", "message"]


def test_what_a_terminal_needs_more_bytes_for_is_bounded_too() -> None:
    more = {"traceback": "frame\n" * 1300, **{f"field {number}": f"{'x' * 2000}\u00e9" for number in range(27)}}
    line = formatter_for("console").format(record("hello", **{FIELDS: {**more, "last": "\u202e" * 150}}))
    assert len(line.encode()) <= MAX_LINE and "hello" in line and line.endswith(CUT)


def test_no_half_of_a_secret_is_left_where_a_line_is_cut() -> None:
    for form in ("json", "console"):
        for before in range(1270, 1400):
            line = formatter_for(form).format(record("\U0001f600" * before + f" {KEY}", **{FIELDS: {"a": "b"}}))
            assert KEY[: len("relay_sk_") + 9] not in line


def test_a_field_that_is_too_large_is_cut_and_the_others_are_kept() -> None:
    more = {"before": 1, "params": [["x" * 30_000] * 3] * 40, "note": "y" * 2000, "after": 2}
    found = in_json(record("hello", **{FIELDS: more}))
    assert found["params"] == CUT
    assert (found["message"], found["before"], found["note"], found["after"]) == ("hello", 1, "y" * 2000, 2)
    shown = formatter_for("console").format(record("hello", **{FIELDS: more}))
    assert f"before=1 params={CUT} note={'y' * 2000} after=2" in shown
    large = in_json(record("\U0001f600" * 8000, **{FIELDS: {"after": 2}}))
    assert large["message"] == "\U0001f600" * large["message"].count("\U0001f600") + CUT
    assert len(large["message"]) > 1000 and large["after"] == 2


def test_what_is_not_printable_is_seen() -> None:
    assert plain("a\x1b[31mb\u202ec\U000e0001") == "a\\u001b[31mb\\u202ec\\U000e0001"
    assert in_json(record("a\nb"))["message"] == "a\\u000ab"


def test_a_line_has_the_standard_names() -> None:
    made = record("hello %s", "you", **{FIELDS: {"status": 200, "duration_ms": 1.5}}, route="/x")
    made.created = 1_000_000_000.0625
    with context.alone(request_id="req_1", principal="key_1", workspace="default"), context.bound(attempt_id="att_1"):
        found = in_json(made)
    assert found == {
        "time": "2001-09-09T01:46:40.062Z",
        "level": "info",
        "logger": "relay.test",
        "message": "hello you",
        "request_id": "req_1",
        "principal": "key_1",
        "workspace": "default",
        "attempt_id": "att_1",
        "route": "/x",
        "status": 200,
        "duration_ms": 1.5,
    }
    assert list(found)[:4] == ["time", "level", "logger", "message"]


def test_secrets_are_hidden_by_pattern_and_by_name() -> None:
    more = {
        "password": "x",
        "apiKey": 12,
        "headers": [("Authorization", "Bearer abc"), ("Accept", "*/*")],
        "params": {"note": f"it is {KEY}", "inner": {"client_secret": ["x"]}},
        "note": f"it is {KEY}",
        "at": 1.0,
    }
    found = in_json(record(f"a key: {KEY}, postgresql://u:secret-1@db/x", **{FIELDS: more}))  # pragma: allowlist secret
    assert found["message"] == "a key: relay_sk_***, postgresql://u:***@db/x"
    assert found["password"] == found["apiKey"] == "***"
    assert found["headers"] == [["Authorization", "***"], ["Accept", "*/*"]]
    assert found["params"] == {"note": "it is relay_sk_***", "inner": {"client_secret": "***"}}
    assert found["note"] == "it is relay_sk_***" and found["at"] == 1.0
    shown = formatter_for("console").format(record(f"a key: {KEY}", **{FIELDS: more}))
    assert KEY not in shown and "relay_sk_***" in shown


def test_an_exception_is_its_types_and_frames() -> None:
    def inner() -> None:
        raise KeyError(f"inner {KEY}\n  File lookalike")

    try:
        try:
            inner()
        except KeyError as error:
            raise ValueError("outer text\n  of the caller") from error
    except ValueError as error:
        made = logging.LogRecord(
            "relay", logging.ERROR, "", 0, "broke", None, (type(error), error, error.__traceback__)
        )
    found = in_json(made)
    assert found["error"] == "ValueError"
    lines = found["traceback"].split("\n")
    assert "ValueError" in lines and "KeyError" in lines and any(line.endswith("in inner") for line in lines)
    for said in (found["traceback"], formatter_for("console").format(made)):
        assert "lookalike" not in said and "of the caller" not in said and KEY not in said
        assert "test_logs.py" in said


def test_a_long_message_is_cut_and_its_secret_with_it() -> None:
    found = in_json(record("x" * (MAX_MESSAGE - 20) + f" {KEY} " + "y" * 100_000))
    assert len(found["message"]) < MAX_MESSAGE + 20 and KEY[15:30] not in found["message"]


@contextlib.contextmanager
def piped() -> Iterator[int]:
    """Standard error as a pipe, and afterwards the root logger as it was before."""
    root, (read, write) = logging.getLogger(), os.pipe()
    os.set_blocking(read, False)
    before, level = root.handlers[:], root.level
    root.handlers[:] = []
    with os.fdopen(write, "w") as stream, mock.patch("sys.stderr", stream):
        yield read
        for handler in root.handlers[:]:
            root.removeHandler(handler)
            handler.close()
    os.close(read)
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("by_thread", [False, True])
def test_every_logger_goes_the_same_way(by_thread: bool) -> None:
    with piped() as pipe:
        configure_logging("info", by_thread=by_thread)
        logging.getLogger("somebody.else").warning("of a library: %s", KEY)
        structlog.get_logger("relay.structured").warning("structured", token=KEY, count=2)
        logging.getLogger("relay.broken").error("%d is no number", "this")
        logging.getLogger("relay.quiet").debug("not at this level")
        logging.getLogger("uvicorn.error").info("chatter")
        for handler in logging.getLogger().handlers:
            handler.flush()
        lines = [json.loads(line) for line in os.read(pipe, 65536).decode().splitlines()]
    assert [line["message"] for line in lines[:2]] == ["of a library: relay_sk_***", "structured"]
    assert lines[1]["token"] == "***" and lines[1]["count"] == 2 and lines[1]["logger"] == "relay.structured"
    assert lines[2]["logger"] == "relay.telemetry" and "TypeError" in lines[2]["message"] and len(lines) == 3


@pytest.mark.parametrize(("form", "is_json"), [("auto", True), ("json", True), ("console", False)])
def test_the_form_is_chosen(form: Any, is_json: bool) -> None:
    with piped() as pipe:
        configure_logging("info", form)
        logging.getLogger("relay").info("hello")
        assert os.read(pipe, 65536).startswith(b"{") == is_json


def test_a_reader_that_stops_costs_lines_and_no_time() -> None:
    read, write = os.pipe()
    sink = Sink(write, lambda number: f"{number} dropped", most=200_000)
    line = "x" * 999
    for _ in range(2_000):  # two megabytes: the pipe takes 64 KiB, and nobody reads
        sink.put(line)
    assert not sink.flush(0.2)
    os.set_blocking(read, False)
    found = b""
    while not sink.flush(0.01) or b"dropped" not in found:
        with contextlib.suppress(BlockingIOError):
            found += os.read(read, 65536)
    kept, (note,) = found.count(b"x" * 999 + b"\n"), [part for part in found.split(b"\n") if b"dropped" in part]
    assert 0 < kept < 2_000 and int(note.split()[0]) == 2_000 - kept
    sink.put("after")
    assert sink.flush(30)
    assert os.read(read, 65536) == b"after\n"
    os.close(write)
    os.close(read)


def test_a_sink_whose_reader_is_gone_raises_nothing() -> None:
    read, write = os.pipe()
    sink = Sink(write, lambda number: f"{number} dropped")
    os.close(read)
    sink.put("x")
    assert sink.flush(30)
    sink.put("y")
    sink.close()
    os.close(write)


def test_strangers_cannot_fill_a_disk_with_refusals(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay.security")
    security = SecurityLog(lines=3)
    for number in range(50):
        security.say("auth_failure", "refused", client=f"192.0.2.{number}")
    security.say("kill_switch", "on")
    security.close()
    said = [getattr(found, FIELDS) for found in caplog.records]
    assert [line.get("client") for line in said[:3]] == ["192.0.2.0", "192.0.2.1", "192.0.2.2"]
    assert said[3:] == [{"kind": "kill_switch"}, {"kind": "auth_failure", "suppressed": 47}]


def test_the_next_minute_tells_what_the_last_one_kept_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay.security")
    security = SecurityLog(lines=1, window_seconds=0.0)
    security.say("a", "first")
    security.say("a", "second")  # the window is over at once
    assert [found.message for found in caplog.records] == ["first", "second"]


async def test_what_was_kept_back_is_told_although_nothing_follows(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay.security")
    security = SecurityLog(lines=1, window_seconds=0.2)
    for _ in range(5):
        security.say("a", "x")
    async with asyncio.timeout(60):
        while len(caplog.records) < 2:
            await asyncio.sleep(0.01)
    assert getattr(caplog.records[1], FIELDS) == {"kind": "a", "suppressed": 4}
