"""An outcome is written even when whoever waits for it is cancelled."""

import asyncio
from functools import partial

import pytest
from sqlalchemy import insert, select

from relay.store.database import Database
from relay.store.query import Query
from relay.store.tables import generations
from relay.store.target import Target
from relay.store.writer import Tx

_ADD = Query(insert(generations))


@pytest.mark.parametrize(("outcome", "written"), [(True, {"first", "second"}), (False, {"first"})])
async def test_only_an_outcome_survives_its_callers_cancellation(
    target: Target, outcome: bool, written: set[str]
) -> None:
    database = Database(target, lambda tx, drafts: None)
    await database.start()

    def add(name: str, tx: Tx) -> int:
        return tx.run(_ADD, name=name, value=0)

    first = asyncio.create_task(database.writer.run(partial(add, "first"), outcome=True))
    await asyncio.sleep(0)
    second = asyncio.create_task(database.writer.run(partial(add, "second"), outcome=outcome))
    await asyncio.sleep(0)
    second.cancel()
    assert await first == 1
    await asyncio.gather(second, return_exceptions=True)
    await database.stop()
    after = Database(target, lambda tx, drafts: None)
    await after.start()
    try:
        assert {row[0] for row in await after.reader.all(select(generations.c.name))} & {"first", "second"} == written
    finally:
        await after.stop()
