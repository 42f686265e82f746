"""Runs outlive processes: half-done runs go on where they stopped, on whichever process, and nothing runs twice."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import update

import relay.gate.decide
import relay.gate.perform
from relay.core.action import Decision
from relay.core.principal import Principal
from relay.core.references import RESULT_OF
from relay.gate.ask import Ask, AskerReplaced, AttemptState
from relay.gate.perform import Performer
from relay.runs.changes import Changes
from relay.runs.journal import Claim, Journal, LeaseLost
from relay.runs.machine import StepEnd, end_of_attempt
from relay.store.query import Query
from relay.store.tables.gateway import runs
from relay.store.target import Target
from tests.runs_world import RunsHouse, World, runs_house, said, statuses

LEASE = 0.6


class Dying:
    """A worker that does by hand what a process had done before it was killed."""

    def __init__(self, house: RunsHouse, who: Principal, run_id: str) -> None:
        self.house, self.who, self.run_id = house, who, run_id
        self.journal = Journal(house.database, Changes(), lease_seconds=LEASE)
        self.claim: Claim

    async def begin(self, place: int) -> None:
        if place == 0:
            claim = await self.journal.claim(self.run_id, "dying")
            assert claim is not None
            self.claim = claim
        assert await self.journal.begin_step(self.claim, place)

    async def perform(self, place: int, text: str) -> StepEnd:
        ask = Ask("req_dying", "run", "test.say", {"text": text}, run_id=self.run_id, step_id=f"s{place + 1}")
        end = end_of_attempt(await self.house.gate.perform(self.who, ask))
        assert end is not None
        return end

    async def step(self, place: int, text: str) -> None:
        await self.begin(place)
        await self.journal.end_step(self.claim, place, await self.perform(place, text))


async def leave(target: Target, world: World, how_far: Callable[[Dying], Awaitable[None]]) -> tuple[Principal, str]:
    """Start a run of three steps, do a part of it and vanish, the lease still held."""
    async with runs_house(target, world, running=False) as house:
        who, _ = await house.key()
        reference = {RESULT_OF: "s1", "pointer": "/text"}
        run_id = await house.start_run(who, said("one"), said("two", data=reference), said("three"))
        await how_far(Dying(house, who, run_id))
    return who, run_id


async def not_begun(worker: Dying) -> None: ...


async def between_steps(worker: Dying) -> None:
    await worker.step(0, "one")


async def before_the_effect(worker: Dying) -> None:
    await worker.step(0, "one")
    await worker.begin(1)


async def after_the_effect(worker: Dying) -> None:
    await worker.step(0, "one")
    await worker.begin(1)
    await worker.perform(1, "two")


@pytest.mark.parametrize("how_far", [not_begun, between_steps, before_the_effect, after_the_effect])
async def test_a_half_done_run_goes_on_where_it_stopped(
    target: Target, how_far: Callable[[Dying], Awaitable[None]]
) -> None:
    world = World()
    who, run_id = await leave(target, world, how_far)
    async with runs_house(target, world) as house:
        state = await house.ended(who, run_id)
        assert state.run.status == "succeeded"
        assert world.texts == ["one", "two", "three"]
        assert state.results["s3"]["text"] == "THREE"
        if how_far is not after_the_effect:
            assert world.calls[1].data == "ONE", "the result of a step that another process ran is there"


async def test_a_sole_process_does_not_wait_for_a_dead_lease(sqlite_target: Target) -> None:
    world = World()
    async with runs_house(sqlite_target, world, running=False) as house:
        who, _ = await house.key()
        run_id = await house.start_run(who, said("one"))
        assert await Journal(house.database, Changes(), lease_seconds=3600).claim(run_id, "dead") is not None
    async with asyncio.timeout(5), runs_house(sqlite_target, world) as house:
        assert (await house.ended(who, run_id)).run.status == "succeeded"


async def test_a_live_lease_of_another_process_is_left_alone(target: Target) -> None:
    async with runs_house(target, sole_process=False) as house:
        who, _ = await house.key()
        await house.runs._runner.stop()
        run_id = await house.start_run(who, said("one"))
        journal = Journal(house.database, Changes(), lease_seconds=3600)
        assert await journal.claim(run_id, "alive") is not None
        assert await journal.claim(run_id, "rival") is None
    async with runs_house(target, house.world, sole_process=False) as house:
        await asyncio.sleep(0.3)
        assert (await house.runs.find(who, run_id)).lease_owner == "alive"
        assert house.world.texts == []


async def test_whoever_lost_the_lease_can_write_nothing_more(target: Target) -> None:
    async with runs_house(target, running=False) as house:
        who, _ = await house.key()
        run_id = await house.start_run(who, said("one"))
        slow = Journal(house.database, Changes(), lease_seconds=0.05)
        old = await slow.claim(run_id, "old")
        assert old is not None
        assert await slow.begin_step(old, 0)
        await asyncio.sleep(0.1)
        new = await slow.claim(run_id, "new")
        assert new is not None and new.steps[0].status == "running"
        assert not await slow.renew(old)
        with pytest.raises(LeaseLost):
            await slow.end_step(old, 0, StepEnd("failed", None, ("late", "Too late.")))
        with pytest.raises(LeaseLost):
            await slow.begin_step(old, 0)
        await slow.release(old)
        assert (await house.runs.find(who, run_id)).lease_owner == "new"
        assert await slow.renew(new)


async def test_a_step_of_a_run_that_was_taken_over_does_not_begin(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    performed, reached, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    came_to: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    perform = Performer.perform

    async def decide(*given: Any) -> Decision:
        if performed.is_set():
            reached.set()
            await go_on.wait()
        return await relay.gate.decide.decide(*given)

    async def watched(gate: Performer, principal: Principal, ask: Ask) -> AttemptState:
        performed.set()
        try:
            state = await perform(gate, principal, ask)
        except BaseException as error:
            came_to.set_result(error)
            raise
        came_to.set_result(None)
        return state

    async with runs_house(target, sole_process=False) as house:
        who, _ = await house.key()
        monkeypatch.setattr(relay.gate.perform, "decide", decide)
        monkeypatch.setattr(Performer, "perform", watched)
        run_id = await house.start_run(who, said("late"))
        await asyncio.wait_for(reached.wait(), 60)
        await house.database.writer.run(lambda tx: tx.run(Query(update(runs).values(lease_until=1))))
        assert await Journal(house.database, Changes(), lease_seconds=3600).claim(run_id, "other") is not None
        go_on.set()
        assert isinstance(await asyncio.wait_for(came_to, 60), AskerReplaced)
        assert house.world.texts == []


async def test_an_attempt_that_nobody_knows_the_end_of_makes_the_run_unknown(target: Target) -> None:
    """The process dies in the middle of the effect: the step is never repeated."""
    world = World()
    begun, _ = world.hold("two")
    async with runs_house(target, world, grace=0.01) as house:
        who, _ = await house.key()
        run_id = await house.start_run(who, said("one"), said("two"), said("three"))
        await begun.wait()
    del world.script["two"]
    async with runs_house(target, world, sole_process=True) as house:
        state = await house.ended(who, run_id)
        assert state.run.status == "unknown"
        assert statuses(state) == ["succeeded", "unknown", "cancelled"]
        assert world.texts == ["one", "two"]


async def test_a_stop_ends_the_step_under_way_and_the_next_start_does_the_rest(target: Target) -> None:
    world = World()
    begun, go_on = world.hold("one")
    async with runs_house(target, world) as house:
        who, _ = await house.key()
        run_id = await house.start_run(who, said("one"), said("two"))
        await begun.wait()
        await house.runs.stop()
        stopping = asyncio.create_task(house.queue.stop(5))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        go_on.set()
        await stopping
        state = await house.runs.show(who, run_id)
        assert statuses(state) == ["succeeded", "queued"]
        assert state.run.lease_owner is None
    async with runs_house(target, world, sole_process=False) as house:
        assert (await house.ended(who, run_id)).run.status == "succeeded"
    assert world.texts == ["one", "two"]


async def test_a_key_revoked_while_nobody_worked_stops_the_run_but_not_what_had_happened(target: Target) -> None:
    world = World()
    who, run_id = await leave(target, world, after_the_effect)
    async with runs_house(target, world, running=False) as house:
        await house.revoke(who)
    async with runs_house(target, world) as house:
        watcher, _ = await house.key()
        state = await house.ended(watcher, run_id)
        assert statuses(state) == ["succeeded", "succeeded", "failed"]
        assert state.steps[2].error_code == "credential_revoked"
    assert world.texts == ["one", "two"]


async def test_a_cancellation_while_nobody_worked_still_lets_the_step_under_way_end(target: Target) -> None:
    async def cancelled_in_the_middle(worker: Dying) -> None:
        await after_the_effect(worker)
        await worker.house.runs.cancel(worker.who, worker.run_id, "req_cancel_1")

    world = World()
    who, run_id = await leave(target, world, cancelled_in_the_middle)
    async with runs_house(target, world) as house:
        state = await house.ended(who, run_id)
        assert state.run.status == "cancelled"
        assert statuses(state) == ["succeeded", "succeeded", "cancelled"]
    assert world.texts == ["one", "two"]


async def test_two_processes_share_one_database_and_never_a_run(postgres_target: Target) -> None:
    world = World()
    begun, go_on = world.hold("slow")
    async with AsyncExitStack() as stack:
        houses = [
            await stack.enter_async_context(runs_house(postgres_target, world, lease_seconds=LEASE)) for _ in range(2)
        ]
        who, _ = await houses[0].key()
        slow = await houses[0].start_run(who, said("slow"), said("after"))
        await begun.wait()
        owner = (await houses[0].runs.find(who, slow)).lease_owner
        runs = [await houses[number % 2].start_run(who, said(f"{number}a"), said(f"{number}b")) for number in range(12)]
        for run_id in runs:
            assert (await houses[1].ended(who, run_id)).run.status == "succeeded"
        await asyncio.sleep(2 * LEASE)
        assert (await houses[1].runs.find(who, slow)).lease_owner == owner, "a lease in use is renewed"
        go_on.set()
        assert (await houses[1].ended(who, slow)).run.status == "succeeded"
    assert sorted(world.texts) == sorted(["slow", "after", *(f"{n}{part}" for n in range(12) for part in "ab")])


async def test_a_second_process_takes_over_when_the_first_falls_silent(postgres_target: Target) -> None:
    world = World()
    async with runs_house(postgres_target, world, running=False) as first, AsyncExitStack() as stack:
        who, _ = await first.key()
        run_id = await first.start_run(who, said("one"), said("two"))
        silent = Dying(first, who, run_id)
        await silent.step(0, "one")
        second = await stack.enter_async_context(runs_house(postgres_target, world, lease_seconds=LEASE))
        await asyncio.sleep(LEASE / 4)
        assert world.texts == ["one"], "the lease still holds"
        assert (await second.ended(who, run_id)).run.status == "succeeded"
        with pytest.raises(LeaseLost):
            await silent.journal.begin_step(silent.claim, 1)
    assert world.texts == ["one", "two"]
