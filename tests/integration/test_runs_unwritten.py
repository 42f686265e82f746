"""An outcome that the database does not take at once is waited for: step and attempt never tell two stories."""

import asyncio
from typing import Any

import pytest

from relay.store.target import Target
from relay.store.writer import StoreUnavailable
from tests.runs_world import RunsHouse, runs_house, said, statuses


def refuse_outcomes(house: RunsHouse, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Have the database take no outcome of an attempt until the event is set; everything else it takes."""
    takes, run = asyncio.Event(), house.database.writer.run

    async def reluctant(unit: Any, **options: Any) -> Any:
        if not takes.is_set() and "Attempts._finish_unit" in getattr(unit, "__qualname__", ""):
            raise StoreUnavailable("not now")
        return await run(unit, **options)

    monkeypatch.setattr(house.database.writer, "run", reluctant)
    return takes


async def test_a_step_whose_outcome_is_written_late_ends_as_its_attempt_does(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with runs_house(target) as house:
        who, _ = await house.key()
        takes = refuse_outcomes(house, monkeypatch)
        run_id = await house.start_run(who, said("one"), said("two"))
        async with asyncio.timeout(10):
            while not house.world.texts:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        assert statuses(await house.runs.show(who, run_id)) == ["running", "queued"]
        takes.set()
        state = await house.ended(who, run_id)
        assert statuses(state) == ["succeeded", "succeeded"]
        for step in state.steps:
            assert step.attempt_id is not None
            assert (await house.gate.attempts.state("default", step.attempt_id)).status == "succeeded"
        assert house.world.texts == ["one", "two"]
