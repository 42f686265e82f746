"""Counting in process: both algorithms against a model, whole stages, failed credentials, and bounded memory."""

import asyncio
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.limits.counters import Hit
from relay.limits.memory import BYTES_PER_SUBJECT, MAX_SUBJECTS, MemoryCounters
from tests.limits_kit import Clock, rule, someone
from tests.limits_model import FAILURES, SCHEDULES, agrees, agrees_on_failures

SRC = Path(__file__).parents[2] / "src"


@settings(max_examples=150, deadline=None)
@given(SCHEDULES)
def test_every_verdict_is_the_models(schedule: list[tuple[int, list[Hit], int, bool]]) -> None:
    clock = Clock()
    asyncio.run(agrees(MemoryCounters(clock=clock), clock, schedule))


@settings(max_examples=150, deadline=None)
@given(FAILURES)
def test_failed_credentials_are_the_models(pauses: list[int]) -> None:
    clock = Clock()
    asyncio.run(agrees_on_failures(MemoryCounters(clock=clock), clock, pauses))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=120), st.integers(1, 9))
def test_no_window_ever_holds_one_too_many(pauses: list[int], count: int) -> None:
    clock = Clock()
    counters, found = MemoryCounters(clock=clock), rule(count, 5)

    async def drive() -> list[int]:
        admitted = []
        for pause in pauses:
            clock.at += pause
            if (await counters.take([Hit(found, someone("a"))])).allowed:
                admitted.append(clock.at)
        return admitted

    admitted = asyncio.run(drive())
    for begin in admitted:
        assert sum(1 for at in admitted if begin <= at < begin + 5_000_000) <= count


async def test_what_one_rule_denies_no_other_counts() -> None:
    counters = MemoryCounters(clock=Clock())
    tight, wide = Hit(rule(1, name="tight"), someone("a")), Hit(rule(5, name="wide"), someone("a"))
    assert (await counters.take([tight, wide])).allowed
    for _ in range(20):
        denied = await counters.take([wide, tight])
        assert not denied.allowed and [quota.remaining for quota in denied.quotas] == [4, 0]
    assert (await counters.take([wide])).quotas[0].remaining == 3


async def test_a_denied_wait_is_exact_to_the_microsecond() -> None:
    clock = Clock()
    counters, hit = MemoryCounters(clock=clock), [Hit(rule(2, 60), someone("a"))]
    for _ in range(2):
        await counters.take(hit)
        clock.move(7.5)
    denied = await counters.take(hit)
    assert denied.quotas[0].wait == 45_000_000
    clock.at += 44_999_999
    assert not (await counters.take(hit)).allowed
    clock.at += 1
    assert (await counters.take(hit)).allowed


async def test_blocks_double_up_to_a_quarter_of_an_hour_and_are_forgiven() -> None:
    clock = Clock()
    counters, hit = MemoryCounters(clock=clock), Hit(rule(20, 300, "credentials", "address"), someone("a"))
    waits = []
    for _ in range(4):
        assert [await counters.fail(hit) for _ in range(20)] == [0] * 20
        waits.append(await counters.fail(hit))
        clock.at += waits[-1] - 1
        assert await counters.fail(hit) == 1
        clock.at += 1
    assert waits == [300_000_000, 600_000_000, 900_000_000, 900_000_000]
    clock.move(900)
    assert [await counters.fail(hit) for _ in range(21)] == [0] * 20 + [300_000_000]


async def test_a_full_table_evicts_nobody_who_still_counts_and_newcomers_share_one_bucket() -> None:
    clock = Clock()
    counters, found = MemoryCounters(clock=clock, most=100), rule(3)
    for number in range(100):
        await counters.take([Hit(found, someone(f"early {number}"))])
    late = [await counters.take([Hit(found, someone(f"late {number}"))]) for number in range(50)]
    assert [verdict.allowed for verdict in late] == [True] * 3 + [False] * 47
    assert (await counters.take([Hit(found, someone("early 0"))])).quotas[0].remaining == 1
    assert counters.subjects() == 101
    clock.move(60)
    assert [(await counters.take([Hit(found, someone("late 9"))])).allowed for _ in range(4)] == [True] * 3 + [False]
    assert counters.subjects() < 101


async def test_a_full_table_of_cells_is_bounded_likewise() -> None:
    clock = Clock()
    counters, found = MemoryCounters(clock=clock, most=10), rule(600)
    for number in range(50):
        await counters.take([Hit(found, someone(f"{number}"))])
    assert counters.subjects() == 11
    clock.move(61)
    for number in range(50, 60):
        assert (await counters.take([Hit(found, someone(f"{number}"))])).quotas[0].remaining == 599
    assert counters.subjects() <= 11


async def test_what_has_expired_goes_by_itself_while_others_come() -> None:
    clock = Clock()
    counters, found = MemoryCounters(clock=clock), rule(3)
    for number in range(1_000):
        await counters.take([Hit(found, someone(f"{number}"))])
        clock.move(1)
    assert counters.subjects() <= 70


_FLOOD = """
import asyncio, resource, sys
from relay.core.limit import Limit
from relay.limits.counters import Hit
from relay.limits.memory import MemoryCounters
from relay.limits.rules import Rule

RULE = Rule("global", Limit(100, 60), "address", "", "", "")


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()


async def main():
    counters = MemoryCounters()
    await counters.take([Hit(RULE, b"%032x" % 0)])
    before, peak, allowed = resident(), 0, 0
    for number in range(1_000_000):
        allowed += (await counters.take([Hit(RULE, b"%032x" % number)])).allowed
        if not number % 10_000:
            peak = max(peak, resident() - before)
    print(peak, counters.subjects(), allowed)


asyncio.run(main())
"""


def test_a_million_addresses_stay_within_the_stated_bound() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _FLOOD], env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    peak, subjects, allowed = map(int, ended.stdout.split())
    assert subjects == MAX_SUBJECTS + 1
    assert peak <= MAX_SUBJECTS * BYTES_PER_SUBJECT
    assert MAX_SUBJECTS <= allowed <= MAX_SUBJECTS + 400
