"""The routes under /ai over a real socket: shapes, scopes, refusals and idempotency."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from relay.core.plan import PlanStep
from relay.core.references import RESULT_OF
from relay.store.target import Target
from tests.runs_world import RunsHouse, runs_house, served

REFERENCE = {RESULT_OF: "s1", "pointer": "/text"}


@dataclass
class Client:
    house: RunsHouse
    session: aiohttp.ClientSession
    url: str
    key: str

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        sent = {"Authorization": f"Bearer {key or self.key}", **{n.replace("_", "-"): v for n, v in headers.items()}}
        async with self.session.request(method, self.url + path, json=body, headers=sent) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def ended(self, run_id: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                status, job = await self.ask("GET", f"/ai/jobs/{run_id}")
                assert status == 200
                if job["status"] not in ("queued", "running"):
                    return job
                await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Client]:
    async with runs_house(target) as house, served(house) as url, aiohttp.ClientSession() as session:
        _, key = await house.key()
        yield Client(house, session, url, key)


@pytest.fixture
async def client(target: Target) -> AsyncIterator[Client]:
    async with opened(target) as made:
        yield made


@pytest.fixture
async def quick(sqlite_target: Target) -> AsyncIterator[Client]:
    """For what does not depend on the database."""
    async with opened(sqlite_target) as made:
        yield made


def propose(client: Client) -> None:
    client.house.planner.propose_steps(
        PlanStep("s1", "test.say", {"text": "one", "password": "hunter2"}, "the planner's words"),
        PlanStep("s2", "test.say", {"text": REFERENCE, "password": "hunter2"}, "the planner's words", ("s1",)),
        PlanStep("s3", "test.erase", {"text": "all"}, "the planner's words", ("s2",)),
    )


async def test_from_prompt_to_results(client: Client) -> None:
    propose(client)
    status, plan = await client.ask("POST", "/ai/plan", {"prompt": "please", "context": {"a": 1}})
    assert status == 200
    assert plan["steps"] == [
        {
            "id": "s1",
            "action": "test.say",
            "params": {"text": "one", "to": None, "data": None, "password": "***"},
            "summary": "Say one.",
            "effect": "write",
            "decision": "allow",
            "depends_on": [],
        },
        {
            "id": "s2",
            "action": "test.say",
            "params": {"text": REFERENCE, "to": None, "data": None, "password": "***"},
            "summary": "Say something.",
            "effect": "write",
            "decision": "allow",
            "depends_on": ["s1"],
        },
        {
            "id": "s3",
            "action": "test.erase",
            "params": {"text": "all", "to": None, "data": None, "password": ""},
            "summary": "Say all.",
            "effect": "destructive",
            "decision": "deny",
            "depends_on": ["s2"],
        },
    ]
    assert plan["planner"] == "scripted" and plan["confidence"] == 0.9 and plan["intent"] == "do it"
    assert len(plan["digest"]) == 64 and plan["expires_at"].endswith("Z")
    assert client.house.world.texts == []

    status, accepted = await client.ask("POST", "/ai/execute", {"plan_id": plan["plan_id"]})
    assert (status, accepted["status"]) == (202, "queued")
    job = await client.ended(accepted["run_id"])
    assert job["plan_id"] == plan["plan_id"] and job["status"] == "failed"
    assert [step["status"] for step in job["steps"]] == ["succeeded", "succeeded", "failed"]
    assert job["steps"][1]["result"]["text"] == "ONE"
    assert job["steps"][1]["attempt_id"].startswith("att_") and job["steps"][1]["error"] is None
    assert job["steps"][2]["result"] is None and job["steps"][2]["error"]["code"] == "denied"
    assert client.house.world.texts == ["one", "ONE"]

    assert (await client.ask("POST", "/ai/execute", {"plan_id": plan["plan_id"]}))[0] == 410
    status, jobs = await client.ask("GET", "/ai/jobs")
    assert status == 200 and jobs["next_cursor"] is None
    assert [(item["run_id"], item["status"]) for item in jobs["items"]] == [(job["run_id"], "failed")]
    assert all(step["result"] is None for step in jobs["items"][0]["steps"])


async def test_a_plan_without_steps_says_why_and_cannot_run(quick: Client) -> None:
    status, plan = await quick.ask("POST", "/ai/plan", {"prompt": "please"})
    assert status == 200
    assert plan["steps"] == [] and plan["explanation"] == "nothing to do" and plan["plan_id"]
    status, problem = await quick.ask("POST", "/ai/execute", {"plan_id": plan["plan_id"]})
    assert (status, problem["errors"][0]["pointer"]) == (422, "/plan_id")


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/ai/plan", {"prompt": ""}, "/prompt"),
        ("/ai/plan", {"prompt": "x" * 16_385}, "/prompt"),
        ("/ai/plan", {"prompt": "x", "context": []}, "/context"),
        ("/ai/plan", {"prompt": "x", "model": "y"}, "/model"),
        ("/ai/execute", {}, ""),
        ("/ai/execute", {"plan_id": "x", "steps": [{"action": "a", "params": {}}]}, ""),
        ("/ai/execute", {"steps": []}, "/steps"),
        ("/ai/execute", {"steps": [{"action": "test.say", "params": {"text": "x"}}] * 21}, "/steps"),
        ("/ai/execute", {"steps": [{"action": "test.say"}]}, "/steps/0/params"),
        ("/ai/execute", {"steps": [{"action": "test.say", "params": {"text": 1}}]}, "/steps/0/params/text"),
        ("/ai/execute", {"steps": [{"action": "test.say", "params": {"text": REFERENCE}}]}, "/steps/0/params/text"),
        ("/ai/execute", {"steps": [{"action": "test.say", "params": {"text": "x"}, "id": "a b"}]}, "/steps/0/id"),
    ],
)
async def test_what_is_refused_and_where(quick: Client, path: str, body: Any, pointer: str) -> None:
    status, problem = await quick.ask("POST", path, body)
    assert status == 422
    assert pointer in [error["pointer"] for error in problem["errors"]]


@pytest.mark.parametrize("value", ["", "a b", "ä", "x" * 256])
async def test_a_malformed_idempotency_key_is_refused(quick: Client, value: str) -> None:
    body = {"steps": [{"action": "test.say", "params": {"text": "one"}}]}
    assert (await quick.ask("POST", "/ai/execute", body, Idempotency_Key=value))[0] == 400
    assert quick.house.world.texts == []


async def test_an_idempotency_key_makes_repeating_safe(client: Client) -> None:
    body: dict[str, Any] = {"steps": [{"action": "test.say", "params": {"text": "one"}}]}
    first = await client.ask("POST", "/ai/execute", body, Idempotency_Key="k")
    again = await client.ask("POST", "/ai/execute", body, Idempotency_Key="k")
    assert first[0] == again[0] == 202
    assert first[1]["run_id"] == again[1]["run_id"]
    body["steps"][0]["params"]["text"] = "two"
    status, problem = await client.ask("POST", "/ai/execute", body, Idempotency_Key="k")
    assert (status, problem["type"]) == (409, "urn:relay:problem:idempotency-mismatch")
    await client.ended(first[1]["run_id"])
    assert client.house.world.texts == ["one"]


async def test_cancelling(client: Client) -> None:
    begun, go_on = client.house.world.hold("one")
    body = {"steps": [{"action": "test.say", "params": {"text": text}} for text in ("one", "two")]}
    _, accepted = await client.ask("POST", "/ai/execute", body)
    await begun.wait()
    path = f"/ai/jobs/{accepted['run_id']}/cancel"
    status, job = await client.ask("POST", path)
    assert (status, job["status"], job["cancel_requested"]) == (200, "running", True)
    assert (await client.ask("POST", path))[0] == 200
    go_on.set()
    job = await client.ended(accepted["run_id"])
    assert job["status"] == "cancelled"
    status, problem = await client.ask("POST", path)
    assert (status, problem["run_status"]) == (409, "cancelled")


async def test_scopes(quick: Client) -> None:
    _, viewer = await quick.house.key(scopes=("actions:preview",))
    _, runner = await quick.house.key(scopes=("actions:execute",))
    step = {"steps": [{"action": "test.say", "params": {"text": "one"}}]}
    _, accepted = await quick.ask("POST", "/ai/execute", step)
    run = f"/ai/jobs/{accepted['run_id']}"
    await quick.ended(accepted["run_id"])
    assert (await quick.ask("POST", "/ai/plan", {"prompt": "x"}, key=viewer))[0] == 200
    assert (await quick.ask("GET", run, key=viewer))[0] == 200
    assert (await quick.ask("GET", "/ai/jobs", key=viewer))[0] == 200
    assert (await quick.ask("POST", "/ai/execute", step, key=viewer))[0] == 403
    assert (await quick.ask("POST", run + "/cancel", key=viewer))[0] == 403
    for path in (run, "/ai/jobs", run + "/events"):
        assert (await quick.ask("GET", path, key=runner))[0] == 403
    assert (await quick.ask("POST", "/ai/plan", {"prompt": "x"}, key=runner))[0] == 403


async def test_another_workspace_sees_nothing(quick: Client) -> None:
    _, stranger = await quick.house.key("elsewhere")
    _, accepted = await quick.ask("POST", "/ai/execute", {"steps": [{"action": "test.say", "params": {"text": "x"}}]})
    propose(quick)
    _, plan = await quick.ask("POST", "/ai/plan", {"prompt": "x"})
    run = f"/ai/jobs/{accepted['run_id']}"
    assert (await quick.ask("GET", run, key=stranger))[0] == 404
    assert (await quick.ask("POST", run + "/cancel", key=stranger))[0] == 404
    assert (await quick.ask("POST", "/ai/execute", {"plan_id": plan["plan_id"]}, key=stranger))[0] == 404
    assert (await quick.ask("GET", "/ai/jobs", key=stranger))[1]["items"] == []
    await quick.ended(accepted["run_id"])


async def test_pages(quick: Client) -> None:
    made = []
    for number in range(3):
        body = {"steps": [{"action": "test.say", "params": {"text": str(number)}}]}
        made.append((await quick.ask("POST", "/ai/execute", body))[1]["run_id"])
        await asyncio.sleep(0.002)
    _, first = await quick.ask("GET", "/ai/jobs?limit=2")
    _, second = await quick.ask("GET", f"/ai/jobs?limit=2&cursor={first['next_cursor']}")
    assert [item["run_id"] for item in first["items"] + second["items"]] == made[::-1]
    assert second["next_cursor"] is None
    for query in ("limit=0", "limit=101", "limit=x", "cursor=x", "other=1"):
        assert (await quick.ask("GET", f"/ai/jobs?{query}"))[0] == 422
    for run_id in made:
        await quick.ended(run_id)
