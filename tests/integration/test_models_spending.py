"""What models cost: booked before they are asked, given back after, never beyond a limit, on both databases."""

import asyncio
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from relay.core.clock import DAY, MICROSECONDS, now
from relay.core.problem import ModelUnavailable, SpendingExhausted
from relay.llm.messages import Image, Question, UserMessage
from relay.llm.prices import BILLIONTHS
from relay.store.retention import Purge
from relay.store.tables.chat import model_spending
from relay.store.target import Target
from tests.model_server import PRICES, call, fail, open_model_server, raw, reset, say
from tests.models_kit import SEND, open_models, payer, question

CENT = BILLIONTHS // 100
ONE_IN = 1_000
ONE_OUT = 10_000
"""The price of a token in and out, at a dollar and ten for a million."""
SESSION = "b" * 64


def priced(**more: str) -> dict[str, str]:
    return {"AI_PRICES": PRICES, **more}


async def test_what_an_answer_took_is_what_both_budgets_have_spent(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server, open_models(target, tmp_path, server, **priced()) as asker:
        server.reply(
            say("hello", usage=(100, 20)), say("again", usage=(50, 10)), say("without a session", usage=(2, 1))
        )
        took = (await asker.ask(who=payer(session=SESSION))).usage
        assert took.cost == 100 * ONE_IN + 20 * ONE_OUT
        await asker.ask(who=payer(session=SESSION), streamed=True)
        await asker.ask(who=payer())
        whole = 150 * ONE_IN + 30 * ONE_OUT
        assert await asker.spent() == {(SESSION, SESSION): whole, ("key_1", "day"): whole + 2 * ONE_IN + ONE_OUT}
        assert asker.metric("relay_model_tokens_total", "first", "in") == 152
        assert asker.metric("relay_model_cost_dollars_total", "first") == pytest.approx(
            (whole + 2 * ONE_IN + ONE_OUT) / BILLIONTHS
        )


async def test_while_a_model_answers_the_greatest_price_is_booked(target: Target, tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with open_model_server() as server, open_models(target, tmp_path, server, **priced()) as asker:
        server.reply(say("hello", usage=(9, 1), gate=gate))
        asking = asyncio.create_task(asker.ask(question(max_tokens=500), payer(session=SESSION)))
        await server.arrived()
        booked = await asker.spent()
        assert booked[("key_1", "day")] == booked[(SESSION, SESSION)] >= 500 * ONE_OUT + 9 * ONE_IN
        gate.set()
        await asking
        assert set((await asker.spent()).values()) == {9 * ONE_IN + ONE_OUT}


async def test_of_fifty_at_once_as_many_are_asked_as_the_budget_pays_for(target: Target, tmp_path: Path) -> None:
    """Two processes race for one day; what is booked never exceeds the limit."""
    gate = asyncio.Event()
    more = priced(AI_DAILY_BUDGET_USD="0.05", AI_MAX_OUTPUT_TOKENS="500")
    async with open_model_server() as server, open_models(target, tmp_path, server, **more) as one:
        server.script = lambda _: say("ok", usage=(10, 500), gate=gate)
        asked = question("x" * 100)
        if target.kind == "postgres":
            async with open_models(target, tmp_path, server, **more) as two:
                ended = await _raced([one, two], asked, gate)
        else:
            ended = await _raced([one], asked, gate)
        price = 10 * ONE_IN + 500 * ONE_OUT
        assert ended == {"Answer": 9, "SpendingExhausted": 41}  # nine times half a cent and what goes in
        assert await one.spent() == {("key_1", "day"): 9 * price}


async def _raced(askers: list, asked: Question, gate: asyncio.Event) -> Counter[str]:
    asking = [asyncio.create_task(askers[n % len(askers)].ask(asked, payer(), streamed=n % 3 == 0)) for n in range(50)]
    while sum(task.done() for task in asking) < 41:  # the refused are done; the others wait for the gate
        await asyncio.sleep(0.05)
    assert all(limit <= 5 * CENT for limit in (await askers[0].spent()).values())
    gate.set()
    ended = await asyncio.gather(*asking, return_exceptions=True)
    return Counter(type(one).__name__ for one in ended)


async def test_a_budget_that_is_used_up_says_which_and_until_when(target: Target, tmp_path: Path) -> None:
    more = priced(AI_DAILY_BUDGET_USD="0.03", CHAT_SESSION_BUDGET_USD="0.01", AI_MAX_OUTPUT_TOKENS="900")
    async with open_model_server() as server, open_models(target, tmp_path, server, **more) as asker:
        server.script = lambda _: say("ok", usage=(50, 900))
        await asker.ask(who=payer(session=SESSION))
        with pytest.raises(SpendingExhausted) as refused:
            await asker.ask(who=payer(session=SESSION))
        assert refused.value.extensions == {"budget": "session"} and refused.value.headers == {}
        assert asker.metric("relay_model_budget_refusals_total", "session") == 1
        with pytest.raises(SpendingExhausted) as refused:  # a key that took the other's place goes on with its session
            await asker.ask(who=payer("key_2", session=SESSION))
        assert refused.value.extensions == {"budget": "session"}
        before = await asker.spent()
        for streamed in (False, True):
            await asker.ask(who=payer(session="c" * 63 + str(int(streamed))), streamed=streamed)
        with pytest.raises(SpendingExhausted) as refused:
            await asker.ask(who=payer())
        left = (DAY - now() % DAY) // MICROSECONDS
        assert refused.value.extensions["budget"] == "day"
        assert abs(refused.value.extensions["retry_after"] - left) <= 5
        assert refused.value.headers["Retry-After"] == str(refused.value.extensions["retry_after"])
        assert asker.metric("relay_model_budget_refusals_total", "day") == 1
        assert len(server.asked) == 3
        assert (await asker.spent())[(SESSION, SESSION)] == before[(SESSION, SESSION)]
        await asker.ask(who=payer("key_2"))  # another principal has a day of its own
        await asker.ask(who=payer("key_1", workspace="other"))


async def test_what_costs_nothing_writes_nothing(target: Target, tmp_path: Path) -> None:
    more = {"AI_DAILY_BUDGET_USD": "0", "CHAT_SESSION_BUDGET_USD": "0"}
    async with open_model_server() as server, open_models(target, tmp_path, server, **more) as asker:
        server.reply(say("ok"))
        assert (await asker.ask(who=payer(session=SESSION))).usage.cost == 0
        assert await asker.spent() == {}


@pytest.mark.parametrize(
    "usage",
    [None, (0, 0), {"prompt_tokens": -5, "completion_tokens": -5}, (10**12, 5), (5, 10**12), (0, 5)],
    ids=["none", "nothing", "negative", "read too much", "made too much", "read nothing"],
)
async def test_who_says_nothing_that_can_be_is_paid_the_greatest_price(
    sqlite_target: Target, tmp_path: Path, usage: object
) -> None:
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **priced()) as asker:
        server.reply(say("hello there", usage=usage))
        took = (await asker.ask(question(max_tokens=100), payer(session=SESSION))).usage
        assert took.estimated and took.cost >= 100 * ONE_OUT
        assert took.cost < 100 * ONE_OUT + 500 * ONE_IN
        assert set((await asker.spent()).values()) == {took.cost}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("usage", [(30, 60), (300, 5)], ids=["read", "made"])
async def test_who_says_fewer_tokens_than_there_are_words_is_paid_the_greatest_price(
    sqlite_target: Target, tmp_path: Path, usage: tuple[int, int], streamed: bool
) -> None:
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **priced()) as asker:
        server.script = lambda _: say("word " * 40, usage=usage)
        asked = question("word " * 200, max_tokens=100)
        took = (await asker.ask(asked, payer(session=SESSION), streamed=streamed)).usage
        assert took.estimated and took.cost > 100 * ONE_OUT + 1000 * ONE_IN
        assert set((await asker.spent()).values()) == {took.cost}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_what_a_model_has_thought_is_paid_for(sqlite_target: Target, tmp_path: Path, streamed: bool) -> None:
    """Some services count it in the total alone."""
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **priced()) as asker:
        server.reply(say("ok", usage={"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 95}))
        took = (await asker.ask(who=payer(session=SESSION), streamed=streamed)).usage
        assert (took.input_tokens, took.output_tokens, took.estimated) == (50, 45, False)
        assert set((await asker.spent()).values()) == {50 * ONE_IN + 45 * ONE_OUT}


async def test_an_answer_that_is_as_long_as_it_may_be_takes_no_more_than_was_booked(
    sqlite_target: Target, tmp_path: Path
) -> None:
    """A budget that has room for a question has room for its dearest answer, though every byte is a token."""
    text = "\x00\x7f~^" * 2000
    gate = asyncio.Event()
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **priced()) as asker:
        server.reply(say("ok", usage=(len(text) + 100, 500), gate=gate))
        asking = asyncio.create_task(asker.ask(question(text, max_tokens=500), payer(session=SESSION)))
        await server.arrived()
        booked = await asker.spent()
        gate.set()
        took = (await asking).usage
        assert not took.estimated and took.cost == (len(text) + 100) * ONE_IN + 500 * ONE_OUT
        assert all(took.cost <= amount for amount in booked.values())


async def test_who_counts_beyond_what_was_asked_for_is_believed_and_named_in_the_log_once(
    sqlite_target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is spent is spent: a model that does not keep to its bound must not look cheap."""
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **priced()) as asker:
        server.script = lambda _: say("ok", usage=(100, 350))
        for _ in range(2):
            took = (await asker.ask(question(max_tokens=100), payer(session=SESSION))).usage
            assert not took.estimated and took.cost == 100 * ONE_IN + 350 * ONE_OUT
        assert set((await asker.spent()).values()) == {2 * took.cost}
        told = [record.message for record in caplog.records if "beyond budgets" in record.message]
        assert len(told) == 1 and "100 tokens in and 350 out" in told[0]


@pytest.mark.parametrize(
    "reply", [fail(500), fail(429, retry_after="600"), fail(401), fail(400)], ids=["500", "429", "401", "400"]
)
async def test_who_says_no_is_paid_nothing(sqlite_target: Target, tmp_path: Path, reply: object) -> None:
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **priced()) as asker:
        server.reply(reply)
        with pytest.raises(ModelUnavailable):
            await asker.ask(who=payer(session=SESSION))
        assert set((await asker.spent()).values()) == {0}


@pytest.mark.parametrize("reply", [raw(b"{"), say("one two", then="reset", after=3, piece=4)], ids=["broken", "reset"])
async def test_what_may_have_been_made_stays_booked(sqlite_target: Target, tmp_path: Path, reply: object) -> None:
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **priced()) as asker:
        server.reply(reply)
        with pytest.raises(ModelUnavailable):
            await asker.ask(question(max_tokens=100), payer(session=SESSION), streamed=True)
        assert min((await asker.spent()).values()) >= 100 * ONE_OUT


async def test_an_attempt_that_was_lost_is_paid_besides_the_next(sqlite_target: Target, tmp_path: Path) -> None:
    more = priced(AI_RETRIES="1")
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **more) as asker:
        server.reply(reset(), say("ok", usage=(10, 1)))
        took = (await asker.ask(question(max_tokens=100), payer(session=SESSION))).usage
        assert took.estimated and took.cost > 100 * ONE_OUT + 10 * ONE_IN + ONE_OUT
        assert set((await asker.spent()).values()) == {took.cost}


async def test_a_stream_that_is_left_stays_booked(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **priced()) as asker:
        server.reply(say("one two three", then="hang", after=2, piece=4))
        who = payer(session=SESSION)
        async with aclosing(asker.models.stream(question(max_tokens=100), who)) as stream:
            await anext(stream)
        assert min((await asker.spent()).values()) >= 100 * ONE_OUT


async def test_pictures_and_functions_count(sqlite_target: Target, tmp_path: Path) -> None:
    """A question that may cost more than is left is not asked, though its words are few."""
    more = priced(AI_DAILY_BUDGET_USD="0.004", AI_MAX_OUTPUT_TOKENS="16")
    async with open_model_server() as server, open_models(sqlite_target, tmp_path, server, **more) as asker:
        server.script = lambda _: say("ok", call("email_send", {}))
        picture = Question((UserMessage("Look", (Image("image/png", b"x"),)),))
        with pytest.raises(SpendingExhausted):
            await asker.ask(picture, payer())
        with pytest.raises(SpendingExhausted):
            await asker.ask(question("Hi", *([SEND] * 50)), payer())
        await asker.ask(question("Hi", SEND), payer())


async def test_rows_go_when_their_time_is_over(target: Target, tmp_path: Path) -> None:
    more = priced(CHAT_SESSION_HOURS="2")
    async with open_model_server() as server, open_models(target, tmp_path, server, **more) as asker:
        server.reply(say("ok"))
        await asker.ask(who=payer(session=SESSION))
        await Purge(asker.database.writer).once(now())
        assert len(await asker.spent()) == 2
        kept = await asker.database.reader.all(select(model_spending.c.expires_at))
        assert all(DAY < row.expires_at - now() < 4 * DAY for row in kept)
        await Purge(asker.database.writer).once(now() + 4 * DAY)
        assert await asker.spent() == {}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]), st.sampled_from(["s", "t", None]), st.integers(1, 60), st.integers(0, 90)
        ),
        min_size=1,
        max_size=25,
    )
)
async def test_no_order_of_bookings_and_returns_goes_beyond_a_limit(
    target: Target, tmp_path: Path, wishes: list[tuple[str, str | None, int, int]]
) -> None:
    """What is taken by many at once, and partly given back in any order, stays between nothing and the limit."""
    more = priced(AI_DAILY_BUDGET_USD="0.0002", CHAT_SESSION_BUDGET_USD="0.0001")
    async with open_model_server() as server, open_models(target, tmp_path, server, **more) as asker:
        book = asker.models.spending
        before = await asker.spent()

        async def one(account: str, session: str | None, amount: int, took: int) -> None:
            try:
                booking = await book.book(payer(account, session), amount * 2000)
            except SpendingExhausted:
                return
            await asyncio.sleep(0)
            assert booking is not None
            await asker.database.writer.run(lambda tx: booking.settle(tx, min(took, amount) * 2000))

        await asyncio.gather(*(one(*wish) for wish in wishes))
        after = await asker.spent()
        limits = {name: 200_000 if name[1] == "day" else 100_000 for name in after}
        assert all(0 <= after[name] <= limit for name, limit in limits.items())
        assert all(after[name] >= before.get(name, 0) for name in after)
