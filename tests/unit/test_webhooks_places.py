"""Places for attempts: nobody gets them all, whoever waits is served, and none is lost."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.webhooks.places import Places


async def holding(places: Places, workspace: str, number: int) -> tuple[AsyncExitStack, list[asyncio.Task[None]]]:
    """Ask for that many places; return those that were had at once, and the tasks that wait for the others."""
    stack, waiting = AsyncExitStack(), []
    for _ in range(number):
        task = asyncio.create_task(stack.enter_async_context(places.place(workspace)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not task.done():
            waiting.append(task)
    return stack, waiting


async def test_one_workspace_gets_half_and_another_finds_room() -> None:
    places = Places(128)
    greedy, waiting = await holding(places, "a", 200)
    assert len(waiting) == 200 - 64 and places.wanted
    other, late = await holding(places, "b", 10)
    assert late == []
    await other.aclose()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not places.wanted
    await greedy.aclose()
    again, late = await holding(places, "c", 64)
    assert late == [], "places were lost"
    await again.aclose()


async def test_whoever_holds_fewest_is_served_first() -> None:
    places, served = Places(4), []

    async def want(workspace: str) -> None:
        async with places.place(workspace):
            served.append(workspace)

    one, waiting = await holding(places, "a", 2)
    two, more = await holding(places, "b", 1)
    assert waiting == more == []
    wanted = [asyncio.create_task(want(workspace)) for workspace in ("a", "a", "b", "c")]
    await asyncio.sleep(0)
    await one.aclose()
    await two.aclose()
    await asyncio.gather(*wanted)
    assert sorted(served) == ["a", "a", "b", "c"] and served.index("c") < served.index("a")


def test_there_must_be_a_place() -> None:
    with pytest.raises(ValueError, match="a place"):
        Places(0)


@given(st.integers(1, 9), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=40))
def test_never_more_than_there_are_and_everybody_is_served(number: int, wishes: list[tuple[str, int, bool]]) -> None:
    async def run() -> None:
        places, held, most, served = Places(number), 0, 0, 0

        async def want(workspace: str, steps: int) -> None:
            nonlocal held, most, served
            async with places.place(workspace):
                held += 1
                most = max(most, held)
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                finally:
                    held -= 1
            served += 1

        kept: list[asyncio.Task[None]] = []
        cut: list[asyncio.Task[None]] = []
        for workspace, steps, cancelled in wishes:
            task = asyncio.create_task(want(workspace, steps))
            (cut if cancelled else kept).append(task)
            await asyncio.sleep(0)
            if cancelled and cut:
                cut[0].cancel()
        before = [task for task in cut if not task.done()]
        async with asyncio.timeout(10):
            await asyncio.gather(*kept)
            await asyncio.gather(*before, return_exceptions=True)
        assert most <= number and not places.wanted and served >= len(kept)

    asyncio.run(run())
