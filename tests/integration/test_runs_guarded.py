"""What guards runs: rules on where an order came from and on content from outside, places that are not held, words."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from relay.core.plan import PlanStep
from relay.core.principal import Principal
from relay.core.problem import TooManyRunning
from relay.core.references import RESULT_OF
from relay.gate.ask import Ask, AttemptState
from relay.gate.perform import Performer
from relay.runs import work
from relay.runs.journal import Claim, Journal
from relay.runs.machine import StepEnd
from relay.runs.steps import Inputs, pack, unpack
from relay.store.tables import attempts
from relay.store.target import Target
from tests.gateway import Gateway, open_gateway
from tests.runs_world import World, runs_house, said, statuses, test_connector

OVER = ("succeeded", "failed", "cancelled", "unknown", "pending_approval")
JSON = {"Content-Type": "application/json"}
NOBODY = "127.0.0.1:9"
NOT_FROM_HERE = """
@id("all") permit (principal, action, resource);
@id("not-from-here") forbid (principal, action == Relay::Action::"relay.echo", resource)
when { context has client_address && context.client_address.isInRange(ip("127.0.0.0/8")) };
"""
NOT_FROM_OUTSIDE = """
@id("all") permit (principal, action, resource);
@id("not-from-outside") forbid (principal, action, resource) when { context.untrusted_content };
"""

Steps = list[dict[str, Any]]


def say(text: Any) -> dict[str, Any]:
    return {"action": "test.say", "params": {"text": text}}


def echo(message: Any) -> dict[str, Any]:
    return {"action": "relay.echo", "params": {"message": message}}


def held() -> dict[str, Any]:
    return {"action": "http.request", "params": {"method": "POST", "url": f"http://{NOBODY}/"}}


def result_of(step: str, pointer: str) -> dict[str, Any]:
    return {RESULT_OF: step, "pointer": pointer}


async def begin(gateway: Gateway, key: str, *steps: dict[str, Any]) -> str:
    answer = await gateway.post("/ai/execute", {"steps": list(steps)}, key=key)
    return str(answer.expect(202)["run_id"])


async def until(gateway: Gateway, key: str, run_id: str, *wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            job: dict[str, Any] = (await gateway.get(f"/ai/jobs/{run_id}", key=key)).expect(200)
            if job["status"] in (wanted or OVER):
                return job
            await asyncio.sleep(0.05)


async def attempt_of(gateway: Gateway, run_id: str, step_id: str) -> str:
    async with asyncio.timeout(60):
        while True:
            row = await gateway.house.database.reader.one(
                select(attempts.c.id).where(attempts.c.run_id == run_id, attempts.c.step_id == step_id)
            )
            if row is not None:
                return str(row[0])
            await asyncio.sleep(0.05)


@pytest.fixture
async def saying(target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(target, tmp_path / "data", connectors=[(test_connector, World())]) as gateway:
        yield gateway


@pytest.mark.parametrize("pointer", ["/\u0000", "/a\u001fb"])
async def test_a_pointer_with_what_no_database_stores_is_refused(gateway: Gateway, pointer: str) -> None:
    key = await gateway.key("developer")
    steps = [echo("a"), echo({RESULT_OF: "s1", "pointer": pointer})]
    answer = await gateway.call(
        "POST", "/ai/execute", key=key, data=json.dumps({"steps": steps}).encode(), headers=JSON
    )
    assert answer.status == 422
    assert answer.json["errors"][0]["pointer"].startswith("/steps/1/params")


async def test_a_name_with_a_nul_around_a_bad_reference_ends_the_run(target: Target) -> None:
    async with runs_house(target) as house:
        who, _ = await house.key()
        steps = [said("one"), said("two", data={"a\0b": result_of("s1", "/nothing")})]
        state = await house.ended(who, await house.start_run(who, *steps))
        assert statuses(state) == ["succeeded", "failed"]
        assert state.steps[1].error_code == "bad_reference"
        assert state.steps[1].error_detail is not None and "a\N{REPLACEMENT CHARACTER}b" in state.steps[1].error_detail


async def test_an_end_that_cannot_be_written_is_written_without_its_words(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_step = Journal.end_step

    async def refusing(journal: Journal, claim: Claim, place: int, end: StepEnd) -> bool:
        if end.error is not None and end.error[0] == "bad_reference":
            raise ValueError("never")
        return await end_step(journal, claim, place, end)

    monkeypatch.setattr(Journal, "end_step", refusing)
    async with runs_house(target) as house:
        who, _ = await house.key()
        run_id = await house.start_run(who, said("one"), said(result_of("s1", "/nothing")))
        state = await house.ended(who, run_id)
        assert (state.run.status, state.steps[1].error_code) == ("failed", "internal")


@pytest.mark.parametrize(
    ("steps", "ends"),
    [
        ([say("a"), say("b")], ["succeeded", "succeeded"]),
        ([echo("a"), say(result_of("s1", "/message"))], ["succeeded", "succeeded"]),
        ([say("a"), say(result_of("s1", "/text"))], ["succeeded", "pending_approval"]),
        ([say("a"), echo(result_of("s1", "/text")), say("c")], ["succeeded", "succeeded", "pending_approval"]),
    ],
    ids=["no-reference", "local-result", "outside-result", "after-it"],
)
async def test_what_a_result_from_outside_may_have_steered_is_asked_about(
    saying: Gateway, steps: Steps, ends: list[str]
) -> None:
    key = await saying.key("developer", kind="person")
    job = await until(saying, key, await begin(saying, key, *steps))
    assert [step["status"] for step in job["steps"]] == ends


async def test_a_plan_foretells_it(target: Target) -> None:
    async with runs_house(target, policy=NOT_FROM_OUTSIDE) as house:
        who, _ = await house.key()
        house.planner.propose_steps(
            PlanStep("s1", "test.say", {"text": "one"}, ()),
            PlanStep("s2", "test.say", {"text": result_of("s1", "/text")}, ()),
            PlanStep("s3", "test.say", {"text": "three"}, ()),
        )
        plan = await house.plans.make(who, "please", None, "req_test_plan")
        assert [step.decision.effect for step in plan.steps] == ["allow", "deny", "deny"]


async def test_a_rule_on_addresses_holds_for_runs_and_plans(gateway: Gateway) -> None:
    key = await gateway.key("developer", kind="person")
    (await gateway.call("PUT", "/policies", key=gateway.admin, json={"text": NOT_FROM_HERE})).expect(200)
    (await gateway.post("/actions/execute", {"action": "relay.echo", "params": {"message": "x"}}, key=key)).expect(403)
    plan = (await gateway.post("/ai/plan", {"prompt": 'echo "hello"'}, key=key)).expect(200)
    assert [step["decision"] for step in plan["steps"]] == ["deny"]
    job = await until(gateway, key, await begin(gateway, key, echo("x")))
    assert (job["status"], job["steps"][0]["error"]["code"]) == ("failed", "denied")
    run_id = (await gateway.post("/ai/execute", {"plan_id": plan["plan_id"]}, key=key)).expect(202)["run_id"]
    assert (await until(gateway, key, run_id))["status"] == "failed"


def test_inputs_sealed_without_an_address_have_none() -> None:
    assert unpack(b'{"nonce":"n","steps":[]}') == Inputs("n", (), "")
    assert unpack(pack(Inputs("n", (), "192.0.2.1"))).client == "192.0.2.1"


async def test_runs_that_are_held_back_keep_no_place(target: Target, tmp_path: Path) -> None:
    settings = {"EGRESS_ALLOW": NOBODY, "HOLD_BACK_SECONDS": "600"}
    async with open_gateway(target, tmp_path / "data", **settings) as gateway:
        key = await gateway.key("developer", kind="person")
        other = await gateway.key("developer", workspace="other")
        waiting = [await begin(gateway, key, held()) for _ in range(12)]
        made = [await attempt_of(gateway, run_id, "s1") for run_id in waiting]
        job = await until(gateway, other, await begin(gateway, other, echo("x")))
        assert job["status"] == "succeeded"

        (await gateway.post(f"/ai/jobs/{waiting[0]}/cancel", key=key)).expect(200)
        assert (await until(gateway, key, waiting[0]))["status"] == "cancelled"
        (await gateway.post(f"/attempts/{made[1]}/recall", key=key)).expect(200)
        assert (await until(gateway, key, waiting[1]))["status"] == "cancelled"
        assert (await until(gateway, key, waiting[2], "running"))["steps"][0]["status"] == "running"


async def test_a_run_that_was_held_back_goes_on_when_its_time_comes(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", EGRESS_ALLOW=NOBODY, HOLD_BACK_SECONDS="5") as gateway:
        key = await gateway.key("developer", kind="person")
        job = await until(gateway, key, await begin(gateway, key, held()))
        assert job["steps"][0]["status"] == "failed" and job["steps"][0]["attempt_id"] is not None


async def test_runs_that_meet_a_limit_keep_no_place(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "LONGEST_IN_PLACE_SECONDS", 0.3)
    async with runs_house(target) as house:
        who, _ = await house.key()
        perform, limited = house.gate.perform, True

        async def performed(principal: Principal, ask: Ask) -> AttemptState:
            if limited and ask.params == {"text": "often"}:
                raise TooManyRunning("Too often.", retry_after=1)
            return await perform(principal, ask)

        monkeypatch.setattr(house.gate, "perform", performed)
        waiting = [await house.start_run(who, said("often")) for _ in range(6)]
        state = await house.ended(who, await house.start_run(who, said("once")))
        assert state.run.status == "succeeded"
        assert house.world.texts == ["once"]
        limited = False
        for run_id in waiting:
            ended = await house.ended(who, run_id)
            assert (ended.run.status, ended.steps[0].error_detail) == ("succeeded", None)
        assert house.world.texts == ["once", *["often"] * 6]


async def test_an_agent_cancels_its_own_runs_and_a_person_any(target: Target, tmp_path: Path) -> None:
    settings = {"EGRESS_ALLOW": NOBODY, "HOLD_BACK_SECONDS": "600"}
    async with open_gateway(target, tmp_path / "data", **settings) as gateway:
        own, agent = await gateway.key("developer", kind="person"), await gateway.key("developer")
        stranger = await gateway.key("developer", kind="person", workspace="other")
        person = await gateway.key("developer", kind="person")
        first = await begin(gateway, own, held())
        path = f"/ai/jobs/{first}/cancel"
        refusal = await gateway.post(path, key=agent)
        assert (refusal.status, refusal.json["detail"]) == (
            403,
            "A run is cancelled by the key that started it, or by a person.",
        )
        assert (await gateway.post(path, key=stranger)).status == 404
        assert (await gateway.get(f"/ai/jobs/{first}", key=own)).json["cancel_requested"] is False
        (await gateway.post(path, key=person)).expect(200)
        assert (await until(gateway, own, first))["status"] == "cancelled"


@pytest.mark.parametrize("waits_for", ["its time", "approval"])
async def test_a_cancellation_before_the_attempt_waits_is_not_lost(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits_for: str
) -> None:
    perform = Performer.perform
    mail = {"action": "email.send", "params": {"to": ["you@example.com"], "subject": "Hello", "text": "Hello"}}
    async with open_gateway(
        target, tmp_path / "data", EGRESS_ALLOW=NOBODY, HOLD_BACK_SECONDS="600" if waits_for == "its time" else "0"
    ) as gateway:
        person = await gateway.key("developer", kind="person")
        key = person if waits_for == "its time" else await gateway.key("developer")

        async def cancelled_first(performer: Performer, principal: Principal, ask: Ask) -> AttemptState:
            (await gateway.post(f"/ai/jobs/{ask.run_id}/cancel", key=person)).expect(200)
            return await perform(performer, principal, ask)

        monkeypatch.setattr(Performer, "perform", cancelled_first)
        run_id = await begin(gateway, key, held() if waits_for == "its time" else mail)
        job = await until(gateway, key, run_id, "cancelled")
        assert job["steps"][0]["status"] == "cancelled"
        attempt = (await gateway.get(f"/attempts/{job['steps'][0]['attempt_id']}", key=key)).expect(200)
        assert attempt["status"] == "cancelled"
        assert (await gateway.get("/approvals?status=pending", key=await gateway.key("admin", kind="person"))).expect(
            200
        )["items"] == []
