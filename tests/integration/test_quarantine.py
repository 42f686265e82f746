"""Quarantine over a real server: out of use everywhere at once, released by a person, never by itself."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.core.clock import now
from relay.identity.operator import operator
from relay.store.target import Target
from tests.gateway import REQUEST, Answer, Gateway, open_gateway
from tests.receivers import open_receiver
from tests.sending_kit import endpoint, sending

ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
POST = {"action": "http.request", "params": {"method": "POST", "url": "https://example.com/"}}


@pytest.fixture
async def gate(target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(target, tmp_path / "data") as gateway:
        yield gateway


async def made(gateway: Gateway, *scopes: str, by: str = "", **more: Any) -> dict[str, Any]:
    return (await gateway.post("/keys", {"scopes": list(scopes), **more}, key=by or gateway.admin)).expect(201)


async def impose(gateway: Gateway, key_id: str, by: str = "") -> Answer:
    return await gateway.post(f"/keys/{key_id}/quarantine", key=by or gateway.admin)


async def release(gateway: Gateway, key_id: str, by: str = "") -> Answer:
    return await gateway.post(f"/keys/{key_id}/release", key=by or gateway.admin)


async def failures(gateway: Gateway, reason: str) -> int:
    from sqlalchemy import func, select

    from relay.store.tables import anonymous_failures as table

    row = await gateway.house.database.reader.one(
        select(func.coalesce(func.sum(table.c.count), 0)).where(table.c.reason == reason)
    )
    return int(row[0]) if row else 0


async def test_a_key_in_quarantine_opens_nothing_until_a_person_releases_it(gate: Gateway) -> None:
    key = await made(gate, "developer")
    (await gate.get("/actions", key=key["key"])).expect(200)
    shown = (await impose(gate, key["id"])).expect(200)
    assert shown["status"] == "quarantined" and shown["quarantine_reason"] == "by_person" and shown["quarantined_at"]
    refused, unknown = await gate.get("/actions", key=key["key"]), await gate.get("/actions", key="relay_sk_nonsense")
    differ = ("request_id",)
    assert {name: value for name, value in refused.expect(401).items() if name not in differ} == {
        name: value for name, value in unknown.expect(401).items() if name not in differ
    }
    assert refused.headers["WWW-Authenticate"] == unknown.headers["WWW-Authenticate"]
    (listed,) = [
        item for item in (await gate.get("/keys", key=gate.admin)).expect(200)["items"] if item["id"] == key["id"]
    ]
    assert listed["status"] == "quarantined"
    assert (await impose(gate, key["id"])).expect(200)["quarantined_at"] == shown["quarantined_at"]
    again = (await release(gate, key["id"])).expect(200)
    assert (again["status"], again["quarantined_at"], again["quarantine_reason"]) == ("live", None, None)
    (await gate.get("/actions", key=key["key"])).expect(200)
    (await release(gate, key["id"])).expect(409)
    tags = [event["tag"].rpartition(":")[2] for event in await gate.events(target=key["id"])]
    assert tags == ["created", "quarantined", "released"]


async def test_its_refusals_are_counted_under_a_reason_of_their_own(gate: Gateway) -> None:
    key = await made(gate, "developer")
    (await impose(gate, key["id"])).expect(200)
    for _ in range(3):
        (await gate.get("/actions", key=key["key"])).expect(401)
    async with asyncio.timeout(60):
        while await failures(gate, "quarantined") < 3:
            await asyncio.sleep(0.1)
    assert await failures(gate, "invalid_token") == 0


async def test_who_may_release(gate: Gateway) -> None:
    agent = await made(gate, "keys:manage", "docs")
    thief = await made(gate, "keys:manage", "docs", kind="person")
    accomplice = await made(gate, "keys:manage", "docs", kind="person", by=thief["key"])
    successor = (await gate.post(f"/keys/{thief['id']}/rotate", key=gate.admin)).expect(200)
    (await impose(gate, thief["id"])).expect(200)
    (await release(gate, thief["id"], by=thief["key"])).expect(401)
    (await release(gate, thief["id"], by=agent["key"])).expect(403)
    for descendant in (accomplice, successor):
        (await release(gate, thief["id"], by=descendant["key"])).expect(403)
    stranger = await gate.key("keys:manage", kind="person", workspace="other")
    (await release(gate, thief["id"], by=stranger)).expect(404)
    (await release(gate, thief["id"])).expect(200)


async def test_the_operator_releases_what_nobody_else_can(gate: Gateway) -> None:
    (first,) = (await gate.get("/keys", key=gate.admin)).expect(200)["items"]
    (await impose(gate, first["id"])).expect(200)
    (await release(gate, first["id"])).expect(401)
    await gate.house.api_keys.release(operator(), first["id"], request_id=REQUEST)
    (await gate.get("/keys", key=gate.admin)).expect(200)


async def test_who_may_impose_it(gate: Gateway) -> None:
    agent, person = await made(gate, "keys:manage"), await made(gate, "docs", kind="person")
    (await impose(gate, person["id"], by=agent["key"])).expect(403)
    other = await made(gate, "docs")
    (await impose(gate, other["id"], by=agent["key"])).expect(200)
    (await gate.call("DELETE", f"/keys/{other['id']}", key=gate.admin)).expect(200)
    (await impose(gate, other["id"])).expect(409)
    (await release(gate, other["id"])).expect(409)


async def test_a_key_in_quarantine_is_neither_rotated_nor_extended_and_can_be_revoked(gate: Gateway) -> None:
    key = await made(gate, "developer")
    (await impose(gate, key["id"])).expect(200)
    (await gate.post(f"/keys/{key['id']}/rotate", key=gate.admin)).expect(409)
    (await gate.call("DELETE", f"/keys/{key['id']}", key=gate.admin)).expect(200)
    (await release(gate, key["id"])).expect(409)


async def test_what_waits_for_it_and_for_its_children_is_cancelled(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data") as gateway:
        key, other = await made(gateway, "developer"), await made(gateway, "developer")
        child = (await gateway.post("/keys/children", {"scopes": ["developer"]}, key=key["key"])).expect(201)
        asked = [
            (await gateway.post("/actions/execute", POST, key=each)).expect(202)
            for each in (key["key"], child["key"], other["key"])
        ]
        run = (await gateway.post("/ai/execute", {"steps": [POST]}, key=key["key"])).expect(202)["run_id"]
        async with asyncio.timeout(60):
            while (await gateway.get(f"/ai/jobs/{run}", key=key["key"])).expect(200)["status"] != "pending_approval":
                await asyncio.sleep(0.05)
        (await impose(gateway, key["id"])).expect(200)
        left = (await gateway.get("/approvals?status=pending", key=gateway.admin)).expect(200)["items"]
        assert [item["requested_by"] for item in left] == [other["id"]]
        statuses = []
        for each in asked:
            attempt = (await gateway.get(f"/attempts/{each['attempt_id']}", key=gateway.admin)).expect(200)
            statuses.append(attempt["status"])
        assert statuses == ["cancelled", "cancelled", "pending_approval"]
        async with asyncio.timeout(60):
            ended = ("failed", "cancelled")
            while (await gateway.get(f"/ai/jobs/{run}", key=gateway.admin)).expect(200)["status"] not in ended:
                await asyncio.sleep(0.05)


async def test_perform_refuses_a_principal_whose_key_went_into_quarantine_meanwhile(gate: Gateway) -> None:
    from relay.core.problem import Unauthenticated
    from relay.gate.ask import Ask

    key = await made(gate, "developer")
    principal = await gate.house.api_keys.authenticate(key["key"])
    assert principal is not None
    (await impose(gate, key["id"])).expect(200)
    with pytest.raises(Unauthenticated):
        await gate.server.performer.perform(principal, Ask("req_1", "127.0.0.1", **ECHO))
    assert await gate.events("gate:action:intent", principal=key["id"]) == []


async def test_a_waiting_step_does_not_begin_where_its_key_may_not_be_used_any_more(
    target: Target, tmp_path: Path
) -> None:
    async with open_gateway(target, tmp_path / "data") as gateway:
        key = await made(gateway, "developer")
        asked = (await gateway.post("/actions/execute", POST, key=key["key"])).expect(202)
        networks = {"allowed_networks": ["192.0.2.0/24"]}
        path = f"/keys/{key['id']}/allowed-networks"
        (await gateway.call("PUT", path, json=networks, key=gateway.admin)).expect(200)
        (request,) = (await gateway.get("/approvals", key=gateway.admin)).expect(200)["items"]
        body = {"digest": request["digest"]}
        (await gateway.post(f"/approvals/{asked['approval_id']}/approve", body, key=gateway.admin)).expect(409)
        attempt = (await gateway.get(f"/attempts/{asked['attempt_id']}", key=gateway.admin)).expect(200)
        assert attempt["status"] == "denied" and attempt["error"]["code"] == "address_not_allowed"


async def test_endpoints_are_told(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, sending(sqlite_target, tmp_path) as gateway:
        await endpoint(gateway, receiver.url, "key.quarantined", "key.released")
        key = await made(gateway, "docs")
        (await impose(gateway, key["id"])).expect(200)
        (await release(gateway, key["id"])).expect(200)
        told = {each.event["type"]: each.event["data"] for each in await receiver.arrived(2)}
        assert told["key.quarantined"]["reason"] == "by_person" and told["key.released"]["key_id"] == key["id"]


async def test_it_holds_in_another_process_within_a_second(postgres_target: Target, tmp_path: Path) -> None:
    async with (
        open_gateway(postgres_target, tmp_path / "data") as one,
        open_gateway(postgres_target, tmp_path / "data", admin=one.admin) as two,
    ):
        key = await made(one, "docs")
        (await two.get("/keys/children", key=key["key"])).expect(200)
        (await impose(one, key["id"])).expect(200)
        began = now()
        async with asyncio.timeout(20):
            while (await two.get("/keys/children", key=key["key"])).status != 401:
                await asyncio.sleep(0.1)
        assert now() - began < 20_000_000
        (await release(two, key["id"], by=one.admin)).expect(200)
        async with asyncio.timeout(20):
            while (await one.get("/keys/children", key=key["key"])).status != 200:
                await asyncio.sleep(0.1)
