"""What callers can rely on: paths, members and meanings."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay import __version__
from relay.core.principal import SCOPES
from relay.store.target import Target
from tests.chat_talk import settled
from tests.gateway import Gateway, open_gateway
from tests.openapi import SNAPSHOT, text_of

DIGEST = re.compile(r"[0-9a-f]{64}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
PROMPT = {"prompt": 'Send an email to ada@example.com about "Lunch" saying "See you at noon"'}
ACTION_ROUTES = [
    ("GET", "/actions"),
    ("POST", "/actions/preview"),
    ("POST", "/actions/execute"),
    ("GET", "/attempts/att_0"),
    ("POST", "/ai/plan"),
    ("POST", "/ai/execute"),
    ("GET", "/ai/jobs"),
    ("GET", "/ai/jobs/run_0"),
    ("POST", "/ai/jobs/run_0/cancel"),
    ("GET", "/ai/jobs/run_0/events"),
]


def has(value: dict[str, Any], **members: Any) -> None:
    """Assert that each member is there, and is of its type, or matches its pattern, or equals its value."""
    for name, expected in members.items():
        assert name in value, f"{name} is missing from {sorted(value)}"
        found = value[name]
        if isinstance(expected, type):
            assert isinstance(found, expected), f"{name}: {found!r}"
        elif isinstance(expected, re.Pattern):
            assert expected.fullmatch(found), f"{name}: {found!r}"
        else:
            assert found == expected, f"{name}: {found!r}"


# Public routes.


async def test_health_ready_version(gateway: Gateway) -> None:
    assert (await gateway.get("/health")).expect(200) == {"status": "ok"}
    ready = (await gateway.get("/ready")).expect(200)
    assert ready["ready"] is True and set(ready["checks"].values()) == {"ok"} and "database" in ready["checks"]
    assert (await gateway.get("/version")).expect(200) == {"name": "relay", "version": __version__}


@contextlib.contextmanager
def database_away(target: Target) -> Iterator[None]:
    """Take the database away: SQLite by a lock on its file, PostgreSQL by refusing and ending every connection."""
    if target.kind == "sqlite":
        with contextlib.closing(sqlite3.connect(str(target.path), isolation_level=None, timeout=10)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            yield
            holder.execute("ROLLBACK")
        return
    name = conninfo_to_dict(target.conninfo)["dbname"]
    with psycopg.connect(make_conninfo(target.conninfo, dbname="postgres"), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


async def test_ready_is_503_while_the_database_is_away(gateway: Gateway, target: Target) -> None:
    with database_away(target):
        answer = await gateway.get("/ready")
        body = answer.expect(503)
        assert set(body) == {"ready", "checks"} and body["ready"] is False
        assert body["checks"]["writer"] == "failed" and set(body["checks"].values()) <= {"ok", "failed"}
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await gateway.get("/health")).expect(200) == {"status": "ok"}
    async with asyncio.timeout(10):
        while (await gateway.get("/ready")).status != 200:
            await asyncio.sleep(0.05)
    (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)


async def test_a_server_stops_in_order_while_the_database_is_away(target: Target, tmp_path: Path) -> None:
    with contextlib.ExitStack() as away:
        async with open_gateway(target, tmp_path / "data") as gateway:
            admin = gateway.admin
            away.enter_context(database_away(target))
    async with open_gateway(target, tmp_path / "data", admin=admin) as gateway:
        (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)


async def test_nothing_is_executed_while_the_database_is_away(gateway: Gateway, target: Target) -> None:
    (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)
    with database_away(target):
        answer = await gateway.post("/actions/execute", ECHO, key=gateway.admin)
        problem = answer.expect(503)
        assert problem["type"] == "urn:relay:problem:unavailable"
        assert answer.headers["Retry-After"] == str(problem["retry_after"])
        assert "attempt_id" not in problem


async def test_security_txt_follows_rfc_9116(target: Target, tmp_path: Path) -> None:
    async with open_gateway(
        target,
        tmp_path / "data",
        SECURITY_CONTACT="mailto:security@example.org",
        SECURITY_POLICY_URL="https://example.org/disclosure",
    ) as gateway:
        answer = await gateway.get("/.well-known/security.txt")
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    fields = [line.split(": ", 1) for line in answer.body.decode().splitlines()]
    names = [name for name, _ in fields]
    assert names.count("Contact") >= 1 and names.count("Expires") == 1 and names.count("Preferred-Languages") <= 1
    values = dict(fields)
    assert values["Contact"] == "mailto:security@example.org"
    assert values["Policy"] == "https://example.org/disclosure"
    ends = datetime.fromisoformat(values["Expires"])
    assert datetime.now(UTC) + timedelta(days=30) < ends < datetime.now(UTC) + timedelta(days=366)


# Documentation of the interface.


@pytest.mark.parametrize("env", ["production", "test"])
async def test_docs_want_their_scope(sqlite_target: Target, tmp_path: Path, env: str) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RELAY_ENV=env) as gateway:
        without = await gateway.key(*(scope for scope in SCOPES if scope != "docs"))
        granted = await gateway.key("docs")
        for path in ("/docs", "/openapi.json"):
            assert (await gateway.get(path)).status == 401
            assert (await gateway.get(path, key=without)).status == 403
            assert (await gateway.get(path, key=granted)).status == 200


async def test_docs_are_public_in_local(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RELAY_ENV="local") as gateway:
        page = await gateway.get("/docs")
        assert page.status == 200 and b"/actions/execute" in page.body and b"<script" not in page.body
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert (await gateway.get("/openapi.json")).expect(200)["info"]["title"] == "Relay"
        assert (await gateway.get("/actions")).status == 401


async def test_the_committed_openapi_document_is_current(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        served = (await gateway.get("/openapi.json", key=gateway.admin)).expect(200)
    assert SNAPSHOT.read_text() == text_of(served), "renew it: python -m tests.openapi"


async def test_the_openapi_document_shows_no_action_by_another_way(gateway: Gateway) -> None:
    paths = (await gateway.get("/openapi.json", key=gateway.admin)).expect(200)["paths"]
    assert {path for path in paths if path.startswith(("/actions", "/attempts"))} == {
        "/actions",
        "/actions/preview",
        "/actions/execute",
        "/attempts/{attempt_id}",
        "/attempts/{attempt_id}/recall",
    }


# Credentials.


async def test_a_key_is_taken_as_bearer_or_x_api_key(gateway: Gateway) -> None:
    key = gateway.admin
    for headers in (
        [("Authorization", f"Bearer {key}")],
        [("Authorization", f"bearer {key}")],
        [("X-API-Key", key)],
        [("Authorization", f"Bearer {key}"), ("X-API-Key", key)],
    ):
        assert (await gateway.get("/actions", headers=headers)).status == 200, headers[0][0]


# Actions.


async def test_actions_can_be_turned_off(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", ACTIONS_ENABLED="false") as gateway:
        for method, path in ACTION_ROUTES:
            for key in (None, gateway.admin):
                answer = await gateway.call(method, path, key=key, json=ECHO if method == "POST" else None)
                assert answer.expect(404)["type"] == "urn:relay:problem:not-found", path
        for path in ("/health", "/audit", "/keys"):
            assert (await gateway.get(path, key=gateway.admin)).status == 200


async def test_the_action_routes_are_there_otherwise(gateway: Gateway) -> None:
    for method, path in ACTION_ROUTES:
        assert (await gateway.call(method, path)).status == 401, path


async def test_actions_list(gateway: Gateway) -> None:
    actions = (await gateway.get("/actions", key=gateway.admin)).expect(200)["actions"]
    assert {"email.send", "webhook.save", "http.request", "relay.echo"} <= {action["name"] for action in actions}
    for action in actions:
        has(action, version=int, summary=str, effect=re.compile("read|write|destructive"), scope="actions:execute")
        for schema in (action["params"], action["result"]):
            assert schema["type"] == "object" and schema["properties"]
        assert action["params"]["additionalProperties"] is False


async def test_preview_execute_attempt(gateway: Gateway) -> None:
    preview = (await gateway.post("/actions/preview", ECHO, key=gateway.admin)).expect(200)
    has(
        preview,
        preview_id=str,
        action="relay.echo",
        effect="read",
        summary=str,
        params={"message": "hello"},
        decision="allow",
        reason=str,
        warnings=[],
        digest=DIGEST,
        expires_at=TIME,
    )
    ends = datetime.fromisoformat(preview["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=58) < ends <= timedelta(minutes=60)
    body = {"preview_id": preview["preview_id"]}
    done = (await gateway.post("/actions/execute", body, key=gateway.admin)).expect(200)
    has(done, attempt_id=str, status="succeeded", action="relay.echo", result={"message": "hello"}, duration_ms=int)
    attempt = (await gateway.get(f"/attempts/{done['attempt_id']}", key=gateway.admin)).expect(200)
    has(
        attempt,
        attempt_id=done["attempt_id"],
        status="succeeded",
        action="relay.echo",
        digest=preview["digest"],
        params={"message": "hello"},
        result={"message": "hello"},
        error=None,
        created_at=TIME,
        finished_at=TIME,
    )


async def test_a_preview_may_name_no_connection(gateway: Gateway) -> None:
    (await gateway.post("/actions/preview", {**ECHO, "connection": None}, key=gateway.admin)).expect(200)
    (await gateway.post("/actions/preview", {**ECHO, "connection": "con_1"}, key=gateway.admin)).expect(422)


async def test_errors_point_at_the_place(gateway: Gateway) -> None:
    for path in ("/actions/preview", "/actions/execute"):
        body = {"action": "email.send", "params": {"to": ["not an address"], "subject": "x", "text": "y", "more": 1}}
        problem = (await gateway.post(path, body, key=gateway.admin)).expect(422)
        assert problem["type"] == "urn:relay:problem:invalid"
        pointers = {error["pointer"] for error in problem["errors"]}
        assert pointers == {"/params/to/0", "/params/more"}
        assert all(error["message"] for error in problem["errors"])
        unknown = (await gateway.post(path, {"action": "no.such", "params": {}}, key=gateway.admin)).expect(422)
        assert [error["pointer"] for error in unknown["errors"]] == ["/action"]


# Plans and runs.


async def test_plan(gateway: Gateway) -> None:
    plan = (await gateway.post("/ai/plan", PROMPT, key=gateway.admin)).expect(200)
    has(plan, plan_id=str, intent=str, explanation=str, planner="local", digest=DIGEST, expires_at=TIME)
    assert 0 <= plan["confidence"] <= 1
    [step] = plan["steps"]
    has(step, id=str, action="email.send", summary=str, effect="write", decision="allow", depends_on=[])
    assert step["params"]["to"] == ["ada@example.com"]


async def test_run(gateway: Gateway) -> None:
    steps = [ECHO, {"action": "relay.echo", "params": {"message": "again"}}]
    accepted = (await gateway.post("/ai/execute", {"steps": steps}, key=gateway.admin)).expect(202)
    has(accepted, run_id=str, status=re.compile("queued|running"))
    run = await finished(gateway, accepted["run_id"])
    has(run, run_id=accepted["run_id"], status="succeeded", created_at=TIME)
    for step, message in zip(run["steps"], ("hello", "again"), strict=True):
        has(step, id=str, action="relay.echo", status="succeeded", attempt_id=str, error=None)
        assert step["result"] == {"message": message}
        (await gateway.get(f"/attempts/{step['attempt_id']}", key=gateway.admin)).expect(200)
    listed = (await gateway.get("/ai/jobs", key=gateway.admin)).expect(200)
    assert [item["run_id"] for item in listed["items"]] == [run["run_id"]] and listed["next_cursor"] is None
    events = await gateway.get(f"/ai/jobs/{run['run_id']}/events", key=gateway.admin)
    assert events.status == 200 and events.headers["Content-Type"].startswith("text/event-stream")
    assert re.search(rb"^id: \d+$", events.body, re.MULTILINE) and b"\ndata: {" in events.body
    (await gateway.post(f"/ai/jobs/{run['run_id']}/cancel", key=gateway.admin)).expect(409)


async def test_a_plan_is_run_once(gateway: Gateway) -> None:
    plan = (await gateway.post("/ai/plan", {"prompt": 'echo "hello"'}, key=gateway.admin)).expect(200)
    assert plan["steps"]
    body = {"plan_id": plan["plan_id"]}
    accepted = (await gateway.post("/ai/execute", body, key=gateway.admin)).expect(202)
    assert (await finished(gateway, accepted["run_id"]))["status"] == "succeeded"
    (await gateway.post("/ai/execute", body, key=gateway.admin)).expect(410)


async def finished(gateway: Gateway, run_id: str) -> dict[str, Any]:
    for _ in range(200):
        run: dict[str, Any] = (await gateway.get(f"/ai/jobs/{run_id}", key=gateway.admin)).expect(200)
        if run["status"] not in ("queued", "running"):
            return run
        await asyncio.sleep(0.05)
    pytest.fail(f"{run_id} did not end")


# Conversations.


async def test_chat(gateway: Gateway) -> None:
    agent = await gateway.key("chat", "actions:preview", "actions:execute")
    turn = (await gateway.post("/chat/", {"message": PROMPT["prompt"]}, key=agent)).expect(200)
    has(turn, session_id=re.compile("[A-Za-z0-9_-]{43}"), turn_id=str, message=str, awaiting_approval=True)
    has(turn, status="awaiting_approval", model="local", untrusted=False, notices=list, error=None)
    has(turn["usage"], input_tokens=0, output_tokens=0, cost_usd=0.0, session_cost_usd=0.0, estimated=False, model=str)
    [call] = turn["tool_calls"]
    has(call, id=str, action="email.send", status="pending_approval", params=dict, summary=str, effect="write")
    has(call, attempt_id=str, approval_id=str, digest=DIGEST, preview=dict, result=None, error=None, untrusted=False)
    has(call, origins=dict, expires_at=TIME)
    assert call["origins"]["/to/0"] == [{"source": "user", "attempt_id": None, "pointer": None, "message": 1}]
    [approval] = turn["approvals"]
    has(approval, approval_id=call["approval_id"], attempt_id=call["attempt_id"], call_id=call["id"])
    has(approval, action="email.send", params=dict, summary=call["summary"], digest=call["digest"], expires_at=TIME)
    asked = (await gateway.get("/approvals", key=gateway.admin)).expect(200)["items"]
    assert [(item["approval_id"], item["digest"]) for item in asked] == [(call["approval_id"], call["digest"])]
    listed = (await gateway.get("/chat/sessions", key=agent)).expect(200)
    has(listed, next_cursor=None)
    has(listed["items"][0], session_id=turn["session_id"], status="awaiting_approval", turns=1, cost_usd=0.0)
    has(listed["items"][0], untrusted=False, created_at=TIME, last_used_at=TIME, expires_at=TIME)
    decision = {"digest": call["digest"]}
    (await gateway.post(f"/approvals/{call['approval_id']}/approve", decision, key=gateway.admin)).expect(200)
    done = await settled(gateway, agent, turn["session_id"])
    assert [entry["kind"] for entry in done["entries"] if entry["text"].startswith("Done: ")] == ["assistant"]
    for number, entry in enumerate(done["entries"]):
        has(entry, seq=int, turn_id=turn["turn_id"], kind=re.compile("user|assistant|call|note"), text=str, at=TIME)
        assert number == 0 or entry["seq"] > done["entries"][number - 1]["seq"]


async def test_the_chat_of_a_person_calls_at_once(gateway: Gateway) -> None:
    body = {"message": PROMPT["prompt"]}
    turn = (await gateway.post("/chat/", body, key=gateway.admin)).expect(200)
    assert (turn["status"], turn["awaiting_approval"], turn["approvals"]) == ("done", False, [])
    assert [call["status"] for call in turn["tool_calls"]] == ["succeeded"]


async def test_the_chat_waits_before_it_calls_a_host(gateway: Gateway) -> None:
    agent = await gateway.key("chat", "actions:preview", "actions:execute")
    turn = (await gateway.post("/chat", {"message": "call https://example.com/"}, key=agent)).expect(200)
    [call] = turn["tool_calls"]
    assert (call["action"], call["status"]) == ("http.request", "pending_approval")
    path = f"/chat/sessions/{turn['session_id']}/calls/{call['id']}/deny"
    denied = (await gateway.post(path, {"digest": call["digest"]}, key=gateway.admin)).expect(200)
    has(denied, call_id=call["id"], approval_id=call["approval_id"], approval_status="denied", status="denied")
    done = await settled(gateway, agent, turn["session_id"])
    assert done["entries"][-1]["text"].startswith("http.request was denied by a person")


async def test_a_conversation_without_actions_calls_none(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", ACTIONS_ENABLED="false") as gateway:
        turn = (await gateway.post("/chat/", {"message": PROMPT["prompt"]}, key=gateway.admin)).expect(200)
        assert (turn["status"], turn["tool_calls"]) == ("done", [])
        for what in ("approve", "deny", "edit", "cancel"):
            path = f"/chat/sessions/{turn['session_id']}/calls/cll_0/{what}"
            assert (await gateway.post(path, {}, key=gateway.admin)).json["detail"] == "There is nothing at this path."


# Audit and keys.


async def test_audit(gateway: Gateway) -> None:
    done = (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)
    page = (await gateway.get("/audit?limit=1", key=gateway.admin)).expect(200)
    assert len(page["items"]) == 1 and isinstance(page["next_cursor"], str)
    found = (await gateway.get(f"/audit?q={done['attempt_id']}", key=gateway.admin)).expect(200)["items"]
    assert found
    for item in found:
        has(item, seq=int, id=str, occurred_at=TIME, workspace_id="default", principal=str, request_id=str, tag=str)
        has(item, action="relay.echo", digest=DIGEST, hash=DIGEST, prev_hash=DIGEST, target=done["attempt_id"])
    verified = (await gateway.get("/audit/verify", key=gateway.admin)).expect(200)
    has(verified, ok=True, size=int, head=DIGEST, checked_at=TIME)
    for query in ("limit=0", "limit=201", "cursor=nonsense", "since=yesterday"):
        (await gateway.get(f"/audit?{query}", key=gateway.admin)).expect(422)


async def test_audit_shows_the_own_workspace_alone(gateway: Gateway) -> None:
    other = await gateway.key(*SCOPES, workspace="other")
    (await gateway.post("/actions/execute", ECHO, key=other)).expect(200)
    mine = (await gateway.get("/audit?limit=200", key=gateway.admin)).expect(200)["items"]
    theirs = (await gateway.get("/audit?limit=200", key=other)).expect(200)["items"]
    assert {item["workspace_id"] for item in mine} == {"default"}
    assert {item["workspace_id"] for item in theirs} == {"other"}


async def test_keys(gateway: Gateway) -> None:
    made = (await gateway.post("/keys", {"scopes": ["actions:preview"]}, key=gateway.admin)).expect(201)
    has(made, id=str, kind="agent", workspace="default", scopes=["actions:preview"], prefix=str, last4=made["key"][-4:])
    has(made, expires_at=TIME)
    assert made["key"].startswith("relay_sk_test_")
    (await gateway.get("/actions", key=made["key"])).expect(200)
    listing = await gateway.get("/keys", key=gateway.admin)
    assert made["id"] in {item["id"] for item in listing.expect(200)["items"]}
    assert made["key"].encode() not in listing.body and b'"key"' not in listing.body
    rotated = (await gateway.post(f"/keys/{made['id']}/rotate", key=gateway.admin)).expect(200)
    assert rotated["key"] != made["key"] and rotated["scopes"] == made["scopes"]
    (await gateway.call("DELETE", f"/keys/{made['id']}", key=gateway.admin)).expect(200)
    assert (await gateway.get("/actions", key=made["key"])).status == 401
    assert (await gateway.get("/actions", key=rotated["key"])).status == 200


async def test_a_key_gives_no_more_scopes_than_its_maker_has(gateway: Gateway) -> None:
    maker = await gateway.key("keys:manage", "actions:preview")
    problem = (await gateway.post("/keys", {"scopes": ["actions:execute"]}, key=maker)).expect(403)
    assert problem["missing_scopes"] == ["actions:execute"]
    (await gateway.post("/keys", {"scopes": ["actions:preview"]}, key=maker)).expect(201)


async def test_what_is_not_built_does_not_exist(gateway: Gateway) -> None:
    for method, path in (("POST", "/mcp"), ("GET", "/console"), ("GET", "/"), ("GET", "/redoc")):
        assert (await gateway.call(method, path, key=gateway.admin)).status == 404, path
