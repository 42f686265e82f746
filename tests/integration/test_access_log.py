"""The log as an operator reads it: one line for each request, security lines of their own, ids all the way through."""

import asyncio
import gc
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.audit.telling import TOLD
from relay.core.problem import Denied
from relay.crypto.api_key import new_api_key
from relay.store.target import Target
from relay.surface.wire import RelayProtocol
from relay.telemetry.context import NAMES
from relay.telemetry.logs import formatter_for
from tests.gateway import Gateway, open_gateway
from tests.process import eventually
from tests.receivers import open_receiver, status
from tests.sending_kit import NEVER_AGAIN, act, endpoint, sending

TOP = Path(__file__).parents[2]
ECHO = {"action": "relay.echo", "params": {"message": "canary-2c77"}}


class Lines(logging.Handler):
    """What the log would hold, read as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(formatter_for("json"))
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("relay"):
            return
        self.lines.append(json.loads(self.format(record)))

    def of(self, logger: str, **equal: Any) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["logger"] == logger and equal.items() <= line.items()]

    async def one(self, logger: str, **equal: Any) -> dict[str, Any]:
        async def found() -> dict[str, Any] | None:
            return next(iter(self.of(logger, **equal)), None)

        line: dict[str, Any] = await eventually(found, seconds=30)
        return line


@pytest.fixture
def log() -> Iterator[Lines]:
    root, lines = logging.getLogger(), Lines()
    before = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    yield lines
    root.removeHandler(lines)
    root.setLevel(before)


async def test_each_request_has_one_line(gateway: Gateway, log: Lines) -> None:
    answer = await gateway.post("/actions/execute", ECHO, key=gateway.admin, headers={"X-Request-ID": "req_mine_1"})
    attempt = answer.expect(200)["attempt_id"]
    (line,) = log.of("relay.access", request_id="req_mine_1")
    me = (await gateway.get("/keys", key=gateway.admin)).expect(200)["items"][0]["id"]
    assert {
        name: line[name] for name in ("level", "method", "route", "status", "workspace", "client", "principal")
    } == {
        "level": "info",
        "method": "POST",
        "route": "/actions/execute",
        "status": 200,
        "workspace": "default",
        "client": "127.0.0.1",
        "principal": me,
    }
    assert line["message"] == "POST /actions/execute 200"
    assert line["bytes"] == len(answer.body) and 0 < line["duration_ms"] < 60_000
    await gateway.get(f"/attempts/{attempt}?note=canary-9d", key=gateway.admin)
    (read,) = log.of("relay.access", route="/attempts/{attempt_id}") or log.of("relay.access", route="/attempts/{id}")
    said = json.dumps(log.lines)
    assert attempt not in json.dumps(read) and "canary" not in said and gateway.admin not in said


async def test_what_is_refused_has_a_line_too(gateway: Gateway, log: Lines) -> None:
    await gateway.get("/nowhere/canary-1")
    (nowhere,) = log.of("relay.access", status=404)
    assert nowhere["route"] == "(none)" and nowhere["principal"] == ""
    await gateway.post("/actions/execute", ECHO)
    (nobody,) = log.of("relay.access", status=401)
    assert nobody["route"] == "/actions/execute" and nobody["principal"] == ""
    viewer = await gateway.key("actions:preview")
    await gateway.post("/actions/execute", ECHO, key=viewer)
    (lacking,) = log.of("relay.access", status=403)
    assert lacking["principal"].startswith("key_") and lacking["workspace"] == "default"
    # What never reaches the application: another host, and no HTTP at all.
    await gateway.get("/actions", headers={"Host": "evil.example"})
    (foreign,) = log.of("relay.access", status=421)
    assert foreign["route"] == "(none)"
    assert b"400" in await gateway.raw(b"GET /x\x00 HTTP/1.1\r\nHost: x\r\n\r\n")
    unread = await log.one("relay.access", status=400)
    assert (unread["route"], unread["method"], unread["client"]) == ("(none)", "(other)", "127.0.0.1")
    assert unread["request_id"].startswith("req_")
    assert "canary" not in json.dumps(log.lines)


async def test_a_caller_that_leaves_is_499(gateway: Gateway, log: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, leave = asyncio.Event(), asyncio.Event()

    async def waits(*_: Any, **__: Any) -> None:
        arrived.set()
        await leave.wait()
        raise Denied("late")

    monkeypatch.setattr(gateway.server.performer, "perform", waits)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps(ECHO).encode()
    head = (
        f"POST /actions/execute HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nAuthorization: Bearer {gateway.admin}\r\n"
    )
    writer.write(head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await arrived.wait()
    writer.transport.abort()
    # The server must have seen it before it answers.
    async with asyncio.timeout(30):
        while any(not connection.cycle.disconnected for connection in _live()):
            await asyncio.sleep(0.01)
    leave.set()
    line = await log.one("relay.access", status=499)
    assert line["route"] == "/actions/execute" and line["principal"].startswith("key_")


def _live() -> list[Any]:
    """Return the connections of this process that owe an answer."""
    found = [one for one in gc.get_objects() if isinstance(one, RelayProtocol)]
    return [one for one in found if getattr(one.cycle, "response_complete", True) is False]


async def test_the_documentation_shows_a_line_as_it_is(gateway: Gateway, log: Lines) -> None:
    page = (TOP / "docs" / "logs.md").read_text()
    (shown,) = [json.loads(found) for found in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)
    (line,) = log.of("relay.access", status=200)
    assert list(line) == list(shown) and shown["message"] == line["message"]
    named = set(re.findall(r"`([a-z_]+)`", "\n".join(row for row in page.splitlines() if row.startswith("| `"))))
    assert set(line) <= named and set(NAMES) <= named
    assert set(TOLD.values()) | {"auth_failure", "signature_refusal", "limit_refusal"} <= named


async def test_an_event_stream_is_told_of_at_its_end(gateway: Gateway, log: Lines) -> None:
    run = (await gateway.post("/ai/execute", {"steps": [ECHO]}, key=gateway.admin)).expect(202)["run_id"]
    answer = await gateway.get(f"/ai/jobs/{run}/events", key=gateway.admin)
    assert answer.status == 200
    line = await log.one("relay.access", route="/ai/jobs/{run_id}/events")
    assert line["status"] == 200 and line["bytes"] == len(answer.body) > 0


async def test_the_access_log_can_be_switched_off(sqlite_target: Target, tmp_path: Path, log: Lines) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", ACCESS_LOG="false") as gateway:
        (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)
        await gateway.post("/actions/execute", ECHO)
    assert not log.of("relay.access") and log.of("relay.security", kind="auth_failure")


async def test_a_credential_as_request_id_is_not_kept(gateway: Gateway, log: Lines) -> None:
    for secret in (new_api_key("live"), "ghp_" + "a1B2" * 9, "sk-proj-" + "a1B2" * 12):
        answer = await gateway.post("/actions/execute", ECHO, key=gateway.admin, headers={"X-Request-ID": secret})
        assert answer.headers["X-Request-ID"] != secret
        assert secret not in json.dumps(log.lines)


async def test_security_has_lines_of_its_own(gateway: Gateway, log: Lines) -> None:
    await gateway.post("/actions/execute", ECHO, key=new_api_key("test"))
    refused = await log.one("relay.security", kind="auth_failure")
    assert (refused["reason"], refused["route"], refused["status"]) == ("invalid_token", "/actions/execute", 401)
    assert refused["client"] == "127.0.0.1" and refused["level"] == "warning"
    viewer = await gateway.key("actions:preview")
    await gateway.post("/actions/execute", ECHO, key=viewer)
    lacking = await log.one("relay.security", reason="insufficient_scopes")
    assert lacking["principal"].startswith("key_") and lacking["status"] == 403
    await gateway.post("/webhooks/in/nobody", {"x": 1})
    unsigned = await log.one("relay.security", kind="signature_refusal")
    assert unsigned["route"] == "/webhooks/in/{receiver}" and unsigned["status"] == 401
    switch = {"on": True, "scope": {"action": "relay.echo"}, "reason": "canary-4a"}
    (await gateway.post("/kill-switch", switch, key=gateway.admin)).expect(200)
    told = await log.one("relay.security", kind="kill_switch", tag="policy:kill_switch:on")
    events = await gateway.events("policy:kill_switch:on")
    assert told["event_id"] == events[0]["id"] and told["request_id"] == events[0]["request_id"]
    assert "canary" not in json.dumps(log.lines)


async def test_a_flood_of_refusals_is_a_bounded_number_of_lines(gateway: Gateway, log: Lines) -> None:
    for _ in range(40):
        await gateway.post("/actions/execute", ECHO, key=new_api_key("test"))
    assert len(log.of("relay.security", kind="auth_failure")) == 20
    gateway.house.security.flush()
    (rest,) = [line for line in log.of("relay.security") if "suppressed" in line]
    assert rest["suppressed"] == 20 and rest["kind"] == "auth_failure"


async def test_a_denial_is_told_once_it_is_durable(gateway: Gateway, log: Lines) -> None:
    text = 'forbid (principal, action == Relay::Action::"relay.echo", resource);'
    (await gateway.call("PUT", "/policies", key=gateway.admin, json={"text": text})).expect(200)
    (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(403)
    denied = await log.one("relay.security", kind="policy_denial")
    assert denied["action"] == "relay.echo" and denied["principal"].startswith("key_")


async def test_ids_follow_the_work(target: Target, tmp_path: Path, log: Lines) -> None:
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, NEVER_AGAIN) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        answer = await gateway.post(
            "/actions/execute", ECHO, key=gateway.admin, headers={"X-Request-ID": "req_cause_1"}
        )
        answer.expect(200)
        failed = await log.one("relay.webhooks", request_id="req_cause_1")
        assert failed["delivery_id"].startswith("dlv_") and failed["workspace"] == "default"
        # A step of a run that fails: its attempt's line has the run, the step and the request that ordered it.
        step = {
            "id": "call",
            "action": "http.request",
            "params": {"method": "GET", "url": "http://127.0.0.1:9/", "headers": {}},
        }
        ordered = await gateway.post(
            "/ai/execute", {"steps": [step]}, key=gateway.admin, headers={"X-Request-ID": "req_order_1"}
        )
        run = ordered.expect(202)["run_id"]
        line = await log.one("relay.gate", run_id=run)
        assert (line["request_id"], line["step_id"]) == ("req_order_1", "call")
        assert line["attempt_id"].startswith("att_") and line["action"] == "http.request"
        # What the next request logs has nothing of it.
        await act(gateway)
        assert all("run_id" not in line for line in log.of("relay.access"))
