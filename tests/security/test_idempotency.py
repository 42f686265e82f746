"""``Idempotency-Key``: one request, one attempt, one effect, whatever is sent how often, at once or after a restart."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

import relay.gate.perform
from relay.core.clock import HOUR, now
from relay.core.principal import SCOPES
from relay.identity.operator import operator
from relay.store.query import Query
from relay.store.tables import attempts, idempotency, previews
from relay.store.target import Target
from tests.gateway import Answer, Gateway, open_gateway
from tests.sink import REFUSES, hangs_up, open_sink

EXECUTE = "/actions/execute"
ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
OTHER = {"action": "relay.echo", "params": {"message": "other"}}


async def execute(gateway: Gateway, body: dict[str, Any], idempotency_key: str, key: str = "") -> Answer:
    headers = {"Idempotency-Key": idempotency_key}
    return await gateway.post(EXECUTE, body, key=key or gateway.admin, headers=headers)


async def preview_of(gateway: Gateway, body: dict[str, Any]) -> dict[str, Any]:
    preview = (await gateway.post("/actions/preview", body, key=gateway.admin)).expect(200)
    return {"preview_id": preview["preview_id"]}


async def count_attempts(gateway: Gateway) -> int:
    row = await gateway.house.database.reader.one(select(func.count()).select_from(attempts))
    assert row is not None
    return int(row[0])


async def alter(gateway: Gateway, statement: Any) -> None:
    query = Query(statement)
    await gateway.house.database.writer.run(lambda tx: tx.run(query))


async def test_the_same_request_answers_the_same_attempt(gateway: Gateway) -> None:
    first = (await execute(gateway, ECHO, "key-1")).expect(200)
    assert (await execute(gateway, ECHO, "key-1")).expect(200) == first
    assert (await execute(gateway, ECHO, "key-2")).expect(200)["attempt_id"] != first["attempt_id"]
    assert await count_attempts(gateway) == 2


async def test_the_same_parameters_spelled_otherwise_are_the_same_request(gateway: Gateway) -> None:
    first = (await execute(gateway, {"action": "relay.echo", "params": {"message": "é"}}, "key-1")).expect(200)
    raw = b'{ "params" : { "message" : "\\u00e9" },\n "action":"relay.echo" }'
    again = await gateway.call("POST", EXECUTE, data=raw, key=gateway.admin, headers={"Idempotency-Key": "key-1"})
    assert again.expect(200) == first


async def test_another_request_is_a_409(gateway: Gateway) -> None:
    await execute(gateway, ECHO, "key-1")
    problem = (await execute(gateway, OTHER, "key-1")).expect(409)
    assert problem["type"] == "urn:relay:problem:idempotency-mismatch"
    preview = await preview_of(gateway, ECHO)
    (await execute(gateway, preview, "key-1")).expect(409)
    (await execute(gateway, preview, "key-2")).expect(200)
    (await execute(gateway, ECHO, "key-2")).expect(409)
    (await execute(gateway, await preview_of(gateway, ECHO), "key-2")).expect(409)
    assert await count_attempts(gateway) == 2


async def test_a_run_and_an_execution_do_not_share_a_key(gateway: Gateway) -> None:
    headers = {"Idempotency-Key": "key-1"}
    (await gateway.post("/ai/execute", {"steps": [ECHO]}, key=gateway.admin, headers=headers)).expect(202)
    (await execute(gateway, ECHO, "key-1")).expect(409)
    (await execute(gateway, ECHO, "key-2")).expect(200)
    answer = await gateway.post(
        "/ai/execute", {"steps": [ECHO]}, key=gateway.admin, headers={"Idempotency-Key": "key-2"}
    )
    answer.expect(409)


async def test_a_key_is_its_principal_s_own(gateway: Gateway) -> None:
    made = [(await execute(gateway, ECHO, "key-1")).expect(200)["attempt_id"]]
    for key in (await gateway.key(*SCOPES), await gateway.key(*SCOPES, workspace="other")):
        made.append((await execute(gateway, OTHER, "key-1", key)).expect(200)["attempt_id"])
    assert len(set(made)) == 3


async def rotated(gateway: Gateway, key: str) -> str:
    """Return the text of the key that takes a key's place; the old one lives on for a day."""
    principal = await gateway.house.api_keys.authenticate(key)
    assert principal is not None
    made = await gateway.house.api_keys.rotate(operator(), principal.id, request_id="req_rotate")
    return made.key_text


async def test_keys_of_one_line_are_one_caller(gateway: Gateway) -> None:
    first = await gateway.key(*SCOPES, kind="person")
    done = (await execute(gateway, ECHO, "key-1", first)).expect(200)
    second = await rotated(gateway, first)
    third = await rotated(gateway, second)
    for key in (second, third, first):
        assert (await execute(gateway, ECHO, "key-1", key)).expect(200) == done
        assert (await execute(gateway, OTHER, "key-1", key)).expect(409)["type"].endswith("idempotency-mismatch")
    for place, asked in enumerate((third, second, first)):
        new = (await execute(gateway, OTHER, f"key-2{place}", asked)).expect(200)
        for key in (first, second, third):
            assert (await execute(gateway, OTHER, f"key-2{place}", key)).expect(200) == new
    assert await count_attempts(gateway) == 4


async def test_a_successor_repeats_what_was_asked_by_a_preview_or_as_a_run(gateway: Gateway) -> None:
    first = await gateway.key(*SCOPES, kind="person")
    preview = (await gateway.post("/actions/preview", ECHO, key=first)).expect(200)
    by_preview = {"preview_id": preview["preview_id"]}
    done = (await execute(gateway, by_preview, "key-1", first)).expect(200)
    headers = {"Idempotency-Key": "key-2"}
    run = (await gateway.post("/ai/execute", {"steps": [ECHO]}, key=first, headers=headers)).expect(202)
    second = await rotated(gateway, first)
    assert (await execute(gateway, by_preview, "key-1", second)).expect(200) == done
    again = (await gateway.post("/ai/execute", {"steps": [ECHO]}, key=second, headers=headers)).expect(202)
    assert again["run_id"] == run["run_id"]


async def test_a_key_that_another_one_made_is_another_caller(gateway: Gateway) -> None:
    first = await gateway.key(*SCOPES, kind="person")
    second = await rotated(gateway, first)
    made = {(await execute(gateway, ECHO, "key-1", second)).expect(200)["attempt_id"]}
    order = {"name": "other", "scopes": ["actions:preview", "actions:execute"], "expires_days": 1}
    for maker in (first, second):
        other = (await gateway.post("/keys", order, key=maker)).expect(201)["key"]
        made.add((await execute(gateway, ECHO, "key-1", other)).expect(200)["attempt_id"])
        token = {"name": "run", "scopes": ["actions:preview", "actions:execute"]}
        child = (await gateway.post("/keys/children", token, key=maker)).expect(201)["key"]
        made.add((await execute(gateway, ECHO, "key-1", child)).expect(200)["attempt_id"])
    assert len(made) == 5


async def test_old_key_and_new_key_at_once_have_one_effect(target: Target, tmp_path: Path) -> None:
    async with (
        open_sink(gated=True) as sink,
        open_gateway(target, tmp_path / "data", **sink.allowed) as gateway,
    ):
        first = await gateway.key(*SCOPES, kind="person")
        keys = [first, await rotated(gateway, first)]
        keys.append(await rotated(gateway, keys[1]))
        twins = [asyncio.create_task(execute(gateway, sink.webhook(), "key-1", key)) for key in keys * 4]
        await sink.arrived()
        sink.open.set()
        answers = [answer.expect(200) for answer in await asyncio.gather(*twins)]
        assert len({answer["attempt_id"] for answer in answers}) == 1
        assert await count_attempts(gateway) == 1 and len(sink.requests) == 1


@pytest.mark.parametrize("wrong", ["", " ", "a b", "x" * 256, "tab\there", "caf\xe9"])
async def test_a_key_that_is_none(gateway: Gateway, wrong: str) -> None:
    (await execute(gateway, ECHO, wrong)).expect(400)
    assert await count_attempts(gateway) == 0


async def test_two_keys_are_none(gateway: Gateway) -> None:
    headers = [("Idempotency-Key", "key-1"), ("Idempotency-Key", "key-1")]
    (await gateway.post(EXECUTE, ECHO, key=gateway.admin, headers=headers)).expect(400)


async def test_it_comes_before_the_preview_s_validity(gateway: Gateway) -> None:
    body = await preview_of(gateway, ECHO)
    first = (await execute(gateway, body, "key-1")).expect(200)
    assert (await execute(gateway, body, "key-1")).expect(200) == first
    await alter(gateway, previews.update().values(expires_at=1))
    assert (await execute(gateway, body, "key-1")).expect(200) == first
    await alter(gateway, previews.delete())
    assert (await execute(gateway, body, "key-1")).expect(200) == first
    assert await count_attempts(gateway) == 1


@pytest.mark.parametrize("by_preview", [False, True])
async def test_sixteen_twins_have_one_effect(target: Target, tmp_path: Path, by_preview: bool) -> None:
    async with (
        open_sink(gated=True) as sink,
        open_gateway(target, tmp_path / "data", **sink.allowed) as gateway,
    ):
        body = await preview_of(gateway, sink.webhook()) if by_preview else sink.webhook()
        twins = [asyncio.create_task(execute(gateway, body, "key-1")) for _ in range(16)]
        await sink.arrived()
        await asyncio.sleep(0.3)
        assert not any(twin.done() for twin in twins), "a twin did not wait"
        sink.open.set()
        answers = await asyncio.gather(*twins)
        assert [answer.status for answer in answers] == [200] * 16
        assert len({answer.json["attempt_id"] for answer in answers}) == 1
        assert len(sink.requests) == 1 and await count_attempts(gateway) == 1


async def test_a_twin_waits_and_then_is_told_to_come_back(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert relay.gate.perform.TWIN_SECONDS == 10
    monkeypatch.setattr(relay.gate.perform, "TWIN_SECONDS", 0.5)
    async with (
        open_sink(gated=True) as sink,
        open_gateway(target, tmp_path / "data", **sink.allowed) as gateway,
    ):
        first = asyncio.create_task(execute(gateway, sink.webhook(), "key-1"))
        await sink.arrived()
        began = asyncio.get_running_loop().time()
        answer = await execute(gateway, sink.webhook(), "key-1")
        assert 0.4 < asyncio.get_running_loop().time() - began < 5
        problem = answer.expect(409)
        assert problem["type"] == "urn:relay:problem:in-progress" and problem["attempt_status"] == "running"
        assert answer.headers["Retry-After"] == str(problem["retry_after"])
        (await execute(gateway, sink.webhook(2), "key-1")).expect(409)
        sink.open.set()
        done = (await first).expect(200)
        assert done["attempt_id"] == problem["attempt_id"]
        assert (await execute(gateway, sink.webhook(), "key-1")).expect(200) == done
        assert len(sink.requests) == 1


async def test_unknown_is_never_executed_again(target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_sink(hangs_up) as sink:
        async with open_gateway(target, data, **sink.allowed) as gateway:
            admin = gateway.admin
            body = await preview_of(gateway, sink.webhook())
            first = (await execute(gateway, body, "key-1")).expect(504)
            for _ in range(3):
                again = (await execute(gateway, body, "key-1")).expect(504)
                assert again["attempt_id"] == first["attempt_id"]
        async with open_gateway(target, data, admin=admin, **sink.allowed) as gateway:
            assert (await execute(gateway, body, "key-1")).expect(504)["attempt_id"] == first["attempt_id"]
        assert len(sink.requests) == 1


async def test_a_failure_is_remembered_too(target: Target, tmp_path: Path) -> None:
    async with open_sink(REFUSES) as sink, open_gateway(target, tmp_path / "data", **sink.allowed) as gateway:
        first = (await execute(gateway, sink.webhook(), "key-1")).expect(502)
        again = (await execute(gateway, sink.webhook(), "key-1")).expect(502)
        assert (again["attempt_id"], again["code"]) == (first["attempt_id"], first["code"])
        assert len(sink.requests) == 1


async def test_it_outlives_a_restart(target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_gateway(target, data) as gateway:
        admin = gateway.admin
        first = (await execute(gateway, ECHO, "key-1")).expect(200)
    async with open_gateway(target, data, admin=admin) as gateway:
        assert gateway.server.first_key is None
        assert (await execute(gateway, ECHO, "key-1")).expect(200) == first
        (await execute(gateway, OTHER, "key-1")).expect(409)
        assert await count_attempts(gateway) == 1


async def test_it_is_forgotten_after_its_time(gateway: Gateway) -> None:
    first = (await execute(gateway, ECHO, "key-1")).expect(200)
    row = await gateway.house.database.reader.one(select(idempotency.c.expires_at))
    assert row is not None and 23.9 * HOUR < row[0] - now() <= 24 * HOUR
    await alter(gateway, idempotency.update().values(expires_at=now()))
    assert (await execute(gateway, OTHER, "key-1")).expect(200)["attempt_id"] != first["attempt_id"]


async def test_a_refusal_does_not_use_the_key_up(gateway: Gateway) -> None:
    (await execute(gateway, {"action": "relay.echo", "params": {}}, "key-1")).expect(422)
    (await execute(gateway, {"preview_id": "prv_0"}, "key-1")).expect(404)
    (await execute(gateway, ECHO, "key-1")).expect(200)


async def test_the_key_is_stored_as_a_hash(gateway: Gateway) -> None:
    await execute(gateway, ECHO, "Zk7canary9Qw")
    rows = await gateway.house.database.reader.all(select(idempotency))
    assert len(rows) == 1 and "Zk7canary9Qw" not in repr(rows) + repr(await gateway.events())
