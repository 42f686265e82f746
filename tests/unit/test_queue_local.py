"""The queue in one process: bounded, never blocking whoever puts, finishing what it began."""

import asyncio
import logging

import pytest

from relay.queue.local import MAX_WAITING, LocalQueue


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_handlers_at_once_than_allowed_and_all_ids_get_their_turn() -> None:
    queue, active, most, seen, all_seen = LocalQueue(3), 0, 0, [], asyncio.Event()

    async def handler(id: str) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.001)
        active -= 1
        seen.append(id)
        if len(seen) == 20:
            all_seen.set()

    queue.handle("run", handler)
    for number in range(20):
        await queue.put("run", str(number))
    assert seen == []
    await queue.start()
    async with asyncio.timeout(5):
        await all_seen.wait()
    assert most == 3
    assert sorted(seen, key=int) == [str(number) for number in range(20)]
    await queue.stop(1)


async def test_a_put_while_the_handler_works_leads_to_one_more_call_never_two_at_once() -> None:
    queue, calls, at_once, go_on = LocalQueue(4), 0, 0, asyncio.Event()

    async def handler(id: str) -> None:
        nonlocal calls, at_once
        calls += 1
        at_once += 1
        assert at_once == 1
        await go_on.wait()
        at_once -= 1

    queue.handle("run", handler)
    await queue.start()
    for _ in range(3):
        await queue.put("run", "x")
        await settle()
    assert calls == 1
    go_on.set()
    await settle()
    assert calls == 2
    await queue.stop(1)


async def test_a_handler_that_breaks_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    queue, seen = LocalQueue(1), []

    async def handler(id: str) -> None:
        if id == "bad":
            raise RuntimeError("broken")
        seen.append(id)

    queue.handle("run", handler)
    await queue.start()
    with caplog.at_level(logging.ERROR, "relay.queue"):
        await queue.put("run", "bad")
        await queue.put("run", "good")
        await settle()
    assert seen == ["good"]
    assert "run bad failed: RuntimeError" in caplog.text
    await queue.stop(1)


async def test_stop_waits_for_those_under_way_and_begins_no_more() -> None:
    queue, ended, go_on = LocalQueue(1), [], asyncio.Event()

    async def handler(id: str) -> None:
        await go_on.wait()
        ended.append(id)

    queue.handle("run", handler)
    await queue.start()
    await queue.put("run", "first")
    await queue.put("run", "second")
    await settle()
    stopping = asyncio.create_task(queue.stop(5))
    await settle()
    assert not stopping.done()
    go_on.set()
    await stopping
    assert ended == ["first"]


async def test_stop_cancels_what_outlasts_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    queue, cancelled = LocalQueue(1), asyncio.Event()

    async def handler(id: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    queue.handle("run", handler)
    await queue.start()
    await queue.put("run", "x")
    await settle()
    await queue.stop(0.01)
    assert cancelled.is_set()


async def test_put_never_waits_and_a_full_queue_forgets() -> None:
    queue = LocalQueue(1)

    async def handler(id: str) -> None:
        raise AssertionError("not started")

    queue.handle("run", handler)
    async with asyncio.timeout(5):
        for number in range(MAX_WAITING + 100):
            await queue.put("run", str(number))
    assert len(queue._waiting) == MAX_WAITING


async def test_unknown_and_second_handlers_are_refused() -> None:
    queue = LocalQueue(1)

    async def handler(id: str) -> None: ...

    with pytest.raises(ValueError, match="nobody handles"):
        await queue.put("run", "x")
    queue.handle("run", handler)
    with pytest.raises(ValueError, match="already"):
        queue.handle("run", handler)
    with pytest.raises(ValueError):
        LocalQueue(0)
