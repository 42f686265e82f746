"""Child tokens over a real server: weaker than their parent, short-lived, and gone with it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from relay.core.clock import DAY, HOUR, MICROSECONDS, now, parse_iso
from relay.identity import rules
from relay.identity.operator import operator
from relay.store.query import Query
from relay.store.retention import CHILD_GRACE, Purge
from relay.store.tables import api_keys
from relay.store.target import Target
from tests.gateway import REQUEST, Gateway, open_gateway

ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
POST = {"action": "http.request", "params": {"method": "POST", "url": "https://example.com/"}}


@pytest.fixture
async def gate(target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(target, tmp_path / "data") as gateway:
        yield gateway


@pytest.fixture
async def lite(sqlite_target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    """For what the database has no part in."""
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        yield gateway


async def made(gateway: Gateway, *scopes: str, **more: Any) -> dict[str, Any]:
    """Return an ordinary key of the workspace."""
    return (await gateway.post("/keys", {"scopes": list(scopes), **more}, key=gateway.admin)).expect(201)


async def mint(gateway: Gateway, key: str, *scopes: str, **more: Any) -> dict[str, Any]:
    return (await gateway.post("/keys/children", {"scopes": list(scopes), **more}, key=key)).expect(201)


async def set_end(gateway: Gateway, key_id: str, at: int) -> None:
    statement = Query(update(api_keys).where(api_keys.c.id == key_id).values(expires_at=at))
    await gateway.house.database.writer.run(lambda tx: tx.run(statement))
    gateway.house.database.generation.changed()


async def test_a_child_is_weaker_recognisable_and_short_lived(gate: Gateway) -> None:
    parent = await made(gate, "developer")
    began = now()
    child = await mint(gate, parent["key"], "actions:preview", name="one run")
    assert child["parent_id"] == parent["id"] and child["made_by"] == [*parent["made_by"], parent["id"]]
    assert child["kind"] == "agent" and child["scopes"] == ["actions:preview"] and child["name"] == "one run"
    life = parse_iso(child["expires_at"]) - parse_iso(child["created_at"])
    assert life == rules.DEFAULT_CHILD_SECONDS * MICROSECONDS and parse_iso(child["created_at"]) >= began
    (await gate.post("/actions/preview", ECHO, key=child["key"])).expect(200)
    (await gate.post("/actions/execute", ECHO, key=child["key"])).expect(403)
    listed = (await gate.get("/keys/children", key=parent["key"])).expect(200)["items"]
    assert [item["id"] for item in listed] == [child["id"]] and "key" not in listed[0]
    of_parent = (await gate.get(f"/keys?parent={parent['id']}", key=gate.admin)).expect(200)["items"]
    assert [item["id"] for item in of_parent] == [child["id"]]
    everything = (await gate.get("/keys?limit=200", key=gate.admin)).expect(200)["items"]
    assert child["id"] not in [item["id"] for item in everything]
    (event,) = await gate.events("identity:key:minted")
    assert event["target"] == child["id"] and event["principal"] == parent["id"]


async def test_what_a_child_cannot_have(lite: Gateway) -> None:
    agent = await made(lite, "actions:preview")
    for scopes, status in ((["actions:execute"], 403), ([], 422), (["no:such"], 422), (["developer"], 403)):
        (await lite.post("/keys/children", {"scopes": scopes}, key=agent["key"])).expect(status)
    for scope in ("keys:manage", "approvals:decide", "policies:manage", "workspace:admin", "webhooks:manage", "admin"):
        (await lite.post("/keys/children", {"scopes": [scope]}, key=lite.admin)).expect(403)
    for seconds in (0, 59, 3601, 1.5, "900"):
        body = {"scopes": ["actions:preview"], "expires_seconds": seconds}
        (await lite.post("/keys/children", body, key=agent["key"])).expect(422)
    for actions in (["Not.a.name"], ["echo"], ["a." + "b" * 200]):
        body = {"scopes": ["actions:preview"], "allowed_actions": actions}
        (await lite.post("/keys/children", body, key=agent["key"])).expect(422)
    longest = await mint(lite, agent["key"], "actions:preview", expires_seconds=3600)
    assert parse_iso(longest["expires_at"]) - parse_iso(longest["created_at"]) == HOUR


async def test_a_child_of_a_person_is_an_agent_and_manages_nothing(lite: Gateway) -> None:
    child = await mint(lite, lite.admin, "developer", "audit:read")
    assert child["kind"] == "agent"
    again = await lite.post("/keys/children", {"scopes": ["actions:preview"]}, key=child["key"])
    assert again.expect(403)["detail"].startswith("A child token mints no other")
    for method, path in (
        ("GET", "/keys"),
        ("POST", "/keys"),
        ("DELETE", f"/keys/{child['id']}"),
        ("GET", "/approvals"),
    ):
        (
            await lite.call(method, path, key=child["key"], json={"scopes": ["docs"]} if method == "POST" else None)
        ).expect(403)
    rotated = await lite.post(f"/keys/{child['id']}/rotate", key=lite.admin)
    assert "not rotated" in rotated.expect(409)["detail"]


async def test_nobody_mints_for_another_key_or_ends_its_children(gate: Gateway) -> None:
    one, other = await made(gate, "developer"), await made(gate, "developer")
    child, sibling = await mint(gate, one["key"], "docs"), await mint(gate, one["key"], "docs")
    for key in (other["key"], sibling["key"], gate.admin):
        (await gate.call("DELETE", f"/keys/children/{child['id']}", key=key)).expect(404)
    for key_id in (one["id"], other["id"]):
        (await gate.call("DELETE", f"/keys/children/{key_id}", key=one["key"])).expect(404)
    (await gate.call("DELETE", f"/keys/children/{child['id']}", key=one["key"])).expect(200)
    (await gate.get("/keys/children", key=child["key"])).expect(401)
    (await gate.call("DELETE", f"/keys/children/{sibling['id']}", key=sibling["key"])).expect(200)
    (await gate.get("/keys/children", key=sibling["key"])).expect(401)
    assert [event["principal"] for event in await gate.events("identity:key:revoked")] == [one["id"], sibling["id"]]


@pytest.mark.parametrize("how", ["revoke", "rotate", "quarantine", "expire", "leak"])
async def test_a_child_dies_with_its_parent(gate: Gateway, how: str) -> None:
    parent = await made(gate, "developer")
    child = await mint(gate, parent["key"], "developer")
    bystander = await mint(gate, gate.admin, "developer")
    (await gate.get("/actions", key=child["key"])).expect(200)
    if how == "revoke":
        (await gate.call("DELETE", f"/keys/{parent['id']}", key=gate.admin)).expect(200)
    elif how == "rotate":
        (await gate.post(f"/keys/{parent['id']}/rotate", {"overlap_hours": 0}, key=gate.admin)).expect(200)
    elif how == "quarantine":
        (await gate.post(f"/keys/{parent['id']}/quarantine", key=gate.admin)).expect(200)
    elif how == "leak":
        await gate.house.api_keys.revoke_leaked(parent["key"], "test")
    else:
        await set_end(gate, parent["id"], now())
    (await gate.get("/actions", key=child["key"])).expect(401)
    assert await gate.house.api_keys.reload(child["id"]) is None
    (await gate.get("/actions", key=bystander["key"])).expect(200)
    if how == "quarantine":
        (await gate.post(f"/keys/{parent['id']}/release", key=gate.admin)).expect(200)
        (await gate.get("/actions", key=parent["key"])).expect(200)
        (await gate.get("/actions", key=child["key"])).expect(401)


async def test_a_child_dies_also_where_only_its_parents_row_says_so(gate: Gateway) -> None:
    parent = await made(gate, "docs")
    child = await mint(gate, parent["key"], "docs")
    # As a replica of a version that knew no child tokens revokes a key.
    statement = Query(update(api_keys).where(api_keys.c.id == parent["id"]).values(revoked_at=now()))
    await gate.house.database.writer.run(lambda tx: tx.run(statement))
    gate.house.database.generation.changed()
    (await gate.get("/keys/children", key=child["key"])).expect(401)
    assert await gate.house.api_keys.reload(child["id"]) is None


async def test_a_child_ends_no_later_than_its_parent(lite: Gateway) -> None:
    parent = await made(lite, "docs")
    await set_end(lite, parent["id"], end := now() + 120 * MICROSECONDS)
    child = await mint(lite, parent["key"], "docs", expires_seconds=3600)
    assert parse_iso(child["expires_at"]) == end


async def test_a_child_loses_what_its_parent_loses(gate: Gateway) -> None:
    parent = await made(gate, "developer")
    child = await mint(gate, parent["key"], "developer")
    (await gate.post("/actions/execute", ECHO, key=child["key"])).expect(200)
    narrowed = await gate.call("PATCH", f"/keys/{parent['id']}", json={"scopes": ["actions:preview"]}, key=gate.admin)
    assert narrowed.expect(200)["scopes"] == ["actions:preview"]
    for key in (parent["key"], child["key"]):
        (await gate.post("/actions/execute", ECHO, key=key)).expect(403)
        (await gate.get("/actions", key=key)).expect(200)
    networks = {"allowed_networks": ["192.0.2.0/24"]}
    (await gate.call("PUT", f"/keys/{parent['id']}/allowed-networks", json=networks, key=gate.admin)).expect(200)
    assert (await gate.get("/actions", key=child["key"])).expect(403)["type"].endswith("address-not-allowed")


async def test_a_childs_networks_are_within_its_parents(lite: Gateway) -> None:
    parent = await made(lite, "docs", allowed_networks=["127.0.0.0/8"])
    assert (await mint(lite, parent["key"], "docs"))["allowed_networks"] == ["127.0.0.0/8"]
    beyond = {"scopes": ["docs"], "allowed_networks": ["10.0.0.0/8"]}
    (await lite.post("/keys/children", beyond, key=parent["key"])).expect(403)
    away = await mint(lite, parent["key"], "docs", allowed_networks=["127.0.0.9"])
    (await lite.get("/keys/children", key=away["key"])).expect(403)


async def test_a_child_runs_the_named_actions_alone(lite: Gateway) -> None:
    child = await mint(lite, lite.admin, "developer", allowed_actions=["relay.echo"])
    assert child["allowed_actions"] == ["relay.echo"]
    listed = (await lite.get("/actions", key=child["key"])).expect(200)["actions"]
    assert [action["name"] for action in listed] == ["relay.echo"]
    (await lite.post("/actions/execute", ECHO, key=child["key"])).expect(200)
    assert (await lite.post("/actions/preview", POST, key=child["key"])).expect(200)["decision"] == "deny"
    (await lite.post("/actions/execute", POST, key=child["key"])).expect(403)
    run = (await lite.post("/ai/execute", {"steps": [POST]}, key=child["key"])).expect(202)["run_id"]
    async with asyncio.timeout(60):
        while (job := (await lite.get(f"/ai/jobs/{run}", key=child["key"])).expect(200))["status"] != "failed":
            await asyncio.sleep(0.05)
    assert job["steps"][0]["error"]["code"] == "denied"


async def test_the_number_of_living_children_is_bounded_also_at_once(gate: Gateway) -> None:
    parent = await made(gate, "docs")
    body = {"scopes": ["docs"]}
    answers = await asyncio.gather(*(gate.post("/keys/children", body, key=parent["key"]) for _ in range(25)))
    minted = [answer.json for answer in answers if answer.status == 201]
    assert len(minted) == rules.MAX_CHILDREN and {answer.status for answer in answers} == {201, 409}
    (await gate.call("DELETE", f"/keys/children/{minted[0]['id']}", key=parent["key"])).expect(200)
    (await gate.post("/keys/children", body, key=parent["key"])).expect(201)
    await set_end(gate, minted[1]["id"], now())
    (await gate.post("/keys/children", body, key=parent["key"])).expect(201)
    (await gate.post("/keys/children", body, key=parent["key"])).expect(409)


async def test_the_operator_mints_for_any_key(lite: Gateway) -> None:
    parent = await made(lite, "developer")
    record, text = await lite.house.api_keys.mint(
        operator(), parent["id"], scopes=["docs"], expires_seconds=60, request_id=REQUEST
    )
    assert record.parent_id == parent["id"]
    (await lite.get("/keys/children", key=text)).expect(200)


async def test_children_count_as_their_parent(target: Target, tmp_path: Path) -> None:
    limits = {"APPROVALS_PER_KEY": "2", "RATE_LIMIT_CHILDREN_PER_MINUTE": "6"}
    async with open_gateway(target, tmp_path / "data", **limits) as gateway:
        parent, other = await made(gateway, "developer"), await made(gateway, "developer")
        tokens = [(await mint(gateway, parent["key"], "developer"))["key"] for _ in range(3)]
        # Requests for approval: two of the family wait, whoever of it asks.
        (await gateway.post("/actions/execute", POST, key=tokens[0])).expect(202)
        (await gateway.post("/actions/execute", POST, key=parent["key"])).expect(202)
        for key in (tokens[1], tokens[2], parent["key"]):
            (await gateway.post("/actions/execute", POST, key=key)).expect(429)
        (await gateway.post("/actions/execute", POST, key=other["key"])).expect(202)
        # Minting: one count, the parent's, which the 403 of a child uses up as well.
        for key in (tokens[0], tokens[1], parent["key"]):
            assert (await gateway.post("/keys/children", {"scopes": ["docs"]}, key=key)).status in (201, 403)
        (await gateway.post("/keys/children", {"scopes": ["docs"]}, key=parent["key"])).expect(429)
        (await gateway.post("/keys/children", {"scopes": ["docs"]}, key=other["key"])).expect(201)


async def test_a_budget_of_the_parent_holds_for_its_children(lite: Gateway) -> None:
    parent = await made(lite, "developer")
    budget = {"scope": {"key": parent["id"]}, "measure": "actions", "limit": 2}
    (await lite.post("/budgets", budget, key=lite.admin)).expect(201)
    for _ in range(2):
        child = await mint(lite, parent["key"], "developer")
        (await lite.post("/actions/execute", ECHO, key=child["key"])).expect(200)
    fresh = await mint(lite, parent["key"], "developer")
    (await lite.post("/actions/execute", ECHO, key=fresh["key"])).expect(429)


async def test_a_policys_counters_count_the_family(gate: Gateway) -> None:
    text = "permit (principal, action, resource) when { context.counters.actions_today < 2 };"
    (await gate.call("PUT", "/policies", json={"text": text}, key=gate.admin)).expect(200)
    parent = await made(gate, "developer")
    for _ in range(2):
        child = await mint(gate, parent["key"], "developer")
        (await gate.post("/actions/execute", ECHO, key=child["key"])).expect(200)
    for key in ((await mint(gate, parent["key"], "developer"))["key"], parent["key"]):
        (await gate.post("/actions/execute", ECHO, key=key)).expect(403)
    other = await made(gate, "developer")
    (await gate.post("/actions/execute", ECHO, key=other["key"])).expect(200)


async def test_a_parent_that_is_a_person_may_decide_what_its_child_asks_and_never_the_other_way(
    sqlite_target: Target, tmp_path: Path
) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        child = await mint(gateway, gateway.admin, "developer")
        asked = (await gateway.post("/actions/execute", POST, key=child["key"])).expect(202)
        (request,) = (await gateway.get("/approvals", key=gateway.admin)).expect(200)["items"]
        assert request["requested_by"] == child["id"]
        body = {"digest": request["digest"]}
        (await gateway.post(f"/approvals/{asked['approval_id']}/approve", body, key=child["key"])).expect(403)
        (await gateway.post(f"/approvals/{asked['approval_id']}/deny", body, key=gateway.admin)).expect(200)


async def test_what_waits_for_a_child_ends_with_it(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data") as gateway:
        parent = await made(gateway, "developer")
        child = await mint(gateway, parent["key"], "developer")
        asked = (await gateway.post("/actions/execute", POST, key=child["key"])).expect(202)
        (await gateway.call("DELETE", f"/keys/{parent['id']}", key=gateway.admin)).expect(200)
        (request,) = (await gateway.get("/approvals", key=gateway.admin)).expect(200)["items"]
        body = {"digest": request["digest"]}
        (await gateway.post(f"/approvals/{asked['approval_id']}/approve", body, key=gateway.admin)).expect(409)
        attempt = (await gateway.get(f"/attempts/{asked['attempt_id']}", key=gateway.admin)).expect(200)
        assert attempt["status"] == "denied"


async def test_children_that_ended_long_ago_are_purged_and_no_other_key_is(gate: Gateway) -> None:
    parent = await made(gate, "docs")
    old, young = await mint(gate, parent["key"], "docs"), await mint(gate, parent["key"], "docs")
    at = now()
    await set_end(gate, old["id"], at - CHILD_GRACE - 1)
    await set_end(gate, young["id"], at - CHILD_GRACE)
    ended = await made(gate, "docs")
    await set_end(gate, ended["id"], at - 400 * DAY)
    await Purge(gate.house.database.writer).once(at)
    left = [
        item["id"] for item in (await gate.get(f"/keys?parent={parent['id']}", key=gate.admin)).expect(200)["items"]
    ]
    assert left == [young["id"]]
    kept = [item["id"] for item in (await gate.get("/keys", key=gate.admin)).expect(200)["items"]]
    assert ended["id"] in kept


async def test_it_ends_in_another_process_within_a_second(postgres_target: Target, tmp_path: Path) -> None:
    async with (
        open_gateway(postgres_target, tmp_path / "data") as one,
        open_gateway(postgres_target, tmp_path / "data", admin=one.admin) as two,
    ):
        parent = await made(one, "docs")
        child = await mint(two, parent["key"], "docs")
        (await two.get("/keys/children", key=child["key"])).expect(200)
        (await one.call("DELETE", f"/keys/{parent['id']}", key=one.admin)).expect(200)
        async with asyncio.timeout(20):
            while (await two.get("/keys/children", key=child["key"])).status != 401:
                await asyncio.sleep(0.1)
