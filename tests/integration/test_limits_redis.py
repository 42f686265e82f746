"""Counting in a real Redis: the same verdicts as in process, shared, atomic, and what happens when it goes away."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio
from hypothesis import given, settings

from relay.limits.counters import Counters, CountersUnavailable, Hit
from relay.limits.link import TIMEOUT_SECONDS, RedisLink
from relay.limits.memory import MemoryCounters
from relay.limits.redis import RedisCounters, script_text
from tests.limits_kit import Clock, patience, rule, someone
from tests.limits_model import FAILURES, SCHEDULES, agrees, agrees_on_failures
from tests.limits_model import RULES as MODEL_RULES
from tests.redis_server import RedisServer

TIME = "redis.call('TIME')"
EXPIRY = "math.ceil(microseconds / 1000) + 1"


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(url, lambda up: None)
    with patience():
        await link.start()
        try:
            yield link
        finally:
            await link.stop()


@asynccontextmanager
async def counters_at(url: str, installation: str = "") -> AsyncIterator[RedisCounters]:
    async with linked(url) as link:
        yield RedisCounters(link, installation or f"ins_{uuid.uuid4().hex}")


class RedisClock(Clock):
    """A clock that scripts read in place of the server's. Only a test's own copy of a script asks for it."""

    def __init__(self, client: redis.asyncio.Redis, name: str) -> None:
        super().__init__()
        self.client = client
        self.name = name

    def text_of(self, script: str) -> str:
        text = script_text(script)
        assert text.count(TIME) == 1 and text.count(EXPIRY) == 1
        text = text.replace(EXPIRY, "3600000")  # keys expire by the server's own clock, which this one outruns or not
        return text.replace(TIME, f"{{0, redis.call('GET', '{{{self.name}}}:clock')}}")


class _Set:
    """Counters that put the clock's time where the scripts read it, before each call."""

    def __init__(self, counters: RedisCounters, clock: RedisClock) -> None:
        self._counters = counters
        self._clock = clock

    async def _now(self) -> None:
        await self._clock.client.set(f"{{{self._clock.name}}}:clock", self._clock.at)

    async def take(self, hits):
        await self._now()
        return await self._counters.take(hits)

    async def give_back(self, hits, at):
        await self._now()
        await self._counters.give_back(hits, at)

    async def fail(self, hit):
        await self._now()
        return await self._counters.fail(hit)


@asynccontextmanager
async def driven(url: str) -> AsyncIterator[tuple[Counters, RedisClock]]:
    name = f"ins_{uuid.uuid4().hex}"
    client = redis.asyncio.Redis.from_url(url)
    try:
        async with linked(url) as link:
            clock = RedisClock(client, name)
            yield _Set(RedisCounters(link, name, text_of=clock.text_of), clock), clock
    finally:
        await client.aclose()


@settings(max_examples=40, deadline=None)
@given(schedule=SCHEDULES)
def test_every_verdict_is_the_models(redis_url: str, schedule: list[tuple[int, list[Hit], int, bool]]) -> None:
    async def drive() -> None:
        async with driven(redis_url) as (counters, clock):
            await agrees(counters, clock, schedule, most=12)

    asyncio.run(drive())


@settings(max_examples=40, deadline=None)
@given(pauses=FAILURES)
def test_failed_credentials_are_the_models(redis_url: str, pauses: list[int]) -> None:
    async def drive() -> None:
        async with driven(redis_url) as (counters, clock):
            await agrees_on_failures(counters, clock, pauses)

    asyncio.run(drive())


async def test_a_cell_at_its_edge_is_the_models(redis_url: str) -> None:
    async with driven(redis_url) as (counters, clock):
        cell = Hit(rule(301, 1, "cell"), someone("a"))
        await agrees(
            counters, clock, [(0, [cell], 310, False), (3_323, [cell], 3, True), (500_000, [cell], 160, False)]
        )


async def test_the_servers_clock_counts_and_waiting_is_enough(redis_url: str) -> None:
    async with counters_at(redis_url) as counters:
        hit = [Hit(rule(2, 1), someone("a"))]
        assert (await counters.take(hit)).allowed and (await counters.take(hit)).allowed
        denied = await counters.take(hit)
        assert not denied.allowed
        await asyncio.sleep(denied.quotas[0].wait / 1_000_000)
        assert (await counters.take(hit)).allowed


async def test_two_processes_share_a_count_and_two_installations_do_not(redis_url: str) -> None:
    hit = [Hit(rule(10), someone("a"))]
    name = f"ins_{uuid.uuid4().hex}"
    async with (
        counters_at(redis_url, name) as one,
        counters_at(redis_url, name) as two,
        counters_at(redis_url) as other,
    ):
        answers = [(await counters.take(hit)).allowed for _ in range(10) for counters in (one, two)]
        assert answers == [True] * 10 + [False] * 10
        assert (await other.take(hit)).allowed


@pytest.mark.parametrize("kind", ["memory", "redis"])
@pytest.mark.parametrize("count", [37, 300])
async def test_five_thousand_at_once_never_admit_one_too_many(kind: str, count: int, redis_url: str) -> None:
    seconds = 1
    async with counters_at(redis_url) as one, linked(redis_url) as link:
        two = RedisCounters(link, one._prefix.decode().strip("{}:"))
        memory = MemoryCounters()
        pair: list[Counters] = [one, two] if kind == "redis" else [memory, memory]
        hits = [Hit(rule(count, seconds), someone("a")), Hit(rule(10_000, 60, "wide"), someone("a"))]
        verdicts = []
        for _ in range(5):
            verdicts += await asyncio.gather(*(pair[number % 2].take(hits) for number in range(1_000)))
    admitted = sorted(verdict.at for verdict in verdicts if verdict.allowed)
    assert len(verdicts) == 5_000 and len(admitted) >= count
    for place, at in enumerate(admitted[count:]):
        assert at - admitted[place] >= seconds * 1_000_000


async def test_what_one_rule_denies_no_other_counts(redis_url: str) -> None:
    async with counters_at(redis_url) as counters:
        tight, wide, cell = (Hit(rule(most, name=f"of{most}"), someone("a")) for most in (1, 5, 900))
        assert (await counters.take([wide, cell, tight])).allowed
        for _ in range(5):
            denied = await counters.take([wide, cell, tight])
            assert not denied.allowed and [quota.remaining for quota in denied.quotas] == [4, 899, 0]


async def test_every_key_has_the_common_tag_and_expires(redis_url: str) -> None:
    name = f"ins_{uuid.uuid4().hex}"
    client = redis.asyncio.Redis.from_url(redis_url)
    async with counters_at(redis_url, name) as counters:
        await counters.take([Hit(rule(3), someone("a/b:c}")), Hit(rule(900, name="cell"), someone("a"))])
        blocked = Hit(rule(1, 300, "credentials", "address"), someone("a"))
        assert [await counters.fail(blocked) for _ in range(2)] == [0, 300_000_000]
    keys = await client.keys(f"{{{name}}}:*")
    assert len(keys) == 4 and len(await client.keys(f"*{name}*")) == 4
    assert all([0 < await client.pttl(key) <= 1_200_002 for key in keys])
    await client.aclose()


async def test_a_window_ends_to_the_microsecond(redis_url: str) -> None:
    async with driven(redis_url) as (counters, clock):
        hits = [Hit(found, someone("a")) for found in MODEL_RULES]
        schedule = [(0, hits[:1], 2, False), (999_999, hits[:1], 1, False), (1, hits[:1], 2, False)]
        await agrees(counters, clock, schedule)
        schedule = [(0, hits[1:3], 2, False), (700_000, hits[1:3], 2, False), (1_300_000, hits[1:2], 4, False)]
        await agrees(counters, clock, [(9_000_000, hits[:1], 1, False), *schedule, (700_000, hits[1:2], 3, False)])


@pytest.mark.parametrize(("count", "longest"), [(2, 60), (400, 0.15)])
async def test_a_clock_that_goes_back_admits_nobody_twice_and_blocks_nobody_for_long(
    count: int, longest: float, redis_url: str
) -> None:
    async with driven(redis_url) as (counters, clock):
        hit = [Hit(rule(count), someone("a"))]
        for _ in range(count):
            assert (await counters.take(hit)).allowed
        clock.move(-3600)
        for _ in range(3):
            denied = await counters.take(hit)
            assert not denied.allowed and denied.quotas[0].wait <= longest * 1_000_000
            clock.move(longest / 5)
        clock.move(longest * 2 / 5)
        assert (await counters.take(hit)).allowed


async def test_a_clock_that_goes_back_prolongs_no_block(redis_url: str) -> None:
    async with driven(redis_url) as (counters, clock):
        hit = Hit(rule(1, 300, "credentials", "address"), someone("a"))
        assert [await counters.fail(hit) for _ in range(2)] == [0, 300_000_000]
        clock.move(-86_400)
        assert await counters.fail(hit) == 900_000_000
        clock.move(899)
        assert await counters.fail(hit) == 1_000_000


async def test_a_loss_is_noticed_although_nobody_asks(redis_server: RedisServer) -> None:
    for how, back in (("freeze", "thaw"), ("kill", "start")):
        link = RedisLink(redis_server.url, lambda up: None)
        await link.start()
        getattr(redis_server, how)()
        await _until(link, up=False)
        getattr(redis_server, back)()
        await _until(link, up=True)
        await link.stop()


async def test_scripts_are_sent_again_to_a_server_that_forgot_them(redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    async with counters_at(redis_url) as counters:
        hit = [Hit(rule(10), someone("a"))]
        await counters.take(hit)
        await client.script_flush()
        assert (await counters.take(hit)).quotas[0].remaining == 8
    await client.aclose()


async def test_calls_of_one_turn_leave_in_one_packet(redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    async with counters_at(redis_url) as counters:
        hit = [Hit(rule(1_000_000), someone("a"))]
        await counters.take(hit)
        before = await client.info("stats")
        await asyncio.gather(*(counters.take(hit) for _ in range(200)))
        after = await client.info("stats")
    assert after["total_commands_processed"] - before["total_commands_processed"] >= 200
    # The server counts a read for each time that it found bytes to read, whatever number of commands they held.
    assert after["total_reads_processed"] - before["total_reads_processed"] <= 30
    await client.aclose()


async def _until(link: RedisLink, up: bool) -> None:
    async with asyncio.timeout(5):
        while link.up is not up:
            await asyncio.sleep(0.01)


async def _asked(counters: Counters, hits: list[Hit]) -> tuple[str, float]:
    began = time.monotonic()
    try:
        answer = "allowed" if (await counters.take(hits)).allowed else "denied"
    except CountersUnavailable:
        answer = "unavailable"
    return answer, time.monotonic() - began


@pytest.mark.parametrize("how", ["freeze", "kill"])
async def test_gone_under_load_every_call_ends_in_time_and_it_comes_back(how: str, redis_server: RedisServer) -> None:
    changes: list[bool] = []
    link = RedisLink(redis_server.url, changes.append)
    await link.start()
    counters, hit = RedisCounters(link, "ins_test"), [Hit(rule(1_000_000), someone("a"))]
    answers: list[tuple[str, float]] = []
    going = True

    async def load() -> None:
        while going:
            answers.append(await _asked(counters, hit))
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(load())
        await asyncio.sleep(0.2)
        getattr(redis_server, how)()
        await _until(link, up=False)
        down_from = len(answers)
        await asyncio.sleep(0.7)
        down_to = len(answers)
        redis_server.thaw() if how == "freeze" else redis_server.start()
        await _until(link, up=True)
        up_from = len(answers)
        await asyncio.sleep(0.2)
        going = False
    await link.stop()
    assert {answer for answer, _ in answers[:50]} == {"allowed"}
    assert {answer for answer, _ in answers[down_from:down_to]} == {"unavailable"}
    assert {answer for answer, _ in answers[up_from + 20 :]} == {"allowed"}
    assert max(seconds for _, seconds in answers) < TIMEOUT_SECONDS + 0.2
    assert max(seconds for _, seconds in answers[down_from + 20 : down_to]) < 0.1
    assert changes == [False, True]


async def test_a_first_connection_is_no_news_and_a_server_that_is_not_there_is(redis_server: RedisServer) -> None:
    changes: list[bool] = []
    link = RedisLink(redis_server.url, changes.append)
    await link.start()
    await link.stop()
    assert changes == []
    redis_server.kill()
    link = RedisLink(redis_server.url, changes.append)
    await link.start()
    assert changes == [False] and not link.up
    with pytest.raises(CountersUnavailable):
        await RedisCounters(link, "ins_test").take([Hit(rule(1), someone("a"))])
    redis_server.start()
    await _until(link, up=True)
    await link.stop()
    assert changes == [False, True]


async def test_a_stopped_link_answers_nobody(redis_url: str) -> None:
    async with linked(redis_url) as link:
        counters = RedisCounters(link, "ins_test")
    with pytest.raises(CountersUnavailable):
        await counters.take([Hit(rule(1), someone("a"))])
