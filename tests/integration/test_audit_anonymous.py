import asyncio

import pytest

from relay.audit import anonymous
from relay.audit.anonymous import OTHER, AnonymousFailures, FailureCount, failure_counts
from relay.core.clock import DAY, MINUTE, now
from relay.store.target import Target
from tests.audit_kit import all_rows, open_kit, own


async def test_failures_are_added_up_and_recorded_nowhere_else(target: Target) -> None:
    async with open_kit(target) as kit:
        first, second = AnonymousFailures(kit.database.writer), AnonymousFailures(kit.database.writer)
        for number in range(30):
            first.count(reason="missing_token", route="/audit", client=f"192.0.2.{number}")
            second.count(reason="missing_token", route="/audit", client="192.0.2.1")
        first.count(reason="invalid_token", route="/keys", client="2001:db8::1")
        await asyncio.gather(first.flush(), second.flush())
        second.count(reason="missing_token", route="/audit", client="192.0.2.1")
        await second.flush()
        await second.flush()
        counts = await failure_counts(kit.database.reader, 100)
    # A minute may end in between.
    totals: dict[tuple[str, str, str], int] = {}
    for found in counts:
        assert found.minute % MINUTE == 0 and 0 <= now() - found.minute < 3 * MINUTE
        key = (found.reason, found.route, found.block)
        totals[key] = totals.get(key, 0) + found.count
    assert totals == {
        ("missing_token", "/audit", "192.0.2.0/24"): 61,
        ("invalid_token", "/keys", "2001:db8::/48"): 1,
    }
    assert all_rows(target) == []


async def test_a_crowd_of_strangers_fills_a_bounded_number_of_rows(target: Target) -> None:
    async with open_kit(target) as kit:
        failures = AnonymousFailures(kit.database.writer)
        for flush in range(3):
            for number in range(1_000):
                client = f"10.{number // 250}.{number % 250}.{flush}"
                failures.count(reason="missing_token", route="/audit", client=client)
            await failures.flush()
        counts = await failure_counts(kit.database.reader, 10_000)
    minutes = {found.minute for found in counts}
    assert sum(found.count for found in counts) == 3_000
    assert len(counts) <= len(minutes) * (anonymous.KEYS_PER_MINUTE + 1)
    assert {found.block for found in counts} > {OTHER, "10.0.0.0/24"}


async def test_old_rows_and_too_many_rows_go(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anonymous, "KEPT", 10 * DAY)
    today = now() // MINUTE * MINUTE
    insert = "INSERT INTO anonymous_failures (minute, reason, route, block, count) VALUES (?, 'r', '/', 'b', 1)"
    ages = [20 * DAY, 10 * DAY + MINUTE, 9 * DAY, MINUTE]
    own(target, *((insert, (today - age,)) for age in ages))
    async with open_kit(target) as kit:
        failures = AnonymousFailures(kit.database.writer)
        failures.count(reason="x", route="/", client="192.0.2.1")
        await failures.flush()
        counts = await failure_counts(kit.database.reader, 100)
    assert sorted(found.minute for found in counts)[:2] == [today - 9 * DAY, today - MINUTE]
    assert len(counts) == 3


async def test_the_table_never_holds_more_than_its_bound_after_a_pruning(target: Target) -> None:
    today = now() // MINUTE * MINUTE
    series = "WITH RECURSIVE n(i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    fill = "INSERT INTO anonymous_failures (minute, reason, route, block, count) "
    # Two rows a minute, so that the bound falls between the rows of one minute.
    rows = f"SELECT {today} - (i / 2) * 1000000, 'r' || i, '/', 'b', 1 FROM n"
    prefix = fill + series + rows if target.kind == "sqlite" else series + fill + rows
    own(target, (prefix, (anonymous.MAX_ROWS + 7,)))
    async with open_kit(target) as kit:
        failures = AnonymousFailures(kit.database.writer)
        failures.count(reason="x", route="/", client="192.0.2.1")
        await failures.flush()
    ((left, newest),) = own(target, "SELECT count(*), max(minute) FROM anonymous_failures")
    assert anonymous.MAX_ROWS - 2 <= left <= anonymous.MAX_ROWS and newest >= today


async def test_counts_are_kept_while_the_database_is_away_and_bounded(target: Target) -> None:
    async with open_kit(target) as kit:
        failures = AnonymousFailures(kit.database.writer)
    for number in range(5_000):
        failures.count(reason="r", route=f"/{number}", client="192.0.2.1")
    await failures.flush()  # the writer has stopped
    await failures.flush()
    assert sum(failures._counts.values()) == 5_000
    assert len(failures._counts) <= 2 * (anonymous.KEYS_PER_MINUTE + 1)


async def test_stopping_writes_what_is_left_and_running_writes_by_itself(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anonymous, "FLUSH_SECONDS", 0.05)
    async with open_kit(target) as kit:
        failures = AnonymousFailures(kit.database.writer)
        await failures.start()
        failures.count(reason="a", route="/", client="")
        for _ in range(250):
            if await failure_counts(kit.database.reader, 1):
                break
            await asyncio.sleep(0.02)
        failures.count(reason="b", route="/", client="")
        await failures.stop()
        counts: list[FailureCount] = await failure_counts(kit.database.reader, 10)
    assert {(found.reason, found.block) for found in counts} == {("a", "(unknown)"), ("b", "(unknown)")}
