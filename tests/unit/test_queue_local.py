"""The queue in one process: what it forgets, and that somebody must work."""

import asyncio

import pytest

from relay.queue.local import MAX_WAITING, LocalQueue


async def test_put_never_waits_and_a_full_queue_forgets() -> None:
    queue, seen, gate = LocalQueue(1), 0, asyncio.Event()

    async def handler(id: str) -> None:
        nonlocal seen
        seen += 1
        if seen == MAX_WAITING:
            gate.set()

    queue.handle("run", handler)
    async with asyncio.timeout(30):
        for number in range(MAX_WAITING + 100):
            await queue.put("run", str(number))
        await queue.start()
        await gate.wait()
        await asyncio.sleep(0.05)
    await queue.stop(5)
    assert seen == MAX_WAITING


async def test_an_id_that_waits_is_not_added_twice() -> None:
    queue, seen = LocalQueue(1), []

    async def handler(id: str) -> None:
        seen.append(id)

    queue.handle("run", handler)
    for id in ("a", "b", "a", "b"):
        await queue.put("run", id)
    await queue.start()
    async with asyncio.timeout(10):
        while len(seen) < 2:
            await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    await queue.stop(5)
    assert seen == ["a", "b"]


async def test_a_queue_in_one_process_cannot_leave_the_work_to_others() -> None:
    with pytest.raises(ValueError, match="nobody else"):
        await LocalQueue(1).start(work=False)
