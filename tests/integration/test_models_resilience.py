"""Models that hang, fail, are too busy or too much in demand: what is asked again, given up, or never begun."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from relay.core.problem import ModelUnavailable
from relay.llm import failure
from relay.llm.breaker import FAILURES
from relay.llm.messages import (
    Piece,
)
from relay.store.target import Target
from tests.model_server import (
    FREE,
    MODEL,
    PRICES,
    AnyReply,
    ModelServer,
    fail,
    flood,
    hang,
    open_model_server,
    raw,
    reset,
    say,
)
from tests.models_kit import PAYER, Asker, open_models, question

WAYS = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
SHORT = {"AI_TIMEOUT_SECONDS": "2", "AI_IDLE_SECONDS": "1"}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with open_model_server() as opened:
        yield opened


@pytest.fixture
async def asker(server: ModelServer, sqlite_target: Target, tmp_path: Path) -> AsyncIterator[Asker]:
    async with open_models(sqlite_target, tmp_path, server) as opened:
        yield opened


@WAYS
async def test_a_service_that_never_begins_is_left_alone_in_time(
    server: ModelServer, sqlite_target: Target, tmp_path: Path, streamed: bool
) -> None:
    server.reply(hang())
    async with open_models(sqlite_target, tmp_path, server, **SHORT) as asker:
        with pytest.raises(ModelUnavailable, match="did not answer in time"):
            await asker.ask(streamed=streamed)
        assert len(server.asked) == 1  # nobody knows what it has made, so nobody asks again
        await server.gone()


@WAYS
async def test_a_service_that_falls_silent_is_left_alone_long_before_its_time_is_over(
    server: ModelServer, sqlite_target: Target, tmp_path: Path, streamed: bool
) -> None:
    begun = say("one two three", then="hang", after=2, piece=4)
    server.reply(begun if streamed else raw(b'{"id": "1", ', then="hang"))
    more = {"AI_TIMEOUT_SECONDS": "600", "AI_IDLE_SECONDS": "1"}
    async with open_models(sqlite_target, tmp_path, server, **more) as asker, asyncio.timeout(60):
        with pytest.raises(ModelUnavailable, match="did not answer in time"):
            await asker.ask(streamed=streamed)
        await server.gone()


async def test_a_drip_that_is_never_silent_ends_with_the_time_of_the_whole(
    server: ModelServer, sqlite_target: Target, tmp_path: Path
) -> None:
    server.reply(say("x" * 1000, piece=1, pause=0.1))
    async with open_models(sqlite_target, tmp_path, server, **SHORT) as asker:
        with pytest.raises(ModelUnavailable, match="did not answer in time"):
            await asker.ask(streamed=True)
        assert 1 <= len(asker.pieces) < 100


@WAYS
@pytest.mark.parametrize(
    "first", [fail(429, retry_after="0"), fail(500), fail(503), reset()], ids=["429", "500", "503", "reset"]
)
async def test_what_had_not_begun_is_asked_again(
    server: ModelServer, sqlite_target: Target, tmp_path: Path, first: AnyReply, streamed: bool
) -> None:
    server.reply(first, say("there"))
    async with open_models(sqlite_target, tmp_path, server, AI_RETRIES="1") as asker:
        assert (await asker.ask(streamed=streamed)).text == "there"
        assert len(server.asked) == 2
        assert asker.metric("relay_model_retries_total", "first") == 1


async def test_retries_end(server: ModelServer, sqlite_target: Target, tmp_path: Path) -> None:
    server.script = lambda _: fail(500)
    async with open_models(sqlite_target, tmp_path, server, AI_RETRIES="2") as asker:
        with pytest.raises(ModelUnavailable):
            await asker.ask()
        assert len(server.asked) == 3


@pytest.mark.parametrize(
    "reply", [say("one two", then="reset", after=3, piece=4), fail(401), fail(400)], ids=["begun", "401", "400"]
)
async def test_what_had_begun_or_is_plainly_refused_is_not_asked_again(
    server: ModelServer, sqlite_target: Target, tmp_path: Path, reply: AnyReply
) -> None:
    server.reply(reply, say("never"))
    async with open_models(sqlite_target, tmp_path, server, AI_RETRIES="2") as asker:
        with pytest.raises(ModelUnavailable):
            await asker.ask(streamed=True)
        assert len(server.asked) == 1


def test_a_retry_after_is_honoured_within_bounds() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    assert 5 < (failure.seconds_of(soon) or 0) <= 8
    assert failure.seconds_of("Fri, 01 Jan 1999 00:00:00 GMT") == 0.0
    assert failure.seconds_of("7") == 7.0
    assert failure.seconds_of("9" * 40) == 3600.0
    for nonsense in (None, "", "-1", "1.5", "soon", "1e400", "9" * 100, "²", "Fri, 99 Foo 1999"):
        assert failure.seconds_of(nonsense) is None
    assert failure.wait_before(1, 3.0) == 3.0
    assert failure.wait_before(1, failure.LONGEST_WAIT + 1) is None
    assert all(0.25 <= (failure.wait_before(1, None) or 0) <= 0.5 for _ in range(50))
    assert all(4.0 <= (failure.wait_before(60, None) or 0) <= 8.0 for _ in range(50))


async def test_whoever_must_come_back_much_later_hears_when(
    server: ModelServer, sqlite_target: Target, tmp_path: Path
) -> None:
    server.reply(fail(429, retry_after="120"), say("never"))
    async with open_models(sqlite_target, tmp_path, server, AI_RETRIES="2") as asker:
        with pytest.raises(ModelUnavailable) as refused:
            await asker.ask()
    assert refused.value.headers["Retry-After"] == "120"
    assert len(server.asked) == 1


@WAYS
@pytest.mark.parametrize(
    "first",
    [fail(500), fail(401), fail(400), raw(b"{"), reset(), flood("json")],
    ids=["500", "401", "400", "malformed", "reset", "flood"],
)
async def test_the_fallback_answers_for_a_model_that_does_not(
    server: ModelServer, sqlite_target: Target, tmp_path: Path, first: AnyReply, streamed: bool
) -> None:
    server.script = lambda asked: first if asked.model == MODEL else say("from the other")
    more = {"AI_FALLBACK_MODEL": "second-1", "AI_PRICES": f"{FREE},second-1=0/0"}
    async with open_models(sqlite_target, tmp_path, server, **more) as asker:
        answer = await asker.ask(streamed=streamed)
        assert (answer.text, answer.model) == ("from the other", "second-1")
        assert [(row.outcome, row.target) for row in await asker.events()] == [("answered", "second-1")]
        assert asker.metric("relay_model_requests_total", "fallback", "answered") == 1


async def test_after_the_first_piece_no_other_model_is_asked(
    server: ModelServer, sqlite_target: Target, tmp_path: Path
) -> None:
    server.script = lambda asked: say("one two three", then="reset", after=3, piece=4)
    more = {"AI_FALLBACK_MODEL": "second-1", "AI_PRICES": f"{FREE},second-1=0/0"}
    async with open_models(sqlite_target, tmp_path, server, **more) as asker:
        with pytest.raises(ModelUnavailable):
            await asker.ask(streamed=True)
        assert asker.pieces == ["one ", "two "]
        assert [asked.model for asked in server.asked] == [MODEL]


async def test_a_model_that_fails_time_and_again_is_left_alone_and_tried_with_one_question(
    server: ModelServer, sqlite_target: Target, tmp_path: Path
) -> None:
    async with open_models(sqlite_target, tmp_path, server, AI_PRICES=PRICES) as asker:
        await _fails_and_recovers(asker, server)


async def _fails_and_recovers(asker: Asker, server: ModelServer) -> None:
    server.script = lambda _: fail(500)
    for _ in range(FAILURES):
        with pytest.raises(ModelUnavailable):
            await asker.ask()
    assert asker.metric("relay_model_breaker", "first") == 2
    with pytest.raises(ModelUnavailable, match="has failed too often") as resting:
        await asker.ask()
    assert 1 <= int(resting.value.headers["Retry-After"]) <= 10
    assert len(server.asked) == FAILURES
    breaker = asker.models._candidates[0].breaker
    assert breaker._opened is not None
    breaker._opened -= 1000  # the pause is over
    gate = asyncio.Event()
    server.script = lambda _: say("well again", gate=gate)
    trying = [asyncio.create_task(asker.ask()) for _ in range(4)]  # all are let in, and book, at the same time
    await server.arrived(FAILURES + 1)
    done, waiting = await asyncio.wait(trying, return_when=asyncio.FIRST_COMPLETED)
    while len(waiting) > 1:
        more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        done |= more
    assert all("has failed too often" in str(task.exception()) for task in done)
    gate.set()
    assert (await waiting.pop()).text == "well again"
    assert asker.metric("relay_model_breaker", "first") == 0
    assert len(server.asked) == FAILURES + 1


VENDOR_SECRET = "sk-" + "Q7zX" * 8
TELLING = "You sent \n\x1b[31mnonsense with " + VENDOR_SECRET + " " + "y" * 300


@WAYS
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429])
async def test_the_log_says_where_why_and_in_which_words_a_model_refuses_and_callers_do_not_hear_it(
    asker: Asker, server: ModelServer, caplog: pytest.LogCaptureFixture, status: int, streamed: bool
) -> None:
    error = {"message": TELLING, "type": "never-shown", "code": "no_such_thing"}
    server.reply(raw({"error": error, "more": "never-shown"}, status=status))
    with pytest.raises(ModelUnavailable) as refused:
        await asker.ask(streamed=streamed)
    (line,) = [one for one in caplog.records if one.name == "relay.llm"]
    told = line.getMessage()
    assert line.levelname == "WARNING"
    assert f"(HTTP {status} from 127.0.0.1:{server.port}): You sent \\u001b[31mnonsense with sk-***" in told
    words = told.partition("): ")[2]
    assert len(words) == 200 and words.endswith("y…") and told.isprintable()
    assert VENDOR_SECRET[3:] not in caplog.text and "never-shown" not in caplog.text
    problem = str(refused.value) + str(refused.value.extensions)
    assert "You sent" not in problem and "127.0.0.1" not in problem and str(status) not in problem


async def test_a_key_that_a_service_repeats_is_not_in_the_log(
    server: ModelServer, sqlite_target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.key = "plain-words-for-a-key"
    given = server.settings
    server.key = None
    server.reply(fail(401, f"Incorrect API key provided: {given['OPENAI_API_KEY']}."))
    async with open_models(sqlite_target, tmp_path, server, **given) as asker:
        with pytest.raises(ModelUnavailable):
            await asker.ask()
    assert "): Incorrect API key provided: ***." in caplog.text
    assert "plain-words" not in caplog.text


async def test_of_a_service_that_fails_or_is_away_the_log_says_where(
    server: ModelServer, sqlite_target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.reply(fail(500, "inner-words"))
    async with open_models(sqlite_target, tmp_path, server) as asker:
        with pytest.raises(ModelUnavailable):
            await asker.ask()
    assert f"says that it has failed (HTTP 500 from 127.0.0.1:{server.port})" in caplog.text
    assert "inner-words" not in caplog.text
    server.scheme, server.port = "http", 1  # nobody listens there
    async with open_models(sqlite_target, tmp_path, server) as asker:
        with pytest.raises(ModelUnavailable):
            await asker.ask()
    assert "the first model cannot be reached (127.0.0.1:1)" in caplog.text


async def test_a_breaker_that_opens_and_closes_is_in_the_log_once_each(
    asker: Asker, server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = asker.models._candidates[0].breaker
    server.script = lambda _: fail(500)
    for _ in range(FAILURES + 2):
        if breaker._opened is not None:
            breaker._opened -= 1000  # the pause is over
        with pytest.raises(ModelUnavailable):
            await asker.ask()
    assert caplog.text.count("its breaker has opened") == 1 and "closed" not in caplog.text
    assert breaker._opened is not None
    breaker._opened -= 1000
    server.script = lambda _: say("well again")
    for _ in range(2):
        await asker.ask()
    assert caplog.text.count("its breaker has closed") == 1


async def test_questions_that_a_model_refuses_do_not_take_it_from_others(asker: Asker, server: ModelServer) -> None:
    server.script = lambda asked: fail(400) if asked.said == "bad" else say("ok")
    for _ in range(FAILURES * 2):
        with pytest.raises(ModelUnavailable):
            await asker.ask("bad")
    assert (await asker.ask("good")).text == "ok"


async def test_so_many_answers_at_once_and_as_many_again_wait(
    server: ModelServer, sqlite_target: Target, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    server.script = lambda _: say("ok", gate=gate)
    async with open_models(sqlite_target, tmp_path, server, AI_CONCURRENCY="3") as asker:
        asking = [asyncio.create_task(asker.ask(streamed=n % 2 == 0)) for n in range(6)]
        await server.arrived(3)
        with pytest.raises(ModelUnavailable, match="As many questions wait"):
            await asker.ask()
        assert asker.metric("relay_model_in_flight") == 3
        gate.set()
        assert [answer.text for answer in await asyncio.gather(*asking)] == ["ok"] * 6
        assert server.most_active == 3
        assert asker.metric("relay_model_in_flight") == 0


@WAYS
async def test_who_is_cancelled_closes_the_connection(asker: Asker, server: ModelServer, streamed: bool) -> None:
    server.reply(say("one two three", then="hang", after=2, piece=4) if streamed else hang())
    asking = asyncio.create_task(asker.ask(streamed=streamed))
    await server.arrived()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await server.gone()
    assert [row.outcome for row in await asker.events()] == ["cancelled"]
    assert asker.metric("relay_model_in_flight") == 0


async def test_who_closes_a_stream_closes_the_connection(asker: Asker, server: ModelServer) -> None:
    server.reply(say("one two three", then="hang", after=2, piece=4))
    async with aclosing(asker.models.stream(question(), PAYER)) as stream:
        assert await anext(stream) == Piece("one ")
    await server.gone()
    assert [row.outcome for row in await asker.events()] == ["cancelled"]


async def test_who_reads_slowly_slows_the_service_down(asker: Asker, server: ModelServer) -> None:
    """Pieces that nobody takes stay with the service: they are buffered nowhere but in sockets, which are bounded."""
    server.reply(flood("stream", megabytes=64))
    async with aclosing(asker.models.stream(question(), PAYER)) as stream:
        for _ in range(10):
            await anext(stream)
        before = -1
        while server.sent != before:  # until the service can send no more
            before = server.sent
            await asyncio.sleep(0.3)
        assert server.sent < 24 * 1024 * 1024


async def test_a_hundred_streams_at_once(server: ModelServer, sqlite_target: Target, tmp_path: Path) -> None:
    gate = asyncio.Event()
    server.script = lambda asked: say(f"answer to {asked.said}", gate=gate, after=1)
    async with open_models(sqlite_target, tmp_path, server) as asker:

        async def one(number: int) -> str:
            return "".join(
                [
                    item.text
                    async for item in asker.models.stream(question(str(number)), PAYER)
                    if isinstance(item, Piece)
                ]
            )

        asking = [asyncio.create_task(one(number)) for number in range(100)]
        await server.arrived(100)
        assert server.active == 100
        gate.set()
        assert await asyncio.gather(*asking) == [f"answer to {number}" for number in range(100)]
