"""Budgets over HTTP: set, seen, enforced along the whole path, and out of reach for whom they bind."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.store.target import Target
from tests.budgets_world import Pay, connectors
from tests.gateway import Gateway, open_gateway

WORKSPACE = {"workspace": "default"}


@pytest.fixture
def effects() -> list[Pay]:
    return []


@pytest.fixture
async def bank(target: Target, tmp_path: Path, effects: list[Pay]) -> AsyncIterator[Gateway]:
    async with open_gateway(target, tmp_path / "data", connectors=connectors(effects)) as running:
        yield running


async def set_budget(bank: Gateway, limit: int, measure: str = "actions", **more: Any) -> dict[str, Any]:
    body = {"scope": WORKSPACE, "measure": measure, "limit": limit, **more}
    made: dict[str, Any] = (await bank.post("/budgets", body, key=bank.admin)).expect(201)
    return made


def pay(**params: Any) -> dict[str, Any]:
    return {"action": "bank.pay", "params": params}


async def used(bank: Gateway) -> list[int]:
    return [item["used"] for item in (await bank.get("/budgets", key=bank.admin)).expect(200)["items"]]


async def test_a_budget_is_shown_changed_and_removed(bank: Gateway) -> None:
    made = await set_budget(bank, 3, connector="bank", action="bank.pay")
    assert made["id"].startswith("bud_") and made["resets_at"].endswith("T00:00:00.000000Z")
    assert {name: made[name] for name in ("scope", "connector", "action", "measure", "field", "limit", "used")} == {
        "scope": WORKSPACE,
        "connector": "bank",
        "action": "bank.pay",
        "measure": "actions",
        "field": None,
        "limit": 3,
        "used": 0,
    }
    (await bank.post("/actions/execute", pay(), key=bank.admin)).expect(200)
    (item,) = (await bank.get("/budgets", key=bank.admin)).expect(200)["items"]
    assert item == {**made, "used": 1}
    changed = (await bank.call("PUT", f"/budgets/{made['id']}", json={"limit": 1}, key=bank.admin)).expect(200)
    assert changed == {**made, "limit": 1, "used": 1}
    (await bank.post("/actions/execute", pay(), key=bank.admin)).expect(429)
    assert (await bank.call("DELETE", f"/budgets/{made['id']}", key=bank.admin)).expect(200) == {"id": made["id"]}
    (await bank.post("/actions/execute", pay(), key=bank.admin)).expect(200)
    twice = await bank.call("DELETE", f"/budgets/{made['id']}", key=bank.admin)
    twice.expect(404)


async def test_twins_at_the_limit(bank: Gateway, effects: list[Pay]) -> None:
    await set_budget(bank, 10)
    answers = await asyncio.gather(*(bank.post("/actions/execute", pay(), key=bank.admin) for _ in range(16)))
    assert Counter(answer.status for answer in answers) == {200: 10, 429: 6}
    assert len(effects) == 10
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.json["type"] == "urn:relay:problem:budget-exhausted"
    assert int(refused.headers["Retry-After"]) == refused.json["retry_after"] <= 86_400
    assert refused.json["budget"]["limit"] == refused.json["budget"]["used"] == 10


async def test_what_failed_is_given_back(bank: Gateway, effects: list[Pay]) -> None:
    await set_budget(bank, 1)
    await set_budget(bank, 1, "new_recipients")
    await set_budget(bank, 1, "hosts")
    await set_budget(bank, 9, "sum", field="amount")
    wish = {"to": ["ada@example.com"], "hosts": ["a.example"], "amount": 9}
    (await bank.post("/actions/execute", pay(**wish, fail=True), key=bank.admin)).expect(502)
    assert await used(bank) == [0, 0, 0, 0]
    (await bank.post("/actions/execute", pay(**wish), key=bank.admin)).expect(200)
    assert await used(bank) == [1, 1, 1, 9]
    (await bank.post("/actions/execute", pay(), key=bank.admin)).expect(429)
    assert len(effects) == 1


async def test_a_preview_warns_and_a_spent_idempotency_key_costs_nothing(bank: Gateway) -> None:
    await set_budget(bank, 1)
    once = {"Idempotency-Key": "one-and-the-same"}
    first = (await bank.post("/actions/execute", pay(), key=bank.admin, headers=once)).expect(200)
    again = (await bank.post("/actions/execute", pay(), key=bank.admin, headers=once)).expect(200)
    assert first["attempt_id"] == again["attempt_id"] and await used(bank) == [1]
    (warning,) = (await bank.post("/actions/preview", pay(), key=bank.admin)).expect(200)["warnings"]
    assert "2nd of 1 actions" in warning


async def test_an_agent_cannot_raise_its_own_budget(bank: Gateway) -> None:
    made = await set_budget(bank, 1)
    agent = await bank.key("policies:manage", "actions:execute")
    (await bank.get("/budgets", key=agent)).expect(200)
    body = {"scope": WORKSPACE, "measure": "hosts", "limit": 1}
    for answer in (
        await bank.call("PUT", f"/budgets/{made['id']}", json={"limit": 100}, key=agent),
        await bank.call("DELETE", f"/budgets/{made['id']}", key=agent),
        await bank.post("/budgets", body, key=agent),
    ):
        assert answer.expect(403)["type"] == "urn:relay:problem:denied"
    (await bank.post("/budgets", body, key=await bank.key("actions:execute", kind="person"))).expect(403)


async def test_another_workspace_s_budgets_and_keys_are_nothing(bank: Gateway) -> None:
    made = await set_budget(bank, 1)
    stranger = await bank.key("policies:manage", "keys:manage", kind="person", workspace="other")
    (await bank.call("PUT", f"/budgets/{made['id']}", json={"limit": 9}, key=stranger)).expect(404)
    (await bank.call("DELETE", f"/budgets/{made['id']}", key=stranger)).expect(404)
    assert (await bank.get("/budgets", key=stranger)).expect(200) == {"items": []}
    foreign = (await bank.get("/keys", key=bank.admin)).expect(200)["items"][0]["id"]
    for scope in (WORKSPACE, {"key": foreign}, {"key": "key_0"}):
        body = {"scope": scope, "measure": "actions", "limit": 1}
        (await bank.post("/budgets", body, key=stranger)).expect(404)


@pytest.mark.parametrize(
    "body",
    [
        {"scope": {}, "measure": "actions", "limit": 1},
        {"scope": {"workspace": "default", "key": "key_1"}, "measure": "actions", "limit": 1},
        {"scope": WORKSPACE, "measure": "luck", "limit": 1},
        {"scope": WORKSPACE, "measure": "actions", "limit": -1},
        {"scope": WORKSPACE, "measure": "actions", "limit": True},
        {"scope": WORKSPACE, "measure": "actions", "limit": 2**53},
        {"scope": WORKSPACE, "measure": "actions", "limit": 1, "connector": "nowhere"},
        {"scope": WORKSPACE, "measure": "sum", "limit": 1},
    ],
)
async def test_a_budget_that_makes_no_sense_is_422(bank: Gateway, body: dict[str, Any]) -> None:
    assert (await bank.post("/budgets", body, key=bank.admin)).expect(422)["errors"]


async def test_a_twin_is_409_and_names_the_first(bank: Gateway) -> None:
    made = await set_budget(bank, 1)
    answer = await bank.post("/budgets", {"scope": WORKSPACE, "measure": "actions", "limit": 2}, key=bank.admin)
    assert answer.expect(409)["budget_id"] == made["id"]


async def test_what_waits_for_its_parts_of_a_run_counts_too(bank: Gateway, effects: list[Pay]) -> None:
    await set_budget(bank, 1, "sum", field="amount")
    steps = {"steps": [pay(amount=1), pay(amount=2)]}
    run = (await bank.post("/ai/execute", steps, key=bank.admin)).expect(202)["run_id"]
    async with asyncio.timeout(30):
        while True:
            found = (await bank.get(f"/ai/jobs/{run}", key=bank.admin)).expect(200)
            if found["status"] not in ("queued", "running"):
                break
            await asyncio.sleep(0.05)
    assert found["status"] == "failed"
    assert found["steps"][1]["error"]["code"] == "over-budget"
    assert len(effects) == 1
