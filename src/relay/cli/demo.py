"""``relay demo``: a gateway of its own in a throw-away folder, and a walk along the guarded path over HTTP."""

import http.client  # noqa: TID251  the demo is a client of its own gateway, over loopback
import json
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import typer

from relay.cli.context import fail

_START_SECONDS: Final = 20.0
_RUN_SECONDS: Final = 30.0
_LISTENS: Final = re.compile(r"relay listens on http://127\.0\.0\.1:(\d+) ")
_KEY: Final = re.compile(r"^ {4}(relay_sk_\w+)$")
_PROMPT: Final = 'Echo "four o clock" and then email you@example.com about "First mail" saying "Hello from Relay"'
_FORBIDDEN: Final = 403

Say = Callable[[str], None]


def demo() -> None:
    """Start a throw-away gateway, let an agent plan a mail, approve it, and verify the audit trail."""
    with tempfile.TemporaryDirectory(prefix="relay-demo-") as folder:
        data = Path(folder) / "data"
        server = _start(data)
        try:
            port, key = _ready(server)
            _walk(_Client(port, key), data)
        finally:
            server.terminate()
            server.wait(timeout=30)
    typer.echo("\nThe demo's gateway has stopped and its folder is gone. `relay serve` starts one that stays.")


def _start(data: Path) -> subprocess.Popen[str]:
    # A bare environment: the demo must never touch the database or the accounts of a real installation.
    command = [sys.executable, "-m", "relay", "serve", "--port", "0", "--data-dir", str(data)]
    return subprocess.Popen(  # noqa: S603  this very interpreter, arguments of our own
        command,
        cwd=data.parent,
        env={"RELAY_ENV": "production", "LANG": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _ready(server: subprocess.Popen[str]) -> tuple[int, str]:
    """Return port and first key from what the server prints."""
    assert server.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    output = server.stdout

    def pump() -> None:
        for line in output:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    until, key = time.monotonic() + _START_SECONDS, ""
    while True:
        try:
            line = lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            line = None
        if line is None:
            fail("the demo's gateway did not start; `relay serve` says why")
        if found := _KEY.match(line):
            key = found[1]
        if found := _LISTENS.match(line):
            return int(found[1]), key


class _Client:
    """JSON over HTTP to one gateway, with one key."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key

    def with_key(self, key: str) -> "_Client":
        """Return a client of the same gateway with another key."""
        return _Client(self._port, key)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, *, refused: int | None = None) -> Any:
        """Return the answer's JSON; ends the demo when the gateway refuses, or with ``refused`` when it does not so."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)  # noqa: TID251
        headers = {"Authorization": f"Bearer {self._key}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        document = json.loads(answer.read())
        connection.close()
        expected = answer.status < 400 if refused is None else answer.status == refused
        if not expected:
            fail(f"{method} {path} answered {answer.status}: {document.get('detail')}")
        return document


def _walk(person: _Client, data: Path) -> None:
    _title("1. A person makes a key for an agent: it may preview and execute, nothing else")
    made = person.call("POST", "/keys", {"kind": "agent", "scopes": ["actions:preview", "actions:execute"]})
    agent = person.with_key(made["key"])
    _show(f"{made['prefix']}…{made['last4']}  kind {made['kind']}  scopes {' '.join(made['scopes'])}")

    _title("2. The agent asks for a plan; nothing is sent")
    _show(_PROMPT)
    plan = agent.call("POST", "/ai/plan", {"prompt": _PROMPT})
    for step in plan["steps"]:
        _show(f"{step['id']}  {step['action']}  {step['decision']}  {step['summary']}")

    _title("3. It has the plan executed: what policy lets an agent do is done, the mail waits")
    run = agent.call("POST", "/ai/execute", {"plan_id": plan["plan_id"]})
    _show_run(_run_when(agent, run, "pending_approval"))

    _title("4. A person looks at what would really be sent; the agent cannot agree to it")
    (request,) = person.call("GET", "/approvals?status=pending")["items"]
    _show_request(request)
    decision = {"digest": request["digest"]}
    approve = f"/approvals/{request['approval_id']}/approve"
    refusal = agent.call("POST", approve, decision, refused=_FORBIDDEN)
    _show(f"the agent approves: {refusal['status']} {refusal['title']}")
    decided = person.call("POST", approve, decision)
    _show(f"the person approves: {decided['approval_status']}, {decided['approvals']} of {decided['approvers']}")

    _title("5. The run goes on by itself and does exactly that, once")
    _show_run(_run_when(agent, run, "succeeded"))

    _title("6. The effect: a message in a Maildir, since no SMTP_URL is set")
    for message in sorted((data / "mail" / "new").iterdir()):
        text = message.read_text("utf-8")
        _show("  ".join(line for line in text.splitlines() if line.startswith(("To:", "Subject:"))))

    _title("7. The record: every request, decision, intent and outcome, hash-chained")
    for event in reversed(person.call("GET", "/audit?limit=50")["items"]):
        became = event["outcome"] or event["decision"]
        _show(f"{event['seq']:>3}  {event['tag']:<27} {event['action']:<11} {became}".rstrip())
    verdict = _verified(person)
    _show(f"verified: ok={verdict['ok']}  {verdict['size']} events  head {verdict['head'][:16]}…")


def _verified(person: _Client) -> dict[str, Any]:
    """Return a verification of what was shown; an answer may be a few seconds old."""
    shown = person.call("GET", "/audit?limit=1")["items"][0]["seq"]
    until = time.monotonic() + _RUN_SECONDS
    while True:
        verdict: dict[str, Any] = person.call("GET", "/audit/verify")
        if not verdict["ok"] or verdict["size"] >= shown or time.monotonic() > until:
            return verdict
        time.sleep(0.2)


def _run_when(agent: _Client, run: dict[str, Any], status: str) -> dict[str, Any]:
    """Return the run once it has this status; ends the demo when it ends otherwise, or does not get there."""
    until = time.monotonic() + _RUN_SECONDS
    while True:
        state: dict[str, Any] = agent.call("GET", f"/ai/jobs/{run['run_id']}")
        if state["status"] == status:
            return state
        if state["status"] not in ("queued", "running", "pending_approval") or time.monotonic() > until:
            fail(f"the run is {state['status']}, and should be {status}")
        time.sleep(0.1)


def _show_run(run: dict[str, Any]) -> None:
    for step in run["steps"]:
        _show(f"{step['id']}  {step['status']}  attempt {step['attempt_id']}")
    _show(f"the run: {run['status']}")


def _show_request(request: dict[str, Any]) -> None:
    _show(f"{request['summary']}  (asked for by {request['requested_by']})")
    for line in (*request["rendering"]["headers"], "", request["rendering"]["text"]):
        _show(f"| {line}".rstrip())
    _show(f"digest {request['digest']}")


def _title(text: str) -> None:
    typer.secho(f"\n{text}", bold=True)


def _show(text: str) -> None:
    typer.echo(f"   {text}")
