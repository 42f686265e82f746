"""Preview, execute and attempts over HTTP: what was shown is what happens, and every end has its status."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select

from relay.catalog import Connector, Rendering
from relay.core.permit import Permit
from relay.core.principal import SCOPES
from relay.store.tables import attempts, previews
from relay.store.target import Target
from tests.gateway import Gateway, open_gateway
from tests.outside import OK
from tests.sink import REFUSES, Sink, hangs_up, open_sink

EXECUTE = "/actions/execute"
PREVIEW = "/actions/preview"


async def previewed(gateway: Gateway, wish: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.post(PREVIEW, wish, key=key)).expect(200)
    return found


def body_of(request: bytes) -> Any:
    return json.loads(request.partition(b"\r\n\r\n")[2])


async def count_attempts(gateway: Gateway) -> int:
    row = await gateway.house.database.reader.one(select(func.count()).select_from(attempts))
    assert row is not None
    return int(row[0])


async def test_execution_runs_exactly_what_was_previewed(target: Target, tmp_path: Path) -> None:
    async with open_sink(OK) as sink, open_gateway(target, tmp_path / "data", **sink.allowed) as gateway:
        key = await gateway.key("actions:preview", "actions:execute")
        preview = await previewed(gateway, sink.webhook({"z": "é", "a": [1, {"b": None}]}), key)
        assert sink.requests == []
        done = (await gateway.post(EXECUTE, {"preview_id": preview["preview_id"]}, key=key)).expect(200)
        [request] = sink.requests
        assert body_of(request) == {"z": "é", "a": [1, {"b": None}]}
        attempt = (await gateway.get(f"/attempts/{done['attempt_id']}", key=key)).expect(200)
        assert attempt["digest"] == preview["digest"] and attempt["status"] == "succeeded"
        events = await gateway.events(target=done["attempt_id"])
        assert [event["tag"] for event in events] == ["gate:action:intent", "gate:action:outcome"]
        assert {event["digest"] for event in events} == {preview["digest"]}
        assert (events[0]["outcome"], events[1]["outcome"]) == ("", "succeeded")
        [made] = await gateway.events("gate:preview:made")
        assert (made["target"], made["digest"]) == (preview["preview_id"], preview["digest"])


async def test_a_preview_cannot_be_executed_with_other_parameters(gateway: Gateway) -> None:
    echo = {"action": "relay.echo", "params": {"message": "shown"}}
    preview = await previewed(gateway, echo, gateway.admin)
    for more in ({"action": "relay.echo"}, {"params": {"message": "other"}}, echo):
        body = {"preview_id": preview["preview_id"], **more}
        (await gateway.post(EXECUTE, body, key=gateway.admin)).expect(422)
    assert await count_attempts(gateway) == 0


async def test_a_request_of_neither_form_is_told_both(gateway: Gateway) -> None:
    for body in ({}, {"action": "relay.echo", "parameters": {"message": "misspelt"}}):
        problem = (await gateway.post(EXECUTE, body, key=gateway.admin)).expect(422)
        assert "give preview_id alone, or action and params" in str(problem["errors"])
        assert "misspelt" not in str(problem)
    assert await count_attempts(gateway) == 0


async def test_a_preview_that_was_altered_in_the_database_does_not_run(target: Target, tmp_path: Path) -> None:
    """The digest is computed anew from what would run; a row that says otherwise stops it."""
    async with open_sink(OK) as sink, open_gateway(target, tmp_path / "data", **sink.allowed) as gateway:
        for column, value in (("nonce", "nce_0"), ("digest", "0" * 64), ("action", "relay.echo"), ("version", 2)):
            preview = await previewed(gateway, sink.webhook(), gateway.admin)
            await alter(gateway, previews.update().values({column: value}))
            answer = await gateway.post(EXECUTE, {"preview_id": preview["preview_id"]}, key=gateway.admin)
            assert answer.status >= 400, column
        assert sink.requests == [] and await count_attempts(gateway) == 0


async def alter(gateway: Gateway, statement: Any) -> None:
    from relay.store.query import Query

    query = Query(statement)
    await gateway.house.database.writer.run(lambda tx: tx.run(query))


async def test_a_preview_belongs_to_one_principal(gateway: Gateway) -> None:
    owner = await gateway.key("actions:preview", "actions:execute")
    preview = await previewed(gateway, {"action": "relay.echo", "params": {"message": "mine"}}, owner)
    body = {"preview_id": preview["preview_id"]}
    colleague = await gateway.key(*SCOPES, kind="person")
    stranger = await gateway.key(*SCOPES, workspace="other")
    for key in (colleague, stranger, gateway.admin):
        (await gateway.post(EXECUTE, body, key=key)).expect(404)
        (await gateway.post(EXECUTE, body, key=key, headers={"Idempotency-Key": "stolen"})).expect(404)
    (await gateway.post(EXECUTE, body, key=owner)).expect(200)


async def test_a_preview_is_used_once(target: Target, tmp_path: Path) -> None:
    async with open_sink() as sink, open_gateway(target, tmp_path / "data", **sink.allowed) as gateway:
        preview = await previewed(gateway, sink.webhook(), gateway.admin)
        body = {"preview_id": preview["preview_id"]}
        answers = await asyncio.gather(*(gateway.post(EXECUTE, body, key=gateway.admin) for _ in range(12)))
        assert sorted(answer.status for answer in answers) == [200] + [410] * 11
        assert len(sink.requests) == 1
        (await gateway.post(EXECUTE, body, key=gateway.admin)).expect(410)
        again = await gateway.post(EXECUTE, body, key=gateway.admin, headers={"Idempotency-Key": "late"})
        again.expect(410)
        assert len(sink.requests) == 1


async def test_a_preview_expires(gateway: Gateway) -> None:
    preview = await previewed(gateway, {"action": "relay.echo", "params": {"message": "old"}}, gateway.admin)
    await alter(gateway, previews.update().values(expires_at=1))
    answer = await gateway.post(EXECUTE, {"preview_id": preview["preview_id"]}, key=gateway.admin)
    assert answer.expect(410)["type"] == "urn:relay:problem:gone"


async def test_a_failed_execution_uses_the_preview_up(target: Target, tmp_path: Path) -> None:
    async with open_sink(REFUSES) as sink, open_gateway(target, tmp_path / "data", **sink.allowed) as gateway:
        body = {"preview_id": (await previewed(gateway, sink.webhook(), gateway.admin))["preview_id"]}
        (await gateway.post(EXECUTE, body, key=gateway.admin)).expect(502)
        (await gateway.post(EXECUTE, body, key=gateway.admin)).expect(410)
        assert len(sink.requests) == 1


async def test_a_preview_wants_the_scope_to_execute(gateway: Gateway) -> None:
    viewer = await gateway.key("actions:preview")
    preview = await previewed(gateway, {"action": "relay.echo", "params": {"message": "look"}}, viewer)
    assert preview["decision"] == "deny"
    answer = await gateway.post(EXECUTE, {"preview_id": preview["preview_id"]}, key=viewer)
    assert answer.expect(403)["missing_scopes"] == ["actions:execute"]


async def test_a_revoked_key_cannot_use_its_preview(gateway: Gateway) -> None:
    key = await gateway.key("actions:preview", "actions:execute")
    preview = await previewed(gateway, {"action": "relay.echo", "params": {"message": "late"}}, key)
    newest = (await gateway.get("/keys?limit=1", key=gateway.admin)).expect(200)["items"][0]
    (await gateway.call("DELETE", f"/keys/{newest['id']}", key=gateway.admin)).expect(200)
    (await gateway.post(EXECUTE, {"preview_id": preview["preview_id"]}, key=key)).expect(401)
    assert await count_attempts(gateway) == 0


# How an attempt may end.


async def test_an_upstream_refusal_is_502(target: Target, tmp_path: Path) -> None:
    async with open_sink(REFUSES) as sink, open_gateway(target, tmp_path / "data", **sink.allowed) as gateway:
        problem = (await gateway.post(EXECUTE, sink.webhook(), key=gateway.admin)).expect(502)
        assert problem["attempt_status"] == "failed" and problem["code"] == "upstream_status_500"
        assert "no way" not in json.dumps(problem)
        await ended(gateway, problem["attempt_id"], "failed", "upstream_status_500")


async def test_a_destination_that_egress_refuses_is_403(gateway: Gateway) -> None:
    async with open_sink() as sink:
        preview = (await gateway.post(PREVIEW, sink.webhook(), key=gateway.admin)).expect(200)
        assert preview["decision"] == "deny" and preview["reason"]
        problem = (await gateway.post(EXECUTE, sink.webhook(), key=gateway.admin)).expect(403)
        assert problem["type"] == "urn:relay:problem:egress-denied"
        assert sink.requests == [] and sink.server.connections == 0
        await ended(gateway, problem["attempt_id"], "failed", problem["code"])


async def test_an_unreachable_destination_is_502(target: Target, tmp_path: Path) -> None:
    async with open_sink() as sink:
        wish, allowed = sink.webhook(), sink.allowed
    async with open_gateway(target, tmp_path / "data", **allowed) as gateway:
        problem = (await gateway.post(EXECUTE, wish, key=gateway.admin)).expect(502)
        await ended(gateway, problem["attempt_id"], "failed", problem["code"])


async def test_an_answer_that_never_comes_is_504(target: Target, tmp_path: Path) -> None:
    async with open_sink(hangs_up) as sink, open_gateway(target, tmp_path / "data", **sink.allowed) as gateway:
        problem = (await gateway.post(EXECUTE, sink.webhook(), key=gateway.admin)).expect(504)
        assert problem["type"] == "urn:relay:problem:outcome-unknown" and problem["attempt_status"] == "unknown"
        assert len(sink.requests) == 1
        await ended(gateway, problem["attempt_id"], "unknown", problem["code"])


async def ended(gateway: Gateway, attempt_id: str, status: str, code: str) -> None:
    attempt = (await gateway.get(f"/attempts/{attempt_id}", key=gateway.admin)).expect(200)
    assert (attempt["status"], attempt["error"]["code"], attempt["result"]) == (status, code, None)
    intent, outcome = await gateway.events(target=attempt_id)
    assert (intent["tag"], outcome["tag"], outcome["outcome"]) == (
        "gate:action:intent",
        "gate:action:outcome",
        status,
    )


# What the policy denies.


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = ""


def wrecker(effects: list[str]) -> Connector:
    connector = Connector("wrecker")

    def render(step: Any, client: Any) -> Rendering:
        return Rendering("Wreck it.", {})

    @connector.action("wrecker.wreck", effect="destructive", render=render)
    async def wreck(permit: Permit, params: Nothing, client: Any) -> Nothing:
        """Destroy something for good."""
        effects.append("destroyed")
        return Nothing()

    @connector.action("wrecker.break", effect="write", render=render)
    async def fails(permit: Permit, params: Nothing, client: Any) -> Nothing:
        """Break in the middle."""
        effects.append("half done")
        raise KeyError("canary-in-an-exception")

    @connector.action("wrecker.sleep", effect="write", render=render, timeout=0.2)
    async def sleeps(permit: Permit, params: Nothing, client: Any) -> Nothing:
        """Take too long."""
        effects.append("asleep")
        await asyncio.sleep(30)
        return Nothing()

    @connector.action("wrecker.read", effect="read", render=render, timeout=0.2)
    async def reads(permit: Permit, params: Nothing, client: Any) -> Nothing:
        """Read for too long."""
        await asyncio.sleep(30)
        return Nothing()

    return connector


async def test_what_no_policy_permits_is_denied(target: Target, tmp_path: Path) -> None:
    effects: list[str] = []
    async with open_gateway(target, tmp_path / "data", connectors=[(wrecker(effects), None)]) as gateway:
        permit = 'permit (principal, action in Relay::Action::"effect:write", resource);'
        (await gateway.call("PUT", "/policies", json={"text": permit}, key=gateway.admin)).expect(200)
        wish = {"action": "wrecker.wreck", "params": {}}
        listed = (await gateway.get("/actions", key=gateway.admin)).expect(200)["actions"]
        assert "wrecker.break" in {action["name"] for action in listed}
        assert "wrecker.wreck" not in {action["name"] for action in listed}
        preview = await previewed(gateway, wish, gateway.admin)
        assert preview["decision"] == "deny"
        for body in (wish, {"preview_id": preview["preview_id"]}):
            problem = (await gateway.post(EXECUTE, body, key=gateway.admin)).expect(403)
            assert problem["type"] == "urn:relay:problem:denied" and problem["policy_version"] == 1
        run = (await gateway.post("/ai/execute", {"steps": [wish]}, key=gateway.admin)).expect(202)["run_id"]
        async with asyncio.timeout(10):
            while True:
                job = (await gateway.get(f"/ai/jobs/{run}", key=gateway.admin)).expect(200)
                if job["status"] not in ("queued", "running"):
                    break
                await asyncio.sleep(0.02)
        assert job["status"] == "failed"
        assert effects == [] and await count_attempts(gateway) == 0
        denied = await gateway.events("gate:action:denied")
        assert len(denied) == 3 and all(event["decision"].startswith("deny ") for event in denied)


async def test_a_connector_s_bug_is_unknown_and_tells_nothing(
    target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    effects: list[str] = []
    async with open_gateway(target, tmp_path / "data", connectors=[(wrecker(effects), None)]) as gateway:
        answer = await gateway.post(EXECUTE, {"action": "wrecker.break", "params": {}}, key=gateway.admin)
        problem = answer.expect(504)
        assert problem["code"] == "connector_error" and effects == ["half done"]
        assert b"canary" not in answer.body and "canary-in-an-exception" not in caplog.text
        await ended(gateway, problem["attempt_id"], "unknown", "connector_error")


async def test_a_time_out_is_unknown_unless_it_only_read(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", connectors=[(wrecker([]), None)]) as gateway:
        for action, status in (("wrecker.sleep", 504), ("wrecker.read", 502)):
            problem = (await gateway.post(EXECUTE, {"action": action, "params": {}}, key=gateway.admin)).expect(status)
            assert problem["code"] == "timed_out"


async def test_a_policy_that_breaks_denies(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(*_: object) -> None:
        raise RuntimeError("policy")

    monkeypatch.setattr(gateway.server.performer._policy, "decide", breaks)
    problem = (
        await gateway.post(EXECUTE, {"action": "relay.echo", "params": {"message": "x"}}, key=gateway.admin)
    ).expect(403)
    assert problem["policy_id"] == "builtin:error"
    assert await count_attempts(gateway) == 0


# Secrets.

CANARY = "Zk7canary9Qw"
SECRETS = {
    "method": "POST",
    "headers": {
        "Authorization": f"Bearer {CANARY}1",
        "X-Api-Key": f"{CANARY}2",
        "Cookie": f"session={CANARY}3",
        "X-Custom": f"{CANARY}4",
    },
    "query": {"token": f"{CANARY}5", "page": 1},
    "json": {"password": f"{CANARY}6", "name": "ada", "nested": [{"client_secret": f"{CANARY}7"}]},
}


async def test_secrets_are_redacted_everywhere_but_on_the_wire(
    target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    async with open_sink(OK) as sink, open_gateway(target, data, **sink.allowed) as gateway:
        wish = secret_wish(sink)
        preview = await gateway.post(PREVIEW, wish, key=gateway.admin)
        shown = preview.expect(200)
        assert shown["params"]["headers"]["authorization"] == "***" and shown["params"]["json"]["name"] == "ada"
        executed = await gateway.post(EXECUTE, {"preview_id": shown["preview_id"]}, key=gateway.admin)
        attempt = await gateway.get(f"/attempts/{executed.expect(200)['attempt_id']}", key=gateway.admin)
        assert attempt.expect(200)["params"]["headers"]["x-api-key"] == "***"
        run = await gateway.post("/ai/execute", {"steps": [wish]}, key=gateway.admin)
        await sink.arrived(2)
        job = await gateway.get(f"/ai/jobs/{run.expect(202)['run_id']}", key=gateway.admin)
        audit = await gateway.get("/audit?limit=200", key=gateway.admin)
        for answer in (preview, executed, attempt, run, job, audit):
            assert CANARY.encode() not in answer.body
        for number in range(1, 8):
            assert all(f"{CANARY}{number}".encode() in request for request in sink.requests), number
        assert CANARY not in str(await gateway.events())
        assert CANARY not in await everything_stored(gateway)
        for path in data_files(target, data):
            assert CANARY.encode() not in path.read_bytes(), path
    for path in data_files(target, data):
        assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in caplog.text


def secret_wish(sink: Sink) -> dict[str, Any]:
    return {"action": "http.request", "params": {**SECRETS, "url": f"http://127.0.0.1:{sink.port}/hook"}}


def data_files(target: Target, data: Path) -> list[Path]:
    """Return every file of the installation; with SQLite the database and its log are among them."""
    found = [path for path in data.rglob("*") if path.is_file()]
    if target.path is not None:
        found += [path for path in target.path.parent.glob(f"{target.path.name}*") if path.is_file()]
        assert target.path in found
    return found


async def everything_stored(gateway: Gateway) -> str:
    """Return every row of every table, bytes included."""
    from relay.store.tables import metadata

    rows = [await gateway.house.database.reader.all(select(table)) for table in metadata.sorted_tables]
    assert sum(map(len, rows)) > 20
    return repr(
        [[bytes(value) if isinstance(value, memoryview) else value for value in row] for t in rows for row in t]
    )


async def test_an_attempt_shows_who_asked_to_the_whole_workspace_and_to_no_other(gateway: Gateway) -> None:
    agent = await gateway.key("actions:execute")
    done = (await gateway.post(EXECUTE, {"action": "relay.echo", "params": {"message": "x"}}, key=agent)).expect(200)
    path = f"/attempts/{done['attempt_id']}"
    seen = (await gateway.get(path, key=gateway.admin)).expect(200)
    assert seen["requested_by"].startswith("key_")
    (await gateway.get(path, key=agent)).expect(403)
    (await gateway.get(path, key=await gateway.key(*SCOPES, workspace="other"))).expect(404)
