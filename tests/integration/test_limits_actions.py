"""Limits of actions: how often, and how many at once, whichever door an execution comes through."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
from pydantic import BaseModel, ConfigDict

import relay.runs.work
from relay.catalog import Connector, Rendering
from relay.core.action import Step
from relay.core.limit import Limit
from relay.core.permit import Permit
from relay.settings import SettingsError
from relay.store.target import Target
from tests.gateway import Gateway, open_gateway

PLACES = 3


class Slow(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str


class Done(BaseModel):
    text: str


@dataclass
class Outside:
    """Where slow actions stay until they are let go; counts how many there ever were at once."""

    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    most: int = 0
    ended: int = 0

    async def visit(self) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.go_on.wait()
        self.under_way -= 1
        self.ended += 1

    async def has(self, number: int) -> None:
        async with asyncio.timeout(10):
            while self.under_way < number:
                await asyncio.sleep(0.01)


def connector() -> Connector:
    found = Connector("slow")

    def render(step: Step, client: Outside) -> Rendering:
        return Rendering(summary="Wait.", body={})

    @found.action("slow.wait", effect="write", render=render, timeout=20.0, concurrency=PLACES)
    async def wait(permit: Permit, params: Slow, client: Outside) -> Done:
        """Wait outside."""
        await client.visit()
        return Done(text=params.text)

    @found.action("slow.rare", effect="write", render=render, limits=(Limit(2, 1), Limit(3, 60)))
    async def rare(permit: Permit, params: Slow, client: Outside) -> Done:
        """Do something that is done rarely."""
        client.ended += 1
        return Done(text=params.text)

    return found


def body(action: str, text: str = "x") -> dict[str, object]:
    return {"action": action, "params": {"text": text}}


@asynccontextmanager
async def slow_gateway(target: Target, folder: Path, outside: Outside, **more: str) -> AsyncIterator[Gateway]:
    async with open_gateway(target, folder / "data", connectors=[(connector(), outside)], **more) as gateway:
        try:
            yield gateway
        finally:
            outside.go_on.set()


async def test_no_more_run_at_once_than_there_are_places(target: Target, tmp_path: Path) -> None:
    outside = Outside()
    async with slow_gateway(target, tmp_path, outside) as gateway:
        execute = [
            asyncio.create_task(gateway.post("/actions/execute", body("slow.wait"), key=gateway.admin))
            for _ in range(20)
        ]
        await outside.has(PLACES)
        refused = [task for task in execute if await _soon(task)]
        assert len(refused) == 20 - PLACES
        for task in refused:
            problem = task.result().expect(429)
            assert problem["type"].endswith(":too-many-running") and problem["running"] == PLACES
            assert int(task.result().headers["Retry-After"]) >= 1
        other = await gateway.key("developer", kind="person", workspace="other")
        elsewhere = asyncio.create_task(gateway.post("/actions/execute", body("slow.wait"), key=other))
        await outside.has(PLACES + 1)
        outside.go_on.set()
        answers = await asyncio.gather(*execute, elsewhere)
        assert [answer.status for answer in answers].count(200) == PLACES + 1
        assert outside.ended == PLACES + 1
        assert (await gateway.post("/actions/execute", body("slow.wait"), key=gateway.admin)).status == 200


async def _soon(task: "asyncio.Task[object]") -> bool:
    done, _ = await asyncio.wait([task], timeout=0.5)
    return bool(done)


async def test_the_places_are_counted_over_all_processes(postgres_target: Target, tmp_path: Path) -> None:
    outside = Outside()
    async with (
        slow_gateway(postgres_target, tmp_path, outside) as one,
        # It has the same connector: the first one's still stands where catalogues are built.
        open_gateway(postgres_target, tmp_path / "data", admin=one.admin) as two,
    ):
        for _ in range(4):
            outside.go_on.clear()
            pair = [
                asyncio.create_task(gateway.post("/actions/execute", body("slow.wait"), key=one.admin))
                for _ in range(12)
                for gateway in (one, two)
            ]
            await outside.has(PLACES)
            for task in pair:
                await _soon(task)
                if sum(task.done() for task in pair) == len(pair) - PLACES:
                    break
            outside.go_on.set()
            statuses = sorted([(await task).status for task in pair])
            assert statuses == [200] * PLACES + [429] * (24 - PLACES)
        assert outside.most == PLACES


async def test_a_run_waits_for_a_place(sqlite_target: Target, tmp_path: Path) -> None:
    outside = Outside()
    async with slow_gateway(sqlite_target, tmp_path, outside) as gateway:
        started = [
            (await gateway.post("/ai/execute", {"steps": [body("slow.wait")]}, key=gateway.admin)).expect(202)
            for _ in range(PLACES + 2)
        ]
        await outside.has(PLACES)
        await asyncio.sleep(0.3)
        assert outside.under_way == PLACES
        outside.go_on.set()
        for run in started:
            assert (await _ended(gateway, run["run_id"]))["status"] == "succeeded"
        assert (outside.most, outside.ended) == (PLACES, PLACES + 2)


async def _ended(gateway: Gateway, run_id: str) -> dict:
    async with asyncio.timeout(20):
        while True:
            job = (await gateway.get(f"/ai/jobs/{run_id}", key=gateway.admin)).expect(200)
            if job["finished_at"] is not None:
                return job
            await asyncio.sleep(0.05)


async def test_a_run_waits_for_a_limit_and_then_goes_on(sqlite_target: Target, tmp_path: Path) -> None:
    outside = Outside()
    async with slow_gateway(sqlite_target, tmp_path, outside) as gateway:
        steps = {"steps": [body("slow.rare") for _ in range(3)]}
        run = (await gateway.post("/ai/execute", steps, key=gateway.admin)).expect(202)
        assert (await _ended(gateway, run["run_id"]))["status"] == "succeeded"
        assert outside.ended == 3


async def test_a_run_does_not_wait_for_ever(sqlite_target: Target, tmp_path: Path) -> None:
    outside = Outside()
    with mock.patch.object(relay.runs.work, "LONGEST_LIMITED_SECONDS", 2.0):
        async with slow_gateway(sqlite_target, tmp_path, outside) as gateway:
            steps = {"steps": [body("slow.rare") for _ in range(4)]}
            run = (await gateway.post("/ai/execute", steps, key=gateway.admin)).expect(202)
            job = await _ended(gateway, run["run_id"])
        assert job["status"] == "failed" and outside.ended == 3
        assert job["steps"][3]["error"]["code"] == "quota-exceeded"


async def test_two_windows_of_one_action_are_one_step(sqlite_target: Target, tmp_path: Path) -> None:
    outside = Outside()
    async with slow_gateway(sqlite_target, tmp_path, outside) as gateway:

        async def execute() -> tuple[int, list[str]]:
            answer = await gateway.post("/actions/execute", body("slow.rare"), key=gateway.admin)
            return answer.status, answer.json.get("violated-policies", [])

        assert [await execute() for _ in range(4)] == [(200, [])] * 2 + [(429, ["slow.rare-1s-ws"])] * 2
        await asyncio.sleep(1.05)
        assert [await execute() for _ in range(2)] == [(200, []), (429, ["slow.rare-60s-ws"])]
        assert outside.ended == 3


async def test_what_does_not_come_about_uses_nothing_up(sqlite_target: Target, tmp_path: Path) -> None:
    outside = Outside()
    async with slow_gateway(sqlite_target, tmp_path, outside, RATE_LIMIT_ACTIONS="relay.echo=2/60") as gateway:
        echo = {"action": "relay.echo", "params": {"message": "hello"}}
        once = {"Idempotency-Key": "once"}
        # The same key again runs nothing, so it counts once, and its answer can be had after the limit as well.
        for _ in range(3):
            assert (await gateway.post("/actions/execute", echo, key=gateway.admin, headers=once)).status == 200
        preview = (await gateway.post("/actions/preview", echo, key=gateway.admin)).expect(200)["preview_id"]
        assert (await gateway.post("/actions/execute", {"preview_id": preview}, key=gateway.admin)).status == 200
        assert (await gateway.post("/actions/execute", echo, key=gateway.admin)).status == 429
        assert (await gateway.post("/actions/execute", echo, key=gateway.admin, headers=once)).status == 200
        mine = {"Idempotency-Key": "mine"}
        assert (await gateway.post("/actions/execute", echo, key=gateway.admin, headers=mine)).status == 429


async def test_a_full_action_gives_its_count_back(sqlite_target: Target, tmp_path: Path) -> None:
    outside, both = Outside(), Connector("both")

    def render(step: Step, client: Outside) -> Rendering:
        return Rendering(summary="Wait.", body={})

    @both.action("both.wait", effect="write", render=render, limits=(Limit(2, 60),), concurrency=1)
    async def wait(permit: Permit, params: Slow, client: Outside) -> Done:
        """Wait outside."""
        await client.visit()
        return Done(text=params.text)

    async with open_gateway(sqlite_target, tmp_path / "data", connectors=[(both, outside)]) as gateway:
        first = asyncio.create_task(gateway.post("/actions/execute", body("both.wait"), key=gateway.admin))
        await outside.has(1)
        full = [await gateway.post("/actions/execute", body("both.wait"), key=gateway.admin) for _ in range(5)]
        assert {answer.json["type"].rpartition(":")[2] for answer in full} == {"too-many-running"}
        outside.go_on.set()
        assert (await first).status == 200
        statuses = [
            (await gateway.post("/actions/execute", body("both.wait"), key=gateway.admin)).status for _ in range(2)
        ]
        assert statuses == [200, 429]


async def test_an_observer_sees_a_full_action_and_refuses_nothing(sqlite_target: Target, tmp_path: Path) -> None:
    outside = Outside()
    async with slow_gateway(sqlite_target, tmp_path, outside, RATE_LIMIT_MODE="observe") as gateway:
        tasks = [
            asyncio.create_task(gateway.post("/actions/execute", body("slow.wait"), key=gateway.admin))
            for _ in range(PLACES + 2)
        ]
        await outside.has(PLACES + 2)
        outside.go_on.set()
        assert [(await task).status for task in tasks] == [200] * (PLACES + 2)
        assert gateway.server.limits.state.observed == {"slow.wait-running": 2}


async def test_the_operators_numbers_replace_the_actions_own(sqlite_target: Target, tmp_path: Path) -> None:
    more = {"RATE_LIMIT_ACTIONS": "email.send=1/60, email.send=5/3600", "CONCURRENCY_ACTIONS": "email.send=4"}
    mail = {"action": "email.send", "params": {"to": ["ada@example.com"], "subject": "x", "text": "y"}}
    async with open_gateway(sqlite_target, tmp_path / "data", **more) as gateway:
        found = [await gateway.post("/actions/execute", mail, key=gateway.admin) for _ in range(2)]
        assert [answer.status for answer in found] == [200, 429]
        assert found[1].json["violated-policies"] == ["email.send-60s-ws"]
        assert '"email.send-60s-ws"' not in found[0].headers["RateLimit-Policy"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATE_LIMIT_ACTIONS", "email.sent=1/60"),
        ("RATE_LIMIT_ACTIONS", "email.send=1/60,email.send=2/60"),
        ("CONCURRENCY_ACTIONS", "email.sent=1"),
        ("CONCURRENCY_ACTIONS", "relay.echo=1"),
    ],
)
async def test_numbers_for_what_cannot_have_them_refuse_the_start(
    name: str, value: str, sqlite_target: Target, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=name):
        async with open_gateway(sqlite_target, tmp_path / "data", **{name: value}):
            pass
