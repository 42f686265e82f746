"""Watching runs over a real socket: order, resume, revocation, caps, shutdown, other processes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

import relay.runs.stream as stream_module
from relay.identity.operator import operator
from relay.runs.stream import sequence_of
from relay.store.target import Target
from tests.runs_world import RunsHouse, runs_house, said, served


@dataclass(frozen=True)
class Event:
    id: int | None
    kind: str
    data: dict[str, Any]

    @property
    def brief(self) -> tuple[int | None, str, str]:
        return self.id, self.data.get("step_id", ""), self.data.get("status", "")


class Watcher:
    """Reads a stream of server-sent events line by line."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.comments: list[str] = []

    async def __aiter__(self) -> AsyncIterator[Event]:
        fields: dict[str, str] = {}
        async for raw in self.answer.content:
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                self.comments.append(line)
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                if "data" in fields:
                    number = int(fields["id"]) if "id" in fields else None
                    yield Event(number, fields["event"], json.loads(fields["data"]))
                fields = {}

    async def rest(self) -> list[Event]:
        async with asyncio.timeout(10):
            return [event async for event in self]


@dataclass
class Door:
    session: aiohttp.ClientSession
    url: str

    @asynccontextmanager
    async def watch(self, run_id: str, key: str, last: str | None = None) -> AsyncIterator[Watcher]:
        headers = {"Authorization": f"Bearer {key}", **({} if last is None else {"Last-Event-ID": last})}
        async with self.session.get(f"{self.url}/ai/jobs/{run_id}/events", headers=headers) as answer:
            yield Watcher(answer)


@asynccontextmanager
async def door(house: RunsHouse, streams: int = 5) -> AsyncIterator[Door]:
    async with served(house, streams=streams) as url, aiohttp.ClientSession() as session:
        yield Door(session, url)


WHOLE = [
    (1, "", "queued"),
    (2, "", "running"),
    (3, "s1", "running"),
    (4, "s1", "succeeded"),
    (5, "s2", "running"),
    (6, "s2", "succeeded"),
    (7, "", "succeeded"),
]


async def test_every_change_arrives_once_in_order_and_the_stream_ends(target: Target) -> None:
    async with runs_house(target) as house, door(house) as http:
        who, key = await house.key()
        begun, go_on = house.world.hold("one")
        run_id = await house.start_run(who, said("one"), said("two"))
        await begun.wait()
        async with http.watch(run_id, key) as watcher:
            assert watcher.answer.status == 200
            assert watcher.answer.headers["Content-Type"].startswith("text/event-stream")
            assert watcher.answer.headers["Cache-Control"] == "no-store"
            assert watcher.answer.headers["X-Accel-Buffering"] == "no"
            reading = asyncio.create_task(watcher.rest())
            await asyncio.sleep(0.05)
            go_on.set()
            events = await reading
        assert [event.brief for event in events] == WHOLE
        assert [event.kind for event in events] == ["run", "run", "step", "step", "step", "step", "run"]
        assert all(event.data["run_id"] == run_id and event.data["at"].endswith("Z") for event in events)
        assert not any("result" in event.data for event in events)


async def test_a_watcher_that_comes_back_misses_nothing_and_sees_nothing_twice(target: Target) -> None:
    async with runs_house(target) as house, door(house) as http:
        who, key = await house.key()
        run_id = await house.start_run(who, said("one"), said("two"))
        await house.ended(who, run_id)
        for last, rest in (
            ("3", WHOLE[3:]),
            ("0", WHOLE),
            ("garbage", WHOLE),
            ("-1", WHOLE),
            ("8", WHOLE),
            ("9" * 40, WHOLE),
        ):
            async with http.watch(run_id, key, last) as watcher:
                assert [event.brief for event in await watcher.rest()] == rest
        async with http.watch(run_id, key, "7") as watcher:
            assert watcher.answer.status == 204
            assert await watcher.answer.read() == b""


async def test_a_number_that_the_run_has_not_reached_hides_nothing(sqlite_target: Target) -> None:
    async with runs_house(sqlite_target) as house, door(house) as http:
        who, key = await house.key()
        begun, go_on = house.world.hold("one")
        run_id = await house.start_run(who, said("one"), said("two"))
        await begun.wait()
        async with http.watch(run_id, key, "6") as watcher:
            go_on.set()
            assert [event.brief for event in await watcher.rest()] == WHOLE


async def test_another_process_on_the_same_database_sees_the_changes_too(postgres_target: Target) -> None:
    async with (
        runs_house(postgres_target) as worker,
        runs_house(postgres_target, running=False) as other,
        door(other) as http,
    ):
        who, key = await worker.key()
        begun, go_on = worker.world.hold("one")
        run_id = await worker.start_run(who, said("one"), said("two"))
        await begun.wait()
        async with http.watch(run_id, key) as watcher:
            go_on.set()
            assert [event.brief for event in await watcher.rest()] == WHOLE


async def test_revoking_the_key_ends_its_streams_within_seconds(target: Target) -> None:
    async with runs_house(target) as house, door(house) as http:
        who, _ = await house.key()
        watching, key = await house.key()
        _, go_on = house.world.hold("one")
        run_id = await house.start_run(who, said("one"))
        async with http.watch(run_id, key) as watcher:
            reading = asyncio.create_task(watcher.rest())
            await asyncio.sleep(0.1)
            assert not reading.done()
            began = time.monotonic()
            await house.revoke(watching)
            events = await reading
            assert time.monotonic() - began < 4
        assert (events[-1].kind, events[-1].data) == ("end", {"reason": "credential_revoked"})
        go_on.set()


async def test_a_stream_to_an_address_that_is_allowed_no_more_ends_within_seconds(target: Target) -> None:
    async with runs_house(target) as house, door(house) as http:
        who, key = await house.key()
        begun, go_on = house.world.hold("one")
        run_id = await house.start_run(who, said("one"))
        await begun.wait()
        async with http.watch(run_id, key) as watcher:
            reading = asyncio.create_task(watcher.rest())
            await asyncio.sleep(0.1)
            assert not reading.done()
            await house.api_keys.restrict_key(
                operator(), who.id, ["192.0.2.1"], address=None, request_id="req_test_restrict"
            )
            events = await reading
        assert (events[-1].kind, events[-1].data) == ("end", {"reason": "address_not_allowed"})
        go_on.set()
        assert (await house.until(who, run_id, "succeeded", "failed")).run.status == "succeeded"


async def test_streams_are_capped_and_a_closed_one_makes_room(sqlite_target: Target) -> None:
    async with runs_house(sqlite_target) as house, door(house, streams=2) as http:
        who, key = await house.key()
        _, other_key = await house.key()
        _, go_on = house.world.hold("one")
        run_id = await house.start_run(who, said("one"))
        async with http.watch(run_id, key), http.watch(run_id, key) as second:
            async with http.watch(run_id, key) as third:
                assert third.answer.status == 429
                assert (await third.answer.json())["type"].endswith("too-many-streams")
                assert int(third.answer.headers["Retry-After"]) > 0
            async with http.watch(run_id, other_key) as other:
                assert other.answer.status == 200
            second.answer.close()
            async with asyncio.timeout(5):
                while True:
                    async with http.watch(run_id, key) as again:
                        if again.answer.status == 200:
                            break
                    await asyncio.sleep(0.02)
        go_on.set()


async def test_a_shutdown_ends_streams_at_once(sqlite_target: Target) -> None:
    async with runs_house(sqlite_target) as house, door(house) as http:
        who, key = await house.key()
        _, go_on = house.world.hold("one")
        run_id = await house.start_run(who, said("one"))
        async with http.watch(run_id, key) as watcher:
            reading = asyncio.create_task(watcher.rest())
            await asyncio.sleep(0.1)
            began = time.monotonic()
            house.runs.close_streams()
            events = await reading
            assert time.monotonic() - began < 0.9
        assert (events[-1].kind, events[-1].data) == ("end", {"reason": "shutdown"})
        go_on.set()


async def test_a_quiet_stream_is_kept_alive(sqlite_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(stream_module, "POLL_SECONDS", 0.05)
    async with runs_house(sqlite_target) as house, door(house) as http:
        who, key = await house.key()
        _, go_on = house.world.hold("one")
        run_id = await house.start_run(who, said("one"))
        async with http.watch(run_id, key) as watcher:
            reading = asyncio.create_task(watcher.rest())
            await asyncio.sleep(0.6)
            go_on.set()
            await reading
        assert len(watcher.comments) >= 2


async def test_only_the_own_workspace_may_watch(sqlite_target: Target) -> None:
    async with runs_house(sqlite_target) as house, door(house) as http:
        who, _ = await house.key()
        _, stranger = await house.key("elsewhere")
        run_id = await house.start_run(who, said("one"))
        async with http.watch(run_id, stranger) as watcher:
            assert watcher.answer.status == 404
        async with http.watch("run_" + "0" * 32, stranger) as watcher:
            assert watcher.answer.status == 404


@pytest.mark.parametrize(
    ("text", "number"),
    [(None, 0), ("", 0), ("7", 7), ("x", 0), ("-7", 0), ("7.0", 0), ("²", 0), ("9" * 9, 999_999_999), ("9" * 10, 0)],
)
def test_what_a_last_event_id_means(text: str | None, number: int) -> None:
    assert sequence_of(text) == number
