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
_RUN_SECONDS: Final = 20.0
_LISTENS: Final = re.compile(r"relay listens on http://127\.0\.0\.1:(\d+) ")
_KEY: Final = re.compile(r"^ {4}(relay_sk_\w+)$")
_PROMPT: Final = (
    'Send an email to you@example.com about "First mail" saying "Hello from Relay" '
    'and then send an email to ops@example.com about "Copy" saying "The first mail is on its way"'
)

Say = Callable[[str], None]


def demo() -> None:
    """Start a throw-away gateway, plan and execute two mails into a local folder, and verify the audit trail."""
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

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, *, key: str | None = None) -> Any:
        """Return the answer's JSON; ends the demo when the gateway refuses."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)  # noqa: TID251
        headers = {"Authorization": f"Bearer {key or self._key}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        document = json.loads(answer.read())
        connection.close()
        if answer.status >= 400:
            fail(f"{method} {path} answered {answer.status}: {document.get('detail')}")
        return document


def _walk(client: _Client, data: Path) -> None:
    _title("1. A person makes a key for an agent: it may preview and execute, nothing else")
    made = client.call("POST", "/keys", {"kind": "agent", "scopes": ["actions:preview", "actions:execute"]})
    agent = made["key"]
    _show(f"{made['prefix']}…{made['last4']}  kind {made['kind']}  scopes {' '.join(made['scopes'])}")

    _title("2. The agent asks for a plan; nothing is sent")
    _show(_PROMPT)
    plan = client.call("POST", "/ai/plan", {"prompt": _PROMPT}, key=agent)
    for step in plan["steps"]:
        _show(f"{step['id']}  {step['action']}  {step['decision']}  {step['summary']}")
    _show(f"planner {plan['planner']}, digest {plan['digest'][:16]}…")

    _title("3. It has the plan executed, along the one guarded path")
    run = _finished(client, client.call("POST", "/ai/execute", {"plan_id": plan["plan_id"]}, key=agent), agent)
    for step in run["steps"]:
        _show(f"{step['id']}  {step['status']}  attempt {step['attempt_id']}")

    _title("4. The effect: messages in a Maildir, since no SMTP_URL is set")
    for message in sorted((data / "mail" / "new").iterdir()):
        text = message.read_text("utf-8")
        _show("  ".join(line for line in text.splitlines() if line.startswith(("To:", "Subject:"))))

    _title("5. The record: every decision, intent and outcome, hash-chained")
    for event in reversed(client.call("GET", "/audit?limit=50")["items"]):
        _show(f"{event['seq']:>3}  {event['tag']:<24} {event['action']:<11} {event['outcome'] or event['decision']}")
    verdict = client.call("GET", "/audit/verify")
    _show(f"verified: ok={verdict['ok']}  {verdict['size']} events  head {verdict['head'][:16]}…")


def _finished(client: _Client, run: dict[str, Any], agent: str) -> dict[str, Any]:
    until = time.monotonic() + _RUN_SECONDS
    while True:
        state: dict[str, Any] = client.call("GET", f"/ai/jobs/{run['run_id']}", key=agent)
        if state["status"] not in ("queued", "running"):
            return state
        if time.monotonic() > until:
            fail("the run did not finish in time")
        time.sleep(0.05)


def _title(text: str) -> None:
    typer.secho(f"\n{text}", bold=True)


def _show(text: str) -> None:
    typer.echo(f"   {text}")
