"""Room for large bodies: bounded, in order, and given back whatever happens."""

import asyncio
import contextlib

import pytest

from relay.core.problem import Unavailable
from relay.surface.room import MIB, SMALL, Room

PATIENCE = 30.0


class Holder:
    """Somebody who holds a part of the room until told to let go."""

    def __init__(self, room: Room, size: int, seconds: float = PATIENCE) -> None:
        self.inside = asyncio.Event()
        self.enough = asyncio.Event()
        self.task = asyncio.create_task(self._hold(room, size, seconds))

    async def _hold(self, room: Room, size: int, seconds: float) -> None:
        async with room.taken(size, seconds):
            self.inside.set()
            await self.enough.wait()

    async def leave(self) -> None:
        self.enough.set()
        await self.task


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_than_fits_is_inside_and_the_rest_follows_in_order() -> None:
    room = Room(10 * MIB)
    first, second = Holder(room, 6 * MIB), Holder(room, 6 * MIB)
    third = Holder(room, 2 * MIB)
    await turns()
    # The third would fit and waits all the same: large ones are not overtaken for ever.
    assert first.inside.is_set() and not second.inside.is_set() and not third.inside.is_set()
    await first.leave()
    await turns()
    assert second.inside.is_set() and third.inside.is_set()
    await second.leave()
    await third.leave()
    async with room.taken(10 * MIB, 0.001):
        pass


async def test_a_small_body_never_waits() -> None:
    room = Room(2 * MIB)
    large = Holder(room, 2 * MIB)
    await turns()
    async with room.taken(SMALL, 0.001):
        assert large.inside.is_set()
    await large.leave()


async def test_who_finds_no_room_in_time_is_refused_and_holds_nothing_up() -> None:
    room = Room(4 * MIB)
    holder = Holder(room, 3 * MIB)
    await turns()
    with pytest.raises(Unavailable) as refused:
        async with room.taken(2 * MIB, 0.01):
            pytest.fail("there was no room")
    assert int(refused.value.headers["Retry-After"]) >= 1
    await holder.leave()
    async with room.taken(4 * MIB, 0.001):
        pass


async def test_who_leaves_while_waiting_lets_the_next_one_in() -> None:
    room = Room(4 * MIB)
    holder, waiting, small = Holder(room, 3 * MIB), Holder(room, 4 * MIB), Holder(room, MIB + 1)
    await turns()
    waiting.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting.task
    await holder.leave()
    await turns()
    assert small.inside.is_set()
    await small.leave()
    async with room.taken(4 * MIB, 0.001):
        pass


async def test_who_leaves_as_its_turn_comes_gives_it_back() -> None:
    room = Room(4 * MIB)
    holder, waiting = Holder(room, 4 * MIB), Holder(room, 4 * MIB)
    await turns()
    holder.enough.set()
    while not holder.task.done():
        await asyncio.sleep(0)
    waiting.task.cancel()  # its turn has come, and it has not run since
    with contextlib.suppress(asyncio.CancelledError):
        await waiting.task
    async with room.taken(4 * MIB, 0.001):
        pass


async def test_what_breaks_inside_gives_its_room_back() -> None:
    room = Room(4 * MIB)
    with pytest.raises(KeyError):
        async with room.taken(4 * MIB, 0.001):
            raise KeyError
    async with room.taken(4 * MIB, 0.001):
        pass


async def test_more_than_there_ever_is_takes_all_of_it() -> None:
    room = Room(4 * MIB)
    async with room.taken(100 * MIB, 0.001):
        with pytest.raises(Unavailable):
            async with room.taken(2 * MIB, 0.001):
                pytest.fail("there was no room")
