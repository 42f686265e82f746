"""Scopes that can only shrink, over a real server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.core.problem import InsufficientScope
from relay.store.target import Target
from tests.gateway import REQUEST, Answer, Gateway, open_gateway

ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
POST = {"action": "http.request", "params": {"method": "POST", "url": "https://example.com/"}}


@pytest.fixture
async def gate(target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(target, tmp_path / "data") as gateway:
        yield gateway


async def made(gateway: Gateway, *scopes: str, **more: Any) -> dict[str, Any]:
    return (await gateway.post("/keys", {"scopes": list(scopes), **more}, key=gateway.admin)).expect(201)


async def narrow(gateway: Gateway, key_id: str, *scopes: str, by: str = "") -> Answer:
    return await gateway.call("PATCH", f"/keys/{key_id}", json={"scopes": list(scopes)}, key=by or gateway.admin)


async def test_a_key_loses_scopes_at_once_and_gets_none(gate: Gateway) -> None:
    key = await made(gate, "developer")
    (await gate.post("/actions/execute", ECHO, key=key["key"])).expect(200)
    shown = (await narrow(gate, key["id"], "actions:preview", "docs")).expect(200)
    assert shown["scopes"] == ["actions:preview", "docs"]
    (await gate.post("/actions/execute", ECHO, key=key["key"])).expect(403)
    (await gate.get("/actions", key=key["key"])).expect(200)
    for more in (["developer"], ["actions:preview", "chat"], ["admin"]):
        (await narrow(gate, key["id"], *more)).expect(409)
    (await narrow(gate, key["id"])).expect(422)
    (await narrow(gate, key["id"], "no:such")).expect(422)
    (await gate.post("/actions/execute", ECHO, key=key["key"])).expect(403)
    (event,) = await gate.events("identity:key:narrowed")
    assert event["target"] == key["id"]
    (await narrow(gate, key["id"], "docs", "actions:preview")).expect(200)
    assert len(await gate.events("identity:key:narrowed")) == 1


async def test_who_may_narrow_a_key(gate: Gateway) -> None:
    agent, person = await made(gate, "keys:manage", "docs"), await made(gate, "docs", "chat", kind="person")
    (await narrow(gate, person["id"], "docs", by=agent["key"])).expect(403)
    (await narrow(gate, agent["id"], "keys:manage", by=agent["key"])).expect(200)
    stranger = await gate.key("keys:manage", kind="person", workspace="other")
    (await narrow(gate, person["id"], "docs", by=stranger)).expect(404)
    (await narrow(gate, person["id"], "docs", by=person["key"])).expect(403)
    (await narrow(gate, person["id"], "docs")).expect(200)
    (await gate.call("DELETE", f"/keys/{person['id']}", key=gate.admin)).expect(200)
    (await narrow(gate, person["id"], "docs")).expect(409)


async def test_a_request_under_way_gives_no_key_what_its_own_has_lost(gate: Gateway) -> None:
    """As in another process, which learns of the loss within a second, and in this one for a request that waits."""
    keys, thief = gate.house.api_keys, await made(gate, "keys:manage", "docs", "chat")
    before = await keys.authenticate(thief["key"])
    assert before is not None and before.scopes == {"keys:manage", "docs", "chat"}
    other = await made(gate, "docs", "chat")

    async def tries(scope: str) -> None:
        with pytest.raises(InsufficientScope):
            await keys.create(before, workspace="default", kind="agent", scopes=[scope], request_id=REQUEST)
        with pytest.raises(InsufficientScope):
            await keys.rotate(before, other["id"], request_id=REQUEST)

    (await narrow(gate, thief["id"], "keys:manage", "docs")).expect(200)
    await tries("chat")
    await keys.create(before, workspace="default", kind="agent", scopes=["docs"], request_id=REQUEST)
    (await narrow(gate, thief["id"], "docs")).expect(200)
    await tries("docs")
    with pytest.raises(InsufficientScope):
        await keys.revoke(before, other["id"], request_id=REQUEST)


async def test_two_at_once_do_not_give_back_what_the_other_took(gate: Gateway) -> None:
    key = await made(gate, "docs", "chat", "audit:read")
    one, two = await asyncio.gather(
        narrow(gate, key["id"], "docs", "chat"), narrow(gate, key["id"], "docs", "audit:read")
    )
    assert sorted((one.status, two.status)) == [200, 409]
    (item,) = [i for i in (await gate.get("/keys", key=gate.admin)).expect(200)["items"] if i["id"] == key["id"]]
    assert item["scopes"] == (one if one.status == 200 else two).json["scopes"]


async def test_a_successor_has_what_is_left(gate: Gateway) -> None:
    key = await made(gate, "developer")
    (await narrow(gate, key["id"], "docs")).expect(200)
    assert (await gate.post(f"/keys/{key['id']}/rotate", key=gate.admin)).expect(200)["scopes"] == ["docs"]


async def test_what_waits_does_not_begin_without_its_scope(gate: Gateway) -> None:
    key = await made(gate, "developer")
    asked = (await gate.post("/actions/execute", POST, key=key["key"])).expect(202)
    (await narrow(gate, key["id"], "docs")).expect(200)
    (request,) = (await gate.get("/approvals", key=gate.admin)).expect(200)["items"]
    body = {"digest": request["digest"]}
    (await gate.post(f"/approvals/{asked['approval_id']}/approve", body, key=gate.admin)).expect(409)
    attempt = (await gate.get(f"/attempts/{asked['attempt_id']}", key=gate.admin)).expect(200)
    assert attempt["status"] == "denied" and attempt["error"]["code"] == "insufficient_scope"


async def test_it_holds_in_another_process_within_a_second(postgres_target: Target, tmp_path: Path) -> None:
    async with (
        open_gateway(postgres_target, tmp_path / "data") as one,
        open_gateway(postgres_target, tmp_path / "data", admin=one.admin) as two,
    ):
        key = await made(one, "audit:read", "docs")
        (await two.get("/audit", key=key["key"])).expect(200)
        (await narrow(one, key["id"], "docs")).expect(200)
        async with asyncio.timeout(20):
            while (await two.get("/audit", key=key["key"])).status != 403:
                await asyncio.sleep(0.1)
