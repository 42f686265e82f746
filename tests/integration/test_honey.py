"""Traps over a real server: keys that open nothing, actions that are never run, and what happens to who uses them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.catalog import CatalogError
from relay.connectors.honey import Wanted, honey_connectors, summary_of
from relay.core.permit import PermitRefused
from relay.crypto.api_key import new_api_key
from relay.identity.operator import operator
from relay.planning.local import LocalPlanner
from relay.settings import SettingsError
from relay.store.target import Target
from relay.store.writer import StoreUnavailable
from tests.gateway import REQUEST, Gateway, open_gateway, settings_for
from tests.receivers import open_receiver
from tests.sending_kit import endpoint, sending

TRAP = "vault.export_credentials"
WANTED = {"action": TRAP, "params": {"name": "*"}}
ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
POST = {"action": "http.request", "params": {"method": "POST", "url": "https://example.com/"}}


@pytest.fixture
async def gate(target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(target, tmp_path / "data", HONEY_ACTIONS=TRAP) as gateway:
        yield gateway


async def made(gateway: Gateway, *scopes: str, **more: Any) -> dict[str, Any]:
    return (await gateway.post("/keys", {"scopes": list(scopes), **more}, key=gateway.admin)).expect(201)


async def settled(gateway: Gateway) -> None:
    await gateway.house.api_keys._quarantine.stop()


def told(answer: Any) -> Any:
    """Return what an answer says, without what differs from request to request."""
    body = {name: value for name, value in answer.json.items() if name not in ("request_id", "instance")}
    names = {name for name in answer.headers if name not in ("X-Request-ID", "Date")}
    return answer.status, body, names, answer.headers.get("WWW-Authenticate")


async def test_a_honey_key_looks_like_any_other_and_opens_nothing(gate: Gateway) -> None:
    honey, real = await made(gate, "admin", honey=True), await made(gate, "docs")
    assert len(honey["key"]) == len(real["key"]) and honey["prefix"] == real["prefix"]
    assert honey["honey"] is True and real["honey"] is False
    unknown = new_api_key("test")
    paths = [
        ("GET", "/keys", None),
        ("POST", "/actions/execute", ECHO),
        ("POST", "/keys/children", {"scopes": ["docs"]}),
    ]
    for method, path, body in paths:
        answers = [await gate.call(method, path, key=key, json=body) for key in (honey["key"], unknown)]
        assert told(answers[0]) == told(answers[1]) and answers[0].status == 401
    assert await gate.house.api_keys.reload(honey["id"]) is None


async def test_its_first_use_raises_the_alarm_and_later_ones_once_a_day(gate: Gateway) -> None:
    honey = await made(gate, "admin", honey=True)
    for _ in range(3):
        (await gate.get("/keys", key=honey["key"])).expect(401)
        await settled(gate)
    (alarm,) = await gate.events("identity:honey:key_used")
    (quarantined,) = await gate.events("identity:key:quarantined")
    assert alarm["target"] == quarantined["target"] == honey["id"] and alarm["workspace_id"] == "default"
    (shown,) = (await gate.get("/audit?tag=identity:honey:key_used", key=gate.admin)).expect(200)["items"]
    assert shown["details"] == {"address": "127.0.0.1"}
    (listed,) = [
        item for item in (await gate.get("/keys", key=gate.admin)).expect(200)["items"] if item["id"] == honey["id"]
    ]
    assert listed["status"] == "quarantined" and listed["quarantine_reason"] == "honey_key_used"


async def test_many_uses_at_once_are_one_alarm(gate: Gateway) -> None:
    honey = await made(gate, "admin", honey=True)
    await asyncio.gather(*(gate.get("/keys", key=honey["key"]) for _ in range(10)))
    await settled(gate)
    assert len(await gate.events("identity:honey:key_used")) == len(await gate.events("identity:key:quarantined")) == 1


async def test_traps_are_made_by_persons_and_shown_to_persons_alone(gate: Gateway) -> None:
    agent = await made(gate, "keys:manage", "docs", "audit:read")
    (await gate.post("/keys", {"scopes": ["docs"], "honey": True}, key=agent["key"])).expect(403)
    honey, real = await made(gate, "docs", honey=True, name="x"), await made(gate, "docs", name="x")
    by_id = {item["id"]: item for item in (await gate.get("/keys", key=agent["key"])).expect(200)["items"]}
    own = ("id", "last4", "created_at", "expires_at")
    views = [{name: value for name, value in by_id[each["id"]].items() if name not in own} for each in (honey, real)]
    assert views[0] == views[1] and views[0]["honey"] is None
    events = (await gate.get("/audit?tag=identity:key:created", key=agent["key"])).expect(200)["items"]
    details = {event["target"]: event["details"] for event in events}
    for each in (honey["id"], real["id"]):
        details[each].pop("expires_at")
    assert details[honey["id"]] == details[real["id"]]
    # Whoever replaces a trap has a trap.
    successor = (await gate.post(f"/keys/{honey['id']}/rotate", key=agent["key"])).expect(200)
    (await gate.get("/keys/children", key=successor["key"])).expect(401)
    await settled(gate)
    (alarm,) = await gate.events("identity:honey:key_used")
    assert alarm["target"] == successor["id"]


async def test_the_operator_makes_traps(gate: Gateway) -> None:
    record, text = await gate.house.api_keys.create(
        operator(), workspace="default", kind="agent", scopes=["admin"], honey=True, request_id=REQUEST
    )
    assert record.honey
    (await gate.get("/keys", key=text)).expect(401)


async def test_a_revoked_trap_is_a_revoked_key(gate: Gateway) -> None:
    honey = await made(gate, "docs", honey=True)
    (await gate.call("DELETE", f"/keys/{honey['id']}", key=gate.admin)).expect(200)
    (await gate.get("/keys", key=honey["key"])).expect(401)
    await settled(gate)
    assert await gate.events("identity:honey:key_used") == []


@pytest.mark.parametrize("how", ["preview", "execute", "run", "wrong parameters", "without its scope"])
async def test_whoever_asks_for_a_honey_action_loses_the_key(gate: Gateway, how: str) -> None:
    scopes = ["actions:preview"] if how == "without its scope" else ["developer"]
    thief, bystander = await made(gate, *scopes), await made(gate, "developer")
    child = (await gate.post("/keys/children", {"scopes": ["actions:preview"]}, key=thief["key"])).expect(201)
    if how != "without its scope":
        waiting = (await gate.post("/actions/execute", POST, key=thief["key"])).expect(202)
    path, body = {
        "preview": ("/actions/preview", WANTED),
        "execute": ("/actions/execute", WANTED),
        "run": ("/ai/execute", {"steps": [ECHO, WANTED]}),
        "wrong parameters": ("/actions/preview", {"action": TRAP, "params": {"no": "such"}}),
        "without its scope": ("/actions/preview", WANTED),
    }[how]
    caught = await gate.post(path, body, key=thief["key"])
    after = await gate.post(path, body, key=thief["key"])
    assert told(caught) == told(after) and caught.status == 401
    assert told(after) == told(await gate.post(path, body, key=new_api_key("test")))
    (await gate.get("/actions", key=child["key"])).expect(401)
    (await gate.get("/actions", key=bystander["key"])).expect(200)
    (alarm,) = await gate.events("identity:honey:action_used")
    assert alarm["target"] == alarm["principal"] == thief["id"] and alarm["action"] == TRAP and alarm["request_id"]
    (quarantined,) = await gate.events("identity:key:quarantined")
    assert quarantined["target"] == thief["id"]
    if how != "without its scope":
        attempt = (await gate.get(f"/attempts/{waiting['attempt_id']}", key=gate.admin)).expect(200)
        assert attempt["status"] == "cancelled"
    for tag in ("gate:preview:made", "gate:action:intent", "runs:run:created"):
        assert await gate.events(tag, principal=thief["id"]) == []


async def test_a_child_that_is_caught_leaves_its_parent_alone(gate: Gateway) -> None:
    parent = await made(gate, "developer")
    child = (await gate.post("/keys/children", {"scopes": ["developer"]}, key=parent["key"])).expect(201)
    (await gate.post("/actions/execute", WANTED, key=child["key"])).expect(401)
    (await gate.get("/actions", key=child["key"])).expect(401)
    (await gate.get("/actions", key=parent["key"])).expect(200)


async def test_a_honey_action_stands_in_the_catalogue_and_in_no_plan(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: set[str] = set()
    real = LocalPlanner.propose

    async def propose(self: LocalPlanner, prompt: str, context: Any, actions: Any, payer: Any) -> Any:
        offered.update(spec.name for spec in actions)
        return await real(self, prompt, context, actions)

    monkeypatch.setattr(LocalPlanner, "propose", propose)
    key = await made(gate, "developer")
    listed = {each["name"]: each for each in (await gate.get("/actions", key=key["key"])).expect(200)["actions"]}
    assert set(listed[TRAP]) == set(listed["email.send"]) and listed[TRAP]["effect"] == "write"
    assert listed[TRAP]["summary"] == "Export credentials of the vault."
    for prompt in ("Export credentials of the vault named *", "vault export_credentials *", f"Run {TRAP} with name *"):
        plan = (await gate.post("/ai/plan", {"prompt": prompt}, key=key["key"])).expect(200)
        assert [step for step in plan["steps"] if step["action"] == TRAP] == []
    (await gate.get("/actions", key=key["key"])).expect(200)
    assert await gate.events("identity:honey:action_used") == []
    assert "email.send" in offered and TRAP not in offered


async def test_speaking_of_it_is_not_asking_for_it(gate: Gateway) -> None:
    stop = {"on": True, "scope": {"action": TRAP}, "reason": "a test"}
    (await gate.post("/kill-switch", stop, key=gate.admin)).expect(200)
    (await gate.post("/policies/explain", WANTED, key=gate.admin)).expect(200)
    (await gate.get("/keys", key=gate.admin)).expect(200)


async def test_what_cannot_be_written_is_not_told(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", HONEY_ACTIONS=TRAP) as gateway:
        key = await made(gateway, "developer")

        async def run(*_: Any, **__: Any) -> None:
            raise StoreUnavailable("away")

        (await gateway.get("/actions", key=key["key"])).expect(200)
        monkeypatch.setattr(gateway.house.database.writer, "run", run)
        (await gateway.post("/actions/execute", WANTED, key=key["key"])).expect(503)
        monkeypatch.undo()
        (await gateway.post("/actions/execute", WANTED, key=key["key"])).expect(401)
        assert len(await gateway.events("identity:key:quarantined")) == 1


async def test_endpoints_are_told(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, sending(sqlite_target, tmp_path, HONEY_ACTIONS=TRAP) as gateway:
        await endpoint(gateway, receiver.url, "security.violation", "key.quarantined")
        key, honey = await made(gateway, "developer"), await made(gateway, "docs", honey=True)
        (await gateway.post("/actions/execute", WANTED, key=key["key"])).expect(401)
        (await gateway.get("/keys", key=honey["key"])).expect(401)
        seen = [each.event["data"] for each in await receiver.arrived(4)]
        violations = {each["kind"]: (each["severity"], each["subject"]) for each in seen if "kind" in each}
        assert violations == {
            "honey_action_used": ("critical", key["id"]),
            "honey_key_used": ("critical", honey["id"]),
        }
        reasons = {each["key_id"]: each["reason"] for each in seen if "reason" in each}
        assert reasons == {key["id"]: "honey_action_used", honey["id"]: "honey_key_used"}


def test_what_a_honey_action_may_be_called(sqlite_target: Target, tmp_path: Path) -> None:
    for wrong in ("vault", "Vault.open", "vault.", "a.b,,c.d", "vault.open!", ",".join(f"a.b{i}" for i in range(21))):
        with pytest.raises(SettingsError, match="HONEY_ACTIONS"):
            settings_for(sqlite_target, tmp_path / "data", HONEY_ACTIONS=wrong)

    async def start() -> None:
        async with open_gateway(sqlite_target, tmp_path / "data", HONEY_ACTIONS="email.send"):
            pass

    with pytest.raises(SettingsError, match="HONEY_ACTIONS"):
        asyncio.run(start())
    assert settings_for(sqlite_target, tmp_path / "data").honey_actions == ()


async def test_the_handler_itself_runs_nothing() -> None:
    (connector,) = honey_connectors([TRAP, "vault.read"])
    spec = connector.actions[TRAP]
    assert spec.honey and connector.actions["vault.read"].summary == "Read the vault."
    with pytest.raises(PermitRefused):
        await spec.handler(None, Wanted(name="*"), None)
    with pytest.raises(CatalogError):
        honey_connectors(["vault"])
    assert summary_of("db", "tables.dump_all_rows") == "Dump all rows of the db."
