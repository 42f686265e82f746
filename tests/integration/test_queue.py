"""What holds for both queues: bounded, fair between kinds, never blocking whoever puts, finishing what it began."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from relay.queue.choose import open_queue
from relay.queue.protocol import Queue
from relay.store.target import Target

PATIENCE = 20.0


async def until(condition: Callable[[], bool]) -> None:
    """Return once a condition holds; fails after a while."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


class Recorder:
    """A handler that notes what it is called with, and how many calls there are at once."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.active: list[str] = []
        self.most = 0
        self.cancelled: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, id: str) -> None:
        self.active.append(id)
        self.most = max(self.most, len(self.active))
        try:
            await asyncio.sleep(0.002)
            await self.gate.wait()
            self.seen.append(id)
        except asyncio.CancelledError:
            self.cancelled.append(id)
            raise
        finally:
            self.active.remove(id)


@asynccontextmanager
async def running(queue: Queue, *, grace: float = 5.0, work: bool = True) -> AsyncIterator[Queue]:
    """Run a queue whose handlers are registered."""
    await queue.start(work=work)
    try:
        yield queue
    finally:
        await queue.stop(grace)


@pytest.fixture
def queue(target: Target) -> Queue:
    return open_queue(target, 3)


class TestBothQueues:
    async def test_no_more_calls_at_once_than_allowed_and_every_id_gets_its_turn(self, queue: Queue) -> None:
        handler = Recorder()
        queue.handle("run", handler)
        for number in range(10):
            await queue.put("run", str(number))
        assert handler.seen == []
        async with running(queue):
            for number in range(10, 40):
                await queue.put("run", str(number))
            await until(lambda: len(set(handler.seen)) == 40)
            assert handler.most == 3

    async def test_a_kind_keeps_to_its_own_number(self, queue: Queue) -> None:
        one, many = Recorder(), Recorder()
        queue.handle("one", one, concurrency=1)
        queue.handle("many", many, concurrency=7)
        async with running(queue):
            one.gate.clear()
            many.gate.clear()
            for number in range(20):
                await queue.put("one", str(number))
                await queue.put("many", str(number))
            await until(lambda: len(many.active) == 7 and len(one.active) == 1)
            one.gate.set()
            many.gate.set()
            await until(lambda: len(set(one.seen)) == len(set(many.seen)) == 20)
            assert (one.most, many.most) == (1, 7)

    async def test_a_kind_whose_places_are_all_taken_never_holds_up_another(self, queue: Queue) -> None:
        stuck, other = Recorder(), Recorder()
        queue.handle("stuck", stuck)
        queue.handle("other", other)
        stuck.gate.clear()
        async with running(queue):
            for number in range(50):
                await queue.put("stuck", str(number))
            await until(lambda: len(stuck.active) == 3)
            for number in range(20):
                await queue.put("other", str(number))
            await until(lambda: len(set(other.seen)) == 20)
            assert len(stuck.active) == 3 and stuck.seen == []
            stuck.gate.set()

    async def test_an_id_under_way_is_called_again_afterwards_and_never_twice_at_once(self, queue: Queue) -> None:
        handler = Recorder()
        queue.handle("run", handler)
        handler.gate.clear()
        async with running(queue):
            for _ in range(3):
                await queue.put("run", "x")
                await asyncio.sleep(0.01)
            await until(lambda: handler.active == ["x"])
            handler.gate.set()
            await until(lambda: len(handler.seen) == 2)
        assert handler.seen == ["x", "x"] and handler.most == 1

    async def test_a_handler_that_breaks_stops_nothing(self, queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
        seen: list[str] = []

        async def handler(id: str) -> None:
            if id.startswith("bad"):
                raise RuntimeError("broken")
            seen.append(id)

        queue.handle("run", handler, concurrency=1)
        with caplog.at_level(logging.ERROR, "relay.queue"):
            async with running(queue):
                for id in ("bad1", "bad2", "good1", "bad3", "good2"):
                    await queue.put("run", id)
                await until(lambda: set(seen) == {"good1", "good2"})
        assert "run bad1 failed: RuntimeError" in caplog.text

    async def test_stop_waits_for_those_under_way_and_begins_no_more(self, queue: Queue) -> None:
        handler = Recorder()
        queue.handle("run", handler, concurrency=1)
        handler.gate.clear()
        await queue.start()
        await queue.put("run", "first")
        await until(lambda: handler.active == ["first"])
        await queue.put("run", "second")
        stopping = asyncio.create_task(queue.stop(30))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        handler.gate.set()
        await stopping
        assert handler.seen == ["first"]

    async def test_stop_cancels_what_outlasts_the_grace(self, queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
        handler = Recorder()
        queue.handle("run", handler)
        handler.gate.clear()
        await queue.start()
        await queue.put("run", "x")
        await until(lambda: handler.active == ["x"])
        with caplog.at_level(logging.WARNING, "relay.queue"):
            await queue.stop(0.05)
        assert handler.cancelled == ["x"]
        assert "1 handlers did not end within 0.05 s" in caplog.text

    async def test_wrong_kinds_and_numbers_are_refused(self, queue: Queue, target: Target) -> None:
        async def handler(id: str) -> None: ...

        with pytest.raises(ValueError, match="nobody handles"):
            await queue.put("run", "x")
        queue.handle("run", handler)
        with pytest.raises(ValueError, match="already"):
            queue.handle("run", handler)
        with pytest.raises(ValueError, match="room"):
            queue.handle("none", handler, concurrency=0)
        with pytest.raises(ValueError, match="room"):
            open_queue(target, 0)
        async with running(queue):
            with pytest.raises(ValueError, match="before the queue starts"):
                queue.handle("late", handler)

    async def test_thousands_of_puts_wait_for_nothing(self, queue: Queue) -> None:
        handler: Callable[[str], Awaitable[None]] = Recorder()
        queue.handle("run", handler)
        async with asyncio.timeout(PATIENCE):
            for number in range(12_000):
                await queue.put("run", str(number))
        await queue.stop(1)
