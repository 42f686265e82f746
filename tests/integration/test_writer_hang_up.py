"""What becomes of a change when PostgreSQL ends the writer's connection."""

import time
from collections.abc import Callable

import pytest
from sqlalchemy import literal, select

from relay.store.query import Query
from relay.store.target import Target
from relay.store.writer import StoreUnavailable, Tx
from tests.audit_kit import all_rows, open_kit, own, sample

END = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'relay-writer' AND datname = current_database()"
)
LOOK = Query(select(literal(1)))


class Unit:
    """Records one event; before or after that it does to the connection what it is told, so many times."""

    def __init__(self, happens: Callable[[], object], *, times: int = 1, after: bool = True) -> None:
        self.runs = 0
        self._happens, self._times, self._after = happens, times, after

    def __call__(self, tx: Tx) -> int:
        self.runs += 1
        tx.one(LOOK)  # the transaction begins
        if self._after:
            tx.record(sample(self.runs))
        if self.runs <= self._times:
            self._happens()
        if not self._after:
            tx.record(sample(self.runs))
        return self.runs


async def test_a_connection_that_was_ended_between_changes_costs_nobody_an_answer(postgres_target: Target) -> None:
    async with open_kit(postgres_target) as kit:
        await kit.record(sample())
        own(postgres_target, END)
        await kit.record(sample(1))
    assert len(all_rows(postgres_target)) == 2


@pytest.mark.parametrize("after", [False, True])
async def test_a_change_whose_connection_was_ended_is_made_again_once(postgres_target: Target, after: bool) -> None:
    unit = Unit(lambda: own(postgres_target, END), after=after)
    async with open_kit(postgres_target) as kit:
        assert await kit.database.writer.run(unit) == 2
    assert [row[5] for row in all_rows(postgres_target)] == ["req_2"]


async def test_a_process_that_stood_still_makes_its_change_again(postgres_target: Target) -> None:
    unit = Unit(lambda: time.sleep(3))  # longer than the server lets a transaction idle
    async with open_kit(postgres_target) as kit:
        assert await kit.database.writer.run(unit) == 2
    assert len(all_rows(postgres_target)) == 1


async def test_a_database_that_always_hangs_up_is_unavailable(postgres_target: Target) -> None:
    unit = Unit(lambda: own(postgres_target, END), times=9)
    async with open_kit(postgres_target) as kit:
        with pytest.raises(StoreUnavailable):
            await kit.database.writer.run(unit)
        assert unit.runs == 2
        await kit.record(sample())
    assert len(all_rows(postgres_target)) == 1


async def test_a_process_that_stands_still_each_time_is_told_that_the_database_is_away(postgres_target: Target) -> None:
    unit = Unit(lambda: time.sleep(3), times=9)
    async with open_kit(postgres_target) as kit:
        with pytest.raises(StoreUnavailable):
            await kit.database.writer.run(unit)
        assert unit.runs == 2
        await kit.record(sample())
    assert len(all_rows(postgres_target)) == 1
