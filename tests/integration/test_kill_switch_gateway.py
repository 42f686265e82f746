"""The kill switch over HTTP: along the whole path, at every door, within one workspace."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.identity.operator import operator
from relay.policy.kill_switch import KillSwitch
from relay.store.target import Target
from tests.budgets_world import Pay, catalog, connectors
from tests.chat_talk import CHAT_KEY, held, say, settled
from tests.gateway import REQUEST, Answer, Gateway, open_gateway

REASON = "sends the wrong invoices"
PAY = {"action": "bank.pay", "params": {}}
LOOK = {"action": "bank.look", "params": {}}
ECHO = {"action": "relay.echo", "params": {"message": "still there?"}}


@pytest.fixture
def effects() -> list[Pay]:
    return []


@pytest.fixture
async def bank(target: Target, tmp_path: Path, effects: list[Pay]) -> AsyncIterator[Gateway]:
    async with open_gateway(target, tmp_path / "data", connectors=connectors(effects)) as running:
        yield running


async def turn(bank: Gateway, scope: dict[str, str], on: bool = True, key: str = "", **more: Any) -> Answer:
    body = {"on": on, "scope": scope, "reason": REASON, **more}
    return await bank.post("/kill-switch", body, key=key or bank.admin)


async def test_a_workspace_is_stopped_reads_included_and_goes_on_afterwards(bank: Gateway, effects: list[Pay]) -> None:
    preview = (await bank.post("/actions/preview", PAY, key=bank.admin)).expect(200)["preview_id"]
    (stop,) = (await turn(bank, {"workspace": "default"})).expect(200)["items"]
    assert (stop["scope"], stop["workspace"], stop["authority"]) == ({"workspace": "default"}, "default", "workspace")
    assert (await bank.get("/kill-switch", key=bank.admin)).expect(200)["items"] == [stop]
    for body in (PAY, LOOK, {"preview_id": preview}):
        problem = (await bank.post("/actions/execute", body, key=bank.admin)).expect(403)
        assert problem["type"] == "urn:relay:problem:stopped"
        assert (problem["scope"], problem["reason"]) == ("workspace", REASON)
    shown = (await bank.post("/actions/preview", LOOK, key=bank.admin)).expect(200)
    assert shown["decision"] == "deny" and REASON in shown["reason"]
    assert effects == []
    other = await bank.key("actions:execute", "workspace:admin", kind="person", workspace="other")
    (await bank.post("/actions/execute", LOOK, key=other)).expect(200)
    assert (await bank.get("/kill-switch", key=other)).expect(200) == {"items": []}
    assert (await turn(bank, {"workspace": "default"}, on=False)).expect(200) == {"items": []}
    (await bank.post("/actions/execute", PAY, key=bank.admin)).expect(200)


async def test_a_key_is_stopped_with_all_that_it_made(bank: Gateway) -> None:
    maker = await bank.key("keys:manage", "actions:execute")
    made = (await bank.post("/keys", {"scopes": ["actions:execute"]}, key=maker)).expect(201)
    maker_id = made["made_by"][-1]
    await turn(bank, {"key": maker_id})
    late = (await bank.post("/keys", {"scopes": ["actions:execute"]}, key=maker)).expect(201)
    for key in (maker, made["key"], late["key"]):
        assert (await bank.post("/actions/execute", LOOK, key=key)).expect(403)["scope"] == "key"
    (await bank.post("/actions/execute", LOOK, key=bank.admin)).expect(200)


async def test_a_stop_by_action_or_connector(bank: Gateway) -> None:
    await turn(bank, {"action": "bank.pay"})
    (await bank.post("/actions/execute", PAY, key=bank.admin)).expect(403)
    (await bank.post("/actions/execute", LOOK, key=bank.admin)).expect(200)
    await turn(bank, {"connector": "bank"})
    assert (await bank.post("/actions/execute", LOOK, key=bank.admin)).expect(403)["scope"] == "connector"
    letter = {"action": "post.send", "params": {}}
    (await bank.post("/actions/execute", letter, key=bank.admin)).expect(200)


async def test_a_run_stops_at_its_next_step(bank: Gateway, effects: list[Pay]) -> None:
    await turn(bank, {"action": "bank.pay"})
    steps = {"steps": [{"action": "post.send", "params": {}}, PAY]}
    answer = await bank.post("/ai/execute", steps, key=bank.admin)
    if answer.status == 202:
        run = answer.json["run_id"]
        while True:
            found = (await bank.get(f"/ai/jobs/{run}", key=bank.admin)).expect(200)
            if found["status"] not in ("queued", "running"):
                break
        assert found["status"] in ("failed", "cancelled")
    else:
        answer.expect(403)
    assert [one for one in effects if one.amount] == [] and len(effects) <= 1


async def test_it_is_within_the_caller_s_workspace_only(bank: Gateway) -> None:
    stranger = await bank.key("workspace:admin", kind="person", workspace="other")
    foreign = (await bank.get("/keys", key=bank.admin)).expect(200)["items"][0]["id"]
    for on in (True, False):
        for scope in ({"workspace": "default"}, {"key": foreign}, {"key": "key_0"}):
            (await turn(bank, scope, on, key=stranger)).expect(404)
    await turn(bank, {"connector": "bank"}, key=stranger)
    (await bank.post("/actions/execute", LOOK, key=bank.admin)).expect(200)
    assert (await bank.get("/kill-switch", key=bank.admin)).expect(200) == {"items": []}


@pytest.mark.parametrize(
    "body",
    [
        {"on": True, "scope": {"action": "bank.rob"}, "reason": REASON},
        {"on": True, "scope": {"connector": "nowhere"}, "reason": REASON},
        {"on": True, "scope": {}, "reason": REASON},
        {"on": True, "scope": {"action": "bank.pay", "connector": "bank"}, "reason": REASON},
        {"on": True, "scope": {"everything": "yes"}, "reason": REASON},
        {"on": "yes", "scope": {"action": "bank.pay"}, "reason": REASON},
        {"on": True, "scope": {"action": "bank.pay"}},
        {"on": True, "scope": {"action": "bank.pay"}, "reason": "  "},
    ],
)
async def test_what_cannot_be_meant_is_422(bank: Gateway, body: dict[str, Any]) -> None:
    assert (await bank.post("/kill-switch", body, key=bank.admin)).expect(422)["errors"]
    assert (await bank.get("/kill-switch", key=bank.admin)).expect(200) == {"items": []}


async def test_who_may_turn_it(bank: Gateway) -> None:
    agent = await bank.key("workspace:admin")
    nobody = await bank.key("policies:manage", kind="person")
    (await turn(bank, {"connector": "bank"}, key=nobody)).expect(403)
    (await turn(bank, {"connector": "bank"}, key=agent)).expect(200)
    assert (await turn(bank, {"connector": "bank"}, on=False, key=agent)).expect(403)["type"].endswith(":denied")
    (await turn(bank, {"connector": "bank"}, on=False)).expect(200)


async def test_the_record_says_who_when_and_why(bank: Gateway) -> None:
    await turn(bank, {"connector": "bank"})
    await turn(bank, {"connector": "bank"}, on=False)
    found = (await bank.get("/audit?tag=policy:kill_switch:*", key=bank.admin)).expect(200)["items"]
    assert [item["tag"] for item in found] == ["policy:kill_switch:off", "policy:kill_switch:on"]
    assert {item["target"] for item in found} == {"connector:bank"}
    assert [item["details"]["reason"] for item in found] == [REASON] * 2
    assert {item["principal"] for item in found} == {(await bank.get("/keys", key=bank.admin)).json["items"][0]["id"]}


async def test_everything_stops_for_every_workspace_which_all_read_about_it(bank: Gateway) -> None:
    other = await bank.key("actions:execute", "audit:read", workspace="other")
    beside = KillSwitch(bank.house.database, catalog(), {})
    more = {"kind": "everything", "subject": "", "workspace": "", "reason": REASON, "request_id": REQUEST}
    await beside.turn(operator(), on=True, **more)
    for key in (bank.admin, other):
        assert (await bank.post("/actions/execute", LOOK, key=key)).expect(403)["scope"] == "everything"
    assert len((await bank.get("/audit?tag=policy:kill_switch:on", key=other)).expect(200)["items"]) == 1
    (stop,) = (await bank.get("/kill-switch", key=bank.admin)).expect(200)["items"]
    assert (stop["scope"], stop["workspace"], stop["authority"]) == ({"everything": True}, None, "operator")


async def test_the_chat_s_own_key_is_stopped_by_its_name_and_nobody_else_with_it(
    target: Target, tmp_path: Path
) -> None:
    opened = {"CHAT_API_KEY": CHAT_KEY, "CHAT_SCOPES": "chat actions:preview actions:execute", "CHAT_WORKSPACE": "desk"}
    async with open_gateway(target, tmp_path / "data", **opened) as gateway:
        admin = await gateway.key("workspace:admin", "actions:execute", kind="person", workspace="desk")
        session, call = await held(gateway, CHAT_KEY)
        (await turn(gateway, {"key": "chat"})).expect(404)  # it acts in another workspace than this administrator's
        (stop,) = (await turn(gateway, {"key": "chat"}, key=admin)).expect(200)["items"]
        assert (stop["scope"], stop["workspace"]) == ({"key": "chat"}, "desk")
        after = await settled(gateway, CHAT_KEY, session)
        found = [entry["call"] for entry in after["entries"] if entry["call"]][-1]
        assert (found["id"], found["status"], found["error"]["code"]) == (call["id"], "cancelled", "stopped")
        asked = (await say(gateway, 'echo "hello"', key=CHAT_KEY)).expect(200)
        assert [found["error"]["code"] for found in asked["tool_calls"]] == ["stopped"]
        (await gateway.post("/actions/execute", ECHO, key=admin)).expect(200)
        assert (await turn(gateway, {"key": "chat"}, on=False, key=admin)).expect(200) == {"items": []}
        asked = (await say(gateway, 'echo "hello"', key=CHAT_KEY)).expect(200)
        assert [found["status"] for found in asked["tool_calls"]] == ["succeeded"]
